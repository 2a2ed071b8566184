"""Costs that add up over groups of decisions: their range, and subnets drawn uniformly between bounds."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nshot.errors import UserError

from .decisions import Choices, Subnet

if TYPE_CHECKING:
    from .base import Space

ENUMERABLE = 20_000  # spaces up to this size are looked at subnet by subnet
Cost = Callable[[Subnet], float]
CELLS = 2**19  # of a grid of costs, over all of a space's cases; an axis whose costs have a common divisor is exact
BITS = 2**28  # sums of a cost, to each of which a bit may be given
MANY = 50  # costs of a term, from which on numpy is faster


class Term(NamedTuple):
    """What a group of decisions adds to the costs."""

    decisions: tuple[int, ...]
    options: list[list[tuple[int, ...]]]
    """Of each distinct cost, the options that have it."""
    costs: np.ndarray
    """(distinct, costs)."""


class Case(NamedTuple):
    """The subnets with the same options of the space's `couples`: their costs are ``base`` and one of each term."""

    start: tuple[int, ...]
    base: np.ndarray
    terms: list[Term]


def cases(space: Choices, costs: Sequence[Cost]) -> Iterator[Case]:
    """The space by the options of its `couples`; terms are differences of the costs themselves."""
    assert space.groups is not None
    allowed = [decision.allowed for decision in space.decisions]

    def told(subnet: list[int]) -> np.ndarray:
        return np.array([cost(tuple(subnet)) for cost in costs], dtype=float)

    for given in itertools.product(*(allowed[i] for i in space.couples)):
        start = [options[0] for options in allowed]
        for i, option in zip(space.couples, given, strict=True):
            start[i] = option
        base, terms = told(start), []
        for group in space.groups:
            found: dict[tuple[float, ...], list[tuple[int, ...]]] = {}
            for options in itertools.product(*(allowed[i] for i in group)):
                subnet = list(start)
                for i, option in zip(group, options, strict=True):
                    subnet[i] = option
                found.setdefault(tuple(told(subnet) - base), []).append(options)
            terms.append(Term(group, list(found.values()), np.array(list(found))))
        yield Case(tuple(start), base, terms)


def extremes(space: Choices, cost: Callable[[Subnet], int]) -> tuple[int, int]:
    """The least and the largest cost; raises UserError for a large space that does not say how costs add up."""
    if space.groups is None:
        _check_enumerable(space)
        costs = [cost(subnet) for subnet in space.subnets()]
        return min(costs), max(costs)
    found = list(cases(space, [cost]))
    low = min(case.base[0] + sum(term.costs.min() for term in case.terms) for case in found)
    return int(low), int(max(case.base[0] + sum(term.costs.max() for term in case.terms) for case in found))


def _check_enumerable(space: Choices) -> None:
    if space.size > ENUMERABLE:
        raise UserError(
            f"space {space.name} has {space.size:,} subnets, too many to look at each for the range of their costs: "
            "give it params_range and flops_range of its own, or groups of decisions whose costs add up"
        )


def extreme_subnets(space: Choices, costs: Sequence[Cost]) -> tuple[Subnet, Subnet]:
    """The subnets of the least and of the largest costs, the first cost before the others; of equals the first of the
    least and the last of the largest. Raises UserError as `extremes`."""
    if space.groups is None:
        _check_enumerable(space)
        ranked = [(tuple(cost(subnet) for cost in costs), subnet) for subnet in space.subnets()]
        return min(ranked)[1], max(ranked)[1]
    found: list[list[tuple[tuple[float, ...], Subnet]]] = [[], []]
    for case in cases(space, costs):
        for pick, ends in zip((min, max), found, strict=True):
            subnet, total = list(case.start), case.base.copy()
            for term in case.terms:
                cost, options = pick(
                    (tuple(row), pick(same)) for row, same in zip(term.costs.tolist(), term.options, strict=True)
                )
                total += cost
                for i, option in zip(term.decisions, options, strict=True):
                    subnet[i] = option
            ends.append((tuple(total.tolist()), tuple(subnet)))
    return min(found[0])[1], max(found[1])[1]


def largest(space: "Space") -> Subnet:
    """The whole network: the subnet of the most parameters, of equals that of the most FLOPs."""
    return extreme_subnets(space, [space.params, space.flops])[1]


