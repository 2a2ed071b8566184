"""Search spaces: pure descriptions that make supernets and stand-alone networks."""

from typing import Any

from .base import Decision, Space, Subnet, spaces
from .few import FewShot
from .supernet import Supernet, extract

__all__ = ["Decision", "FewShot", "Space", "Subnet", "Supernet", "extract", "list_spaces", "space", "spaces"]


def space(name: str, **sizes: Any) -> Space:
    """The search space of that name, with other sizes than the paper's where given.

    ``space("nasbench201", channels=8, cells=1)``; the names are ``list_spaces()``.

    Raises:
        UserError: for an unknown name, size or value.
    """
    return spaces[name].of(**sizes)


def list_spaces() -> list[str]:
    """The names that ``space`` takes."""
    return spaces.names()
