"""Fine-tuning: what a network begins with, how it is taught, and what is handed over."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import nshot
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.data.sources import load
from nshot.networks import alone
from nshot.networks.recipes import Recipe, recipe
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.runs import checkpoint
from nshot.search.begin import begin_with, subnets_of
from nshot.supernets.load import load_run
from nshot.training.tuning import check_head

SIZES = ["--resolution", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(timm.create_model(SMALL["timm"]["model"], num_classes=1000).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def run(weights: Path) -> Path:
    """A trained supernet and its search."""
    out = weights.parent / "run"
    args = ["train", "sandwich", "--preset", "smoke", "--space", "timm", *SIZES, "--init", weights, "--out", out]
    assert nshot_(*args)[0] == 0
    found = ["--method", "random", "--sample", "3", "--images", "60", "--max-params", "500k", "--device", "cpu"]
    status, _, err = nshot_("search", out, *found)
    assert status == 0, err
    return out


def quick() -> list[str]:
    return ["--epochs", "2", "--batch-size", "256", "--device", "cpu"]


def test_a_network_begins_with_the_supernets_weights(run: Path) -> None:
    config, supernet = load_run(run)
    subnet = config.space.sample(np.random.default_rng(0))
    begin = begin_with(run, config.space)
    assert begin is not None
    network = alone.make_alone(config.space, subnet, Recipe(), 0, begin(subnet)).network
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = supernet.eval()(x, subnet)
        torch.testing.assert_close(network.eval()(x), expected, rtol=1e-4, atol=1e-5)
        fresh = alone.make_alone(config.space, subnet, Recipe(), 0).network
        assert not torch.allclose(fresh.eval()(x), expected, atol=1e-2)


def test_or_with_slices_of_pretrained_ones_and_a_new_head(weights: Path) -> None:
    space = nshot.space("timm", **{**SMALL["timm"], "num_classes": 10})
    begin = begin_with(weights, space)
    assert begin is not None
    (largest,) = subnets_of(space, ["largest"])
    assert largest == tuple(d.allowed[-1] for d in space.decisions)
    given = begin(largest)
    assert not any("classifier" in name for name in given)
    assert all(
        torch.equal(value, given[f"net.{name}"])
        for name, value in load_file(weights).items()
        if "classifier" not in name
    )
    assert begin_with(None, space) is None


def test_runs_of_other_sizes_are_refused(run: Path) -> None:
    for changed in ({"resolution": 32}, {"num_classes": 7}):
        with pytest.raises(UserError, match="its networks are of other sizes or classes"):
            begin_with(run, nshot.space("timm", **{**SMALL["timm"], "resolution": 16, **changed}))


def test_from_search_to_hand_over(run: Path, tmp_path: Path) -> None:
    """The full network is tuned, and teaches the one that was found; it is handed over with the weights' mean."""
    full, best, out = tmp_path / "full", tmp_path / "best", tmp_path / "out"
    status, _, err = nshot_("retrain", "largest", "--init", run, "--out", full, *quick())
    assert status == 0, err
    told = json.loads((full / "result.json").read_text())
    assert told["arch"].startswith("16px|1|1,1|")
    status, _, err = nshot_("retrain", run, "--init", run, "--teacher", full, "--out", best, *quick())
    assert status == 0, err
    result = json.loads((best / "result.json").read_text())
    assert result["params"] <= 500_000
    cfg = timm.create_model(SMALL["timm"]["model"]).pretrained_cfg
    np.testing.assert_allclose(result["normalise"]["mean"], [255 * v for v in cfg["mean"]], rtol=1e-6)
    config = json.loads((best / "config.json").read_text())["config"]
    assert config["init"] == str(run)
    assert config["recipe"]["frozen"] == recipe("tune").frozen == 1
    status, _, err = nshot_("export", best, "--to", "torch", "safetensors", "--out", out)
    assert status == 0, err
    assert f"{255 * cfg['mean'][0]:.3f}"[:5] in (out / "model.py").read_text()


@pytest.mark.parametrize("stopped", [1, 4, 5])
def test_tuning_goes_on_where_it_was_stopped(
    stopped: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the frozen epoch of 4 steps, at its end and after it: the same bits, and a backbone that has moved."""
    data = load("digits", resolution=16)
    data = dataclasses.replace(data, train=data.train.subset(np.arange(96)), valid=data.valid.subset(np.arange(32)))
    space = load_run(run)[0].space
    tune = dataclasses.replace(recipe("tune"), epochs=2, batch_size=32)
    config = RetrainConfig(space=space, recipe=tune, dataset="digits", init=run, checkpoint_every=1)
    begin = begin_with(run, space)
    (largest,) = subnets_of(space, ["largest"])
    quiet = {"device": "cpu", "begin": begin, "say": lambda line: None}
    one = retrain(config, largest, data, tmp_path / "one", **quiet)
    assert retrain(config, largest, data, tmp_path / "one", **quiet) == one
    save = checkpoint.save

    def stopping(folder: Path, step: int, *args: Any, **given: Any) -> None:
        save(folder, step, *args, **given)
        if step == stopped:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            retrain(config, largest, data, tmp_path / "two", **quiet)
    retrain(config, largest, data, tmp_path / "two", **quiet)
    ours, theirs = (load_file(tmp_path / name / "network.safetensors") for name in ("one", "two"))
    assert all(ours[name].equal(theirs[name]) for name in ours)
    first = begin(largest)
    moved = [name for name in first if name in ours and first[name].is_floating_point() and "classifier" not in name]
    assert any(not ours[name].equal(first[name]) for name in moved if name.endswith("conv_pw.weight"))
    other = dataclasses.replace(config, init=None, recipe=dataclasses.replace(tune, backbone_lr=1.0, frozen=0))
    with pytest.raises(UserError, match="init"):
        retrain(other, largest, data, tmp_path / "one", device="cpu", say=lambda line: None)
    with pytest.raises(ValueError, match="begin"):
        retrain(config, largest, data, tmp_path / "three", device="cpu")


def test_what_needs_init_says_so() -> None:
    with pytest.raises(UserError, match=r"backbone_lr 0.5, frozen 1 have no effect without --init"):
        RetrainConfig(recipe=recipe("tune"))
    assert "have no effect without --init" in refuse(
        "retrain", "largest", "--space", "timm", "--recipe", "tune", "--out", "never"
    )


def test_a_head_that_is_not_named_so_is_said(tmp_path: Path) -> None:
    """All weights would be frozen, and nothing learn."""
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    check_head(own, 0, 1.0)
    for frozen, rate in ((1, 1.0), (0, 0.5)):
        with pytest.raises(UserError, match=r"no module of the network is named classifier; name its head so"):
            check_head(own, frozen, rate)
    own.add_module("classifier", torch.nn.Linear(2, 2))
    check_head(own, 1, 0.5)


def test_a_space_without_such_a_head_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nshot.training.tuning.backbone", lambda network: list(network.parameters()))
    run = tmp_path / "run"
    assert nshot_("train", "spos", "--preset", "smoke", "--epochs", "1", "--out", run, "--device", "cpu")[0] == 0
    args = ["--preset", "smoke", "--epochs", "2", "--init", run, "--out", tmp_path / "other", "--device", "cpu"]
    assert "named classifier" in refuse("train", "spos", *args, "--frozen", "1")
    sizes = ["--cells", "1", "--channels", "4", "--resolution", "8", "--dataset", "digits"]
    args = [*sizes, "--init", run, "--out", tmp_path / "other", "--recipe", "tune", "--device", "cpu"]
    assert "named classifier" in refuse("retrain", "released:3", *args)
    assert not (tmp_path / "other").exists()
