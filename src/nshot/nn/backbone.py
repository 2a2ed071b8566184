"""The network around NAS-Bench-201's cells (Dong and Yang, ICLR 2020, figure 1)."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import fused, fused_cells, fused_mixed
from .cells import Cell, ConvNorm, Memo, Norm, Ops, Reduction, batch_norm_of_batch, live_edges
from .mixture import Mixture


class Backbone(nn.Module):
    """Stem, a stage of cells for each number of channels, reductions between, classifier.

    Args:
        channels: of the stages.
        cells: in each stage.
        classes: logits.
        options: of each edge the operations that it holds.
        norm: makes a norm of so many channels.
        bias: whether the classifier has one.
    """

    def __init__(
        self,
        channels: Sequence[int],
        cells: int,
        classes: int,
        options: Sequence[Sequence[int]],
        norm: Norm,
        bias: bool,
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(3, channels[0], 3, norm)
        self.stages = nn.ModuleList(nn.ModuleList(Cell(c, options, norm) for _ in range(cells)) for c in channels)
        self.reductions = nn.ModuleList(Reduction(c_in, c, norm) for c_in, c in pairwise(channels))
        self.last_norm = norm(channels[-1])
        self.classifier = nn.Linear(channels[-1], classes, bias=bias)

        self.fast = True  # whether to use the fast path, which only knows batch norms of the batch
        self._fusible = norm is batch_norm_of_batch

    def run(self, x: Tensor, subnet: Ops) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W) by an operation of each edge."""
        return self.classifier(self.features(x, subnet))

    def features(self, x: Tensor, subnet: Ops) -> Tensor:
        """What the classifier makes logits of, (N, channels of the last stage)."""
        live = live_edges(subnet)
        if self.fuses(x):
            return fused.pooled(lambda tape: self.fused_rest(tape, self.fused_stem(tape, x), live))
        return self.plain(self.stem(x), live)

    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Logits by a weight for each option of each edge."""
        if mixture.taken is not None and not (mixture.weights.requires_grad and torch.is_grad_enabled()):
            return self.run(x, mixture.taken)  # the others' weights are 0
        if self.fuses(x):
            return self.classifier(fused.pooled(lambda tape: self.fused_mixed(tape, self.fused_stem(tape, x), mixture)))
        return self.classifier(self.plain(self.stem(x), mixture))

    def fuses(self, x: Tensor) -> bool:
        return self.fast and self._fusible and fused.usable(x)

    def plain(self, x: Tensor, path: Ops | Mixture, memo: Memo | None = None) -> Tensor:
        """Features from the stem's output, by live edges or a mixture; ``memo`` is the first cell's."""
        return self.unpooled(x, path, memo).mean((2, 3))

    def unpooled(self, x: Tensor, path: Ops | Mixture, memo: Memo | None = None) -> Tensor:
        """The last features (N, C, H, W), which `plain` takes the mean over pixels of."""
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.reductions[i - 1](x)
            for j, cell in enumerate(cast(Iterable[Cell], stage)):
                x = cell.mixed(x, path) if isinstance(path, Mixture) else cell(x, path, memo if i == j == 0 else None)
        return F.relu(self.last_norm(x))

    def fused_mixed(self, tape: fused.Tape, x: fused.Node, mixture: Mixture) -> fused.Signal:
        """As `fused_rest`, by a mixture."""
        run = fused_mixed.run_mixed(tape, mixture)
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = fused_cells.run_reduction(tape, cast(Reduction, self.reductions[i - 1]), x, fused_cells.BOTH)
            for cell in cast(Iterable[Cell], stage):
                x = run(cell, x)
        return tape.relu(tape.normed(x))

    def fused_stem(self, tape: fused.Tape, x: Tensor) -> fused.Node:
        return tape.node([tape.conv(tape.images(x), self.stem.conv.weight, grad_x=False)])

    def fused_rest(self, tape: fused.Tape, x: fused.Node, live: Ops, memo: Memo | None = None) -> fused.Signal:
        """What `plain` gives to the mean over pixels, from the stem's output, on the fast path."""
        outs = fused_cells.chain(live, len(cast(nn.ModuleList, self.stages[0])))
        for i, stage in enumerate(self.stages):
            if i > 0:
                first = fused_cells.wanted(live, outs[0])[0]
                x = fused_cells.run_reduction(tape, cast(Reduction, self.reductions[i - 1]), x, first)
            for j, cell in enumerate(cast(nn.ModuleList, stage)):
                remembered = memo if i == j == 0 else None
                x = fused_cells.run_cell(tape, cast(Cell, cell), x, live, outs[j], remembered)
        return tape.relu(tape.normed(x))
