"""Means and differences over seeds against scipy's, and groups of runs: alike or refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from helpers import nshot_, refuse
from nshot.benchmarks.compare import compare_runs
from nshot.ranking.seeds import difference, over_seeds
from nshot.supernets.config import preset, to_dict


def test_a_mean_has_the_t_interval() -> None:
    values = [0.5, 0.53, 0.61, 0.44]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


@pytest.mark.parametrize("count", [1, 2])
def test_below_three_seeds_there_is_no_interval(count: int) -> None:
    values = dict(enumerate([0.5, 0.6][:count]))
    assert over_seeds(list(values.values())).low is None
    for paired in (True, False):
        found = difference(values, {seed: value + 0.1 for seed, value in values.items()}, paired=paired)
        assert found.mean == pytest.approx(0.1)
        assert found.shown is None


def test_common_seeds_are_paired() -> None:
    first, second = {0: 0.5, 1: 0.6, 2: 0.4, 3: 0.55}, {3: 0.57, 2: 0.45, 1: 0.63, 0: 0.52, 9: 0.1}
    found = difference(first, second)
    common = [0, 1, 2, 3]
    expected = stats.ttest_rel([second[s] for s in common], [first[s] for s in common]).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.how == "paired"
    assert found.shown


@pytest.mark.parametrize(("shift", "paired"), [(10, True), (0, False)])
def test_without_common_seeds_it_is_welchs(shift: int, paired: bool) -> None:
    a, b = [0.5, 0.6, 0.4, 0.55], [0.57, 0.45, 0.63]
    found = difference(dict(enumerate(a)), {i + shift: value for i, value in enumerate(b)}, paired=paired)
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.how == "Welch's"
    assert found.shown is False


def test_equal_values_have_an_interval_of_no_width() -> None:
    same = dict.fromkeys(range(3), 0.5)
    for paired in (True, False):
        found = difference(same, dict.fromkeys(range(3), 0.7), paired=paired)
        assert (found.low, found.high) == pytest.approx((0.2, 0.2))
        assert found.shown


def made(folder: Path, seed: int, tau: float, *, archs: tuple[str, ...] = ("a", "b"), **changed: object) -> Path:
    """A run folder with a ranking; ``changed``: of the ranking's description, or lr, dataset and split of the
    configuration."""
    run = folder / f"run{len(list(folder.iterdir()))}"
    run.mkdir(parents=True)
    own = {key: changed.pop(key) for key in ("dataset", "split") if key in changed}
    config = replace(preset("smoke"), seed=seed, lr=changed.pop("lr", 0.1), **own)
    (run / "config.json").write_text(json.dumps({"kind": "supernet", "config": to_dict(config)}))
    described = {"benchmark": "digits", "column": "digits_test", "images": 500, "score": {"version": 2}} | changed
    metrics = {"accuracy": {"tau": tau}, "loss": {"tau": tau / 2}}
    (run / "ranking.json").write_text(json.dumps({**described, "metrics": metrics}))
    pq.write_table(pa.table({"arch": list(archs)}), run / "ranking.parquet")
    return run


def test_runs_of_one_method_split_at_random_show_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [made(tmp_path, seed, tau) for seed, tau in enumerate(rng.normal(0.5, 0.04, 12))]
    unshown = 0
    for _ in range(100):
        order = rng.permutation(12)
        first, second = ([runs[i] for i in half] for half in (order[:6], order[6:]))
        unshown += compare_runs(first, second, paired=False).difference.shown is False
    assert unshown >= 90


def test_from_the_command_line(tmp_path: Path) -> None:
    first = [made(tmp_path, seed, 0.5 + seed / 100) for seed in range(3)]
    second = [made(tmp_path, seed, 0.6 + seed / 90, lr=0.2) for seed in range(3)]
    status, out, err = nshot_("compare", *first, "--", *second)
    assert (status, err) == (0, "")
    assert "seed 2: 0.520" in out
    assert "second minus first: 0.101 [0.098, 0.104], paired" in out
    assert out.splitlines()[-1] == "shown: the interval does not contain 0"
    _, out, _ = nshot_("compare", *second, "--", *first, "--score", "loss", "--unpaired")
    assert "tau by loss 0.306" in out
    assert "second minus first: -0.051 [" in out
    assert "Welch's" in out
    _, out, _ = nshot_("compare", *first[:2], "--", *second[:2])
    assert out.splitlines()[-1] == "not shown: fewer than three seeds, so no interval"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"archs": ("a", "c")}, "are ranked on other subnets"),
        ({"images": 250}, "are ranked on other versions or images of the score"),
        ({"score": {"version": 3}}, "are ranked on other versions or images of the score"),
        ({"column": "digits_valid"}, "are ranked on other true accuracies"),
        ({"benchmark": "mine"}, "are ranked on other true accuracies"),
        ({"split": "mine.json"}, "are ranked on other data sets or splits"),
        ({"dataset": "imagefolder:mine"}, "are ranked on other data sets or splits"),
    ],
)
def test_rankings_that_are_not_alike_are_refused(other: dict, message: str, tmp_path: Path) -> None:
    one, two = made(tmp_path, 0, 0.5), made(tmp_path, 0, 0.6, lr=0.2, **other)
    assert message in refuse("compare", one, "--", two)


def test_groups_that_are_none_are_refused(tmp_path: Path) -> None:
    one, two, same = made(tmp_path, 0, 0.5), made(tmp_path, 1, 0.5), made(tmp_path, 0, 0.6)
    faster = made(tmp_path, 3, 0.5, lr=0.2)
    assert "the second group has no runs" in refuse("compare", one, two)
    assert "the first group has no runs" in refuse("compare")
    assert "is in both groups" in refuse("compare", one, two, "--", one)
    assert "seed 0 is twice in the first group" in refuse("compare", one, same, "--", two)
    assert "differ in more than the seed (lr: 0.1, not 0.2)" in refuse("compare", one, faster, "--", two)
    assert "has no ranking 'other': make one with nshot rank" in refuse("compare", one, "--", two, "--ranking", "other")
    (two / "ranking.json").write_text("{")
    assert "ranking 'ranking' cannot be read" in refuse("compare", one, "--", two)
    assert "is no run folder" in refuse("compare", tmp_path / "none", "--", two)
