"""Types of dataclass fields that flags take in a way of their own, and quantities as people write them: ``1.2M``."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, cast

from tyro.conf import Suppress as Hidden
from tyro.constructors import PrimitiveConstructorSpec

from nshot.errors import UserError

__all__ = ["Hidden", "Quantity", "names", "quantity"]  # Hidden[T]: a field that is no flag

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def quantity(text: str) -> int:
    """``1.2M`` as 1,200,000; k, M, G (or B) or nothing. Raises UserError for anything else."""
    number = text.strip().lower()
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?[kmgb]?", number):  # 1,200,000; a decimal comma is refused
        number = number.replace(",", "")
    unit = number[-1] if number and number[-1] in "kmgb" else ""
    try:
        value = float(number.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 1):
        raise UserError(f"quantity {text!r}: write a number above 0 such as 1200000, 1.2M or 60M")
    return round(value)


def _parsed(texts: list[str]) -> int | None:
    return None if texts == ["None"] else quantity(texts[0])


Quantity = Annotated[
    int | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="QUANTITY",
        instance_from_str=cast(Any, _parsed),
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A field that the command line takes as such a text, or None."""


def _split(texts: list[str]) -> tuple[str, ...]:
    return tuple(name for text in texts for name in text.split(",") if name)


def names(choices: Sequence[str]) -> PrimitiveConstructorSpec[tuple[str, ...]]:
    """For a field that takes some of these names, separated by commas or spaces; which they are it checks itself."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{{{','.join(choices)}}}",
        instance_from_str=_split,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=list,
    )
