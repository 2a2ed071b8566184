"""Cells of the DARTS networks (Liu et al., ICLR 2019) and their operations: pooling, convolutions, reductions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cells import Norm
from .depthwise import DepthwiseConv
from .drop import DropPath
from .mixture import Mixture


class ReluConvNorm(nn.Sequential):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, c_in: int, c: int, norm: Norm) -> None:
        super().__init__(nn.ReLU(), nn.Conv2d(c_in, c, 1, bias=False), norm(c))


class FactorizedReduce(nn.Module):
    """Halves the resolution by two 1x1 convolutions of stride 2, one shifted by a pixel; rounds up."""

    def __init__(self, c_in: int, c: int, norm: Norm) -> None:
        super().__init__()
        self.even = nn.Conv2d(c_in, c // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(c_in, c - c // 2, 1, stride=2, bias=False)
        self.norm = norm(c)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))


def _depthwise(c: int, kernel: int, stride: int, dilation: int, norm: Norm) -> list[nn.Module]:
    """ReLU, depthwise and pointwise convolution, batch norm."""
    return [
        nn.ReLU(),
        DepthwiseConv(c, kernel, stride, dilation),
        nn.Conv2d(c, c, 1, bias=False),
        norm(c),
    ]


class SeparableConv(nn.Sequential):
    """Twice a depthwise separable convolution."""

    def __init__(self, c: int, kernel: int, stride: int, norm: Norm) -> None:
        super().__init__(*_depthwise(c, kernel, stride, 1, norm), *_depthwise(c, kernel, 1, 1, norm))


class DilatedConv(nn.Sequential):
    """A depthwise separable convolution of dilation 2."""

    def __init__(self, c: int, kernel: int, stride: int, norm: Norm) -> None:
        super().__init__(*_depthwise(c, kernel, stride, 2, norm))


class Pool(nn.Module):
    """3x3 maximum or average, of the pixels that exist; then a batch norm where the network shares weights."""

    def __init__(self, kind: str, c: int, stride: int, norm: Norm | None) -> None:
        super().__init__()
        self.kind = kind
        self.stride = stride
        self.norm = nn.Identity() if norm is None else norm(c)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "max":
            return self.norm(F.max_pool2d(x, 3, self.stride, padding=1))
        return self.norm(F.avg_pool2d(x, 3, self.stride, padding=1, count_include_pad=False))


# Name to the operation on c channels: (c, stride, norm, whether pools are normed).
OPERATIONS: dict[str, Callable[[int, int, Norm, bool], nn.Module]] = {
    "max_pool_3x3": lambda c, stride, norm, pools: Pool("max", c, stride, norm if pools else None),
    "avg_pool_3x3": lambda c, stride, norm, pools: Pool("avg", c, stride, norm if pools else None),
    "skip_connect": lambda c, stride, norm, pools: nn.Identity() if stride == 1 else FactorizedReduce(c, c, norm),
    "sep_conv_3x3": lambda c, stride, norm, pools: SeparableConv(c, 3, stride, norm),
    "sep_conv_5x5": lambda c, stride, norm, pools: SeparableConv(c, 5, stride, norm),
    "dil_conv_3x3": lambda c, stride, norm, pools: DilatedConv(c, 3, stride, norm),
    "dil_conv_5x5": lambda c, stride, norm, pools: DilatedConv(c, 5, stride, norm),
}


OPS = tuple(OPERATIONS)
Choice = tuple[tuple[int, int], tuple[int, int]]  # of a node: (input, operation) twice, inputs in order
EdgeOptions = dict[tuple[int, int], set[int]]  # (node, input) to the operations that the edge holds


class Cell(nn.Module):
    """Two earlier outputs to the nodes' values side by side: (N, nodes x c, H / stride, W / stride).

    Args:
        channels: of the output before the last, of the last one, and c.
        reduces: whether the cell halves the resolution.
        after_reduction: whether the last cell did, so that the output before it is twice as large.
        options: what the edges hold.
        pools: whether pooling is normed.
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        reduces: bool,
        after_reduction: bool,
        options: EdgeOptions,
        norm: Norm,
        pools: bool,
    ) -> None:
        super().__init__()
        c_before, c_in, c = channels
        self.input0 = (FactorizedReduce if after_reduction else ReluConvNorm)(c_before, c, norm)
        self.input1 = ReluConvNorm(c_in, c, norm)
        self.drop = DropPath()
        self.edges = nn.ModuleDict()
        self.reduces = reduces
        for (node, source), ops in sorted(options.items()):
            stride = 2 if reduces and source < 2 else 1
            held = {OPS[op]: OPERATIONS[OPS[op]](c, stride, norm, pools) for op in sorted(ops)}
            self.edges[f"{source}-{node}"] = nn.ModuleDict(held)

    def forward(self, before: Tensor, x: Tensor, kept: Sequence[Choice] | Mixture) -> Tensor:
        """By what the nodes keep; by a mixture of none and the operations of all edges, node by node."""
        values = [self.input0(before), self.input1(x)]
        if isinstance(kept, Mixture):
            return self._mixed(values, kept)
        for node, ((a, op_a), (b, op_b)) in enumerate(kept):
            values.append(self._edge(a, node, op_a, values[a]) + self._edge(b, node, op_b, values[b]))
        return torch.cat(values[2:], dim=1)

    def _mixed(self, values: list[Tensor], mixture: Mixture) -> Tensor:
        e = 0
        while e < len(self.edges):
            node = len(values) - 2
            terms = []
            for source, value in enumerate(values):
                terms.append(mixture.edge(e, range(1 + len(OPS)), partial(self._option, source, node, value)))
                e += 1
            values.append(sum(terms[1:], terms[0]))
        return torch.cat(values[2:], dim=1)

    def _option(self, source: int, node: int, value: Tensor, option: int) -> Tensor:
        """Of an edge: none, then the operations."""
        if option > 0:
            return self._edge(source, node, option - 1, value)
        stride = 2 if self.reduces and source < 2 else 1
        return torch.zeros_like(value[:, :, ::stride, ::stride])

    def weights(self, source: int, node: int, op: int) -> list[nn.Parameter]:
        """Those of an operation of an edge."""
        return list(cast(nn.ModuleDict, self.edges[f"{source}-{node}"])[OPS[op]].parameters())

    def _edge(self, source: int, node: int, op: int, value: Tensor) -> Tensor:
        operation = cast(nn.ModuleDict, self.edges[f"{source}-{node}"])[OPS[op]]
        # An identity is never dropped, as in the original: it is the path that is always there.
        return value if isinstance(operation, nn.Identity) else self.drop(operation(value))


def operation_costs(name: str, c: int, stride: int, side: int) -> tuple[int, int, int]:
    """Convolution parameters, multiply-accumulates of one image, and channels that a norm with weights follows.

    ``side`` is the height and width of the input; an operation halves it where ``stride`` is 2.
    """
    after = -(-side // stride)
    pixels = after * after
    if name == "skip_connect" and stride == 2:
        return c * c, c * c * pixels, c
    kind, _, size = name.rpartition("_")
    if kind not in ("sep_conv", "dil_conv"):
        return 0, 0, 0
    kernel = int(size[0])
    once = kernel * kernel * c + c * c
    return (2 * once, 2 * once * pixels, 2 * c) if kind == "sep_conv" else (once, once * pixels, c)
