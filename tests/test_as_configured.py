"""What a run is configured by arrives where it counts: mirror images, smoothed labels, normalisation, a method's own
search. Each against a computation that is written out."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import nshot
from helpers import SMALL, nshot_, quiet
from nshot.data.batches import TrainBatches
from nshot.data.images import Images, joined
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset, load
from nshot.networks.alone import make_batches as make_alone_batches
from nshot.networks.recipes import Recipe
from nshot.ranking.shift import feature_shift
from nshot.seeding import generator
from nshot.spaces import Space, Subnet, Supernet
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.load import load_run
from nshot.supernets.score import evaluator, scored
from nshot.supernets.shift import shift_paths, shift_runs
from nshot.supernets.train import make_batches, make_second, new_supernet, train
from test_reviewed import folder_of

SPACE = nshot.space("nasbench201", **SMALL["nasbench201"])


def config_of(space: Space = SPACE, **changes: Any) -> TrainConfig:
    return dataclasses.replace(preset("smoke", "spos", space.name), space=space, **changes)


# mirror images


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("data") / "pets", {"cat": 24, "dog": 24}, side=8)


def same(one: TrainBatches, other: TrainBatches) -> bool:
    """Of two epochs."""
    steps = range(2 * one.steps_per_epoch)
    return all(torch.equal(a, b) for step in steps for a, b in zip(one(step), other(step), strict=True))


@pytest.mark.parametrize(("mark", "mirrors"), [("", True), (":noflip", False)])
@pytest.mark.parametrize("made", ["supernet", "second", "network"])
def test_images_are_mirrored_where_that_changes_no_label(made: str, mark: str, mirrors: bool, pets: Path) -> None:
    data = load(f"imagefolder:{pets}{mark}", resolution=8)
    config = config_of(batch_size=8, seed=3)
    images, seed, kind = data.train, 3, TrainBatches
    if made == "supernet":
        found = make_batches(config, data)
    elif made == "second":
        found = make_second(config, data, make_batches(config, data))
        images, seed, kind = data.valid, found.seed, type(found)
    else:
        images = joined(data.train, data.valid)
        found = make_alone_batches(images, data, Recipe(epochs=1, batch_size=8), 3)
    expected = {flip: kind(images, 8, seed, flip=flip) for flip in (True, False)}
    for each in expected.values():
        each.normalise = found.normalise
    assert same(found, expected[mirrors])
    assert not same(found, expected[not mirrors])


# smoothed labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_supernet_s_step_is_that_of_smoothed_labels(smoothing: float, tmp_path: Path) -> None:
    data = load("digits", resolution=8)
    config = config_of(SPACE.with_classes(10), epochs=1, batch_size=512, label_smoothing=smoothing)
    assert len(data.train) // 512 == 1  # a step
    train(config, data, tmp_path / "run", device="cpu", say=quiet)
    found = load_file(tmp_path / "run" / "supernet.safetensors")

    def by_hand(smoothing: float) -> float:
        supernet = new_supernet(config)
        (path,) = nshot.strategy("spos", config.space, total_steps=1, seed=config.seed).plan(0).paths
        decay, weights = config.weight_decay, list(supernet.parameters())
        optimizer = torch.optim.SGD(weights, config.lr, config.momentum, weight_decay=decay, nesterov=config.nesterov)
        images, labels = TrainBatches(data.train, 512, config.seed, flip=False)(0)
        F.cross_entropy(supernet(images, path), labels, label_smoothing=smoothing).backward()
        for weight in weights:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.nn.utils.clip_grad_norm_(weights, config.clipping or float("inf"))
        optimizer.step()
        return max(float((found[name] - p.detach()).abs().max()) for name, p in supernet.named_parameters())

    assert by_hand(smoothing) < 1e-5
    assert by_hand(0.1 - smoothing) > 1e-4


# normalisation of the space's own


@pytest.fixture(scope="module")
def of_deit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """A run whose space normalises by ImageNet's mean and deviation."""
    data = load("digits", resolution=8)
    few = dataclasses.replace(data, train=data.train.subset(np.arange(64)), valid=data.valid.subset(np.arange(48)))
    space = nshot.space("autoformer", **SMALL["autoformer"], deit=True, relative=False)
    config = config_of(space, epochs=1, batch_size=32)
    return train(config, few, tmp_path_factory.mktemp("deit") / "run", device="cpu", say=quiet), few


def as_deit(images: Images) -> Tensor:
    mean, std = 255 * torch.tensor([0.485, 0.456, 0.406]), 255 * torch.tensor([0.229, 0.224, 0.225])
    return ((images.pixels - mean) / std).permute(0, 3, 1, 2)


