"""Drop-path, also called stochastic depth (Huang et al., ECCV 2016; Larsson et al., ICLR 2017)."""

import torch
from torch import Tensor, nn

from nshot.errors import UserError, check_share

DRAWING = (
    nn.modules.dropout._DropoutNd,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RReLU,
)  # modules of torch's that do so in training


class DropPath(nn.Module):
    """In training zeroes each sample with probability ``p`` and scales the others by 1 / (1 - p): (N, ...) to the same.

    For a branch of a sum. Draws from torch's global generator; with p = 0 it gives its input itself.

    Args:
        share: of the network's rate that holds here, see `set_drop_path`.
    """

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        self.share = share
        self.p = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.empty((len(x), *[1] * (x.dim() - 1)), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def set_drop_path(network: nn.Module, rate: float) -> None:
    """Sets the network's rate of drop-path; new networks have 0.

    Raises:
        UserError: for a rate that is not from 0 to below 1, and one above 0 where the network has no drop-path.
    """
    check_share(drop_path=rate)
    drops = [module for module in network.modules() if isinstance(module, DropPath)]
    if rate > 0 and not drops:
        raise UserError(f"drop_path {rate} has no effect: networks of this space have no drop-path, leave it 0")
    for drop in drops:
        drop.p = rate * drop.share


def draws(network: nn.Module) -> bool:
    """Whether forward passes of the network in training may draw random numbers: known of modules of ours and of
    torch's; of any other, which may call torch's functions itself, they may."""
    return any(_may_draw(module) for module in network.modules())


def _may_draw(module: nn.Module) -> bool:
    home = type(module).__module__.partition(".")[0]
    return isinstance(module, (DropPath, *DRAWING)) if home in ("nshot", "torch") else True
