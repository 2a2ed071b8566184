"""From training to a retrained network by commands alone, in every space: sizes, subnet and costs stay the same."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import nshot
from nshot.cli import main
from nshot.networks.choice import read_choice
from nshot.networks.result import read_network
from nshot.search.limits import Limits
from nshot.search.pick import How, search_run
from nshot.spaces.darts import DARTS
from nshot.supernets.load import load_run

COUNTED = ("num_batches_tracked", "running_mean", "running_var")


def trained_weights(folder: Path) -> int:
    """How many numbers the file holds that training learns."""
    weights = load_file(folder / "network.safetensors")
    return sum(value.numel() for name, value in weights.items() if not name.endswith(COUNTED))


@pytest.mark.parametrize("space", nshot.list_spaces())
def test_the_subnet_that_was_searched_is_the_one_that_is_retrained(space: str, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "network"
    short = ("--epochs", "1", "--device", "cpu")
    assert main(["train", "spos", "--preset", "smoke", "--space", space, *short, "--out", str(run)]) == 0
    assert main(["search", str(run), "--method", "random", "--sample", "5", "--images", "100"]) == 0
    found = json.loads((run / "search.json").read_text())
    config, _ = load_run(run)
    chosen, archs = read_choice(str(run / "search.json"))
    assert chosen.space == config.space.retrained
    assert hash(chosen.space) == hash(config.space.retrained)  # JSON's lists have become tuples
    assert archs == [found["best"]["arch"]]
    recipe = ("--recipe", "cifar", "--batch-size", "64")  # a space's own may warm up longer than this takes
    assert main(["retrain", str(run / "search.json"), *recipe, *short, "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["subnet"] == found["best"]["subnet"]
    assert result["params"] == found["best"]["params"] == trained_weights(out)
    assert json.loads((out / "config.json").read_text())["config"]["space"] == found["space"]
    network, _ = read_network(out)
    assert sum(p.numel() for p in network.parameters()) == found["best"]["params"]


def test_darts_is_limited_at_the_size_that_is_retrained(tmp_path: Path) -> None:
    """The supernet has 8 cells of 16 channels, the networks 20 of 36: 3.3 million parameters are few among them."""
    run = tmp_path / "run"
    flags = ("--space", "darts", "--resolution", "8", "--dataset", "digits", "--epochs", "1", "--batch-size", "512")
    assert main(["train", "spos", *flags, "--device", "cpu", "--out", str(run)]) == 0
    config, _ = load_run(run)
    assert (config.space.cells, config.space.channels) == (8, 16)
    deep = DARTS(resolution=8, cells=20, channels=36)
    result = search_run(run, Limits(max_params=2_600_000), How("random", 3), images=20, device="cpu")
    best = deep.network(tuple(result["best"]["subnet"]))
    assert result["best"]["params"] == sum(p.numel() for p in best.parameters())
    assert result["space"] == {"name": "darts", **deep.sizes()}
    lowest, _ = deep.params_range
    assert lowest < result["best"]["params"] <= 2_600_000
    with pytest.raises(nshot.UserError, match="no subnet keeps to max params 300,000: space darts"):
        search_run(run, Limits(max_params=300_000), How("random", 3), images=20, device="cpu", name="small")
