"""The policy ``skip``: a step whose loss or gradient is not finite leaves everything as it was before it."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import distributed


class Skipping:
    """Asks of each step, before its update, whether to skip it.

    The answer is read off the device in each step, which on a CPU costs a pass over the gradients; on a GPU the host
    waits for it. Several processes skip the same steps.

    Args:
        most: how many steps may be skipped; a run with more has diverged.
        model: whose buffers a forward pass may change.
        optimizer: of its weights.
        memory: what the method may change before the loss of a step is known.
    """

    def __init__(self, most: int, model: nn.Module, optimizer: Optimizer, memory: nn.Module) -> None:
        self.most = most
        self.steps: list[int] = []
        """The steps that were skipped, from 0; kept in checkpoints."""
        self._weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._buffers, self._memory = list(model.buffers()), memory
        self._before: tuple[list[Tensor], dict[str, Any]] = ([], {})

    def begin(self) -> None:
        """Before a step, of which the method has not done anything."""
        self._before = [buffer.clone() for buffer in self._buffers], deepcopy(self._memory.state_dict())

    def skips(self, step: int, loss: Tensor) -> bool:
        """Whether the step is to be skipped, by its loss and the gradients that it has. Then buffers and memory are as
        they were, and no gradients are left."""
        weights = [*self._weights, *self._memory.parameters()]
        grads = [weight.grad for weight in weights if weight.grad is not None]
        largest = [nn.utils.get_total_norm(grads, float("inf")).to(loss)] if grads else []
        broken = not bool(torch.stack([loss, *largest]).isfinite().all())
        if not distributed.largest(int(broken), loss.device):
            return False
        self.steps.append(step)
        buffers, memory = self._before
        for buffer, value in zip(self._buffers, buffers, strict=True):
            buffer.copy_(value)
        self._memory.load_state_dict(memory)
        for weight in weights:
            weight.grad = None
        return True

    @property
    def exceeded(self) -> bool:
        """Whether more steps were skipped than may be."""
        return len(self.steps) > self.most
