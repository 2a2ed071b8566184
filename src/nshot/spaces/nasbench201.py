"""The NAS-Bench-201 space: one cell of six edges and five operations, repeated (Dong and Yang, ICLR 2020)."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from nshot.errors import UserError
from nshot.nn import fused
from nshot.nn.backbone import Backbone
from nshot.nn.cells import (
    EDGES,
    KERNELS,
    NODES,
    NONE,
    OPS,
    Cell,
    Memo,
    Norm,
    batch_norm,
    batch_norm_of_batch,
    live_edges,
)
from nshot.nn.graphed_cells import GraphedCell
from nshot.nn.graphs import Capture
from nshot.nn.mixture import Mixture

from . import forms, presets
from .base import Space, Subnet, spaces
from .drawing import Drawing, Edge, Graph, short
from .supernet import Supernet


@spaces.register("nasbench201")
@dataclass(frozen=True)
class NASBench201(Space):
    """15,625 subnets: an operation for each of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2 of one cell."""

    name: ClassVar[str] = "nasbench201"
    presets: ClassVar[dict[str, dict[str, Any]]] = presets.NASBENCH201

    paper_sizes: ClassVar[tuple[str, ...]] = ("channels", "cells")
    earlier: ClassVar[dict[str, Any]] = {"bias": False}

    channels: int = 16
    """C, channels of the first stage; each of the two reductions doubles them."""
    cells: int = 5
    """N, cells in each of the three stages."""
    resolution: int = 32
    """Height and width of the images, a multiple of 4."""

    def __post_init__(self) -> None:
        for size, least in (("channels", 1), ("cells", 1), ("resolution", 1), ("num_classes", 2)):
            value = getattr(self, size)
            if not isinstance(value, int) or value < least:
                raise UserError(f"{size} {value}: must be a whole number of at least {least}")
        if self.resolution % 4:
            fits = -(-self.resolution // 4) * 4
            raise UserError(
                f"resolution {self.resolution}: must be a multiple of 4 such as {fits}, the space halves it twice"
            )

    def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return tuple((f"{target}<-{source}", OPS) for target, source in EDGES)

    # costs

    @cached_property
    def stages(self) -> list[tuple[int, int]]:
        """(channels, pixels) of the three stages."""
        return [(self.channels << i, (self.resolution >> i) ** 2) for i in range(3)]

    @cached_property
    def _fixed(self) -> tuple[int, int]:
        """Parameters and multiply-accumulates of stem, reductions and classifier."""
        first, last = self.stages[0], self.stages[-1]
        convs = [(3 * first[0] * 9, first[1])]
        for (c_in, _), (c, pixels) in pairwise(self.stages):
            convs += [(c_in * c * 9, pixels), (c * c * 9, pixels), (c_in * c, pixels)]
        classifier = last[0] * self.num_classes
        return sum(p for p, _ in convs) + classifier, sum(p * pixels for p, pixels in convs) + classifier

    @cached_property
    def _edge_params(self) -> tuple[int, ...]:
        weights = self.cells * sum(c * c for c, _ in self.stages)
        return tuple(weights * KERNELS.get(op, 0) ** 2 for op in OPS)

    @cached_property
    def _edge_flops(self) -> tuple[int, ...]:
        flops = self.cells * sum(c * c * pixels for c, pixels in self.stages)
        return tuple(flops * KERNELS.get(op, 0) ** 2 for op in OPS)

    def params(self, subnet: Subnet) -> int:
        table = self._edge_params
        return self._fixed[0] + sum([table[op] for op in subnet])

    def flops(self, subnet: Subnet) -> int:
        """Multiply-accumulates of one image; edges that change no output are not computed and not counted."""
        table = self._edge_flops
        return self._fixed[1] + sum([table[op] for op in live_edges(subnet)])

    def network_params(self, subnet: Subnet) -> int:
        """``params``, and the affine batch norms and the classifier's bias: 1,531,546 for the all-3x3 subnet."""
        convs = sum(OPS[op] in KERNELS for op in subnet)
        channels = [c for c, _ in self.stages]
        norms = channels[0] + 2 * sum(channels[1:]) + channels[-1] + convs * self.cells * sum(channels)
        return self.params(subnet) + 2 * norms + self.num_classes

    # notation

    def format(self, subnet: Subnet) -> str:
        """``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|``: a group a node, an operation a source."""
        ops = iter(OPS[op] for op in self.check(subnet))
        nodes = ["".join(f"|{next(ops)}~{source}" for source in range(target)) + "|" for target in range(1, NODES)]
        return "+".join(nodes)

    def parse(self, text: str) -> Subnet:
        """A subnet from the field's notation, or from ``released:N``, its number as `index` has it."""
        if number := re.fullmatch(r"(?:(\w+):)?([0-9]{1,9})", text.strip()):
            return self.check(self._numbered(number[1], int(number[2])))
        nodes = [node.strip("|").split("|") for node in text.strip().split("+")]
        edges = [entry.rpartition("~") for node in nodes for entry in node]
        right_shape = [len(node) for node in nodes] == list(range(1, NODES))
        if not right_shape or [source for _, _, source in edges] != [str(source) for _, source in EDGES]:
            raise UserError(
                f"{text!r} is no nasbench201 subnet: expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, or released:N"
            )
        for op, _, _ in edges:
            if op not in OPS:
                raise UserError(f"unknown operation {op!r} in {text!r}: choose of {', '.join(OPS)}")
        return self.check(tuple(OPS.index(op) for op, _, _ in edges))

    def _numbered(self, order: str | None, number: int) -> Subnet:
        if order == "released":
            return self.at(number)
        if order == "nats":
            raise UserError(
                f"'nats:{number}': only a table that nshot benchmark import made knows the official order, for lists "
                f"that are ranked against it; write the notation, which the official api.arch({number}) gives"
            )
        if order is None:
            raise UserError(
                f"'{number}': a number needs its order; write released:{number} (of all numbers of a list: "
                "released:FILE) for that of the paper's code, which is not the official benchmark's, or the notation "
                "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
            )
        raise UserError(f"unknown order {order!r} of '{order}:{number}': write released:{number}, or the notation")

    def index(self, subnet: Subnet) -> int:
        """Number in the released code's order, 0 to 15624: base 5, the first edge most significant.

        In the official benchmark's files (NAS-Bench-201, NATS-Bench) a number names another architecture.
        """
        index = 0
        for op in subnet:
            index = index * len(OPS) + int(op)  # numpy's small integers would overflow
        return index

    def at(self, index: int) -> Subnet:
        """The inverse of `index`. Raises UserError outside 0 to 15624."""
        if not 0 <= index < len(OPS) ** len(EDGES):
            raise UserError(f"subnet index {index}: nasbench201 has 0 to {len(OPS) ** len(EDGES) - 1}")
        return tuple(index // len(OPS) ** place % len(OPS) for place in reversed(range(len(EDGES))))

    def canonical(self, subnet: Subnet) -> Subnet:
        """Exact: two subnets have one form if and only if one supernet's outputs of them are equal."""
        return self._same(forms.leanest, subnet)

    def twin(self, subnet: Subnet) -> Subnet:
        """Exact: equal up to a renaming of the edges whose convolutions are used."""
        return self._same(forms.twins, subnet)

    def _same(self, table: Callable[..., dict[Subnet, Subnet]], subnet: Subnet) -> Subnet:
        try:
            return table(*self._options)[tuple(subnet)]
        except KeyError:
            self.check(subnet)
            raise

    @cached_property
    def _options(self) -> tuple[tuple[Subnet, ...], tuple[int, ...]]:
        """Of each edge those left, and the parameters that each adds to the network."""
        costs = tuple(self.network_params((op,)) - self.network_params(()) for op in range(len(OPS)))
        return tuple(decision.allowed for decision in self.decisions), costs

    def drawing(self, subnet: Subnet) -> Drawing:
        """The cell; ``none`` is no edge."""
        edges = zip(EDGES, self.check(subnet), live_edges(tuple(subnet)), strict=True)
        drawn = [Edge(source, target, short(OPS[op]), op == live) for (target, source), op, live in edges if op != NONE]
        return (Graph("the cell", ("in", "1", "2", "out"), tuple(drawn), tuple(map(short, OPS))),)

    # networks

    @property
    def backbone(self) -> tuple[list[int], int, int]:
        """Channels of the stages, cells in each, classes."""
        return [c for c, _ in self.stages], self.cells, self.num_classes

    def supernet(self, num_classes: int | None = None) -> "NASBench201Supernet":
        return NASBench201Supernet(self.with_classes(num_classes))

    def network(self, subnet: Subnet, num_classes: int | None = None) -> "NASBench201Network":
        return NASBench201Network(self.with_classes(num_classes), self.check(subnet))


class NASBench201Supernet(Backbone, Supernet):
    """All operations of all edges, batch norms of the batch. The classifier has a bias, as released; C(α), as released,
    counts all weights but that."""

    mixtures = True

    def __init__(self, space: NASBench201) -> None:
        super().__init__(*space.backbone, [d.allowed for d in space.decisions], batch_norm_of_batch, bias=True)
        self.space: NASBench201 = space

    @property
    def cells(self) -> list[Cell]:
        """Of all stages."""
        return [cast(Cell, cell) for stage in self.stages for cell in cast(Iterable[Cell], stage)]

    def forward(self, x: Tensor, subnet: Subnet | Mixture) -> Tensor:
        return self.mixed(x, subnet) if isinstance(subnet, Mixture) else self.run(x, tuple(subnet))

    def forward_many(self, x: Tensor, subnets: Iterable[Subnet]) -> Iterator[Tensor]:
        """Shares the stem, and in the first cell all that the edges already decided have in common."""
        stem = self.fused_stem(fused.Tape(train=False), x) if self.fuses(x) else self.stem(x)
        memo: Memo = {}
        for subnet in subnets:
            live = live_edges(tuple(subnet))
            for key in [key for key in memo if key[-1] != live[: len(key[-1])]]:
                del memo[key]  # sorted subnets do not come back to it
            if isinstance(stem, fused.Node):
                yield self.classifier(fused.pooled(partial(self.fused_rest, x=stem, live=live, memo=memo)))
            else:
                yield self.classifier(self.plain(stem, live, memo))

    def own_weights(self, subnet: Subnet) -> list[list[nn.Parameter]]:
        return [[weight for cell in self.cells for weight in cell.weights(e, op)] for e, op in enumerate(subnet)]

    def drop_bias(self) -> None:
        self.classifier.bias = None  # type: ignore[assignment]

    def use_graphs(self, capture: Capture) -> None:
        for cell in self.cells:
            cell.graphed = GraphedCell(cell, capture)

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        graphs = [cell.graphed for cell in self.cells]
        for cell in self.cells:
            cell.graphed = None
        try:
            with super().differentiable():
                yield
        finally:
            for cell, graphed in zip(self.cells, graphs, strict=True):
                cell.graphed = graphed

    def extract(self, subnet: Subnet) -> "NASBench201Network":
        bias = self.classifier.bias is not None
        network = NASBench201Network(self.space, subnet, norm=batch_norm_of_batch, bias=bias)
        network.fast = self.fast
        return self.hand_weights(network)


class NASBench201Network(Backbone):
    """One subnet: ``network(x)``. Edges that change no output keep their weights, as the benchmark counts them."""

    def __init__(self, space: NASBench201, subnet: Subnet, *, norm: Norm = batch_norm, bias: bool = True) -> None:
        super().__init__(*space.backbone, [(op,) for op in subnet], norm, bias)
        self.subnet = subnet

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.subnet)

    def feature_map(self, x: Tensor) -> Tensor:
        """(N, C, H, W), before pooling."""
        return self.unpooled(self.stem(x), live_edges(self.subnet))
