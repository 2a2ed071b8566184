"""What nodes of DARTS's two cells choose of, where it stands in a subnet, and what is left of a mixture."""

import itertools
from collections.abc import Sequence

from nshot.nn.separable import OPERATIONS, Choice

from .decisions import Subnet

NODES = 4
OPS = tuple(OPERATIONS)
NONE = "none"
KINDS = ("normal", "reduce")
PAIRS = [list(itertools.combinations(range(2 + node), 2)) for node in range(NODES)]  # inputs that a node may keep
EDGES = [(node, source) for node in range(NODES) for source in range(2 + node)]  # of a cell, all that may be kept


def layout(kind: int, node: int) -> tuple[int | None, int]:
    """Places of a node's decisions in a subnet: its pair of inputs (none for node 0), its first operation."""
    start = kind * (3 * NODES - 1) + 3 * node - (node > 0)
    return (None, start) if node == 0 else (start, start + 1)


LAYOUT = [[layout(kind, node) for node in range(NODES)] for kind in (0, 1)]


def choices(subnet: Subnet, kind: int) -> list[Choice]:
    """What the nodes of the normal (0) or the reduction cell (1) keep."""
    found = []
    for node, (pair, op) in enumerate(LAYOUT[kind]):
        a, b = PAIRS[node][0 if pair is None else subnet[pair]]
        found.append(((a, subnet[op]), (b, subnet[op + 1])))
    return found


def strongest(weights: Sequence[Sequence[float]]) -> Subnet:
    """Of each node the two edges with the largest weight that is not none's, by these options, the first of equals.

    Args:
        weights: (28, 8), of none and the operations of each edge of the normal, then of the reduction cell.
    """
    found: list[int] = []
    for kind in range(len(KINDS)):
        rows = weights[kind * len(EDGES) : (kind + 1) * len(EDGES)]
        for node in range(NODES):
            into = {source: list(row[1:]) for (n, source), row in zip(EDGES, rows, strict=True) if n == node}
            a, b = sorted(sorted(into, key=lambda source: -max(into[source]))[:2])
            found += [PAIRS[node].index((a, b))] if node else []
            found += [into[source].index(max(into[source])) for source in (a, b)]
    return tuple(found)
