"""The paper's search: evolution with one objective, as SPOS has it (Guo et al., ECCV 2020; section A)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from nshot.errors import UserError, check_share, check_whole
from nshot.seeding import generator
from nshot.spaces import Space, Subnet

from .archive import Archive
from .limits import Limits
from .propose import endless, feasible

TRIES = 200  # draws a wanted child before random subnets take its place


@dataclass(frozen=True)
class Evolution:
    """How many subnets live and breed. Defaults: the paper's."""

    population: int = 50
    generations: int = 20
    top: int = 10
    """Parents: the best so far."""
    crossovers: int = 25
    """Children of two parents in a generation; each option is either's."""
    mutations: int = 25
    """Children of one parent in a generation."""
    probability: float = 0.1
    """That a mutation draws an option anew."""

    def __post_init__(self) -> None:
        check_whole(1, population=self.population, generations=self.generations, top=self.top)
        check_whole(0, crossovers=self.crossovers, mutations=self.mutations)
        check_share(probability=self.probability)
        if self.crossovers + self.mutations > self.population:
            children = self.crossovers + self.mutations
            raise UserError(f"population {self.population}: must hold the {children} crossovers and mutations")


def evolve(
    space: Space,
    archive: Archive,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    limits: Limits | None = None,
    evolution: Evolution | None = None,
    seed: int = 0,
    after: Callable[[int, Subnet, float], None] = lambda generation, best, value: None,
) -> list[Subnet]:
    """Evolves subnets within the limits: of each canonical form the leanest member, once.

    Args:
        space: where.
        archive: evaluates, and knows the forms.
        score: figures (S, 2) to numbers, the larger the better.
        limits: a child outside them is repaired, or gives way to a random subnet inside.
        evolution: sizes.
        seed: the search is a function of it and of the figures.
        after: called after each generation with its number, the best subnet so far and its score.

    Returns:
        All subnets evaluated, in order.

    Raises:
        UserError: for limits that no subnet keeps to.
    """
    sizes, limits = evolution or Evolution(), limits or Limits()
    rng = generator(seed, "evolution")
    visited: set[Subnet] = set()

    fresh = (form for form in endless(space, limits, seed, archive.canonical) if form not in visited)
    within = feasible(space, limits, archive.canonical, seed)

    def new(subnet: Subnet) -> Subnet | None:
        """The leanest equal of a child, brought within the limits; None where that one is known."""
        form = archive.canonical(subnet)
        if form not in visited:
            form = archive.canonical(within.inside(subnet, rng))
        if form in visited:
            return None
        visited.add(form)
        return form

    spare: Subnet | None = None
    parents: list[Subnet] = []
    values: dict[Subnet, float] = {}
    for generation in range(sizes.generations):
        spare = next(fresh, None) if spare is None or spare in visited else spare
        if spare is None:
            break  # the limits leave no more subnets
        children: list[Subnet] = []
        if parents:
            children += _bred(sizes.crossovers, new, partial(_cross, rng, parents))
            children += _bred(sizes.mutations, new, partial(_mutate, rng, space, parents, sizes.probability))
        while len(children) < sizes.population and spare is not None:
            if spare not in visited:
                visited.add(spare)
                children.append(spare)
            spare = next(fresh, None)
        values |= dict(zip(children, score(archive(children)).tolist(), strict=True))
        parents = sorted(values, key=values.__getitem__, reverse=True)[: sizes.top]
        after(generation, parents[0], values[parents[0]])
    return list(values)


def _bred(count: int, new: Callable[[Subnet], Subnet | None], draw: Callable[[], Subnet]) -> list[Subnet]:
    """Up to ``count`` new children."""
    found: list[Subnet] = []
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        if (child := new(draw())) is not None:
            found.append(child)
    return found


def _cross(rng: np.random.Generator, parents: list[Subnet]) -> Subnet:
    a, b = (parents[int(i)] for i in rng.integers(len(parents), size=2))
    return tuple(x if first else y for x, y, first in zip(a, b, rng.random(len(a)) < 0.5, strict=True))


def _mutate(rng: np.random.Generator, space: Space, parents: list[Subnet], probability: float) -> Subnet:
    parent, other = parents[int(rng.integers(len(parents)))], space.sample(rng)
    changed = rng.random(len(parent)) < probability
    return tuple(y if change else x for x, y, change in zip(parent, other, changed, strict=True))
