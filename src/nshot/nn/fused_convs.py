"""Convolutions of the CPU's fast path, forward and backward, on channels-last images."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import pointer, run

Gradients = Callable[[Tensor, bool, bool], tuple[Tensor | None, Tensor | None]]


def convolve(x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Gradients]:
    """A convolution's output and, from that of the output, the gradients of x and of the weight,
    where asked for."""
    padding = weight.shape[-1] // 2

    def gradients(g: Tensor, grad_x: bool, grad_weight: bool) -> tuple[Tensor | None, Tensor | None]:
        gx, gw, _ = torch.ops.aten.convolution_backward(
            g, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [grad_x, grad_weight, False]
        )
        return gx.contiguous(memory_format=torch.channels_last) if grad_x else None, gw

    return F.conv2d(x, weight, None, stride, padding).contiguous(memory_format=torch.channels_last), gradients


def pointwise(x: Tensor, weight: Tensor) -> tuple[Tensor, Gradients]:
    """A 1x1 convolution as a product of matrices: ours in the usual widths, else torch's."""
    n, c_in, h, w = x.shape
    c, sizes = len(weight), (n * h * w, c_in, len(weight))
    if weight.dtype != torch.float32 or c % 16 or c_in % 16:
        return _matmul(x, weight)
    matrix = weight.flatten(1).contiguous()
    y = images((n, c, h, w), torch.float32)
    run("pointwise", pointer(y), pointer(x), pointer(matrix), *sizes)

    def gradients(g: Tensor, grad_x: bool, grad_weight: bool) -> tuple[Tensor | None, Tensor | None]:
        gx, gw = images((n, c_in, h, w), torch.float32) if grad_x else None, torch.empty_like(matrix)
        run("pointwise_backward", *map(pointer, (gx, gw, g, x, matrix)), *sizes)
        return gx, gw.view_as(weight) if grad_weight else None

    return y, gradients


def _matmul(x: Tensor, weight: Tensor) -> tuple[Tensor, Gradients]:
    rows, matrix = _rows(x), weight.flatten(1)

    def gradients(g: Tensor, grad_x: bool, grad_weight: bool) -> tuple[Tensor | None, Tensor | None]:
        g_rows = _rows(g)
        gx = _image(g_rows @ matrix, x) if grad_x else None
        return gx, (g_rows.t() @ rows).view_as(weight) if grad_weight else None

    return _image(rows @ matrix.t(), x), gradients


def images(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """An uninitialised (N, C, H, W), channels-last."""
    return torch.empty(shape, dtype=dtype, device="cpu", memory_format=torch.channels_last)


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) channels-last as (N H W, C), without a copy."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(rows: Tensor, like: Tensor) -> Tensor:
    n, _, h, w = like.shape
    return rows.view(n, h, w, -1).permute(0, 3, 1, 2)
