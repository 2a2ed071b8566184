"""Limits on what a subnet costs, and times as people write them."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from nshot.errors import UserError
from nshot.fields import quantity
from nshot.spaces import Space, Subnet
from nshot.spaces.feasible import Bound

_MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "μs": 1e-3}  # the micro sign and the Greek letter

_FORMS = ("{:,.0f} parameters", "{:,.0f} FLOPs", "a latency of {:.4g} ms")


def milliseconds(text: str) -> float:
    """``3ms``, ``0.5 s`` or ``800us`` in milliseconds. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zµμ]+)", text.strip().lower())
    value = float(found[1]) * _MILLISECONDS.get(found[2], 0) if found else 0
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"time {text!r}: write a number above 0 with its unit, such as 3ms, 0.5s or 800us")
    return value


@dataclass(frozen=True)
class Limits:
    """What the network that is handed over may cost; None does not limit."""

    max_params: int | None = None
    max_flops: int | None = None
    min_params: int | None = None
    max_latency: float | None = None
    """Milliseconds, by ``latency``."""
    latency: Callable[[Subnet], float] | None = field(default=None, compare=False, repr=False)
    """A subnet's milliseconds; needed where they are limited."""

    @classmethod
    def of(
        cls, max_params: str | None, max_flops: str | None, min_params: str | None, max_latency: str | None = None
    ) -> "Limits":
        """Limits from quantities as people write them; raises UserError for what is none."""
        params, flops, least = (
            None if text is None else quantity(text) for text in (max_params, max_flops, min_params)
        )
        return cls(params, flops, least, None if max_latency is None else milliseconds(max_latency))

    def by(self, latency: Callable[[Subnet], float] | None) -> "Limits":
        """The same limits, with what tells a subnet's latency."""
        return replace(self, latency=latency)

    def record(self) -> dict[str, int | float | None]:
        """The numbers, JSON-able."""
        names = ("max_params", "max_flops", "min_params")
        latency = {} if self.max_latency is None else {"max_latency_ms": self.max_latency}
        return {**{name: getattr(self, name) for name in names}, **latency}

    def bounds(self, space: Space, canonical: Callable[[Subnet], Subnet] = lambda subnet: subnet) -> list[Bound]:
        """What they bound, of the network that is handed over for a subnet: ``canonical`` gives its leanest equal."""

        def bound(cost: Callable[[Subnet], float], least: float | None, most: float | None) -> Bound:
            ends = -math.inf if least is None else least, math.inf if most is None else most
            return Bound(lambda subnet: cost(canonical(subnet)), *ends)

        costs: tuple[tuple[Callable[[Subnet], float], float | None, float | None], ...] = (
            (space.network_params, self.min_params, self.max_params),
            (space.flops, None, self.max_flops),
            (self.predicted, None, self.max_latency),
        )
        return [bound(cost, least, most) for cost, least, most in costs if (least, most) != (None, None)]

    def allow(self, space: Space, subnet: Subnet) -> bool:
        """Whether the subnet's network keeps to them; a cost that is not limited is not computed."""
        return all(bound.off(bound.cost(subnet)) == 0 for bound in self.bounds(space))

    def broken(self, space: Space, nearest: Sequence[float], among: str = "") -> UserError:
        """The error that no subnet keeps to them.

        Args:
            space: where.
            nearest: the costs of the subnet that comes nearest, in the order of `bounds`.
            among: which subnets these are, where it is not certain that none of the space keeps to them.
        """
        limited = ((self.min_params, self.max_params), (self.max_flops,), (self.max_latency,))
        forms = [f for f, of in zip(_FORMS, limited, strict=True) if of != (None,) * len(of)]
        costs = " and ".join(form.format(cost) for form, cost in zip(forms, nearest, strict=True))
        place = f"space {space.name} of these sizes"
        return UserError(f"no subnet{among} keeps to {self}: {place} comes nearest with {costs}")

    def predicted(self, subnet: Subnet) -> float:
        """Milliseconds of a subnet, by ``latency``."""
        if self.latency is None:
            raise UserError("a limit of latency needs what tells it: give Limits its latency")
        return self.latency(subnet)

    def __str__(self) -> str:
        named = {"max params": self.max_params, "min params": self.min_params, "max FLOPs": self.max_flops}
        texts = [f"{name} {value:,}" for name, value in named.items() if value is not None]
        texts += [] if self.max_latency is None else [f"max latency {self.max_latency:g} ms"]
        return ", ".join(texts) or "no limits"
