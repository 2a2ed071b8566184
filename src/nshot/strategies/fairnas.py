"""FairNAS (Chu et al., ICCV 2021): strict fairness, and with CaLR and MS Alg. 2 of the supplement."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nshot.errors import UserError
from nshot.seeding import generator
from nshot.spaces import Subnet

from .base import Plan, Strategy, strategies
from .options import Options


@dataclass(frozen=True)
class FairOptions(Options):
    """FairNAS: as SPOS; schedules that depend on the path become the weights of the paths' gradients (Alg. 2)."""

    outer: Literal["constant", "cosine"] = "constant"
    """Learning rate around the weights of schedules that weigh: constant (Alg. 2, released) or cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outer != "constant" and not self.weighs:
            raise UserError(f"outer {self.outer!r} has no effect without --schedule calr, centred, power or shuffled")
        if self.ms == "shuffled":
            raise UserError("ms 'shuffled': the paths of a FairNAS step must share a cluster, name a decision")
        if self.min_flops is not None or self.max_flops is not None:
            raise UserError("min_flops, max_flops: FairNAS's paths are permutations, a window would not be fair")
        if self.sampling != "uniform":
            raise UserError(f"sampling {self.sampling!r}: FairNAS's paths are permutations, only uniform is possible")


@strategies.register("fairnas")
class FairNAS(Strategy):
    """Each step trains n paths that use every option of every decision once, n being the number of options.

    A decision with fewer options than others has some of them twice. With MS the paths of a step share the option of
    the MS decision, drawn anew (Alg. 2, lines 5 and 11), so that decision is not fair.
    """

    name = "fairnas"
    options_type = FairOptions
    options: FairOptions
    clip: ClassVar[float | None] = None  # released

    def plan(self, step: int, memory: Any = None) -> Plan:
        rng = generator(self.seed, "fair paths", step)
        columns = [self._column(rng, d.allowed) for d in self.space.decisions]
        if self.ms_decision is not None:
            columns[self.ms_decision] = [int(rng.choice(self.space.decisions[self.ms_decision].allowed))] * self.paths
        paths: tuple[Subnet, ...] = tuple(zip(*columns, strict=True))
        plan = Plan(paths, (1.0,) * self.paths, self._outer(step), self.cluster(paths[0]))
        return plan.weighed([self.lr(step, path) for path in paths]) if self.options.weighs else plan

    @property
    def paths(self) -> int:
        """n, the paths of a step."""
        return max(len(d.allowed) for d in self.space.decisions)

    def _column(self, rng: np.random.Generator, allowed: tuple[int, ...]) -> list[int]:
        """A permutation of a decision's options, filled up to n."""
        column = rng.permutation(np.resize(rng.permutation(allowed), self.paths))
        return [int(option) for option in column]

    def _outer(self, step: int) -> float:
        """The step's own learning rate."""
        if not self.options.weighs:
            return self.lr(step, ())
        return self.cosine(step) if self.options.outer == "cosine" else 1.0
