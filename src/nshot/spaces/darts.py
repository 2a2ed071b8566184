"""The DARTS space (Liu et al., ICLR 2019): a normal and a reduction cell of four nodes, two inputs a node."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from nshot.errors import UserError
from nshot.nn.auxiliary import AuxiliaryHead, WithAuxiliary
from nshot.nn.cells import Norm, batch_norm, batch_norm_of_batch
from nshot.nn.inverted import global_pool
from nshot.nn.mixture import Mixture
from nshot.nn.separable import Cell, Choice, EdgeOptions, operation_costs

from . import presets
from .base import Space, Subnet, spaces
from .darts_cells import EDGES, KINDS, LAYOUT, NODES, NONE, OPS, PAIRS, choices, strongest
from .decisions import Decision
from .drawing import Drawing, Edge, Graph, short
from .genotype import from_genotype, genotype
from .supernet import Supernet

STEM = 3  # times the channels of the first cell


@dataclass(frozen=True)
class Place:
    """Where a cell stands: its kind, channels of its two inputs and of itself, whether the cell before halved, side."""

    kind: int
    c_prev_prev: int
    c_prev: int
    c: int
    after_reduction: bool
    side: int


@spaces.register("darts")
@dataclass(frozen=True)
class DARTS(Space):
    """Each node of each kind of cell decides which pair of earlier values it keeps, and an operation for each.

    The default sizes are those of the supernet, whose networks are retrained deeper and wider (`retrained`).
    A cell's output is all its nodes: no operation is without effect. Subnets that are equal because one node is a copy
    of another, by skips, are not seen (`canonical`); they cost the same.
    """

    name: ClassVar[str] = "darts"
    paper_sizes: ClassVar[tuple[str, ...]] = ("channels", "cells")
    presets: ClassVar[dict[str, dict[str, Any]]] = presets.DARTS

    channels: int = 16
    """C of the first cell; each of the two reduction cells doubles it."""
    cells: int = 8
    """Cells, of which those at a third and at two thirds reduce."""

    def __post_init__(self) -> None:
        for size, least in (("channels", 2), ("cells", 3), ("resolution", 8), ("num_classes", 2)):
            if getattr(self, size) < least:
                raise UserError(f"{size} {getattr(self, size)}: must be at least {least}")
        if self.channels % 2:
            raise UserError(f"channels {self.channels}: must be even, reductions halve them")

    def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        found: list[tuple[str, tuple[str, ...]]] = []
        for kind in KINDS:
            for node in range(NODES):
                if node:
                    found.append((f"{kind}.node{node}.inputs", tuple(f"{a},{b}" for a, b in PAIRS[node])))
                found += [(f"{kind}.node{node}.op{slot}", OPS) for slot in (0, 1)]
        return tuple(found)

    # mixtures

    @property
    def edges(self) -> tuple[Decision, ...]:
        """All 14 of each kind of cell; their first option is none, which only a mixture has."""
        options, allowed = (NONE, *OPS), tuple(range(1 + len(OPS)))
        return tuple(Decision(f"{kind}.node{n}<-{s}", options, allowed) for kind in KINDS for n, s in EDGES)

    def strongest(self, weights: Sequence[Sequence[float]]) -> Subnet:
        """Of each node the two edges with the largest weight that is not none's, by these options."""
        return strongest(weights)

    # costs

    @cached_property
    def places(self) -> list[Place]:
        """Of the cells, in order."""
        found = []
        c_prev_prev = c_prev = STEM * self.channels
        c, side, reduced = self.channels, self.resolution, False
        for i in range(self.cells):
            kind = int(i in (self.cells // 3, 2 * self.cells // 3))
            c = 2 * c if kind else c
            found.append(Place(kind, c_prev_prev, c_prev, c, reduced, side))
            c_prev_prev, c_prev, reduced = c_prev, NODES * c, bool(kind)
            side = -(-side // 2) if kind else side
        return found

    @cached_property
    def _fixed(self) -> tuple[int, int, int]:
        """Parameters, multiply-accumulates and normed channels of stem, the cells' inputs and the classifier."""
        stem = STEM * self.channels
        totals = [27 * stem, 27 * stem * self.resolution**2, stem]
        for at in self.places:
            for c_in in (at.c_prev_prev, at.c_prev):
                totals[0] += c_in * at.c
                totals[1] += c_in * at.c * at.side**2
                totals[2] += at.c
        classifier = NODES * self.places[-1].c * self.num_classes
        return totals[0] + classifier + self.num_classes, totals[1] + classifier, totals[2]

    @cached_property
    def _table(self) -> list[list[list[tuple[int, ...]]]]:
        """Costs [kind][operation][whether its input is one of the cell's own] over all cells of the kind."""

        def total(kind: int, op: str, outer: bool) -> tuple[int, ...]:
            stride = 2 if kind and outer else 1
            cells = [at for at in self.places if at.kind == kind]
            inner = [at.side if outer or not kind else -(-at.side // 2) for at in cells]
            rows = [operation_costs(op, at.c, stride, side) for at, side in zip(cells, inner, strict=True)]
            return tuple(map(sum, zip(*rows, strict=True)))

        return [[[total(kind, op, outer) for outer in (False, True)] for op in OPS] for kind in (0, 1)]

    def _cost(self, subnet: Subnet, which: int) -> int:
        kept = [(edge, self._table[kind]) for kind in (0, 1) for node in choices(subnet, kind) for edge in node]
        return self._fixed[which] + sum([table[op][source < 2][which] for (source, op), table in kept])

    def params(self, subnet: Subnet) -> int:
        return self._cost(subnet, 0)

    def flops(self, subnet: Subnet) -> int:
        return self._cost(subnet, 1)

    def network_params(self, subnet: Subnet) -> int:
        return self._cost(subnet, 0) + 2 * self._cost(subnet, 2)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """A node's inputs and operations."""
        found = [(pair, op) for kind in LAYOUT for pair, op in kind]
        return tuple((*(() if pair is None else (pair,)), op, op + 1) for pair, op in found)

    def open(self, kind: int, node: int) -> tuple[tuple[int, ...], tuple[Decision, Decision]]:
        """The pairs of inputs that a node may keep, and the decisions of its two operations."""
        pair, op = LAYOUT[kind][node]
        pairs = (0,) if pair is None else self.decisions[pair].allowed
        return pairs, (self.decisions[op], self.decisions[op + 1])

    @property
    def retrained(self) -> "DARTS":
        """Of the paper's supernet, 20 cells of 36 channels (Liu et al., section 3.3); of other sizes, the same."""
        return replace(self, channels=36, cells=20) if self.at_paper_sizes == self else self

    # notation

    def format(self, subnet: Subnet) -> str:
        return genotype(self.check(subnet))

    def parse(self, text: str) -> Subnet:
        return self.check(from_genotype(text))

    def drawing(self, subnet: Subnet) -> Drawing:
        """Both cells; the output has the four nodes' values side by side."""
        names, inner = ("k-2", "k-1", *map(str, range(NODES)), "k"), tuple(range(2, 2 + NODES))
        cells = []
        for kind, name in enumerate(("normal", "reduction")):
            kept = enumerate(choices(self.check(subnet), kind), start=2)
            edges = tuple(Edge(source, node, short(OPS[op])) for node, pair in kept for source, op in pair)
            cells.append(Graph(f"{name} cell k", names, edges, tuple(map(short, OPS)), inner))
        return tuple(cells)

    # networks

    def supernet(self, num_classes: int | None = None) -> "DARTSSupernet":
        return DARTSSupernet(self.with_classes(num_classes))

    def network(self, subnet: Subnet, num_classes: int | None = None) -> "DARTSNetwork":
        return DARTSNetwork(self.with_classes(num_classes), self.check(subnet))

    def with_auxiliary(self, network: nn.Module) -> WithAuxiliary:
        """At the second reduction, two thirds deep."""
        at = 2 * self.cells // 3
        c, side = NODES * self.places[at].c, -(-self.places[at].side // 2)
        return WithAuxiliary(network, f"cells.{at}", AuxiliaryHead(c, side, self.num_classes, batch_norm))


class Backbone(nn.Module):
    """Stem, cells, classifier; ``options`` are what the edges hold. ``pools``: whether pooling is normed."""

    def __init__(self, space: DARTS, options: list[EdgeOptions], norm: Norm, pools: bool) -> None:
        super().__init__()
        stem = STEM * space.channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1, bias=False), norm(stem))
        self.kinds = [at.kind for at in space.places]
        self.cells = nn.ModuleList(
            Cell((at.c_prev_prev, at.c_prev, at.c), bool(at.kind), at.after_reduction, options[at.kind], norm, pools)
            for at in space.places
        )
        self.classifier = nn.Linear(NODES * space.places[-1].c, space.num_classes)

    def run(self, x: Tensor, subnet: Subnet) -> Tensor:
        return self.classifier(global_pool(self.unpooled(x, subnet)))

    def unpooled(self, x: Tensor, subnet: Subnet) -> Tensor:
        """The last features (N, C, H, W)."""
        return self._through(x, [choices(subnet, kind) for kind in (0, 1)])

    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Logits by a weight for each option of each edge."""
        rows = [mixture.rows(kind * len(EDGES), len(EDGES)) for kind in (0, 1)]
        return self.classifier(global_pool(self._through(x, rows)))

    def _through(self, x: Tensor, kept: Sequence[Sequence[Choice] | Mixture]) -> Tensor:
        before = x = self.stem(x)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, x = x, cell(before, x, kept[kind])
        return x


class DARTSSupernet(Backbone, Supernet):
    """All operations of all edges that a subnet of the space may keep; batch norms of the batch."""

    def __init__(self, space: DARTS) -> None:
        options: list[EdgeOptions] = [{}, {}]
        for kind in (0, 1):
            for node in range(NODES):
                pairs, ops = space.open(kind, node)
                for pair in pairs:
                    for source, slot in zip(PAIRS[node][pair], ops, strict=True):
                        options[kind].setdefault((node, source), set()).update(slot.allowed)
        super().__init__(space, options, batch_norm_of_batch, pools=True)
        self.space: DARTS = space
        self.mixtures = not space.kept  # they need all edges

    def forward(self, x: Tensor, subnet: Subnet | Mixture) -> Tensor:
        return self.mixed(x, subnet) if isinstance(subnet, Mixture) else self.run(x, tuple(subnet))

    def own_weights(self, subnet: Subnet) -> list[list[nn.Parameter]]:
        found: list[list[nn.Parameter]] = [[] for _ in subnet]
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            for node, kept in enumerate(choices(subnet, kind)):
                for place, (source, op) in enumerate(kept, start=LAYOUT[kind][node][1]):
                    found[place] += cast(Cell, cell).weights(source, node, op)
        return found

    def extract(self, subnet: Subnet) -> "DARTSNetwork":
        return self.hand_weights(DARTSNetwork(self.space, subnet, norm=batch_norm_of_batch, pools=True))


class DARTSNetwork(Backbone):
    """One subnet: ``network(x)``."""

    def __init__(self, space: DARTS, subnet: Subnet, *, norm: Norm = batch_norm, pools: bool = False) -> None:
        kept = [choices(subnet, kind) for kind in (0, 1)]
        options: list[EdgeOptions] = [
            {(node, source): {op} for node, inputs in enumerate(cell) for source, op in inputs} for cell in kept
        ]
        super().__init__(space, options, norm, pools)
        self.subnet = subnet

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.subnet)

    def feature_map(self, x: Tensor) -> Tensor:
        """(N, C, H, W), before pooling."""
        return self.unpooled(x, self.subnet)
