"""The blocks of cells.py on the fast path: the same sums, said to a `Tape`. Batch norms are those of a supernet."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import torch
from torch import nn

from .cells import DECIDES, EDGES, KERNELS, NODES, OPS, Cell, ConvNorm, Ops, Reduction
from .fused import Node, Signal, Tape

Wants = tuple[bool, bool]  # whether a node's value, and whether its ReLU, is asked for
BOTH: Wants = (True, True)


@dataclass(frozen=True)
class Sum:
    """What a node of a cell adds up: (edge, operation, source) of its convolutions, sources of the other operations."""

    target: int
    convs: tuple[tuple[int, str, int], ...]
    plain: tuple[int, ...]
    pooled: tuple[int, ...]

    @property
    def alias(self) -> bool:
        """Whether the node is the very value of its one source."""
        return len(self.plain) == 1 and not self.convs and not self.pooled


@cache
def sums(live: Ops) -> tuple[Sum, ...]:
    """The live nodes of a cell, in order."""
    found = []
    for node in range(1, NODES):
        into = [(e, OPS[live[e]], source) for e, (target, source) in enumerate(EDGES) if target == node]
        convs = tuple(edge for edge in into if edge[1] in KERNELS)
        plain, pooled = (tuple(s for _, op, s in into if op == kind) for kind in ("skip_connect", "avg_pool_3x3"))
        if convs or plain or pooled:
            found.append(Sum(node, convs, plain, pooled))
    return tuple(found)


@cache
def wanted(live: Ops, out: Wants) -> tuple[Wants, ...]:
    """What is asked for of each node, its input first, where ``out`` is asked for of the cell's output."""
    want = [[False, False] for _ in range(NODES)]
    want[NODES - 1] = list(out)
    for part in reversed(sums(live)):
        for source in (*part.plain, *part.pooled):
            want[source][0] |= not part.alias or want[part.target][0]
            want[source][1] |= part.alias and want[part.target][1]
        for _, _, source in part.convs:
            want[source][1] = True
    if not sums(live):
        want[0][0] = True  # no path: the output is zeros of its input's shape
    return tuple((value, relu) for value, relu in want)


def chain(live: Ops, cells: int) -> list[Wants]:
    """What each of a stage's cells is asked for; what follows a stage (a reduction, the last norm) asks for both."""
    outs = [BOTH]
    for _ in range(cells - 1):
        outs.append(wanted(live, outs[-1])[0])
    return outs[::-1]


def run_cell(tape: Tape, cell: Cell, x: Node, live: Ops, out: Wants, memo: dict[Any, Any] | None = None) -> Node:
    """``memo`` holds what earlier subnets computed of the same x, without gradients."""
    nodes, want = {0: x}, wanted(live, out)
    memo = {} if memo is None else memo

    def remembered(key: Any, compute: Callable[[], Any]) -> Any:
        if key not in memo:
            memo[key] = compute()
        return memo[key]

    for part in sums(live):
        if part.alias:
            nodes[part.target] = nodes[part.plain[0]]
            continue
        convolved = [
            remembered((e, op, live[: DECIDES[s]]), partial(_edge, tape, cell, e, op, nodes[s]))
            for e, op, s in part.convs
        ]
        plain, pooled = [value_of(nodes[s]) for s in part.plain], [nodes[s] for s in part.pooled]
        value, relu = want[part.target]
        nodes[part.target] = remembered(
            (part.target, value, relu, live[: DECIDES.get(part.target, len(live))]),
            partial(tape.node, convolved, plain, pooled, value=value, relu=relu),
        )
    return nodes.get(NODES - 1) or _zeros(tape, x)


def _edge(tape: Tape, cell: Cell, e: int, op: str, source: Node) -> Any:
    conv = cast(ConvNorm, cast(nn.ModuleDict, cell.edges[e])[op]).conv
    return tape.conv(tape.relu(source), conv.weight)


def run_reduction(tape: Tape, block: Reduction, x: Node, out: Wants) -> Node:
    inner = tape.node([tape.conv(tape.relu(x), block.conv_a.conv.weight, stride=2)], value=False)
    residual = tape.conv(tape.relu(inner), block.conv_b.conv.weight)
    shortcut = tape.conv(tape.half(value_of(x)), block.shortcut.weight, norm=False)
    value, relu = out
    return tape.node([residual], [shortcut], value=value, relu=relu)


def value_of(node: Node) -> Signal:
    assert node.value is not None, "asked for by `wanted`, of mixtures always"
    return node.value


def _zeros(tape: Tape, x: Node) -> Node:
    like = next(signal.tensor for signal in (x.value, x.relu) if signal is not None)
    return Node(torch.zeros_like(like, dtype=torch.float32), torch.zeros_like(like, dtype=tape.dtype))
