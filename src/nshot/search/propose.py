"""Who proposes subnets: a random sample or the whole space; the leanest member of each form, within the limits."""

import itertools
from collections.abc import Callable, Iterator, Sequence

from nshot.errors import UserError
from nshot.seeding import generator
from nshot.spaces import Space, Subnet
from nshot.spaces.additive import ENUMERABLE
from nshot.spaces.feasible import Feasible, InfeasibleError, nearest

from .limits import Limits

STALE = 20  # draws a known form without a new one, after which there are hardly more

Canonical = Callable[[Subnet], Subnet]


def random_subnets(
    space: Space, count: int, limits: Limits | None = None, seed: int = 0, canonical: Canonical | None = None
) -> list[Subnet]:
    """Up to ``count`` random subnets, fewer where the space has no more; none of one canonical form twice.

    Subnets are drawn uniformly among those that keep to the limits (`Feasible`), each given as the leanest member of
    its form: what the limits are about. ``canonical`` is a supernet's (default: the space's).

    Raises:
        UserError: where there are none, or where none can be found, with the costs of the nearest.
    """
    return list(itertools.islice(endless(space, limits or Limits(), seed, canonical or space.canonical), count))


def endless(space: Space, limits: Limits, seed: int, canonical: Canonical) -> Iterator[Subnet]:
    """As `random_subnets`, one by one, until it takes very many draws to find another."""
    rng = generator(seed, "search")
    found: dict[Subnet, None] = {}
    if space.size <= ENUMERABLE:
        subnets = list(space.subnets())
        forms = dict.fromkeys(canonical(subnets[i]) for i in rng.permutation(len(subnets)))
        for form in forms:
            if limits.allow(space, form):
                found.setdefault(form)
                yield form
        if not found:
            raise limits.broken(space, nearest(forms, limits.bounds(space)))
        return
    draws, stale = feasible(space, limits, canonical, seed), 0
    while stale < STALE * (len(found) + 100):
        form = canonical(draws.draw(rng))
        stale += 1
        if form not in found:
            found[form], stale = None, 0
            yield form


def feasible(space: Space, limits: Limits, canonical: Canonical, seed: int) -> Feasible:
    """What draws subnets whose leanest equals keep to the limits; raises UserError where it finds none."""
    try:
        return Feasible(space, limits.bounds(space, canonical), generator(seed, "limits"))
    except InfeasibleError as error:
        among = "" if error.looked is None else f" of {error.looked:,} looked at"
        raise limits.broken(space, error.nearest, among) from None


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


def within(space: Space, subnets: Sequence[Subnet], limits: Limits, among: str = "") -> list[Subnet]:
    """Those subnets that keep to the limits.

    Raises:
        UserError: where none does, saying ``among`` which: of those the nearest costs.
    """
    allowed = [subnet for subnet in subnets if limits.allow(space, subnet)]
    if not allowed:
        raise limits.broken(space, nearest(subnets, limits.bounds(space)), among)
    return allowed
