"""Convolutions, batch norms and squeeze layers that run on some of their channels, in plain torch."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import fast_depthwise


class SlicedConv(nn.Conv2d):
    """Convolution of some output and input channels, by the centre of its kernel.

    ``same`` pads as TensorFlow does, more at the end than at the beginning; else by half of the kernel. Given a
    ``side``, it is told once and for all what its input's is.
    """

    def __init__(
        self, c_in: int, c: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False, same: bool = False
    ) -> None:
        super().__init__(c_in, c, kernel, stride, 0 if same else kernel // 2, groups=groups, bias=bias)
        self.same = same
        self.side: int | None = None
        self.fast_kernels = True

    def forward(  # type: ignore[override]
        self, x: Tensor, out: Tensor | None = None, inside: Tensor | None = None, kernel: int | None = None
    ) -> Tensor:
        weight, bias = self.weight, self.bias
        if out is not None or inside is not None or kernel is not None:
            weight, bias = self.part(out, inside, kernel)
        groups = len(out) if out is not None and self.groups > 1 else self.groups
        size = kernel or self.kernel_size[0]
        pads = self.pads(x, size)
        if groups > 1 and self.fast_kernels:
            filtered = fast_depthwise(x, weight, size, self.stride[0], pads)
            if filtered is not None:
                return filtered
        if self.same and any(pads):
            return F.conv2d(F.pad(x, [*pads, *pads]), weight, bias, self.stride, 0, 1, groups)
        return F.conv2d(x, weight, bias, self.stride, pads[0], 1, groups)

    def part(self, out: Tensor | None, inside: Tensor | None, kernel: int | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of these channels and of the kernel's centre, in the memory format of the whole."""
        weight, bias = self.weight, self.bias
        if out is not None:
            weight = weight.index_select(0, out)
            bias = None if bias is None else bias.index_select(0, out)
        if inside is not None:
            weight = weight.index_select(1, inside)
        if kernel is not None:
            skip = (weight.shape[-1] - kernel) // 2
            weight = weight[..., skip : skip + kernel, skip : skip + kernel]
        return weight.contiguous(memory_format=_format(self.weight)), bias

    def pads(self, x: Tensor, kernel: int) -> tuple[int, int]:
        """Rows and columns that are added before and after the input."""
        if not self.same:
            return kernel // 2, kernel // 2
        side = x.shape[-1] if self.side is None else self.side
        total = max((-(-side // self.stride[0]) - 1) * self.stride[0] + kernel - side, 0)
        return total // 2, total - total // 2

    def resized(self, c_in: int, c: int, kernel: int) -> "SlicedConv":
        """A new one of these sizes."""
        made = SlicedConv(
            c_in, c, kernel, self.stride[0], c if self.groups > 1 else 1, self.bias is not None, self.same
        )
        made.fast_kernels = self.fast_kernels
        return made


class SlicedNorm(nn.BatchNorm2d):
    """Batch norm of some channels, then the activation; the statistics of the other channels stay as they are."""

    def __init__(self, c: int, eps: float, momentum: float | None, act: nn.Module) -> None:
        super().__init__(c, eps, momentum)
        self.act = act
        self.batch_norm: Callable[..., Tensor] = F.batch_norm
        """Another where processes train together (`synced`)."""

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:  # type: ignore[override]
        mean, var, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        if chosen is not None:
            mean, var, weight, bias = (_some(value, chosen) for value in (mean, var, weight, bias))
        factor = self.momentum or 0.0
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        x = self.batch_norm(x, mean, var, weight, bias, self.training, factor, self.eps)
        if self.training and chosen is not None:
            for whole, part in ((self.running_mean, mean), (self.running_var, var)):
                whole.index_copy_(0, chosen, part)  # type: ignore[union-attr,arg-type]
        return self.act(x)

    def resized(self, c: int) -> "SlicedNorm":
        return SlicedNorm(c, self.eps, self.momentum, deepcopy(self.act))


class Gate(nn.Hardsigmoid):
    """torch's own, whose gradient has no gradient, or a form that has one where no kernels are to be used."""

    fast_kernels = True

    def forward(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(x, self.inplace) if self.fast_kernels else F.relu6(x + 3) / 6


class SlicedSqueeze(nn.Module):
    """Squeeze-and-excite: scales each channel by what all channels' means say (Hu et al., CVPR 2018)."""

    def __init__(self, c: int, squeeze: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.conv_reduce = SlicedConv(c, squeeze, 1, bias=True)
        self.act1 = act
        self.conv_expand = SlicedConv(squeeze, c, 1, bias=True)
        self.gate = gate

    def forward(self, x: Tensor, chosen: Tensor | None = None, inner: Tensor | None = None) -> Tensor:
        scale = self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True), inner, chosen))
        return x * self.gate(self.conv_expand(scale, chosen, inner))

    def resized(self, c: int, squeeze: int | None) -> "SlicedSqueeze":
        own = self.conv_reduce.out_channels
        return SlicedSqueeze(c, squeeze or own, deepcopy(self.act1), deepcopy(self.gate))


def _some(value: Any, chosen: Tensor) -> Any:
    return value.index_select(0, chosen)


def _format(weight: Tensor) -> Any:
    last = torch.channels_last
    plain = weight.is_contiguous() or not weight.is_contiguous(memory_format=last)
    return torch.contiguous_format if plain else last
