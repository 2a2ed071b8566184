"""Recipes with an auxiliary head and drop-path: the DARTS networks' retraining against torch by hand."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import nshot
from nshot import UserError
from nshot.data.batches import TrainBatches
from nshot.data.images import Images
from nshot.data.sources import Dataset, load
from nshot.networks.alone import fit_steps, make_alone, make_batches
from nshot.networks.recipes import Recipe, recipe
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.nn.drop import DropPath
from nshot.runs.log import Log
from nshot.seeding import seeded

SPACE = nshot.space("darts", channels=4, cells=3, resolution=8)
SUBNET = SPACE.sample(np.random.default_rng(0))
BATCH = 64
PLAIN = Recipe(epochs=1, batch_size=BATCH, lr=0.02)


@pytest.fixture(scope="module")
def two_steps() -> Dataset:
    digits = load("digits", resolution=8)
    few, rest = (Images(part.pixels[:BATCH], part.labels[:BATCH]) for part in (digits.train, digits.valid))
    return dataclasses.replace(digits, train=few, valid=rest)


def test_the_auxiliary_loss_is_added_by_its_weight(two_steps: Dataset, tmp_path: Path) -> None:
    config = RetrainConfig(SPACE, dataclasses.replace(PLAIN, auxiliary=0.4), "digits")
    retrain(config, SUBNET, two_steps, tmp_path / "run", device="cpu", say=lambda line: None)
    learn = Images(
        torch.cat([two_steps.train.pixels, two_steps.valid.pixels]),
        torch.cat([two_steps.train.labels, two_steps.valid.labels]),
    )
    batches = TrainBatches(learn, BATCH, 0, flip=False)
    with seeded(0, "init"):
        both = SPACE.with_auxiliary(SPACE.network(SUBNET)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(both.parameters(), momentum=0.9, weight_decay=5e-4, nesterov=True, lr=1.0)
    for step, rate in enumerate((0.02, 0.01)):
        optimizer.param_groups[0]["lr"] = rate
        images, labels = batches(step)
        main, side = both(images)
        optimizer.zero_grad()
        (F.cross_entropy(main, labels) + 0.4 * F.cross_entropy(side, labels)).backward()
        optimizer.step()
    expected, got = both.network.state_dict(), load_file(tmp_path / "run" / "network.safetensors")
    assert got.keys() == expected.keys()  # the head is not handed over
    for name, weight in got.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_drop_path_rises_epoch_by_epoch(two_steps: Dataset) -> None:
    four = dataclasses.replace(PLAIN, epochs=4, drop_path=0.2)
    alone = make_alone(SPACE, SUBNET, four, 0)
    batches = make_batches(two_steps.train, two_steps, four, 0)
    drops = [module for module in alone.modules() if isinstance(module, DropPath)]
    rates = [
        {round(drop.p / drop.share, 9) for drop in drops}
        for _ in fit_steps(alone, four.make_optimizer(alone.network), batches, four, 1.0, batches.steps_per_epoch)
    ]
    assert rates == [{0.0}, {0.05}, {0.1}, {0.15}]


def test_a_killed_retraining_with_both_continues(two_steps: Dataset, tmp_path: Path) -> None:
    """From a checkpoint the rest comes out bit for bit."""
    both = dataclasses.replace(PLAIN, epochs=3, drop_path=0.3, auxiliary=0.4, ema=0.5)
    config = RetrainConfig(SPACE, both, "digits", checkpoint_every=2, log_every=2)

    def say(line: str) -> None:
        pass

    whole = tmp_path / "whole"
    retrain(config, SUBNET, two_steps, whole, device="cpu", say=say)
    cut = tmp_path / "cut"
    calls = []

    def kill(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "write", lambda self, step, **values: kill(step))
        with pytest.raises(KeyboardInterrupt):
            retrain(config, SUBNET, two_steps, cut, device="cpu", say=say)
    assert list(cut.glob("step-*.pt"))
    retrain(config, SUBNET, two_steps, cut, device="cpu", say=say)
    expected, got = (load_file(folder / "network.safetensors") for folder in (whole, cut))
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())


def test_what_a_space_has_not_is_refused_before_any_folder(two_steps: Dataset, tmp_path: Path) -> None:
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
    for part in ({"auxiliary": 0.4}, {"drop_path": 0.2}):
        config = RetrainConfig(space, dataclasses.replace(PLAIN, **part), "digits")
        with pytest.raises(UserError, match=r"auxiliary|drop_path 0\.2"):
            retrain(config, (4,) * 6, two_steps, tmp_path / "run", device="cpu", say=lambda line: None)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="auxiliary -1"):
        dataclasses.replace(PLAIN, auxiliary=-1.0)


def test_the_recipe_of_the_darts_space_has_both() -> None:
    assert (recipe("darts").drop_path, recipe("darts").auxiliary) == (0.2, 0.4)
    network = make_alone(SPACE, SUBNET, recipe("darts"), 0)
    assert copy.deepcopy(network).plain.state_dict().keys() == SPACE.network(SUBNET).state_dict().keys()
