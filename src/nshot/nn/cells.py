"""Building blocks of the NAS-Bench-201 networks (Dong and Yang, ICLR 2020), channel-preserving and residual."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mixture import Mixture

Norm = Callable[[int], nn.Module]
Ops = tuple[int, ...]  # an operation index for each edge: a subnet

NODES = 4
EDGES = [(target, source) for target in range(1, NODES) for source in range(target)]
OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE = OPS.index("none")
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
DECIDES = {0: 0, 1: 1, 2: 3}  # how many edges, from the first, decide the value of a node

# What a cell computed: (edge, operation, or -1 for the ReLU of node `edge`; the edges that decide its input) to value.
Memo = dict[tuple[int, int, Ops], Tensor]


@cache
def live_edges(subnet: Ops) -> Ops:
    """The subnet with ``none`` on every edge that the input does not reach or that does not reach the output.

    Such an edge changes no output; 9,445 of the 15,625 subnets are distinct this way, and 341 have no path at all.
    """
    forward, backward = {0}, {NODES - 1}
    for (target, source), op in zip(EDGES, subnet, strict=True):
        if op != NONE and source in forward:
            forward.add(target)
    for (target, source), op in zip(reversed(EDGES), reversed(subnet), strict=True):
        if op != NONE and target in backward:
            backward.add(source)
    return tuple(
        op if source in forward and target in backward else NONE
        for (target, source), op in zip(EDGES, subnet, strict=True)
    )


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm of a stand-alone network: affine, with running statistics."""
    return nn.BatchNorm2d(channels)


def batch_norm_of_batch(channels: int) -> nn.BatchNorm2d:
    """Batch norm of a supernet: no affine parameters, no running statistics, so a batch is always its own statistics.

    Running statistics of one subnet would be wrong for every other.
    """
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


class ConvNorm(nn.Sequential):
    """Convolution without bias (the batch norm that follows would void it), then batch norm."""

    def __init__(self, in_channels: int, channels: int, kernel: int, norm: Norm, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = norm(channels)


def average_pool(x: Tensor) -> Tensor:
    """3x3 average of the pixels that exist: the border's windows count fewer."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Reduction(nn.Module):
    """Residual block that halves the resolution: (N, in, H, W) to (N, channels, H/2, W/2).

    Without its link where ``residual`` is False: so are networks scored by Zen and ZiCo.
    """

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv_a = ConvNorm(in_channels, channels, 3, norm, stride=2)
        self.conv_b = ConvNorm(channels, channels, 3, norm)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.residual = True

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_b(F.relu(self.conv_a(F.relu(x))))
        return self.shortcut(F.avg_pool2d(x, 2)) + out if self.residual else out


class Cell(nn.Module):
    """Sums at each node what the edges into it make of earlier nodes: (N, C, H, W) to (N, C, H, W)."""

    def __init__(self, channels: int, options: Sequence[Sequence[int]], norm: Norm) -> None:
        super().__init__()
        self.options = options
        self.edges = nn.ModuleList(
            nn.ModuleDict(
                {OPS[i]: ConvNorm(channels, channels, KERNELS[OPS[i]], norm) for i in allowed if OPS[i] in KERNELS}
            )
            for allowed in options
        )
        self.graphed: Callable[[Tensor, Ops], Tensor] | None = None
        """What runs the cell where gradients are wanted, if CUDA graphs are on: a `GraphedCell`."""

    def forward(self, x: Tensor, live: Ops, memo: Memo | None = None) -> Tensor:
        """``memo`` holds what earlier subnets computed of the same x: a supernet's ``forward_many`` shares it."""
        if self.graphed is not None and torch.is_grad_enabled():
            return self.graphed(x, live)
        nodes = {0: x}
        memo = {} if memo is None else memo
        for e, ((target, source), op) in enumerate(zip(EDGES, live, strict=True)):
            if op == NONE:
                continue
            decided = live[: DECIDES[source]]
            key = (e, op, decided)
            if key not in memo:
                memo[key] = self.edge(e, op, nodes[source], memo, (source, -1, decided))
            nodes[target] = nodes[target] + memo[key] if target in nodes else memo[key]
        return nodes.get(NODES - 1, torch.zeros_like(x))

    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """The same by a weight for each option of each edge."""
        nodes, memo = [x], cast(Memo, {})

        def ran(e: int, source: int, op: int) -> Tensor:
            if op == NONE:
                return torch.zeros_like(x)
            key = (source, op, ())
            if OPS[op] == "avg_pool_3x3" and key not in memo:
                memo[key] = average_pool(nodes[source])  # all edges from a node share it
            return memo[key] if key in memo else self.edge(e, op, nodes[source], memo, (source, -1, ()))

        for node in range(1, NODES):
            into = [(e, source) for e, (target, source) in enumerate(EDGES) if target == node]
            terms = [mixture.edge(e, self.options[e], partial(ran, e, source)) for e, source in into]
            nodes.append(sum(terms[1:], terms[0]))
        return nodes[-1]

    def edge(self, e: int, op: int, value: Tensor, memo: Memo, relu: tuple[int, int, Ops]) -> Tensor:
        """What an operation of edge e makes of a value; ``memo`` holds the value's ReLU under the key ``relu``."""
        if OPS[op] in KERNELS:
            if relu not in memo:
                memo[relu] = F.relu(value)  # all convolutions of a node share it
            return cast(nn.ModuleDict, self.edges[e])[OPS[op]](memo[relu])
        return average_pool(value) if OPS[op] == "avg_pool_3x3" else value

    def weights(self, e: int, op: int) -> list[nn.Parameter]:
        """Those of an operation of edge e."""
        return list(cast(nn.ModuleDict, self.edges[e])[OPS[op]].parameters()) if OPS[op] in KERNELS else []
