"""The feature shift: how far a layer's inputs move for one image when the layers before it change.

The word is Pi-NAS's (Peng et al., ICCV 2021), whose code measures none: the definition is ours, docs/methods.md has it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from nshot.spaces import Subnet, Supernet

from .calibrate import evaluating

GROUP = 8  # paths whose inputs are held at once: each makes a pair with each other of its group


@dataclass(frozen=True)
class LayerShift:
    """Of one layer: the mean distance over pairs of paths and images, over how many pairs, and how deep it lies.

    ``depth`` is the mean share of its path's layers that run before it, from 0 to 1.
    """

    shift: float
    pairs: int
    depth: float


def distance(first: Tensor, second: Tensor) -> Tensor:
    """‖a - b‖ / √(‖a‖² + ‖b‖²) of each image (N,): 0 where a = b, 1 where they are orthogonal, √2 where a = -b."""
    a, b = first.flatten(1).double(), second.flatten(1).double()
    size = (a.square().sum(1) + b.square().sum(1)).sqrt()
    return (a - b).norm(dim=1) / size.clamp_min(torch.finfo(torch.float64).tiny)


@torch.no_grad()
def feature_shift(supernet: Supernet, paths: Sequence[Subnet], images: Tensor) -> dict[str, LayerShift]:
    """The shift of every convolution and linear layer that two paths of a group run, from the shallowest.

    Both paths of a pair run the layer itself; nothing else need be common to them. Inputs of other sizes, where
    weights are shared in part, make no pair. Batch norms normalise as the supernet's mode says; nothing is dropped.

    Args:
        supernet: trained or not.
        paths: random ones; pairs are made of `GROUP` in a row.
        images: one batch (N, 3, H, W).
    """
    with evaluating(supernet, norms=False):
        return _shift(supernet, paths, images)


def _shift(supernet: Supernet, paths: Sequence[Subnet], images: Tensor) -> dict[str, LayerShift]:
    sums: dict[str, list[float]] = defaultdict(list)
    depths: dict[str, list[float]] = defaultdict(list)
    for group in (paths[start : start + GROUP] for start in range(0, len(paths), GROUP)):
        found = [_inputs(supernet, path, images) for path in group]
        for inputs in found:
            for place, name in enumerate(inputs):
                depths[name].append(place / max(len(inputs) - 1, 1))
        for one, other in combinations(found, 2):
            for name in one.keys() & other.keys():
                if one[name].shape == other[name].shape:
                    sums[name].append(float(distance(one[name], other[name]).mean()))
    layers = {
        name: LayerShift(sum(each) / len(each), len(each), sum(depths[name]) / len(depths[name]))
        for name, each in sums.items()
    }
    return dict(sorted(layers.items(), key=lambda item: (item[1].depth, item[0])))


def _inputs(supernet: Supernet, path: Subnet, images: Tensor) -> dict[str, Tensor]:
    """What each layer that the path runs is given, in the order in which they run."""
    found: dict[str, Tensor] = {}
    with _watched(supernet, found):
        supernet(images, path)
    return found


@contextmanager
def _watched(supernet: Supernet, found: dict[str, Tensor]) -> Iterator[None]:
    """Plain modules, for the fast path calls none, whose inputs go to ``found``; running statistics stay as they
    are."""

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_pre_hook(lambda _, given: found.__setitem__(name, given[0]))

    fast = [
        (each, each.fast) for each in supernet.modules() if isinstance(each, Supernet)
    ]  # a few-shot one's parts too
    for each, _ in fast:
        each.fast = False
    buffers = [(buffer, buffer.clone()) for buffer in supernet.buffers()]
    handles = [watch(n, m) for n, m in supernet.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        yield
    finally:
        for each, before in fast:
            each.fast = before
        for buffer, value in buffers:
            buffer.copy_(value)
        for handle in handles:
            handle.remove()
