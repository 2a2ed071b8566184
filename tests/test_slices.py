"""Idle slices of shared weights rest: against dense copies of the slices, stepped by torch's own optimizers."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nshot
from helpers import SMALL
from nshot.dynamic import SeparatedMomentum
from nshot.spaces import Space, Supernet
from nshot.strategies.base import Plan
from nshot.supernets.config import preset
from nshot.supernets.train import make_optimizer
from nshot.training.loop import train_steps
from nshot.training.optimizers import RestingSlices, adamw, sgd

STEPS, LR, DECAY = 12, 0.05, 0.1
State = dict[str, dict[str, Tensor]]


@pytest.fixture
def space() -> Space:
    return nshot.space("autoformer", **SMALL["autoformer"])


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.get_default_dtype())
    return images, torch.randint(0, 10, (8,), generator=generator)


def paths_of(space: Space, count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(count)]


def torch_sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=DECAY, nesterov=True)


def torch_adamw(network: nn.Module) -> torch.optim.Optimizer:
    """Norms, biases, token and positions are not decayed."""
    apart = ("norm", "bias", "token", "position")
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, p in network.named_parameters():
        groups[any(word in name for word in apart)].append(p)
    return torch.optim.AdamW([{"params": groups[True], "weight_decay": 0.0}, {"params": groups[False]}], LR,
                             weight_decay=DECAY)  # fmt: skip


def ours_sgd(fast: bool) -> Callable[[nn.Module], Any]:
    shared: dict[str, Any] = {"lr": LR, "momentum": 0.9, "weight_decay": DECAY, "nesterov": True}
    return lambda m: sgd(m.parameters(), idle="rest", clip=None, fast=fast, **shared)


OURS: dict[str, Callable[[nn.Module], Any]] = {
    "sgd": ours_sgd(fast=False),
    "fused": ours_sgd(fast=True),
    "adamw": lambda m: adamw(m, idle="rest", clip=None, lr=LR, weight_decay=DECAY),
}


def dense_step(weights: dict[str, Tensor], states: State, network: nn.Module, make: Callable, step: int) -> None:
    """A step of a dense network that holds the slices; those of weights and of the optimizer's state go there and
    back.

    What a weight's state is before its first step is nothing, in torch; then zero outside of the slice.
    """
    inside = {name: tuple(map(slice, p.shape)) for name, p in network.named_parameters()}
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(weights[name][inside[name]])
    optimizer = make(network)
    for name, p in network.named_parameters():
        for key, value in states.get(name, {}).items():
            optimizer.state[p][key] = value[inside[name]].clone() if value.dim() else value.clone()
    images, labels = batch(step)
    F.cross_entropy(network(images), labels).backward()
    optimizer.step()
    for name, p in network.named_parameters():
        weights[name][inside[name]] = p.detach()
        for key, value in optimizer.state[p].items():
            if value.dim() == 0:
                states.setdefault(name, {})[key] = value
            else:
                states.setdefault(name, {}).setdefault(key, torch.zeros_like(weights[name]))[inside[name]] = value


@pytest.fixture
def precision(name: str) -> Iterator[None]:
    """Double but for the fused kernel: AdamW divides by roots of small numbers, which single precision blurs."""
    torch.set_default_dtype(torch.float32 if name == "fused" else torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("clusters", [1, 2])
def test_equals_dense_networks_of_the_slices(space: Space, name: str, clusters: int, precision: None) -> None:
    torch.manual_seed(0)
    supernet = space.supernet()
    expected = {key: p.detach().clone() for key, p in supernet.named_parameters()}
    paths = paths_of(space, STEPS)
    states: list[State] = [{} for _ in range(clusters)]
    for step, path in enumerate(paths):
        dense = torch_adamw if name == "adamw" else torch_sgd
        dense_step(expected, states[path[1] % clusters], space.network(path), dense, step)
    optimizer = OURS[name](supernet)
    resting = RestingSlices(optimizer, supernet)
    steps = train_steps(
        supernet,
        SeparatedMomentum(optimizer, clusters),
        lambda step: Plan((paths[step],), (1.0,), 1.0, paths[step][1] % clusters),
        batch,
        start=0,
        total_steps=STEPS,
        lr=LR,
        used=resting.used,
    )
    assert len(list(steps)) == STEPS
    for key, p in supernet.named_parameters():
        torch.testing.assert_close(p.detach(), expected[key], rtol=1e-6, atol=1e-6)


def test_what_several_paths_use_is_live(space: Space) -> None:
    """A wide one of few heads and a narrow one of many: a slice that neither uses lies within the largest of both."""
    supernet = space.supernet()
    layers = [d.name for d in space.decisions[2:]]
    wide = (2, 0, *[0 for _ in layers])
    narrow = (0, 0, *[1 for _ in layers])
    optimizer = OURS["sgd"](supernet)
    resting = RestingSlices(optimizer, supernet)
    before = {key: p.detach().clone() for key, p in supernet.named_parameters()}
    for path in (wide, narrow):
        F.cross_entropy(supernet(batch(0)[0], path), batch(0)[1]).backward()
    with pytest.raises(RuntimeError, match=r"tell RestingSlices\.used the step's paths"):
        optimizer.step()
    resting.used((wide, narrow))
    optimizer.step()
    moved = {key: p.detach() != before[key] for key, p in supernet.named_parameters()}
    qkv = moved["layers.0.attention.qkv.weight"]
    assert qkv[:72, :24].all()  # wide: 3 heads of 8
    assert qkv[:96, :16].all()  # narrow: 4 heads
    assert not qkv[72:, 16:].any()
    assert not any(moved[key].any() for key in moved if key.startswith("layers.2."))


def idle_elements(supernet: Supernet, paths: list[tuple[int, ...]]) -> dict[str, Tensor]:
    """Of each weight which elements no path uses, of those that are shared in part; of others none: element by
    element, dimension by dimension."""
    live = [supernet.live(path) for path in paths]
    found = {}
    for key, p in supernet.named_parameters():
        used = torch.zeros(p.shape, dtype=torch.bool)
        for regions in live:
            if key not in regions:
                continue
            whole = torch.ones(p.shape, dtype=torch.bool)
            for dim, chosen in enumerate(regions[key]):
                size = p.shape[dim]
                kept = list(range(size))[chosen] if isinstance(chosen, slice) else chosen
                kept = range(kept) if isinstance(kept, int) else [int(i) for i in kept]
                along = torch.tensor([i in set(kept) for i in range(size)])
                whole &= along.view([-1 if d == dim else 1 for d in range(p.dim())])
            used |= whole
        found[key] = ~used if any(key in regions for regions in live) else torch.zeros_like(used)
    return found


@pytest.mark.parametrize("name", nshot.list_spaces())
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("largest", [True, False])
def test_every_gradient_of_a_step_of_several_paths_is_taken(name: str, clip: float | None, largest: bool) -> None:
    """The largest, the smallest and a random path, as in the sandwich rule, or without the largest: against one step by
    hand. What no path uses rests to the bit, though weights decay."""
    space = nshot.space(name, **SMALL.get(name, {}))
    rng = np.random.default_rng(1)
    paths = [tuple(d.allowed[i] for d in space.decisions) for i in (-1, 0)] + [space.sample(rng)]
    paths = paths if largest else paths[1:]
    torch.manual_seed(0)
    supernet = space.supernet()
    optimizer = sgd(supernet.parameters(), idle="rest", clip=clip, fast=False, lr=LR, momentum=0.0, weight_decay=DECAY)
    resting = RestingSlices(optimizer, supernet)
    images = torch.randn(4, 3, space.resolution, space.resolution)
    for path in paths:
        F.cross_entropy(supernet(images, path), torch.arange(4)).backward()
    before = {key: p.detach().clone() for key, p in supernet.named_parameters()}
    grads = {key: torch.zeros_like(p) if p.grad is None else p.grad.clone() for key, p in supernet.named_parameters()}
    norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
    scale = 1.0 if clip is None else min(1.0, clip / float(norm))
    idle = idle_elements(supernet, paths)
    shared = any(supernet.live(path) for path in paths)
    assert any(each.any() for each in idle.values()) == (shared and not largest)
    without = [key for key, p in supernet.named_parameters() if p.grad is None]
    resting.used(paths)
    optimizer.step()
    for key, p in supernet.named_parameters():
        assert torch.equal(p.detach()[idle[key]], before[key][idle[key]]), key
        assert not grads[key][idle[key]].any(), key
        if key in without:
            assert torch.equal(p.detach(), before[key]), key
        told = grads[key] != 0  # all else is idle, or of a gradient that happens to be 0
        by_hand = before[key] - LR * (scale * grads[key] + DECAY * before[key])
        torch.testing.assert_close(
            p.detach()[told], by_hand[told], rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_live_slices_are_those_of_the_stand_alone_networks(space: Space) -> None:
    supernet = space.supernet()
    for subnet in paths_of(space, 30):
        live, weights = supernet.live(subnet), dict(supernet.named_parameters())
        own = {key: tuple(p.shape) for key, p in space.network(subnet).named_parameters()}
        told = {key: (*sizes, *weights[key].shape[len(sizes) :]) for key, sizes in live.items()}
        assert {key: told.get(key, tuple(weights[key].shape)) for key in own} == own


@pytest.mark.parametrize("idle", ["rest", "drift"])
def test_the_configuration_says_what_idle_slices_do(space: Space, idle: str) -> None:
    config = dataclasses.replace(preset("smoke", "spos", "autoformer"), space=space, idle=idle)
    supernet: Supernet = space.supernet()
    optimizer, used = make_optimizer(config, supernet, 1)
    before = supernet.embedding.weight.detach().clone()
    smallest = (0, 0, *[0] * 6)
    F.cross_entropy(supernet(batch(0)[0], smallest), batch(0)[1]).backward()
    used((smallest,))
    optimizer.step(cluster=0)
    assert supernet.embedding.weight[16:].equal(before[16:]) == (idle == "rest")
    assert not supernet.embedding.weight[:16].equal(before[:16])
