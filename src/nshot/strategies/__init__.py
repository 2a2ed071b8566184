"""N-shot methods, one file each: which paths a training step runs, at what learning rate, in which cluster."""

from typing import Any

from nshot.spaces import Space

from .base import Plan, Strategy, strategies
from .options import Options

__all__ = ["Options", "Plan", "Strategy", "list_strategies", "strategies", "strategy"]


def strategy(name: str, space: Space, *, total_steps: int, seed: int = 0, **options: Any) -> Strategy:
    """The strategy of that name for a space and a length of training; options as its ``Options`` dataclass has them.

    ``strategy("spos", space, total_steps=15_600, schedule="calr", ms="first")``

    Raises:
        UserError: for an unknown name, option or value.
    """
    method = strategies[name]
    return method(space, total_steps=total_steps, seed=seed, options=method.options_type.of(**options))


def list_strategies() -> list[str]:
    """The names that ``strategy`` takes."""
    return strategies.names()
