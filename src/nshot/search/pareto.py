"""Search with several objectives: NSGA-II (Deb et al., 2002), pymoo's."""

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, get_args

import numpy as np

from nshot.errors import UserError, check_whole
from nshot.seeding import generator
from nshot.spaces import Space, Subnet

from .archive import Archive
from .limits import Limits
from .propose import endless, feasible

FREE = Limits()

Objective = Literal["accuracy", "loss", "params", "flops", "latency"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


def check_objectives(objectives: Sequence[str]) -> None:
    """Raises UserError where they are not two or more of ``OBJECTIVES``."""
    unknown = [name for name in objectives if name not in OBJECTIVES]
    if unknown or len(set(objectives)) < max(2, len(objectives)):
        raise UserError(f"objectives {', '.join(objectives)}: name two or more of {', '.join(OBJECTIVES)}")


def objective_values(
    space: Space, subnets: Sequence[Subnet], figures: np.ndarray, objectives: Sequence[str], limits: Limits = FREE
) -> np.ndarray:
    """What is minimised, (S, objectives), of figures (S, 2): accuracy counts by its negative; costs are those of the
    stand-alone network, latency what ``limits`` predict."""
    columns: dict[str, Callable[[], Any]] = {
        "accuracy": lambda: -figures[:, 0],
        "loss": lambda: figures[:, 1],
        "params": lambda: [space.network_params(subnet) for subnet in subnets],
        "flops": lambda: [space.flops(subnet) for subnet in subnets],
        "latency": lambda: [limits.predicted(subnet) for subnet in subnets],
    }
    return np.stack([np.asarray(columns[name](), dtype=np.float64) for name in objectives], axis=1)


def front(values: np.ndarray) -> np.ndarray:
    """Indices of the rows (S, M) that no other row is at least as good as everywhere, and better somewhere."""
    left = np.lexsort(values.T[::-1])  # no row is beaten by one that comes after it
    kept = []
    while len(left):
        best, rest = values[left[0]], values[left[1:]]
        kept.append(left[0])
        left = left[1:][(rest < best).any(axis=1) | (rest == best).all(axis=1)]
    return np.sort(np.array(kept, dtype=int))


def nsga2(
    space: Space,
    archive: Archive,
    objectives: Sequence[str] = ("accuracy", "params"),
    *,
    limits: Limits | None = None,
    population: int = 50,
    generations: int = 20,
    seed: int = 0,
    after: Callable[[int, list[Subnet]], None] = lambda generation, evaluated: None,
) -> list[Subnet]:
    """Searches subnets within the limits for the best compromises: of each canonical form the leanest member.

    Each generation evaluates ``population`` subnets that none before it did, as long as there are so many: children of
    the best, and where too few of these are new, random ones.

    Args:
        space: where.
        archive: evaluates, none twice, and knows the forms.
        objectives: two or more of ``OBJECTIVES``.
        limits: a child outside them is repaired, or gives way to a random subnet inside; they tell the latency where
            it is wanted.
        population: subnets of a generation.
        generations: how many.
        seed: the search is a function of it and of the figures.
        after: called after each generation with its number and all subnets evaluated so far.

    Returns:
        All subnets evaluated; `front` of their `objective_values` says which are the compromises.

    Raises:
        UserError: for objectives that are none, and limits that no subnet keeps to.
    """
    check_objectives(objectives)
    check_whole(2, population=population)
    check_whole(1, generations=generations)
    limits = limits or FREE
    rng = generator(seed, "nsga2")
    draws = endless(space, limits, seed, archive.canonical)
    first = list(itertools.islice(draws, population))
    if len(first) < population:  # all that there are
        archive(first)
        after(1, first)
        return first
    within = feasible(space, limits, archive.canonical, seed)
    seen: dict[Subnet, None] = {}

    def repaired(subnet: Subnet) -> Subnet:
        return archive.canonical(within.inside(archive.canonical(subnet), rng))

    operators = {
        "mutation": _mutation(space, rng),
        "repair": _repair(repaired),
        "eliminate_duplicates": _only_new(seen),
    }
    algorithm = _algorithm(space, first, len(objectives), generations, seed, operators)
    for generation in range(1, generations + 1):
        children = algorithm.ask()  # None where none is new
        subnets = [] if children is None else _subnets(children)
        known = {*seen, *subnets}
        subnets += itertools.islice((other for other in draws if other not in known), population - len(subnets))
        if not subnets:
            break  # all that there are were evaluated
        values = objective_values(space, subnets, archive(subnets), objectives, limits)
        algorithm.tell(infills=_evaluated(subnets, values))
        seen |= dict.fromkeys(subnets)
        after(generation, list(seen))
    return list(seen)


def _subnets(population: Any) -> list[Subnet]:
    return [tuple(row) for row in population.get("X").astype(int).tolist()]


def _evaluated(subnets: list[Subnet], values: np.ndarray) -> Any:
    """pymoo's population of subnets with what is minimised (S, objectives)."""
    from pymoo.core.population import Population

    population = Population.new(X=np.array(subnets), F=values)
    for individual in population:
        individual.evaluated.update(["F", "G", "H"])
    return population


def _algorithm(
    space: Space, first: list[Subnet], objectives: int, generations: int, seed: int, operators: dict[str, Any]
) -> Any:
    """pymoo's NSGA-II, which begins with these subnets."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UX
    from pymoo.termination import get_termination

    algorithm = NSGA2(pop_size=len(first), sampling=np.array(first), crossover=UX(), **operators)
    most = max(len(decision.options) for decision in space.decisions)
    problem = Problem(n_var=len(space.decisions), n_obj=objectives, xl=0, xu=most)
    algorithm.setup(problem, termination=get_termination("n_gen", generations), seed=seed, verbose=False)
    return algorithm


def _mutation(space: Space, rng: np.random.Generator) -> Any:
    """pymoo's operator that draws each option anew with probability 1 / decisions."""
    from pymoo.core.mutation import Mutation

    class Redraw(Mutation):
        def _do(self, problem: Any, x: np.ndarray, **kwargs: Any) -> np.ndarray:
            other = np.array([space.sample(rng) for _ in range(len(x))])
            return np.where(rng.random(x.shape) < 1 / x.shape[1], other, x)

    return Redraw()


def _repair(repaired: Callable[[Subnet], Subnet]) -> Any:
    """pymoo's operator that repairs children, before it looks which of them are new."""
    from pymoo.core.repair import Repair

    class Repaired(Repair):
        def _do(self, problem: Any, x: np.ndarray, **kwargs: Any) -> np.ndarray:
            return np.array([repaired(tuple(row)) for row in x.astype(int).tolist()])

    return Repaired()


def _only_new(seen: Collection[Subnet]) -> Any:
    """pymoo's operator that keeps of children those that are not in ``seen``, each once."""
    from pymoo.core.duplicate import DuplicateElimination

    class New(DuplicateElimination):
        def do(self, pop: Any, *others: Any, **kwargs: Any) -> Any:
            known = {*seen, *(subnet for other in others if len(other) for subnet in _subnets(other))}
            places: dict[Subnet, int] = {}
            for i, subnet in enumerate(_subnets(pop)):
                places.setdefault(subnet, i)
            return pop[[i for subnet, i in places.items() if subnet not in known]]

    return New()
