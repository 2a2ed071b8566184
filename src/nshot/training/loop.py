"""THE loop: executes a strategy's plans. It knows no method, no space and no data set by name."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.dynamic import SeparatedMomentum
from nshot.nn.drop import draws
from nshot.seeding import seeded
from nshot.spaces import Subnet
from nshot.strategies.base import Plan


def train_steps(
    model: nn.Module,
    optimizer: SeparatedMomentum,
    plan: Callable[[int], Plan],
    batches: Callable[[int], tuple[Tensor, Tensor]],
    *,
    start: int,
    total_steps: int,
    lr: float,
    backward: Callable[[Tensor], None] = Tensor.backward,
    criterion: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    used: Callable[[tuple[Subnet, ...]], None] = lambda paths: None,
    seed: int = 0,
) -> Iterator[tuple[int, Tensor]]:
    """Trains step by step and yields (step, its loss) after each; the loss stays on the device.

    Args:
        model: ``model(x, subnet)`` gives logits.
        optimizer: its clusters are those of the plans. It sees no gradient of weights off the path. A parameter group
            with an ``lr_scale`` has that multiple of the step's learning rate.
        plan: what each step trains.
        batches: the images and labels of each step; labels are classes (B,), or shares of them (B, classes).
        start: first step, 0 or where a checkpoint was taken.
        total_steps: T.
        lr: base learning rate lr0, which plans scale.
        backward: how a loss becomes gradients, for wrappers like Fabric.
        criterion: the loss, from what the model gives and the labels.
        used: told the step's paths before the update, as `RestingSlices.used`.
        seed: what the model draws in a forward pass (drop-path) depends on it and the step alone.
    """
    random = draws(model)
    for step in range(start, total_steps):
        todo = plan(step)
        images, labels = batches(step)
        losses = []
        with seeded(seed, "forward", step) if random else nullcontext():
            for path, weight in zip(todo.paths, todo.weights, strict=True):
                loss = criterion(model(images, path), labels)
                backward(loss if weight == 1 else loss * weight)
                losses.append(loss.detach())
        for group in optimizer.param_groups:
            group["lr"] = lr * todo.lr * group.get("lr_scale", 1.0)
        used(todo.paths)
        optimizer.step(cluster=todo.cluster)
        optimizer.zero_grad()
        yield step, losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def smoothed(label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy with smoothed labels."""
    return partial(F.cross_entropy, label_smoothing=label_smoothing)


def warmed(plan: Callable[[int], Plan], steps: int) -> Callable[[int], Plan]:
    """The plan with a learning rate that rises linearly over the first ``steps``."""

    def warm(step: int) -> Plan:
        todo = plan(step)
        return todo if step >= steps else dataclasses.replace(todo, lr=todo.lr * (step + 1) / steps)

    return warm
