"""Search spaces: pure descriptions that make supernets and stand-alone networks."""

import dataclasses
from typing import Any

from nshot.errors import UserError
from nshot.nn.mixture import Mixture

from .base import Space, Subnet, spaces
from .decisions import Decision
from .few import FewShot
from .supernet import Supernet, extract

__all__ = [
    "Decision",
    "FewShot",
    "Mixture",
    "Space",
    "Subnet",
    "Supernet",
    "extract",
    "list_spaces",
    "space",
    "space_from_dict",
    "spaces",
]


def space(name: str, **sizes: Any) -> Space:
    """The search space of that name, with other sizes than the paper's where given.

    ``space("nasbench201", channels=8, cells=1)``; the names are ``list_spaces()``.

    Raises:
        UserError: for an unknown name, size or value.

    Example:
        >>> space = nshot.space("nasbench201")
        >>> space.size, space.params_range
        (15625, (72752, 1524272))
        >>> subnet = space.parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
        >>> subnet, space.params(subnet)  # option indices, and parameters
        ((0, 0, 0, 1, 0, 0), 72752)
    """
    return spaces[name].of(**sizes)


def list_spaces() -> list[str]:
    """The names that ``space`` takes.

    Example:
        >>> nshot.list_spaces()
        ['autoformer', 'darts', 'mobilenet', 'nasbench201', 'timm']
    """
    return spaces.names()


def space_from_dict(values: dict[str, Any]) -> Space:
    """A space from its name and sizes, as `Space.to_dict` has them. Raises UserError for what is none."""
    try:
        sizes = {key: value for key, value in values.items() if key not in ("name", "kept")}
        kept = tuple((index, tuple(options)) for index, options in values.get("kept", ()))
        return dataclasses.replace(space(values["name"], **sizes), kept=kept)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"space {values!r:.80} is broken ({type(error).__name__}: {error})") from None
