"""Inverted residual blocks with depthwise convolutions (MobileNetV2, Sandler et al., CVPR 2018)."""

import torch.nn.functional as F
from torch import Tensor, nn

from .cells import Norm
from .depthwise import DepthwiseConv


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, and where ``act`` ReLU6; padded to keep the size but for the stride."""

    def __init__(
        self,
        c_in: int,
        c: int,
        kernel: int,
        norm: Norm,
        *,
        stride: int = 1,
        depthwise: bool = False,
        act: bool = True,
    ) -> None:
        super().__init__()
        if depthwise:
            self.conv: nn.Conv2d = DepthwiseConv(c, kernel, stride)
        else:
            self.conv = nn.Conv2d(c_in, c, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = norm(c)
        if act:
            self.act = nn.ReLU6()


class InvertedResidual(nn.Module):
    """Expands channels by a 1x1, filters each by a depthwise and projects by a 1x1 convolution.

    (N, c_in, H, W) to (N, c, H / stride, W / stride); with the input added where the shapes are the same.
    """

    def __init__(self, c_in: int, c: int, kernel: int, expansion: int, stride: int, norm: Norm) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = ConvNormAct(c_in, hidden, 1, norm) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNormAct(hidden, hidden, kernel, norm, stride=stride, depthwise=True)
        self.project = ConvNormAct(hidden, c, 1, norm, act=False)
        self.residual = stride == 1 and c_in == c

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


def block_costs(c_in: int, c: int, kernel: int, expansion: int, stride: int, side: int) -> tuple[int, int, int]:
    """Convolution parameters, multiply-accumulates of one image, and channels that a norm follows.

    ``side`` is the height and width of the block's input.
    """
    hidden, after = c_in * expansion, -(-side // stride)
    expand = c_in * hidden if expansion > 1 else 0
    rest = kernel * kernel * hidden + hidden * c
    normed = (hidden if expansion > 1 else 0) + hidden + c
    return expand + rest, expand * side * side + rest * after * after, normed


def global_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C)."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
