"""A strategy, its memory and what it may ask for, as the loop's hooks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from nshot.dynamic import SeparatedMomentum
from nshot.spaces import Mixture, Subnet, Supernet
from nshot.strategies import Plan, Strategy
from nshot.strategies.memory import Batch, Facts, Seen

from . import distributed
from .loop import Criterion, Hooks, warmed
from .optimizers import clip_with, clipped_by


@dataclasses.dataclass
class RunTools:
    """`nshot.strategies.memory.Tools` of a run.

    Args:
        facts: of the run.
        supernet: its weights.
        optimizer: that of the supernet's weights.
        model: what runs the supernet, a wrapper like `Running` or itself.
        criterion: the loss.
        batches: validation images and labels of a step, for methods that take them.
        used: told a step's paths before the update, as `RestingSlices.used`.
    """

    facts: Facts
    supernet: Supernet
    optimizer: SeparatedMomentum
    model: nn.Module
    criterion: Criterion
    batches: Callable[[int], tuple[Tensor, Tensor]] | None = None
    used: Callable[[tuple[Subnet, ...]], None] = lambda paths: None

    def output(self, images: Tensor, path: Subnet | Mixture) -> Any:
        return self.model(images, path)

    def features(self, images: Tensor, path: Subnet) -> Tensor:
        return cast(Supernet, self.model).features(images, path)

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        return self.criterion(output, labels)

    def gradients(self, loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return [distributed.mean(grad) for grad in found]

    def clip_with(self, others: Sequence[Tensor]) -> None:
        clip_with(self.optimizer, others)

    def update(self, path: Subnet, rate: float, cluster: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.facts.lr * rate * group.get("lr_scale", 1.0)
        self.used((path,))
        self.optimizer.step(cluster=cluster)
        self.optimizer.zero_grad()

    def second(self, step: int) -> Batch:
        if self.batches is None:
            raise RuntimeError("the method takes validation images: it has to say validates = True")
        return Batch(*self.batches(step))

    def mean(self, value: Tensor) -> Tensor:
        return distributed.mean(value)

    def gather(self, value: Tensor) -> Tensor:
        return distributed.gather(value)


class StrategyHooks(Hooks):
    """Has the loop train by a strategy: ``train_steps(..., plan=hooks.plan, hooks=hooks)``.

    Args:
        strategy: the method.
        memory: what `Strategy.memory` made, or a checkpoint's.
        tools: what the method may ask for.
        warmup: steps over which the learning rate rises, as `warmed` has it.
        begin: is told each step before anything else, as `Frozen.at`.
        spread: whether the scale of gradients means nothing to the optimizer, as to AdamW (`Plan.spread`).
    """

    def __init__(
        self,
        strategy: Strategy,
        memory: nn.Module,
        tools: RunTools,
        warmup: int = 0,
        begin: Callable[[int], None] = lambda step: None,
        spread: bool = False,
    ) -> None:
        super().__init__(tools.model, tools.criterion)
        self.strategy, self.memory, self.tools = strategy, memory, tools
        self._spread = spread
        self._warm = warmed(self._plan, warmup)
        self._last: tuple[int, Plan | None] = (-1, None)
        self._begin = begin

    def _plan(self, step: int) -> Plan:
        plan = self.strategy.plan(step, self.memory)
        return plan.spread() if self._spread else plan

    def plan(self, step: int) -> Plan:
        plan = self._warm(step)
        self._last = (step, plan)
        return plan

    def planned(self, step: int) -> Plan:
        """What the step that was planned last was: the memory may have changed since."""
        last, plan = self._last
        return plan if step == last and plan is not None else self._warm(step)

    def images(self, step: int) -> Tensor | None:
        return self.strategy.images(step, self.memory)

    def before(self, step: int, batch: Batch) -> None:
        self._begin(step)
        self.strategy.before(step, batch, self.memory, self.tools)

    def objective(self, step: int, plan: Plan, k: int, batch: Batch) -> tuple[Tensor, Any]:
        loss, output = self.strategy.objective(step, plan, k, batch, self.memory, self.tools)
        return loss, output.detach() if isinstance(output, Tensor) else output

    def after(self, step: int, plan: Plan, batch: Batch, outputs: tuple[Any, ...]) -> None:
        seen = Seen(batch, outputs, clipped_by(self.tools.optimizer))
        self.strategy.after(step, plan, seen, self.memory, self.tools)

    def skipped(self, step: int) -> None:
        self.strategy.skipped(step, self.memory)
