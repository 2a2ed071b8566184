"""THE loop: executes a strategy's plans. It knows no method, no space and no data set by name."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.dynamic import SeparatedMomentum
from nshot.strategies.base import Plan

Idle = Literal["drift", "rest"]


def train_steps(
    model: nn.Module,
    optimizer: SeparatedMomentum,
    plan: Callable[[int], Plan],
    batches: Callable[[int], tuple[Tensor, Tensor]],
    *,
    start: int,
    total_steps: int,
    lr: float,
    clip: float | None = None,
    idle: Idle = "drift",
    backward: Callable[[Tensor], None] = Tensor.backward,
    label_smoothing: float = 0.0,
) -> Iterator[tuple[int, Tensor]]:
    """Trains step by step and yields (step, its loss) after each; the loss stays on the device.

    Args:
        model: ``model(x, subnet)`` gives logits.
        optimizer: its clusters are those of the plans.
        plan: what each step trains.
        batches: the images and labels of each step.
        start: first step, 0 or where a checkpoint was taken.
        total_steps: T.
        lr: base learning rate lr0, which plans scale.
        clip: largest norm of the gradient; None does not clip.
        idle: what weights off the path do. ``drift``: their gradient is zero, so momentum and weight decay still move
            them, as in the authors' released code. ``rest``: they have no gradient and keep still.
        backward: how a loss becomes gradients, for wrappers like Fabric.
        label_smoothing: of the cross entropy.
    """
    parameters = list(model.parameters())
    if idle == "drift":
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
    for step in range(start, total_steps):
        todo = plan(step)
        images, labels = batches(step)
        losses = []
        for path, weight in zip(todo.paths, todo.weights, strict=True):
            loss = F.cross_entropy(model(images, path), labels, label_smoothing=label_smoothing)
            backward(loss if weight == 1 else loss * weight)
            losses.append(loss.detach())
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        for group in optimizer.param_groups:
            group["lr"] = lr * todo.lr
        optimizer.step(cluster=todo.cluster)
        optimizer.zero_grad(set_to_none=idle == "rest")
        yield step, losses[0] if len(losses) == 1 else torch.stack(losses).mean()
