"""Subnets whose costs keep to bounds: uniform where the space says how costs add up, found by repair elsewhere."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .additive import CELLS, ENUMERABLE, Case, Cost, Grid, Term, cases, countable, nearest_sums
from .base import Space, Subnet

OFTEN = 0.05  # share of plain draws that keep to the bounds, from which on they are taken
PROBES = 400  # of the share
TRIES = 2000  # draws from a grid, of which one must keep to the bounds
RESTARTS = 20  # subnets that are repaired, of which one must come to keep to the bounds
NODES = 20_000  # of a branch and bound


@dataclass(frozen=True)
class Bound:
    """A subnet's ``cost`` must be from ``least`` to ``most``."""

    cost: Cost
    least: float = -math.inf
    most: float = math.inf

    def off(self, value: float) -> float:
        """How far a cost is outside, as a share of each bound that it breaks; 0 inside."""
        under = (self.least - value) / (abs(self.least) or 1) if value < self.least else 0.0
        return under + ((value - self.most) / (abs(self.most) or 1) if value > self.most else 0.0)


class InfeasibleError(Exception):
    """No subnet that keeps to the bounds is found.

    Attributes:
        nearest: the costs of the subnet that comes nearest to them, in the order of the bounds.
        looked: how many subnets were looked at; None where it is certain that none keeps to them.
    """

    def __init__(self, nearest: Sequence[float], looked: int | None = None) -> None:
        super().__init__(nearest, looked)
        self.nearest, self.looked = tuple(nearest), looked