class Grid:
    """A case's subnets by their costs, counted from that end of each cost's range which is nearer to the bounds.

    ``ways[g]`` has in each cell the share of the options of the terms from g on whose costs add up to it. Where a cost
    has no common divisor of at most as many cells as there may be, options are rounded to cells, and all cells count
    that may hold a subnet between the bounds: none that is between them is missed, but others are drawn too.

    Args:
        case: the subnets.
        least: of each cost, -inf where it has no bound.
        most: of each cost.
        cells: of the whole grid, about.
    """

    def __init__(self, case: Case, least: np.ndarray, most: np.ndarray, cells: int) -> None:
        self.case = case
        costs = [term.costs for term in case.terms]
        low = case.base + sum(c.min(axis=0) for c in costs)
        high = case.base + sum(c.max(axis=0) for c in costs)
        slack = 1e-9 * (1 + np.abs(high))  # floats, such as milliseconds
        near, far = np.maximum(least, low) - low - slack, np.minimum(most, high) - low + slack
        flip = high - low - near < far
        near, far = np.where(flip, high - low - far, near), np.where(flip, high - low - near, far)
        distances = [np.where(flip, c.max(axis=0) - c, c - c.min(axis=0)) for c in costs]
        self.share = 0.0
        if (near > far).any():
            return
        most_cells = int(cells ** (1 / len(low)))
        unit = np.array([_unit(np.concatenate([d[:, i] for d in distances]), f, most_cells) for i, f in enumerate(far)])
        self._steps = [np.rint(d / unit).astype(int) for d in distances]
        errors = [d - steps * unit for d, steps in zip(distances, self._steps, strict=True)]
        first = np.ceil((near - sum(e.max(axis=0) for e in errors)) / unit).astype(int)
        last = np.floor((far - sum(e.min(axis=0) for e in errors)) / unit).astype(int)
        if (last >= 0).all():
            self._count(np.maximum(first, 0), last)

    def _count(self, first: np.ndarray, last: np.ndarray) -> None:
        ways = np.zeros(last + 1)
        ways[(0,) * len(last)] = 1
        self._ways = [ways]
        for steps, term in zip(self._steps[::-1], self.case.terms[::-1], strict=True):
            grown, total = np.zeros_like(ways), sum(map(len, term.options))
            for step, options in zip(steps, term.options, strict=True):
                if (step <= last).all():
                    to = tuple(slice(s, None) for s in step)
                    of = tuple(slice(0, room + 1) for room in last - step)
                    grown[to] += len(options) / total * ways[of]
            ways = grown
            self._ways.insert(0, ways)
        window = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        self._cells = np.argwhere(ways[window]) + first
        self._cumulative = np.cumsum(ways[tuple(self._cells.T)])
        self.share = float(self._cumulative[-1]) if len(self._cells) else 0.0
        """Of the case's subnets, those whose cells may be between the bounds."""
        self._weights = [np.array([len(options) for options in term.options]) for term in self.case.terms]
        self._rows = [
            list(zip(map(tuple, steps.tolist()), weights.tolist(), strict=True))
            for steps, weights in zip(self._steps, self._weights, strict=True)
        ]

    def draw(self, rng: np.random.Generator) -> Subnet:
        """One of them, uniformly."""
        terms = self.case.terms
        chances = rng.random(2 * len(terms) + 1).tolist()
        place = int(np.searchsorted(self._cumulative, chances.pop() * self._cumulative[-1], side="right"))
        cell = tuple(self._cells[min(place, len(self._cells) - 1)].tolist())
        subnet = list(self.case.start)
        for g, term in enumerate(terms):
            j, cell = self._chosen(g, cell, chances.pop())
            for i, option in zip(
                term.decisions, term.options[j][int(chances.pop() * len(term.options[j]))], strict=True
            ):
                subnet[i] = option
        return tuple(subnet)

    def _chosen(self, g: int, cell: tuple[int, ...], chance: float) -> tuple[int, tuple[int, ...]]:
        """Which cost a term takes where it and those after it come to a cell, and what cell is left to these."""
        ways, rows = self._ways[g + 1], self._rows[g]
        if len(rows) > MANY:
            rests = np.array(cell) - self._steps[g]
            fits = (rests >= 0).all(axis=1)
            sums = np.cumsum(fits * self._weights[g] * ways[tuple(rests.T * fits)])
            j = int(np.searchsorted(sums, chance * sums[-1], side="right"))
            return j, tuple(rests[j].tolist())
        total, found = 0.0, []
        for j, (step, count) in enumerate(rows):
            rest = tuple([a - b for a, b in zip(cell, step, strict=True)])
            if min(rest) >= 0 and (weight := count * ways.item(rest)):
                total += weight
                found.append((total, j, rest))
        wanted = chance * total
        _, j, rest = next((row for row in found if row[0] > wanted), found[-1])
        return j, rest


def _unit(distances: np.ndarray, far: float, cells: int) -> float:
    """A cell's width: the distances' common divisor, or where that makes too many cells, what makes as many."""
    if (distances == np.rint(distances)).all():
        divisor = float(np.gcd.reduce(distances.astype(np.int64))) or 1.0
        if far <= divisor * cells:
            return divisor
    return max(far, 1e-12) / cells


def countable(case: Case) -> bool:
    """Whether the one cost is whole-numbered, and its sums not too many for a bit each."""
    costs = [term.costs for term in case.terms]
    return all((c == np.rint(c)).all() for c in costs) and sum(np.ptp(c) for c in costs) < BITS


def reached(case: Case) -> tuple[int, int, int]:
    """Which sums one whole-numbered cost has: bit i is set where a subnet costs ``low + i * unit``. (bits, low, unit).

    Exact, for whatever range: a bit a sum.
    """
    distances = [(term.costs[:, 0] - term.costs[:, 0].min()).astype(np.int64) for term in case.terms]
    unit = int(np.gcd.reduce(np.concatenate(distances))) or 1
    bits = 1
    for steps in distances:
        grown = 0
        for step in steps.tolist():
            grown |= bits << step // unit
        bits = grown
    return bits, int(case.base[0]) + sum(int(term.costs[:, 0].min()) for term in case.terms), unit


def nearest_sums(case: Case, least: float, most: float) -> list[int]:
    """Of one whole-numbered cost, the sums next to the bounds on both sides: one lies between them if any does."""
    bits, low, unit = reached(case)
    found = []
    for end in (least, most):
        above = math.ceil(min(max((end - low) / unit, 0), bits.bit_length()))
        if rest := bits >> above:
            found.append(low + unit * (above + (rest & -rest).bit_length() - 1))
        if below := bits & ((1 << above) - 1):
            found.append(low + unit * (below.bit_length() - 1))
    return found
