"""Depthwise convolutions; where torch's gradients on a CPU take up to fifty times its forward, a kernel of ours."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .kernels import library, pointer, recorded, run


class DepthwiseConv(nn.Conv2d):
    """Filters each channel of (N, C, H, W) by a square kernel of its own, without bias, padded to keep the size.

    The outputs are those of ``nn.Conv2d``; so are the gradients, to rounding, where the kernel of ours computes them:
    in float32 on a CPU, for kernels of 5 and 7 and dilated ones of 3, unless ``fast`` is False.

    Args:
        c: channels.
        kernel: side of the kernel, odd; ours computes 3, 5 and 7.
        stride: of the outputs.
        dilation: of the kernel.
    """

    def __init__(self, c: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(c, c, kernel, stride, dilation * (kernel // 2), dilation, groups=c, bias=False)
        self.fast = True
        self._slow = kernel in (5, 7) or (kernel == 3 and dilation > 1)  # torch's 3x3 is as fast as ours

    def forward(self, x: Tensor) -> Tensor:
        if self.fast and self._slow and _usable(x, self.weight):
            return _Depthwise.apply(x, self.weight, self.stride[0], self.dilation[0], None)
        return super().forward(x)


def set_fast(network: nn.Module, fast: bool) -> None:
    """Whether the network's depthwise convolutions use the kernel of ours."""
    for module in network.modules():
        if isinstance(module, DepthwiseConv):
            module.fast = fast
        elif hasattr(module, "fast_kernels"):  # of sliced blocks
            module.fast_kernels = fast  # type: ignore[assignment]


def fast_depthwise(x: Tensor, weight: Tensor, kernel: int, stride: int, pads: tuple[int, int]) -> Tensor | None:
    """`DepthwiseConv` by a weight (C, 1, kernel, kernel), with so many rows and columns of zeros before and after;
    None where the kernel of ours is not to be used: stride 1 or 2, and as many zeros before as half of the kernel, or
    one fewer at stride 2."""
    fits = pads[0] == kernel // 2 or (pads[0] == kernel // 2 - 1 and stride == 2)
    if kernel not in (5, 7) or not fits or not _usable(x, weight):
        return None
    return _Depthwise.apply(x, weight, stride, 1, pads)


def _usable(x: Tensor, weight: Tensor) -> bool:
    """Whether gradients will be asked for, of what the kernel can read, and nothing records the forward instead."""
    return (
        not recorded(x)
        and x.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and library() is not None
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int, pads: tuple[int, int] | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        half = dilation * (weight.shape[-1] // 2)
        ctx.ahead = 0 if pads is None else half - pads[0]
        if pads is None or pads == (half, half):
            return F.conv2d(x, weight, None, stride, half, dilation, len(weight))
        return F.conv2d(F.pad(x, [*pads, *pads]), weight, None, stride, 0, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in ctx.saved_tensors)
        if ctx.ahead:  # the kernel pads by half: a row of zeros more, and an output before the first, are the same
            x, g = (F.pad(t, [1, 0, 1, 0]).contiguous(memory_format=torch.channels_last) for t in (x, g))
        g = g.contiguous(memory_format=torch.channels_last)
        kernel = weight.shape[-1]
        turned = weight.permute(2, 3, 1, 0).contiguous()  # (kernel, kernel, 1, C)
        gx, gw = torch.empty_like(x), torch.empty_like(turned)
        n, c, h, w = x.shape
        run(
            "depthwise_backward", *map(pointer, (gx, gw, g, x, turned)),
            n, h, w, c, *g.shape[2:], kernel, ctx.stride, ctx.dilation,
        )  # fmt: skip
        return gx[:, :, ctx.ahead :, ctx.ahead :], gw.permute(3, 2, 0, 1), None, None, None
