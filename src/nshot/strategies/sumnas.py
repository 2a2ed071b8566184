"""SUMNAS (Ha et al., AAAI 2022): fair paths whose gradients are displacements of inner steps (Reptile)."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from nshot.errors import check_positive, check_share, check_whole

from .base import Inner, Plan, strategies
from .fairnas import FairNAS, FairOptions


@dataclass(frozen=True)
class SumOptions(FairOptions):
    """SUMNAS: as FairNAS, and the inner steps."""

    per_epoch: bool = True
    inner_steps: int = 2
    """Steps on each path, all on the step's batch."""
    inner_lr: float = 0.05
    """Their learning rate."""
    inner_momentum: float = 0.9
    """Their momentum, which begins anew for each path."""
    inner_clip: float = 5.0
    """Largest norm of their gradients."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, inner_steps=self.inner_steps)
        check_positive(inner_lr=self.inner_lr, inner_clip=self.inner_clip)
        check_share(inner_momentum=self.inner_momentum)


@strategies.register("sumnas")
class SUMNAS(FairNAS):
    """Each step trains n fair paths, each alone from the same θ0: ``d_k = θ0 - θ_k``; the gradient is ``Σ d_k / n``.

    CaLR weighs displacements as it weighs FairNAS's gradients. Weights off a path have no part in its displacement.
    """

    name = "sumnas"
    options_type = SumOptions
    options: SumOptions
    clip: ClassVar[float | None] = None
    recipe: ClassVar[dict[str, Any]] = {
        "optimizer": "sgd",
        "lr": 1.0,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 4e-5,
    }

    def plan(self, step: int, memory: Any = None) -> Plan:
        fair, o = super().plan(step), self.options
        inner = Inner(o.inner_steps, o.inner_lr, o.inner_momentum, o.inner_clip)
        return dataclasses.replace(fair, weights=tuple(w / self.paths for w in fair.weights), inner=inner)
