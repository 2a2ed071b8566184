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
from nshot.strategies.base import Plan
from nshot.strategies.memory import Batch

from .inner import displace
from .skipping import Skipping

Criterion = Callable[[Any, Tensor], Tensor]


class Hooks:
    """What the loop asks and tells besides the plan. These do what a plan alone needs; a strategy's are
    `nshot.training.tools.StrategyHooks`, and `Strategy` says what each is for."""

    def __init__(self, model: nn.Module, criterion: Criterion) -> None:
        self.model = model
        self.criterion = criterion

    def images(self, step: int) -> Tensor | None:
        return None

    def before(self, step: int, batch: Batch) -> None:
        pass

    def objective(self, step: int, plan: Plan, k: int, batch: Batch) -> tuple[Tensor, Any]:
        return self.criterion(self.model(batch.images, plan.paths[k]), batch.labels), None

    def after(self, step: int, plan: Plan, batch: Batch, outputs: tuple[Any, ...]) -> None:
        pass

    def skipped(self, step: int) -> None:
        pass


def train_steps(
    model: nn.Module,
    optimizer: SeparatedMomentum,
    plan: Callable[[int], Plan],
    batches: Callable[..., tuple[Tensor, Tensor]],
    *,
    start: int,
    total_steps: int,
    lr: float,
    backward: Callable[[Tensor], None] = Tensor.backward,
    criterion: Criterion = F.cross_entropy,
    used: Callable[[tuple[Any, ...]], None] = lambda paths: None,
    seed: int = 0,
    hooks: Hooks | None = None,
    skipping: Skipping | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Trains step by step and yields (step, its loss) after each; the loss stays on the device.

    Args:
        model: ``model(x, subnet)`` gives logits.
        optimizer: its clusters are those of the plans. It sees no gradient of weights off the path. A parameter group
            with an ``lr_scale`` has that multiple of the step's learning rate.
        plan: what each step trains.
        batches: the images and labels of each step; labels are classes (B,), or shares of them (B, classes). Where
            hooks choose images, it is given their positions too.
        start: first step, 0 or where a checkpoint was taken.
        total_steps: T.
        lr: base learning rate lr0, which plans scale.
        backward: how a loss becomes gradients, as where those of several processes are averaged.
        criterion: the loss, from what the model gives and the labels.
        used: told the step's paths before the update, as `RestingSlices.used`.
        seed: what the model draws in a forward pass (drop-path) depends on it and the step alone.
        hooks: of a strategy with a memory.
        skipping: skips steps whose loss is not finite, which then is nan; None: none.
    """
    random = draws(model)
    hooks = hooks or Hooks(model, criterion)
    for step in range(start, total_steps):
        drawing = partial(seeded, seed, step=step) if random else nullcontext
        if skipping is not None:
            skipping.begin()
        chosen = hooks.images(step)
        batch = Batch(*batches(step)) if chosen is None else Batch(*batches(step, chosen), chosen[0])
        with drawing("before"):
            hooks.before(step, batch)
        todo = plan(step)
        with drawing("forward"):
            loss, outputs = _gradients(step, todo, batch, hooks, optimizer, backward)
        if skipping is not None and skipping.skips(step, loss):
            hooks.skipped(step)
            yield step, torch.full_like(loss, float("nan"))
            continue
        for group in optimizer.param_groups:
            group["lr"] = lr * todo.lr * group.get("lr_scale", 1.0)
        used(todo.paths)
        optimizer.step(cluster=todo.cluster)
        with drawing("after"):
            hooks.after(step, todo, batch, outputs)
        optimizer.zero_grad()
        yield step, loss


def _gradients(
    step: int, todo: Plan, batch: Batch, hooks: Hooks, optimizer: SeparatedMomentum, backward: Callable[[Tensor], None]
) -> tuple[Tensor, tuple[Any, ...]]:
    """Leaves the step's gradients with the weights; the mean loss of its paths, and what `Hooks.after` sees of each."""
    losses, outputs = [], []
    for k, weight in enumerate(todo.weights):
        run = partial(hooks.objective, step, todo, k, batch)
        if todo.inner is None:
            loss, output = run()
            backward(loss if weight == 1 else loss * weight)
        else:
            loss, output = displace(run, weight, todo.inner, optimizer, backward)
        losses.append(loss.detach())
        outputs.append(output)
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean(), tuple(outputs)


def smoothed(label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy with smoothed labels."""
    return partial(F.cross_entropy, label_smoothing=label_smoothing)


def warmed(plan: Callable[[int], Plan], steps: int) -> Callable[[int], Plan]:
    """The plan with a learning rate that rises linearly over the first ``steps``."""

    def warm(step: int) -> Plan:
        todo = plan(step)
        return todo if step >= steps else dataclasses.replace(todo, lr=todo.lr * (step + 1) / steps)

    return warm
