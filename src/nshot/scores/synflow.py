"""Synaptic flow (Tanaka et al., NeurIPS 2020), as a score of a whole network (Abdelfattah et al., ICLR 2021)."""

import torch
from torch import nn

from .base import Batches, scores, weights

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)


class _Unnormed(nn.Module):
    """In place of a norm: the identity, and the activation that some norms have in them."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: torch.Tensor, *channels: object) -> torch.Tensor:
        return self.act(x)


@scores.register("synflow")
def synflow(network: nn.Module, batches: Batches, generator: torch.Generator) -> float:
    """Σ |w ∂R/∂w| over convolutions and linear layers; R is the sum of logits of an image of ones.

    All parameters are replaced by their absolute values, norms by the identity. In double precision: products over a
    deep network's layers leave the range of single.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, NORMS):
                setattr(module, name, _Unnormed(child))
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    image = torch.ones_like(batches[0][0][:1], dtype=torch.float64)
    own = weights(network)
    flow = torch.autograd.grad(network(image).sum(), own, allow_unused=True, materialize_grads=True)
    return sum(float((weight.detach() * gradient).abs().sum()) for weight, gradient in zip(own, flow, strict=True))
