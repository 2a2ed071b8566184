"""Faults that a reading of the code found in spaces, searches, runs and commands: each by what it did to a user."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import kendalltau

import nshot
from helpers import SMALL, refuse
from nshot import UserError
from nshot.benchmarks.table import write_benchmark
from nshot.files import write_json, write_parquet
from nshot.report.run_data import curves, damage, skipped
from nshot.runs.checkpoint import save_weights
from nshot.search.begin import begin_with
from nshot.strategies import list_strategies, strategies
from nshot.studies.collect import bias
from nshot.supernets.config import TrainConfig, preset, to_dict
from nshot.supernets.load import PARTS, WEIGHTS, bare_supernet, part_folders


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


# options that cannot be


@pytest.mark.parametrize("name", list_strategies())
def test_no_number_of_any_method_is_below_what_it_counts(name: str) -> None:
    options = strategies[name].options_type
    numbers = {key for key, kind in get_type_hints(options).items() if {int, float} & {kind, *get_args(kind)}}
    assert name != "random" or {"tried", "tried_on"} < numbers
    for key in numbers - {"min_flops", "max_flops"}:  # which no subnet or every one keeps to
        with pytest.raises(UserError, match=f"{key} -2"):
            options(**{key: -2})


@pytest.mark.parametrize("flag", ["--tried", "--tried-on"])
def test_a_search_of_nothing_is_refused_before_the_training(flag: str, tmp_path: Path) -> None:
    args = ["train", "random", "--preset", "smoke", "--out", tmp_path / "run", flag]
    assert "must be at least 1" in refuse(*args, "0")
    assert not (tmp_path / "run").exists()


# names in a run folder


def test_the_parts_of_a_run_are_folders_with_a_number(tmp_path: Path) -> None:
    """What an earlier version kept by such a name is none of them, and the tenth comes after the ninth."""
    config = preset("smoke", "fsnas")
    write_json(tmp_path / "config.json", {"kind": PARTS, "config": to_dict(config)})
    for i in (10, 2, 0, 1):
        (tmp_path / f"part-{i}").mkdir()
    for name in ("part-best.json", "part-best.parquet", "part-3", "part-4.json", "part-5x"):
        (tmp_path / name).write_text("")
    (tmp_path / "part-old").mkdir()
    with pytest.raises(UserError, match="is not finished"):
        part_folders(tmp_path)  # 0, 1, 2 and 10 of five: a stray name is none
    (tmp_path / "part-9").mkdir()
    assert [path.name for path in part_folders(tmp_path)] == [f"part-{i}" for i in (0, 1, 2, 9, 10)]
    assert curves(tmp_path) == {}
    assert skipped(tmp_path) == {}
    assert damage(tmp_path) == ""


# C(α) and parameters


def test_the_bias_of_a_study_is_by_complexity_whatever_a_ranking_calls_parameters(tmp_path: Path) -> None:
    """CB, pair by pair by hand: of those that are ordered wrongly, the share in which the one of less C(α) is first."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    rng = np.random.default_rng(0)
    subnets = list({space.sample(rng) for _ in range(30)})
    true, scores = rng.permutation(len(subnets)) + 10.0, rng.permutation(len(subnets)) + 10.0
    write_benchmark(tmp_path / "true.parquet", space, subnets, {"digits_test": true}, {})
    rows = {"arch": [space.format(subnet) for subnet in subnets], "params": list(range(len(subnets)))}
    write_parquet(tmp_path / "ranking.parquet", pa.table({**rows, "accuracy": scores}))
    job = SimpleNamespace(
        result="ranking",
        config=SimpleNamespace(space=space),
        scale=SimpleNamespace(benchmark=str(tmp_path / "true.parquet")),
    )
    wrong = small_first = 0
    for (a, s, t), (b, u, v) in itertools.permutations(zip(subnets, scores, true, strict=True), 2):
        if s > u and t < v and space.params(a) != space.params(b):
            wrong, small_first = wrong + 1, small_first + (space.params(a) < space.params(b))
    found = bias(tmp_path, job, None)  # type: ignore[arg-type]
    assert found["digits CB"] == pytest.approx(small_first / wrong)
    expected = kendalltau([space.params(subnet) for subnet in subnets], scores / true).statistic
    assert found["digits C³"] == pytest.approx(expected)
