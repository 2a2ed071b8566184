"""N-shot methods, one file each: which paths a training step runs, at what learning rate, in which cluster."""

from typing import Any

from nshot.spaces import Space

from .base import Plan, Strategy, strategies
from .options import Options

__all__ = ["Options", "Plan", "Strategy", "list_strategies", "strategies", "strategy"]


def strategy(
    name: str, space: Space, *, total_steps: int, steps_per_epoch: int = 1, seed: int = 0, **options: Any
) -> Strategy:
    """The strategy of that name for a space and a length of training; options as its ``Options`` dataclass has them.

    What a method does by epochs (``per_epoch``, GDAS's τ, PA&DA's probabilities) goes by ``steps_per_epoch``.

    ``strategy("spos", space, total_steps=15_600, schedule="calr", ms="first")``

    Raises:
        UserError: for an unknown name, option or value.

    Example:
        >>> space = nshot.space("nasbench201", channels=4, cells=1)
        >>> spos = nshot.strategy("spos", space, total_steps=100, schedule="calr", ms="first")
        >>> plan = spos.plan(50)  # which paths step 50 trains, the share of the learning rate, whose momentum
        >>> len(plan.paths), plan.cluster == plan.paths[0][0], 0 < plan.lr < 1
        (1, True, True)
    """
    method = strategies[name]
    known = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch, "seed": seed}
    return method(space, options=method.options_type.of(**options), **known)


def list_strategies() -> list[str]:
    """The names that ``strategy`` takes.

    Example:
        >>> nshot.list_strategies()[:4]
        ['cream', 'darts', 'fairnas', 'fsnas']
    """
    return strategies.names()
