"""A mixture's cell on the fast path: the sums of `Cell.mixed`, said to a `Tape`, which gives the mixture a gradient."""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from .cells import EDGES, KERNELS, NODES, OPS, Cell, ConvNorm
from .fused import Convolved, Node, Scales, Signal, Tape
from .fused_cells import value_of
from .mixture import Mixture

Term = tuple[int, int]  # edge, option


class MixedCell:
    """Runs a cell.

    Args:
        tape: what is recorded to.
        cell: whose weights it uses.
        mixture: of its edges' options.
        rows: the mixture's weights as numbers.
    """

    def __init__(self, tape: Tape, cell: Cell, mixture: Mixture, rows: list[list[float]]) -> None:
        self.tape, self.cell, self.mixture, self.rows = tape, cell, mixture, rows
        self.averages: dict[int, Tensor] = {}  # of nodes' values, for the mixture's gradient

    def __call__(self, x: Node) -> Node:
        nodes = [x]
        for target in range(1, NODES):
            nodes.append(self._node(target, nodes))
        return nodes[-1]

    def _options(self, e: int) -> list[int]:
        return list(self.cell.options[e]) if self.mixture.taken is None else [self.mixture.taken[e]]

    def _of(self, target: int, *kinds: str) -> Iterator[Term]:
        """What a node adds up of these operations."""
        into = [e for e, (to, _) in enumerate(EDGES) if to == target]
        return ((e, option) for e in into for option in self._options(e) if OPS[option] in kinds)

    def _node(self, target: int, nodes: list[Node]) -> Node:
        convs, skips, pools = (
            list(self._of(target, *kinds)) for kinds in (KERNELS, ("skip_connect",), ("avg_pool_3x3",))
        )
        scales = Scales(*([self.rows[e][option] for e, option in terms] for terms in (convs, skips, pools)))
        convolved = [self._conv(e, option, nodes[EDGES[e][1]]) for e, option in convs]
        plain = [value_of(nodes[EDGES[e][1]]) for e, _ in skips]
        if not convs and not skips and not pools:  # all edges are none: zero, which yet has a gradient
            zeros = torch.zeros_like(value_of(nodes[0]).tensor)
            plain, scales = [Signal(zeros)], scales._replace(plain=[1.0])
        told = partial(self._told, target, nodes, convs) if self.mixture.weights.requires_grad else None
        pooled = [nodes[EDGES[e][1]] for e, _ in pools]
        return self.tape.node(convolved, plain, pooled, scales=scales, told=told)

    def _conv(self, e: int, option: int, source: Node) -> Convolved:
        conv = cast(ConvNorm, cast(nn.ModuleDict, self.cell.edges[e])[OPS[option]]).conv
        return cast(Convolved, self.tape.conv(self.tape.relu(source), conv.weight))

    def _told(self, target: int, nodes: list[Node], convs: list[Term], g: Tensor, sums: Tensor) -> None:
        """The mixture's gradient: of an option that ran, g times its output; of one that did not, the sum of g."""
        weights = self.mixture.weights
        found = self.tape.grads.setdefault(weights, torch.zeros_like(weights, memory_format=torch.contiguous_format))
        if self.mixture.taken is not None:
            for e in (e for e, (to, _) in enumerate(EDGES) if to == target):
                others = [option for option in self.cell.options[e] if option != self.mixture.taken[e]]
                found[e, others] += g.sum()
        for (e, option), each in zip(convs, sums, strict=True):
            found[e, option] += each.sum()
        for e, option in self._of(target, "skip_connect"):
            found[e, option] += _dot(g, value_of(nodes[EDGES[e][1]]).tensor)
        for e, option in self._of(target, "avg_pool_3x3"):
            found[e, option] += _dot(g, self._average(EDGES[e][1], nodes))

    def _average(self, source: int, nodes: list[Node]) -> Tensor:
        if source not in self.averages:
            without = Tape(train=False)
            self.averages[source] = value_of(without.node(pooled=[nodes[source]], relu=False)).tensor
        return self.averages[source]


def run_mixed(tape: Tape, mixture: Mixture) -> Any:
    """What runs cells by that mixture: ``run(cell, x)``."""
    rows = mixture.weights.detach().tolist()
    if mixture.weights.requires_grad:
        tape.weights[mixture.weights] = mixture.weights
    return lambda cell, x: MixedCell(tape, cell, mixture, rows)(x)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of two channels-last tensors, in the order of their memory."""
    return torch.dot(a.permute(0, 2, 3, 1).reshape(-1), b.permute(0, 2, 3, 1).reshape(-1))
