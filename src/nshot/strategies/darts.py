"""DARTS (Liu et al., ICLR 2019): all options of an edge at once, mixed by softmax α, and α learnt by gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nshot.errors import UserError
from nshot.spaces import Mixture

from .alpha import Alpha, AlphaOptions, Differentiable
from .base import strategies
from .memory import Batch, Facts, Tools
from .options import Options

RADIUS = 0.01  # of the finite difference, in the weights


@dataclass(frozen=True)
class DARTSOptions(AlphaOptions):
    """DARTS: options of α, and the order of its gradient."""

    order: Literal[1, 2] = 1
    """1: α's gradient by the weights as they are; 2: by those one step ahead, with how that step depends on α."""


@strategies.register("darts")
class DARTS(Differentiable):
    """An edge's output is ``Σ_o softmax(α)_o o(x)``; Adam steps α on validation images, then SGD the weights.

    Second order, with ξ the schedule's rate, m SGD's momentum and λ its decay: ``w' = w - ξ (β m + ∇L_train + λ w)``,
    ``v = ∇_{w'} L_val(w', α)``, ``w± = w ± R v`` with ``R = 0.01 / ‖v‖``, and α's gradient is
    ``∇_α L_val(w', α) - ξ (∇_α L_train(w+) - ∇_α L_train(w-)) / 2R``.
    """

    name = "darts"
    options_type = DARTSOptions
    options: DARTSOptions

    @property
    def leads(self) -> bool:
        return self.options.variant == "published" or self.options.order == 2

    @classmethod
    def even(cls, options: Options) -> bool:
        return isinstance(options, DARTSOptions) and options.order == 2

    def check_facts(self, facts: Facts) -> None:
        if self.options.order == 2 and facts.optimizer != "sgd":
            raise UserError(
                f"order 2: the step that DARTS looks ahead to is SGD's, not {facts.optimizer}'s; order 1 has none"
            )

    def mixture(self, step: int, purpose: str, memory: Alpha) -> Mixture:
        return Mixture(memory.logs().exp())

    def gradient(self, step: int, batch: Batch, memory: Alpha, tools: Tools) -> Tensor:
        if self.options.order == 1:
            return super().gradient(step, batch, memory, tools)
        weights, rate = list(tools.supernet.parameters()), tools.facts.lr * self.lr(step, ())
        ahead = self._ahead(step, batch, memory, tools, weights)
        with moved(weights, ahead, -rate):
            validation = self.loss(step, tools.second(step), memory, tools)
            *v, first = tools.gradients(validation, [*weights, memory.alpha])
        size = float(torch.stack([grad.norm() for grad in v]).norm())
        if size == 0:  # no weight's change would tell on the validation loss
            return first
        radius = RADIUS / size
        sides = []
        for sign in (1, -1):
            with moved(weights, v, sign * radius):
                sides.append(self.alone(step, batch, memory, tools))
        return first - rate * (sides[0] - sides[1]) / (2 * radius)

    def _ahead(self, step: int, batch: Batch, memory: Alpha, tools: Tools, weights: Sequence[Tensor]) -> list[Tensor]:
        """``β m + ∇L_train + λ w``: not clipped, and m = 0 while a weight has none."""
        grads = tools.gradients(self.loss(step, batch, memory, tools), weights)
        group, states = tools.optimizer.param_groups[0], [tools.optimizer.state.get(w, {}) for w in weights]
        momenta = [state.get(0, {}).get("momentum_buffer") for state in states]
        found = [grad + group["weight_decay"] * w.detach() for grad, w in zip(grads, weights, strict=True)]
        if any(m is None for m in momenta):
            return found
        return [each + group["momentum"] * m for each, m in zip(found, momenta, strict=True)]


@contextmanager
def moved(weights: Sequence[Tensor], direction: Sequence[Tensor], length: float) -> Iterator[None]:
    """Inside, the weights are so far along the direction; after it as they were, bit for bit."""
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, along in zip(weights, direction, strict=True):
            weight.add_(along, alpha=length)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)
