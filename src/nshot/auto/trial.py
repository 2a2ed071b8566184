"""Whether the subnet that a search found serves better than the simplest one: the whole network on smaller images.

With few images a supernet is trained for few steps, and what it says of its subnets is then uncertain. Both are tuned
on the images that trained the supernet, and the others tell which is better.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from nshot.data.sources import Dataset
from nshot.errors import Say
from nshot.files import check_inside
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.search.begin import begin_with
from nshot.search.latency import latency_of
from nshot.search.limits import Limits
from nshot.spaces import Space, Subnet
from nshot.spaces.additive import largest
from nshot.spaces.timm import Timm


def resized(space: Space, limits: Limits) -> Subnet | None:
    """The whole network at the largest side at which it keeps to the limits; None where it does at none."""
    whole = largest(space)
    if not (at := space.couples):
        return whole if limits.allow(space, whole) else None
    for side in reversed(space.decisions[at[0]].allowed):
        subnet = space.check((*whole[: at[0]], side, *whole[at[0] + 1 :]))
        if limits.allow(space, subnet):
            return subnet
    return None


def same_weights(space: Space, subnet: Subnet) -> bool:
    """Whether a network has all weights of the whole one: it differs in the side of its images alone."""
    return space.network_params(subnet) == space.network_params(largest(space))


def by_chance(a: float, b: float, images: int) -> float:
    """Percent by which two networks that are right on ``a`` and ``b`` percent of so many images differ by chance alone,
    in 95 of 100 cases."""
    p = (a + b) / 200
    return 196 * math.sqrt(2 * p * (1 - p) / images)


def better(
    config: RetrainConfig,
    itself: RetrainConfig,
    found: Subnet,
    limits: Limits,
    data: Dataset,
    out: Path,
    given: dict[str, Any],
) -> Subnet:
    """The found one where it is right on more of the images that rank than chance makes, else the simpler one.

    More than chance: than the difference of two shares of so many images has in 95 of 100 cases. The simpler one begins
    with the weights that teach it, which the trial, of fewer images, cannot show.

    Args:
        config: how the found one is tuned at last; here as ``itself`` says, without a teacher, which would have seen
            all images, and begun with ``config.init``, the supernet's run.
        itself: how the whole network is tuned.
        found: the search's.
        limits: which both keep to.
        data: the data set.
        out: gets a folder of each; continued where it was killed.
        given: device, workers and say of `retrain`.
    """
    say: Say = given["say"]
    space, supernet = config.space, cast(Path, config.init)
    timed = limits if limits.max_latency is None else limits.by(latency_of(supernet, space, say=say))
    other = resized(space, timed)
    if other in (None, found):
        return found
    half = replace(data, valid=data.valid.subset(np.arange(0)), test=data.valid)
    batch = min(itself.recipe.batch_size, len(data.train))  # of fewer images than the recipe was made for
    itself = replace(itself, recipe=replace(itself.recipe, batch_size=batch))
    names = {"found": (found, replace(itself, init=supernet)), "resized": (cast(Subnet, other), itself)}
    say(f"a trial of the best, beside the whole network at {cast(Timm, space).side(cast(Subnet, other))} pixels")
    right = {}
    for name, (subnet, how) in names.items():
        begin = begin_with(how.init, space)
        right[name] = retrain(how, subnet, half, check_inside(out, name), begin=begin, **given)["test_accuracy"]
    chance = by_chance(right["found"], right["resized"], len(data.valid))
    taken = "found" if right["found"] - right["resized"] > chance else "resized"
    told = " and ".join(f"{right[name]:.1f} % ({name})" for name in names)
    say(f"tuned on {len(data.train):,} images they are right on {told} of {len(data.valid):,} others: {taken} is taken")
    return names[taken][0]
