"""Search with several objectives: NSGA-II (Deb et al., 2002), pymoo's."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from nshot.errors import UserError, check_whole
from nshot.seeding import generator
from nshot.spaces import Space, Subnet

from .archive import Archive
from .limits import Limits
from .propose import feasible, random_subnets

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
    first = random_subnets(space, population, limits, seed, archive.canonical)
    if len(first) < population:  # all that there are
        archive(first)
        after(1, first)
        return first
    within = feasible(space, limits, archive.canonical, seed)
    algorithm = _algorithm(space, first, len(objectives), generations, seed, _mutation(space, rng))
    seen: dict[Subnet, None] = {}
    while algorithm.has_next():
        if (infills := algorithm.ask()) is None or not len(infills):
            break  # no child is new
        subnets = [archive.canonical(tuple(row)) for row in infills.get("X").astype(int).tolist()]
        subnets = [archive.canonical(within.inside(subnet, rng)) for subnet in subnets]
        infills.set("X", np.array(subnets))
        infills.set("F", objective_values(space, subnets, archive(subnets), objectives, limits))
        for individual in infills:
            individual.evaluated.update(["F", "G", "H"])
        algorithm.tell(infills=infills)
        seen |= dict.fromkeys(subnets)
        after(algorithm.n_iter, list(seen))
    return list(seen)


def _algorithm(space: Space, first: list[Subnet], objectives: int, generations: int, seed: int, mutation: Any) -> Any:
    """pymoo's NSGA-II, which begins with these subnets."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UX
    from pymoo.termination import get_termination

    algorithm = NSGA2(
        pop_size=len(first),
        sampling=np.array(first),
        crossover=UX(),
        mutation=mutation,
        eliminate_duplicates=True,
    )
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
