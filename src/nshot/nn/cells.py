"""Building blocks of the NAS-Bench-201 networks (Dong and Yang, ICLR 2020), channel-preserving and residual."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


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
    """Residual block that halves the resolution: (N, in, H, W) to (N, channels, H/2, W/2)."""

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv_a = ConvNorm(in_channels, channels, 3, norm, stride=2)
        self.conv_b = ConvNorm(channels, channels, 3, norm)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv_b(F.relu(self.conv_a(F.relu(x))))
        return self.shortcut(F.avg_pool2d(x, 2)) + residual
