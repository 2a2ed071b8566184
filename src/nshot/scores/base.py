"""What all scores share: their registry, which weights count, and networks without residual links."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.registry import Registry

Batches = Sequence[tuple[Tensor, Tensor]]
Measure = Callable[[nn.Module, Batches, torch.Generator], float]
"""``score(network, batches, generator)``: of a newly initialised network, which it may change; larger is better."""

RESERVED = ("params", "flops", "loss", "true", "arch")  # what a table of scores has besides
scores: Registry[Measure] = Registry("score", "nshot.scores", RESERVED)


def weights(network: nn.Module) -> list[Tensor]:
    """Those of convolutions and linear layers, in the network's order: no biases, no norms."""
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Of the cross entropy by each of `weights`, in training mode; zeros for what the loss does not depend on."""
    network.train()
    loss = F.cross_entropy(network(images), labels)
    return list(torch.autograd.grad(loss, weights(network), allow_unused=True, materialize_grads=True))


def without_residuals(network: nn.Module) -> nn.Module:
    """The network with its blocks' residual links cut. Skips that are a subnet's options stay: they are no links."""
    for module in network.modules():
        if isinstance(getattr(module, "residual", None), bool):
            module.residual = False  # type: ignore[assignment]
    return network