def test_subnets_are_scored_on_images_as_the_space_normalises_them(of_deit: tuple[Path, Dataset]) -> None:
    run, data = of_deit
    config, supernet = load_run(run)
    subnets = shift_paths(config.space, 4, seed=2)
    with scored(run, config, supernet, subnets, device="cpu", data=data) as (scores, _):
        losses = scores.loss
    held = mixture(data.valid)
    for subnet, loss in zip(subnets, losses, strict=True):
        with torch.no_grad():
            expected = F.cross_entropy(supernet(as_deit(held), subnet), held.labels, reduction="none")
        np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-5)


def test_the_feature_shift_is_that_of_images_as_the_space_normalises_them(of_deit: tuple[Path, Dataset]) -> None:
    run, data = of_deit
    config, supernet = load_run(run)
    found = shift_runs([run], paths=6, images=16, seed=1, device="cpu", data=data)[run]
    expected = feature_shift(supernet, shift_paths(config.space, 6, 1), as_deit(mixture(data.valid, 16)))
    assert found.keys() == expected.keys()
    assert max(layer.shift for layer in found.values()) > 0.1
    for name, layer in found.items():
        assert layer.shift == pytest.approx(expected[name].shift, rel=1e-4)


# a method's own search


def right(supernet: Supernet, subnet: Subnet, images: Tensor, labels: Tensor) -> float:
    """Percent of the images, as one batch, that a subnet classifies rightly."""
    with torch.no_grad():
        return 100 * float((supernet(images, subnet).argmax(1) == labels).double().mean())


def judged(data: Dataset) -> tuple[Tensor, Tensor]:
    """Held-out images, normalised by the training images, in the order in which they are numbered; their labels."""
    held = mixture(data.valid)
    std, mean = torch.std_mean(data.train.pixels.float().reshape(-1, 3), dim=0)
    return ((held.pixels - mean) / std.clamp_min(1)).permute(0, 3, 1, 2), held.labels


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("own") / "run"
    sizes = [word for key, value in SMALL["nasbench201"].items() for word in (f"--{key}", str(value))]
    chosen = ["--tried", "3", "--tried-on", "40", "--seed", "5"]
    at = ["--preset", "smoke", *sizes, "--epochs", "2", "--device", "cpu"]
    assert nshot_("train", "random", *at, *chosen, "--out", run)[0] == 0
    return run


def test_a_subnet_is_judged_on_the_images_that_are_named(own: Path) -> None:
    config, supernet = load_run(own)
    data = load("digits", resolution=8)
    judge, *_ = evaluator(own, config, supernet, device="cpu", data=data)
    assert judge.images == len(data.valid)
    images, labels = judged(data)
    seen = set()
    for subnet in ((3,) * 6, (3, 2, 1, 3, 2, 1)):
        for positions in (list(range(40)), list(range(100, 140)), [5, len(data.valid) - 1, 7, 8, 100, 3]):
            found = judge.accuracy(subnet, positions)
            assert found == pytest.approx(right(supernet, subnet, images[positions], labels[positions]))
            seen.add(found)
    assert len(seen) > 3


def by_hand(supernet: Supernet, data: Dataset, seed: int, tried: int, tried_on: int) -> tuple[Subnet, list[float]]:
    """The best of so many random subnets, each on the next images of a shuffled order."""
    rng, found, order = generator(seed, "random search"), [], np.array([], int)
    images, labels = judged(data)
    SPACE.sample(rng)
    for _ in range(tried):
        subnet = SPACE.sample(rng)
        if len(order) < tried_on:
            order = rng.permutation(len(data.valid))
        now, order = order[:tried_on], order[tried_on:]
        found.append((right(supernet, subnet, images[now], labels[now]), subnet))
    values = [value for value, _ in found]
    return found[int(np.argmax(values))][1], values


def test_the_search_of_a_method_is_by_the_options_and_the_seed_of_its_run(own: Path) -> None:
    assert nshot_("search", own, "--method", "own", "--device", "cpu")[0] == 0
    found = tuple(json.loads((own / "search.json").read_text())["best"]["subnet"])
    data, supernet = load("digits", resolution=8), load_run(own)[1]
    best, values = by_hand(supernet, data, 5, 3, 40)
    assert sorted(values)[-1] > sorted(values)[-2]
    assert found == supernet.canonical(best)
    for seed, tried, tried_on in ((0, 3, 40), (5, 100, 40)):  # others would be another
        assert supernet.canonical(by_hand(supernet, data, seed, tried, tried_on)[0]) != found
