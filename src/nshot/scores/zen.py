"""The Zen-score: how much the features of a network of random weights move with its input (Lin et al., ICCV 2021)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nshot.errors import UserError

from .base import Batches, scores, without_residuals

BATCH = 64
SHIFT = 0.01  # of the second input
EPS = 1e-3  # of the norms


@scores.register("zen")
def zen(network: nn.Module, batches: Batches, generator: torch.Generator) -> float:
    """log mean ‖F(x) - F(x + 0.01 ε)‖₁ + Σ over norms ½ log mean(running variance); x, ε and weights from N(0, 1).

    F is the network before its pooling, in training mode, without residual links. The variances are those that torch
    keeps after these two passes, 0.81 + 0.09 v₁ + 0.10 v₂, as released. Minus infinity where the output does not
    depend on the input.

    Raises:
        UserError: for a network without batch norms with running statistics, or without ``feature_map``.
    """
    norms = [
        module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats
    ]
    features: Callable[[Tensor], Tensor] | None = getattr(network, "feature_map", None)
    if not norms or features is None:
        what = f"{type(network).__name__} has not both"
        raise UserError(f"score zen needs batch norms, and features before a pooling: {what}, leave zen out")
    device = batches[0][0].device
    prepare(without_residuals(network), generator)
    side = batches[0][0].shape[-1]
    x, epsilon = (torch.randn(BATCH, 3, side, side, generator=generator).to(device) for _ in range(2))
    with torch.no_grad():
        moved = (features(x) - features(x + SHIFT * epsilon)).abs().sum((1, 2, 3)).mean()
        scales = torch.stack([norm.running_var.mean() for norm in norms if norm.running_var is not None])
        return float(moved.log() + scales.log().sum() / 2)


def prepare(network: nn.Module, generator: torch.Generator) -> None:
    """Weights of convolutions and linear layers from N(0, 1), norms 1 and 0 with newly begun statistics, biases 0."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.eps = EPS
