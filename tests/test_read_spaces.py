"""Faults that a reading of the code found in spaces, searches, runs and commands: each by what it did to a user."""

from pathlib import Path

import pytest
import torch

import nshot
from helpers import refuse
from nshot import UserError
from nshot.files import write_json
from nshot.runs.checkpoint import save_weights
from nshot.search.begin import begin_with
from nshot.supernets.config import TrainConfig, to_dict
from nshot.supernets.load import WEIGHTS, bare_supernet


def finished(folder: Path, config: TrainConfig) -> Path:
    """A finished run's folder, as far as those who read its supernet look: of new weights."""
    folder.mkdir()
    write_json(folder / "config.json", {"kind": "supernet", "config": to_dict(config)})
    save_weights(folder / WEIGHTS, bare_supernet(config))
    return folder


# where fine-tuning begins


@pytest.fixture(scope="module")
def of_darts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at the sizes of the paper's supernet, whose networks are retrained deeper and wider."""
    space = nshot.space("darts", resolution=8).with_classes(10)
    assert space.retrained != space
    return finished(tmp_path_factory.mktemp("darts") / "run", TrainConfig(space=space, dataset="digits"))


@pytest.mark.parametrize("sizes", [[], ["--channels", "36", "--cells", "20"]])
def test_networks_of_other_sizes_than_the_supernet_do_not_begin_with_its_weights(
    of_darts: Path, tmp_path: Path, sizes: list[str]
) -> None:
    said = refuse("retrain", "largest", "--init", of_darts, "--out", tmp_path / "out", *sizes)
    assert "channels: 16, not 36" in said
    assert "cells: 8, not 20" in said
    assert not (tmp_path / "out").exists()


def test_networks_of_the_supernets_sizes_do(of_darts: Path) -> None:
    space = nshot.space("darts", resolution=8)
    subnet = next(space.subnets())
    given = begin_with(of_darts, space)(subnet)
    network = space.supernet().extract(subnet)
    network.load_state_dict(given)
    assert torch.equal(network.state_dict()["classifier.weight"], given["classifier.weight"])
    with pytest.raises(UserError, match="num_classes: 10, not 7"):
        begin_with(of_darts, space.with_classes(7))


def test_another_space_than_the_runs_is_refused(of_darts: Path, tmp_path: Path) -> None:
    args = ["retrain", "largest", "--init", of_darts, "--out", tmp_path / "out", "--space"]
    assert f"space 'mobilenet': {of_darts} is of the space darts, leave out --space" in refuse(*args, "mobilenet")
    assert "channels: 16, not 36" in refuse(*args, "darts")  # its own may be said
    assert not (tmp_path / "out").exists()
