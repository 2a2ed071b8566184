"""Limits on what a subnet costs, and quantities as people write them."""

import math
import re
from dataclasses import dataclass

from nshot.errors import UserError
from nshot.spaces import Space, Subnet

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


@dataclass(frozen=True)
class Limits:
    """What the network that is handed over may cost; None does not limit."""

    max_params: int | None = None
    max_flops: int | None = None
    min_params: int | None = None

    @classmethod
    def of(cls, max_params: str | None, max_flops: str | None, min_params: str | None) -> "Limits":
        """Limits from quantities as people write them; raises UserError for what is none."""
        texts = (max_params, max_flops, min_params)
        return cls(*(None if text is None else quantity(text) for text in texts))

    def allow(self, space: Space, subnet: Subnet) -> bool:
        params, flops = space.network_params(subnet), space.flops(subnet)
        return (
            (self.max_params is None or params <= self.max_params)
            and (self.min_params is None or params >= self.min_params)
            and (self.max_flops is None or flops <= self.max_flops)
        )

    def __str__(self) -> str:
        named = {"max params": self.max_params, "min params": self.min_params, "max FLOPs": self.max_flops}
        return ", ".join(f"{name} {value:,}" for name, value in named.items() if value is not None) or "no limits"
