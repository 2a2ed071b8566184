"""Scores of a network that need no training, one file each: baselines of every ranking by a supernet."""

from collections.abc import Callable

import torch

from nshot.errors import UserError
from nshot.seeding import seeded, torch_generator
from nshot.spaces import Space, Subnet

from .base import Batches, Measure, scores

__all__ = ["COSTS", "Batches", "Measure", "list_scores", "score", "scores"]

COSTS: dict[str, Callable[[Space, Subnet], int]] = {
    "params": lambda space, subnet: space.network_params(subnet),
    "flops": lambda space, subnet: space.flops(subnet),
}
"""Scores that a space knows from its tables: of the actual stand-alone network, as searches limit and print them."""


def list_scores() -> list[str]:
    """The names that ``score`` takes: costs first."""
    return [*COSTS, *scores.names()]


def check_score(name: str) -> None:
    """Raises UserError for an unknown name."""
    if name not in list_scores():
        raise UserError(f"unknown score {name!r}: choose of {', '.join(list_scores())}")


def score(name: str, space: Space, subnet: Subnet, batches: Batches, seed: int = 0) -> float:
    """The score of that name of a subnet's stand-alone network, newly initialised: larger is better.

    A pure function of its arguments. All but the costs are those of the canonical form: by definition the same, since
    what changes no output has no gradient and adds nothing. What is no number comes last, as minus infinity.

    Args:
        name: see ``list_scores``.
        space: the subnet's.
        subnet: what to score.
        batches: two of training images (B, 3, H, W) with labels (B,), on the device that computes.
        seed: of weights and draws, which are the same for all subnets as far as their networks are.
    """
    check_score(name)
    if name in COSTS:
        return float(COSTS[name](space, space.check(subnet)))
    with seeded(seed, "score weights"):
        network = space.network(space.canonical(subnet))
        network.to(batches[0][0].device).to(memory_format=torch.channels_last)
        value = float(scores[name](network, batches, torch_generator(seed, f"score {name}")))
    return value if value == value else float("-inf")
