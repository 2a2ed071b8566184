"""The norm of the gradient at initialisation (Abdelfattah et al., ICLR 2021)."""

import torch
from torch import nn

from .base import Batches, gradients, scores


@scores.register("gradnorm")
def gradnorm(network: nn.Module, batches: Batches, generator: torch.Generator) -> float:
    """The sum over convolutions and linear layers of the norm of the cross entropy's gradient, on the first batch."""
    return sum(float(gradient.double().norm()) for gradient in gradients(network, *batches[0]))
