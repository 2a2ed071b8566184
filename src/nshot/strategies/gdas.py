"""GDAS (Dong and Yang, CVPR 2019): one option an edge, drawn by softmax α, and the others' gradient to α beside it."""

import torch
import torch.nn.functional as F

from nshot.seeding import torch_generator
from nshot.spaces import Mixture

from .alpha import Alpha, Differentiable
from .base import strategies

WARMEST, COLDEST = 10.0, 0.1  # τ of the first and of the last epoch


@strategies.register("gdas")
class GDAS(Differentiable):
    """With Gumbel noise g, ``p = softmax((log softmax α + g) / τ)``, ``k = argmax p``, ``h = onehot(k) - p + p``, the
    first p without gradient, an edge's output is ``h_k o_k(x) + Σ_{j≠k} h_j``. SGD steps the weights, then Adam α, each
    by noise of its own; τ falls linearly by epochs from 10 to 0.1.
    """

    name = "gdas"

    def tau(self, step: int) -> float:
        epochs = self.total_steps // self.steps_per_epoch
        return WARMEST - (WARMEST - COLDEST) * (step // self.steps_per_epoch) / max(1, epochs - 1)

    def mixture(self, step: int, purpose: str, memory: Alpha) -> Mixture:
        draw, logs = torch_generator(self.seed, f"gumbel {purpose}", step), memory.logs()
        while True:
            noise = -torch.empty(logs.shape, dtype=torch.float64).exponential_(generator=draw).log()
            p = ((logs + noise.to(logs)) / self.tau(step)).softmax(1)
            if (noise.isfinite().all() and p.isfinite().all()) or not logs.isfinite().all():
                break  # of an α that is no number no draw is: the loss then says so
        taken = p.argmax(1)
        h = F.one_hot(taken, p.shape[1]).to(p) - p.detach() + p
        return Mixture(h, tuple(taken.tolist()))
