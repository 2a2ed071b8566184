"""ZiCo: gradients that are large and alike over batches (Li et al., ICLR 2023)."""

import math

import torch
from torch import nn

from .base import Batches, gradients, scores, without_residuals


@scores.register("zico")
def zico(network: nn.Module, batches: Batches, generator: torch.Generator) -> float:
    """Σ over convolutions and linear layers of log Σ_w mean|g_w| / std(g_w), over two batches.

    The deviation has the divisor n, as released. A weight whose deviation is 0 is left out, and so is a layer of which
    no weight is left: one that no gradient reaches. Residual links are cut.
    """
    without_residuals(network)
    found = [gradients(network, *batch) for batch in batches[:2]]
    total = 0.0
    for layer in zip(*found, strict=True):
        each = torch.stack(layer).double()
        mean, deviation = each.abs().mean(0), each.std(0, correction=0)
        counted = deviation != 0
        ratio = float((mean[counted] / deviation[counted]).sum())
        total += math.log(ratio) if ratio else 0.0
    return total
