"""Who proposes subnets: a random sample or the whole space; the leanest member of each form, within the limits."""

from collections.abc import Callable, Sequence

from nshot.errors import UserError
from nshot.seeding import generator
from nshot.spaces import Space, Subnet
from nshot.spaces.base import ENUMERABLE

from .limits import Limits

TRIES = 1000  # draws a wanted subnet before limits count as unsatisfiable

Canonical = Callable[[Subnet], Subnet]


def random_subnets(
    space: Space, count: int, limits: Limits | None = None, seed: int = 0, canonical: Canonical | None = None
) -> list[Subnet]:
    """Up to ``count`` random subnets, fewer where the space has no more; none of one canonical form twice.

    Subnets are drawn uniformly; each is given as the leanest member of its form, which keeps to the limits.
    ``canonical`` is a supernet's (default: the space's).

    Raises:
        UserError: where none can be found, with the costs that the space has.
    """
    limits, canonical = limits or Limits(), canonical or space.canonical
    rng = generator(seed, "search")
    if space.size <= ENUMERABLE:
        subnets = list(space.subnets())
        forms = dict.fromkeys(canonical(subnets[i]) for i in rng.permutation(len(subnets)))
        return within(space, list(forms), limits)[:count]
    found: dict[Subnet, None] = {}
    for draws in range(TRIES * max(1, count)):
        subnet = canonical(space.sample(rng))
        if limits.allow(space, subnet):
            found.setdefault(subnet)
        if len(found) == min(count, space.size) or (draws >= TRIES and draws > 50 * len(found) + 20 * count):
            break
    if not found:
        raise unsatisfiable(space, limits)
    return list(found)


def all_subnets(space: Space, canonical: Canonical, limits: Limits | None = None) -> list[Subnet]:
    """The leanest member of every canonical form that keeps to the limits.

    Raises:
        UserError: where the space is too large to enumerate, or no subnet keeps to the limits.
    """
    if space.size > ENUMERABLE:
        raise UserError(
            f"method exhaustive: space {space.name} has {space.size:,} subnets, at most {ENUMERABLE:,} are enumerated: "
            "use random, evolution or nsga2"
        )
    return within(space, list(dict.fromkeys(map(canonical, space.subnets()))), limits or Limits())


def within(space: Space, subnets: Sequence[Subnet], limits: Limits) -> list[Subnet]:
    """Those subnets that keep to the limits; raises UserError where none does."""
    allowed = [subnet for subnet in subnets if limits.allow(space, subnet)]
    if not allowed:
        raise unsatisfiable(space, limits)
    return allowed


def unsatisfiable(space: Space, limits: Limits) -> UserError:
    """The error that says what the limits were and what the space has."""
    some = random_subnets(space, space.size if space.size <= ENUMERABLE else 1000)
    params = [space.network_params(subnet) for subnet in some]
    flops = [space.flops(subnet) for subnet in some]
    times = "" if limits.latency is None else _range([limits.latency(subnet) for subnet in some])
    return UserError(
        f"no subnet keeps to {limits}: space {space.name} of these sizes has from about {min(params):,} to "
        f"{max(params):,} parameters and {min(flops):,} to {max(flops):,} FLOPs{times}"
    )


def _range(milliseconds: list[float]) -> str:
    return f", and latencies of {min(milliseconds):.3g} to {max(milliseconds):.3g} ms"
