"""The sandwich rule with in-place distillation (Yu and Huang, ICCV 2019; BigNAS, Yu et al., ECCV 2020)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from nshot.errors import UserError, check_whole
from nshot.seeding import generator
from nshot.spaces import Space, Subnet
from nshot.spaces.additive import extreme_subnets

from .base import Plan, Strategy, strategies
from .memory import Batch, Tools
from .options import Options


@dataclass(frozen=True)
class SandwichOptions(Options):
    """Sandwich: the largest subnet, the smallest and random ones a step; the largest teaches the others."""

    paths: int = 2
    """n, random paths of a step besides the largest and the smallest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(0, paths=self.paths)
        if self.ms == "shuffled":
            raise UserError("ms 'shuffled': the paths of a sandwich step must share a cluster, name a decision")
        self.refuse_draws("the largest and the smallest subnet are trained at every step")


@strategies.register("sandwich")
class Sandwich(Strategy):
    """Each step trains the largest subnet on the labels; the smallest and n random ones learn its probabilities.

    Gradients add up; schedules that depend on the path are their weights, as in Alg. 2. With MS the paths of a step
    share the option of the MS decision, drawn anew: they are then the largest and the smallest of that cluster.
    """

    name = "sandwich"
    options_type = SandwichOptions
    options: SandwichOptions

    def __init__(self, *args: Any, **known: Any) -> None:
        super().__init__(*args, **known)
        self._taught: tuple[int, Tensor | None] = (-1, None)
        self._ends = {option: self._ends_of(option) for option in self._shared()}

    def plan(self, step: int, memory: Any = None) -> Plan:
        rng = generator(self.seed, "sandwich", step)
        shared = self._shared()
        option = shared[int(rng.integers(len(shared)))]
        largest, smallest = self._ends[option]
        drawn = (self.draw(rng) for _ in range(self.options.paths))
        paths = (largest, smallest, *(self._within(path, option) for path in drawn))
        weighs = self.options.weighs
        plan = Plan(paths, (1.0,) * len(paths), 1.0 if weighs else self.lr(step, largest), self.cluster(largest))
        return plan.weighed([self.lr(step, path) for path in paths]) if weighs else plan

    def objective(self, step: int, plan: Plan, k: int, batch: Batch, memory: Any, tools: Tools) -> tuple[Tensor, Any]:
        output = tools.output(batch.images, plan.paths[k])
        if k == 0:
            self._taught = step, output.detach().softmax(1)
            return tools.loss(output, batch.labels), output
        when, shares = self._taught
        assert when == step and shares is not None  # noqa: PT018 - the loop runs paths in their order
        return F.cross_entropy(output, shares), output

    @cached_property
    def mean_decay(self) -> float:
        """Over the paths of all steps: the ends of each cluster, and random ones."""
        ends = [self._decay_ratio(path) for pair in self._ends.values() for path in pair]
        random = super().mean_decay if self.options.paths else 0.0
        return (2 * float(np.mean(ends)) + self.options.paths * random) / (2 + self.options.paths)

    def _shared(self) -> tuple[int | None, ...]:
        """The options that the paths of a step may share: None where they need not share any."""
        return (None,) if self.ms_decision is None else self.space.decisions[self.ms_decision].allowed

    def _within(self, path: Subnet, option: int | None) -> Subnet:
        if option is None or self.ms_decision is None:
            return path
        return (*path[: self.ms_decision], option, *path[self.ms_decision + 1 :])

    def _ends_of(self, option: int | None) -> tuple[Subnet, Subnet]:
        """The largest and the smallest subnet, of those with that option of the MS decision."""
        part: Space = self.space
        if option is not None and self.ms_decision is not None:
            decision = self.space.decisions[self.ms_decision]
            part = self.space.restrict(decision.name, decision.options[option])
        least, most = extreme_subnets(part, [part.params, part.flops])
        return most, least
