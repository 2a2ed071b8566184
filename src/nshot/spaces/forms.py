"""Which NAS-Bench-201 cells are the same: with one supernet's weights (7,548 forms), and trained alone (5,044).

A cell's output is a sum of atoms: its input, or what a convolution of an edge (ReLU, convolution, batch norm) makes of
a value. Each is averaged a number of times and taken a number of times: a 3x3 average is linear, so that of a sum is
the sum of the averages. Nothing else is equal: twice a value is another input of a convolution than the value itself,
for batch norm adds an epsilon to the variance that it divides by.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from nshot.nn.cells import KERNELS, NODES, OPS, Ops


class Conv(NamedTuple):
    """What the convolution of an edge makes of a value."""

    edge: int
    op: int
    of: "Value"


# (atom, None for the cell's input; how often it is averaged; how often it is taken).
Value = frozenset[tuple[Conv | None, int, int]]
ZERO: Value = frozenset()
INPUT: Value = frozenset({(None, 0, 1)})


def _through(edge: int, op: int, value: Value) -> Value:
    """What an operation on an edge makes of a value."""
    if OPS[op] == "none" or not value:
        return ZERO
    if OPS[op] in KERNELS:
        return frozenset({(Conv(edge, op, value), 0, 1)})
    averages = int(OPS[op] == "avg_pool_3x3")
    return frozenset((atom, before + averages, times) for atom, before, times in value) if averages else value


def _summed(values: Iterable[Value]) -> Value:
    total: Counter[tuple[Conv | None, int]] = Counter()
    for value in values:
        for atom, averages, times in value:
            total[atom, averages] += times
    return frozenset((*term, times) for term, times in total.items())


@cache
def outputs() -> dict[Ops, Value]:
    """The value at the output of each of the 15,625 cells; two cells compute the same if theirs are equal."""
    cells: dict[Ops, tuple[Value, ...]] = {(): (INPUT,)}  # operations decided so far: the nodes' values
    for node in range(1, NODES):
        grown: dict[Ops, tuple[Value, ...]] = {}
        for decided, nodes in cells.items():
            into = [[_through(len(decided) + i, op, nodes[i]) for op in range(len(OPS))] for i in range(node)]
            for ops in itertools.product(range(len(OPS)), repeat=node):
                grown[decided + ops] = (*nodes, _summed(into[i][op] for i, op in enumerate(ops)))
        cells = grown
    one: dict[Value, Value] = {}  # equal values become the same object: comparing it is quick
    return {ops: one.setdefault(nodes[-1], nodes[-1]) for ops, nodes in cells.items()}


@cache
def leanest(allowed: tuple[tuple[int, ...], ...], costs: tuple[int, ...]) -> dict[Ops, Ops]:
    """For each subnet, the leanest that computes the same with one supernet's weights.

    Fewest parameters; of these the first in the space's order. FLOPs need not be compared: equal subnets use the same
    convolutions, and others are not computed.

    Args:
        allowed: options of each edge; both subnets are of these.
        costs: parameters that each operation adds to the network.
    """
    values = outputs()
    best: dict[Value, tuple[int, Ops]] = {}
    for subnet in itertools.product(*allowed):
        own = sum([costs[op] for op in subnet]), subnet
        best[values[subnet]] = min(best.get(values[subnet], own), own)
    return {subnet: best[values[subnet]][1] for subnet in itertools.product(*allowed)}


@cache
def twins(allowed: tuple[tuple[int, ...], ...], costs: tuple[int, ...]) -> dict[Ops, Ops]:
    """For each subnet, the leanest whose network is the same when trained alone; arguments as of `leanest`."""
    values, forms = outputs(), leanest(allowed, costs)
    lean = sorted(set(forms.values()), key=lambda form: (sum([costs[op] for op in form]), form))
    named = {form: unnamed(values[form]) for form in lean}
    first: dict[Any, Ops] = {}
    for form in lean:
        first.setdefault(named[form], form)
    return {subnet: first[named[form]] for subnet, form in forms.items()}


def unnamed(value: Value) -> Any:
    """Equal for two values if the edges of the one's convolutions can be renamed so that it becomes the other.

    Numbers for the convolutions take the place of their edges, in the order that gives the smallest text; only
    convolutions of one shape, which forgets edges, can take each other's place.
    """
    groups: dict[Any, list[Conv]] = {}
    for conv in _convs(value):
        groups.setdefault(_shape(conv), []).append(conv)
    orders = itertools.product(*(itertools.permutations(groups[shape]) for shape in sorted(groups)))
    return min(_numbered(value, [conv for group in order for conv in group]) for order in orders)


def _convs(value: Value) -> set[Conv]:
    """Those that a value is made of."""
    outer = {atom for atom, _, _ in value if atom is not None}
    return outer.union(*(_convs(conv.of) for conv in outer))


def _shape(atom: Conv | None) -> Any:
    if atom is None:
        return ()
    return atom.op, tuple(sorted((_shape(inner), averages, times) for inner, averages, times in atom.of))


def _numbered(value: Value, convs: Sequence[Conv]) -> Any:
    """The value and the inputs of its convolutions, which are named by their places in the list."""
    numbers: dict[Conv | None, int] = {None: -1, **{conv: i for i, conv in enumerate(convs)}}

    def told(part: Value) -> tuple[tuple[int, int, int], ...]:
        return tuple(sorted((numbers[atom], averages, times) for atom, averages, times in part))

    return told(value), *((conv.op, told(conv.of)) for conv in convs)
