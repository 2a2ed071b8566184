"""The cells of cells.py as CUDA graphs: one for each node and combination of what its edges do."""

from collections.abc import Hashable
from typing import cast

import torch
from torch import Tensor

from .cells import EDGES, NODES, OPS, Cell, Memo, Ops
from .fused_cells import sums
from .graphs import Capture, Memory, Part


class GraphedCell:
    """Runs a cell with gradients; captures what it has not run yet.

    Args:
        cell: whose weights it uses.
        capture: `nshot.nn.graphs.cuda_capture`.
    """

    def __init__(self, cell: Cell, capture: Capture) -> None:
        self.cell = cell
        self._capture = capture
        self._memories: dict[Hashable, Memory] = {}
        self._parts: dict[Hashable, Part] = {}

    def __call__(self, x: Tensor, live: Ops) -> Tensor:
        kind = (x.shape, x.dtype, x.device, torch.is_autocast_enabled(x.device.type))
        if kind not in self._memories:
            self._memories[kind] = Memory(x, NODES)
        memory = self._memories[kind]
        roots, values = {0: 0}, {0: memory.begin(x)}  # of a node: whose value it has; and the values
        for part in sums(live):
            if part.alias:
                roots[part.target] = roots[part.plain[0]]
                continue
            edges = [
                (e, live[e], roots[s])
                for e, (to, s) in enumerate(EDGES)
                if to == part.target and OPS[live[e]] != "none"
            ]
            key = (kind, part.target, *edges)
            if key not in self._parts:
                self._parts[key] = self._captured(memory, part.target, edges)
            chosen = self._parts[key]
            roots[part.target] = part.target
            values[part.target] = chosen([values[source] for source in chosen.sources])
        return values[roots[NODES - 1]] if NODES - 1 in roots else torch.zeros_like(x)

    def _captured(self, memory: Memory, target: int, edges: list[tuple[int, int, int]]) -> Part:
        sources = sorted({source for _, _, source in edges})

        def total(*values: Tensor) -> Tensor:
            at, memo = dict(zip(sources, values, strict=True)), cast(Memo, {})
            terms = [self.cell.edge(e, op, at[source], memo, (source, -1, ())) for e, op, source in edges]
            return sum(terms[1:], terms[0])

        weights = [weight for e, op, _ in edges for weight in self.cell.weights(e, op)]
        return Part(total, memory, sources, target, weights, self._capture)