class Feasible:
    """Draws of ``space`` that keep to all ``bounds``.

    Uniform where plain draws keep to them often, where the space is small, and where it says how its costs add up
    (`Space.groups`); elsewhere a plain draw is repaired by local moves. Without bounds, and where plain draws keep to
    them often, a draw is `Space.sample`'s, again until it keeps to them.

    Args:
        space: where.
        bounds: of costs of any kind.
        rng: for the search whether there are any.
        probes: how many plain draws tell whether they keep to the bounds often; default: 400.
        hits: how many of them must; default: one in twenty.

    Raises:
        InfeasibleError: where no subnet keeps to them, or none is found in a space of which nothing is known.
    """

    def __init__(
        self,
        space: Space,
        bounds: Sequence[Bound],
        rng: np.random.Generator,
        *,
        probes: int | None = None,
        hits: int | None = None,
    ) -> None:
        self.space = space
        self.bounds = [bound for bound in bounds if (bound.least, bound.most) != (-math.inf, math.inf)]
        self._every: list[Subnet] | None = None
        self._grids: list[Grid] = []
        self._known: Subnet | None = None
        self._looked, self._least, self._nearest = 0, math.inf, [math.nan]  # by repair, for an error's message
        self._probes = PROBES if probes is None else probes
        self._wanted = OFTEN * self._probes if hits is None else hits
        self.often = not self.bounds or self._often(rng)
        if self.often:
            return
        if space.size <= ENUMERABLE:
            self._every = [subnet for subnet in space.subnets() if self.keeps(subnet)]
            if not self._every:
                raise InfeasibleError(nearest(space.subnets(), self.bounds))
        elif space.groups is not None:
            self._add_up(rng)
        else:
            self._known = self._repaired(rng)

    def keeps(self, subnet: Subnet) -> bool:
        """Whether it keeps to all bounds; costs after the first that does not are not computed."""
        return all(bound.least <= bound.cost(subnet) <= bound.most for bound in self.bounds)

    def draw(self, rng: np.random.Generator) -> Subnet:
        """A subnet that keeps to the bounds; a function of the generator's state."""
        if self.often:
            while not self.keeps(subnet := self.space.sample(rng)):
                pass
            return subnet
        if self._every is not None:
            return self._every[int(rng.integers(len(self._every)))]
        for _ in range(TRIES if self._grids else 0):
            if self.keeps(subnet := self._from_grid(rng)):
                return subnet
        return self.repair(self.space.sample(rng), rng) or self._near(rng)

    def inside(self, subnet: Subnet, rng: np.random.Generator) -> Subnet:
        """The subnet if it keeps to the bounds, else one near it that does, else a draw."""
        return self.repair(subnet, rng) or self.draw(rng)

    def repair(self, subnet: Subnet, rng: np.random.Generator) -> Subnet | None:
        """A subnet that keeps to the bounds, by changes of one option at a time each of which comes nearer to them."""
        off = self._off(subnet)
        while off:
            before = off
            for i in rng.permutation(len(subnet)).tolist():
                others = [option for option in self.space.decisions[i].allowed if option != subnet[i]]
                moved = [(*subnet[:i], others[j], *subnet[i + 1 :]) for j in rng.permutation(len(others)).tolist()]
                offs = [self._off(move) for move in moved]
                if offs and min(offs) < off:
                    off = min(offs)
                    subnet = moved[offs.index(off)]
                if not off:
                    return subnet
            if off == before:
                return None
        return subnet

    def _off(self, subnet: Subnet) -> float:
        costs = [bound.cost(subnet) for bound in self.bounds]
        off = sum(bound.off(cost) for bound, cost in zip(self.bounds, costs, strict=True))
        self._looked += 1
        if off < self._least:
            self._least, self._nearest = off, costs
        return off

    def _often(self, rng: np.random.Generator) -> bool:
        """Whether plain draws keep to the bounds often."""
        hits = 0
        for draws in range(1, self._probes + 1):
            hits += self.keeps(self.space.sample(rng))
            if hits >= self._wanted:
                return True
            if self._wanted > 1 and not hits and draws >= self._probes // 4:
                break
        return hits >= self._wanted

    def _repaired(self, rng: np.random.Generator) -> Subnet:
        """The first that repair comes to."""
        for _ in range(RESTARTS):
            if (found := self.repair(self.space.sample(rng), rng)) is not None:
                return found
        raise InfeasibleError(self._nearest, self._looked)

    def _add_up(self, rng: np.random.Generator) -> None:
        """Grids of the space's cases. Whether any subnet keeps to the bounds is certain but for a search cut short."""
        found = list(cases(self.space, [bound.cost for bound in self.bounds]))
        if len(self.bounds) == 1 and all(map(countable, found)):
            (bound,) = self.bounds
            sums = [near for case in found for near in nearest_sums(case, bound.least, bound.most)]
            if bound.off(closest := min(sums, key=bound.off)):
                raise InfeasibleError([closest])
        least, most = (np.array([getattr(bound, end) for bound in self.bounds]) for end in ("least", "most"))
        self._grids = [grid for case in found if (grid := Grid(case, least, most, CELLS // len(found))).share]
        self._shares = np.cumsum([grid.share for grid in self._grids])
        for _ in range(TRIES if self._grids else 0):
            if self.keeps(subnet := self._from_grid(rng)):
                self._known = subnet
                return
        empty = not self._grids
        solved = [solve(case, self.bounds) for case in found]
        best = min((subnet for subnet, _ in solved), key=self._off)
        self._known, self._grids = self.repair(best, rng), []
        if self._known is None:
            certain = empty or all(proved for _, proved in solved)
            raise InfeasibleError(self._nearest, None if certain else self._looked + TRIES)

    def _from_grid(self, rng: np.random.Generator) -> Subnet:
        place = int(np.searchsorted(self._shares, rng.random() * self._shares[-1], side="right"))
        return self._grids[min(place, len(self._grids) - 1)].draw(rng)

    def _near(self, rng: np.random.Generator) -> Subnet:
        """One near the only one known."""
        assert self._known is not None
        other, changed = self.space.sample(rng), rng.random(len(self._known)) < 0.2
        moved = tuple(b if change else a for a, b, change in zip(self._known, other, changed, strict=True))
        return self.repair(moved, rng) or self._known


def nearest(subnets: Iterable[Subnet], bounds: Sequence[Bound]) -> list[float]:
    """The costs of the subnet that breaks the bounds by the least shares of them."""
    costs = ([bound.cost(subnet) for bound in bounds] for subnet in subnets)
    return min(costs, key=lambda row: sum(bound.off(value) for bound, value in zip(bounds, row, strict=True)))


def solve(case: Case, bounds: Sequence[Bound]) -> tuple[Subnet, bool]:
    """The case's subnet that breaks the bounds by the least shares of them, and whether that is proved.

    A mixed integer program: how many of the terms that are alike take which cost, and by how much each bound is broken.
    """
    from scipy.optimize import LinearConstraint, milp

    alike: dict[bytes, list[Term]] = {}
    for term in case.terms:
        alike.setdefault(term.costs.tobytes(), []).append(term)
    costs = [terms[0].costs for terms in alike.values()]
    counts = [len(terms) for terms in alike.values()]
    sizes = [len(rows) for rows in costs]
    breaks, wanted = len(bounds), sum(sizes)
    ends = np.array([[b.least, b.most] for b in bounds]).T
    scale = np.where(np.isfinite(ends) & (ends != 0), np.abs(ends), 1)
    (low, high), (least, most) = ((np.concatenate(costs).T / s[:, None] for s in scale), (ends - case.base) / scale)
    off, none = np.eye(breaks), np.zeros((breaks, breaks))
    owner = np.repeat(np.arange(len(sizes)), sizes)[None] == np.arange(len(sizes))[:, None]
    result = milp(
        np.repeat([0.0, 1.0], [wanted, 2 * breaks]),
        integrality=np.repeat([1, 0], [wanted, 2 * breaks]),
        constraints=[
            LinearConstraint(np.hstack([low, off, none]), least, np.inf),
            LinearConstraint(np.hstack([high, none, -off]), -np.inf, most),
            LinearConstraint(np.hstack([owner, np.zeros((len(sizes), 2 * breaks))]), counts, counts),
        ],
        options={"node_limit": NODES, "mip_rel_gap": 0.0},
    )
    if result.x is None:
        return case.start, False
    subnet = list(case.start)
    taken = iter(np.rint(result.x[:wanted]).astype(int).tolist())
    for terms, size in zip(alike.values(), sizes, strict=True):
        chosen = [j for j in range(size) for _ in range(next(taken))]
        for term, j in zip(terms, chosen, strict=True):
            for i, option in zip(term.decisions, term.options[j][0], strict=True):
                subnet[i] = option
    return tuple(subnet), result.status == 0
