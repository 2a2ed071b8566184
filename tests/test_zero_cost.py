"""nshot score: tables of scores beside true accuracies, alone and with a supernet's loss; a killed scoring goes on."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau, spearmanr

import nshot.benchmarks.measure as measure
from helpers import SMALL, nshot_, refuse
from nshot import UserError, space
from nshot.benchmarks.table import read_benchmark, write_benchmark
from nshot.benchmarks.zero_cost import ScoreConfig, score_subnets
from nshot.data.batches import TrainBatches
from nshot.data.sources import load
from nshot.ranking.metrics import mean_rank, quality
from nshot.scores import score

SPACE = space("nasbench201", **SMALL["nasbench201"])
CONFIG = ScoreConfig(SPACE, "digits", batch_size=32)
SIZES = ["--channels", "4", "--cells", "1", "--resolution", "8", "--dataset", "digits", "--batch-size", "32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "run"
    status, _, err = nshot_("train", "spos", "--preset", "smoke", "--epochs", "1", "--device", "cpu", "--out", out)
    assert (status, err) == (0, "")
    return out


def rows(folder: Path, name: str = "scores") -> dict[str, list]:
    return pq.read_table(folder / f"{name}.parquet").to_pydict()


def ranks(values: list[float]) -> np.ndarray:
    """1 for the least, the mean of their places for equal ones."""
    values_ = np.array(values)
    return np.array([(values_ < each).sum() + ((values_ == each).sum() + 1) / 2 for each in values_])


# numbers


def test_quality_and_mean_rank() -> None:
    truth = [10.0, 30.0, 20.0, 40.0, 5.0]
    values = [1.0, 3.0, 2.0, 3.0, -np.inf]
    found = quality(values, truth)
    # ten pairs, one tie: tau-b = 9 / sqrt(9 * 10)
    assert found["tau"] == pytest.approx(9 / np.sqrt(90))
    assert found["spearman"] == pytest.approx(spearmanr([2, 4, 3, 4, 1], truth).statistic)
    assert mean_rank(values, [0, 0, 1, 2, 3]).tolist() == [1.75, 3.0, 3.0, 4.25, 3.0]


# the folder


def test_each_value_is_the_score_of_the_two_first_batches(tmp_path) -> None:
    found = score_subnets(["zico", "flops"], CONFIG, "digits", tmp_path / "out", sample=5)
    batches = TrainBatches(load("digits", resolution=8).train, 32, 0, flip=False)
    assert len(found.subnets) == 5
    for subnet, value, flops in zip(found.subnets, found.values["zico"], found.values["flops"], strict=True):
        assert value == score("zico", SPACE, subnet, [batches(0), batches(1)], seed=0)
        assert flops == SPACE.flops(subnet)
    assert rows(tmp_path / "out")["zico"] == found.values["zico"].tolist()
    assert found.true.tolist() == read_benchmark("digits", SPACE).truth("digits_test", found.subnets).tolist()


def test_a_killed_scoring_goes_on(tmp_path, monkeypatch) -> None:
    """Stopped in the middle of a line; what was scored is not scored again, and the end is the same."""
    names = ["synflow", "zen"]
    whole = score_subnets(names, CONFIG, "digits", tmp_path / "whole", sample=12)
    counted = []

    def stopping(*args: object) -> float:
        counted.append(args)
        if len(counted) == 9:
            raise KeyboardInterrupt
        return score(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "score", stopping)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        score_subnets(names, CONFIG, "digits", out, sample=12)
    values = out / "values.jsonl"
    kept = values.read_text().splitlines()
    assert len(kept) == 6  # the first two calls only try each score
    values.write_text("\n".join(kept)[:-9])
    again = score_subnets(names, CONFIG, "digits", out, sample=12)
    forms = len({SPACE.canonical(subnet) for subnet in whole.subnets})
    assert len(counted) == 9 + 2 * forms - 5
    for name in names:
        assert again.values[name].tolist() == whole.values[name].tolist()
    score_subnets([*names, "params"], CONFIG, "digits", out, sample=6)  # of the twelve
    assert len(counted) == 9 + 2 * forms - 5


def test_one_canonical_form_is_scored_once(tmp_path, monkeypatch) -> None:
    listed = tmp_path / "list.json"
    table = read_benchmark("digits", SPACE)
    forms: dict = {}
    for subnet in table.subnets:
        forms.setdefault(SPACE.canonical(subnet), []).append(subnet)
    equal = next(same for same in forms.values() if len(same) > 1)
    listed.write_text(json.dumps([list(equal[0]), list(equal[1])]))
    found = score_subnets(["gradnorm"], CONFIG, "digits", tmp_path / "out", subnets=listed)
    assert len((tmp_path / "out" / "values.jsonl").read_text().splitlines()) == 1
    assert found.values["gradnorm"][0] == found.values["gradnorm"][1]


# the command


def test_scores_alone_and_combined_with_a_run(run, tmp_path) -> None:
    out = tmp_path / "out"
    names = ["params", "flops", "synflow", "zen"]
    given = ["--run", run, "--benchmark", "digits", "--sample", "40", "--batch-size", "32", "--device", "cpu"]
    status, printed, err = nshot_("score", *names, *given, "--ranking", "few", "--out", out, "--name", "both")
    assert (status, err) == (0, "")
    assert (run / "few.json").exists()
    assert (run / "few.png").exists()
    table, found = rows(out, "both"), json.loads((out / "both.json").read_text())
    ranked = rows(run, "few")
    assert table["arch"] == ranked["arch"]
    assert table["loss"] == ranked["loss"]
    assert (found["run"], found["ranking"], found["subnets"]) == (str(run), "few", 40)
    assert list(found["scores"]) == ["loss", *names, *(f"loss + {name}" for name in names)]
    loss = [-value for value in table["loss"]]
    assert found["scores"]["loss"]["tau"] == pytest.approx(kendalltau(loss, table["true"]).statistic)
    for name in names:
        alone = kendalltau(ranks(table[name]), table["true"]).statistic
        both = kendalltau(ranks(loss) + ranks(table[name]), table["true"]).statistic
        assert found["scores"][name]["tau"] == pytest.approx(alone)
        assert found["scores"][f"loss + {name}"]["tau"] == pytest.approx(both)
        assert f"│ {name} " in printed
        assert f"│ loss + {name} " in printed
    assert f"{found['scores']['loss + zen']['tau']:.3f}" in printed
    assert found["scores"]["zen"]["seconds"] > 0 == found["scores"]["params"]["seconds"]
    assert (out / "both.png").stat().st_size > 10_000
    before = (run / "few.json").stat().st_mtime_ns
    assert nshot_("score", "flops", *given, "--ranking", "few", "--out", out)[0] == 0  # ranked already
    assert (run / "few.json").stat().st_mtime_ns == before


def test_every_ranking_has_the_costs_beside_it(run) -> None:
    status, printed, _ = nshot_(
        "rank", run, "--benchmark", "digits", "--sample", "30", "--name", "costs", "--device", "cpu"
    )
    assert status == 0
    found, table = json.loads((run / "costs.json").read_text()), rows(run, "costs")
    for name in ("params", "flops"):
        tau = kendalltau(table[name], table["true"]).statistic
        assert found["baselines"][name]["tau"] == pytest.approx(tau)
        assert f"{name}" in printed
        assert f"{tau:.3f}" in printed


def test_without_a_run_and_with_a_space_of_ones_own(tmp_path) -> None:
    given = ["--benchmark", "digits", "--sample", "6", *SIZES, "--device", "cpu", "--seed", "3"]
    status, printed, err = nshot_("score", "zico", "gradnorm", *given, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(found["scores"]) == ["zico", "gradnorm"]
    assert "loss" not in rows(tmp_path / "out")
    assert "6 subnets, no training" in printed


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "no score is named: nshot score zico zen"),
        (["zico", "naswot"], "unknown score 'naswot': choose of params, flops"),
        (["zen", "flops", "zen"], "score 'zen' is named twice"),
        (["zen", "--sample", "1"], "a ranking needs at least 2 subnets, not 1"),
        (["zen", "--sample", "-1"], "sample -1: must be at least 1"),
        (["zen", "--batch-size", "0"], "batch_size 0"),
        (["zen", "--batch-size", "9999"], "batch_size 9999: must be from 1 to"),
        (["zen", "--column", "cifar10_test"], "no column 'cifar10_test'"),
        (["zen", "--subnets", "none.json"], "subnet list none.json cannot be read"),
        (["zen", "--name", "a/b"], "name 'a/b'"),
        (["zen", "--name", "values.x/.."], "must be a file name without folders"),
        (["zen", "--run", "nowhere"], "nowhere is no run folder"),
        (["zen", "--channels", "8"], "channels 4"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_writes_nothing(args, told, tmp_path) -> None:
    out = tmp_path / "out"
    names = list(itertools.takewhile(lambda arg: not arg.startswith("-"), args))
    assert told in refuse("score", *names, *SIZES, *args[len(names) :], "--benchmark", "digits", "--out", out)
    assert not out.exists()


def test_a_score_that_the_space_has_not_is_said_before_there_is_a_folder(tmp_path) -> None:
    sizes = SMALL["autoformer"]
    here = space("autoformer", **sizes)
    rng = np.random.default_rng(0)
    subnets = list({here.canonical(here.sample(rng)) for _ in range(4)})
    table = tmp_path / "table.parquet"
    described = {"space": here.to_dict()}
    write_benchmark(table, here, subnets, {"digits_test": np.arange(len(subnets)) + 1.0}, described)
    config = ScoreConfig(here, "digits", batch_size=8)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="zen needs batch norms"):
        score_subnets(["synflow", "zen"], config, str(table), out)
    assert not out.exists()
    found = score_subnets(["synflow", "zico"], config, str(table), out)
    assert np.isfinite(found.values["zico"]).all()


def test_a_ranking_of_other_subnets_or_another_space_is_refused(run, tmp_path) -> None:
    given = ["--benchmark", "digits", "--batch-size", "32", "--device", "cpu", "--out", tmp_path / "out"]
    assert nshot_("score", "flops", "--run", run, *given, "--sample", "3", "--ranking", "three")[0] == 0
    told = refuse("score", "flops", "--run", run, *given, "--sample", "9", "--ranking", "three")
    assert "ranking 'three' lacks" in told
    assert "a new name ranks them" in told
    (run / "broken.json").write_text("{}")
    assert "ranking 'broken' cannot be read" in refuse("score", "flops", "--run", run, *given, "--ranking", "broken")
    (run / "broken.json").unlink()


def test_no_run_is_ranked_for_a_folder_that_refuses_the_scores(run, tmp_path) -> None:
    """The ranking takes the hours, so what the folder is comes first."""
    given = ["--benchmark", "digits", "--batch-size", "32", "--device", "cpu", "--sample", "3", "--run", run]
    out, other, file = tmp_path / "out", tmp_path / "other", tmp_path / "file"
    assert nshot_("score", "flops", *given, "--out", out, "--ranking", "three")[0] == 0
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    file.write_text("mine")
    before = {path: path.read_bytes() for path in (*run.iterdir(), *out.iterdir()) if path.is_file()}
    given += ["--ranking", "unmade"]
    assert "seed: 0, not 1" in refuse("score", "flops", *given, "--out", out, "--seed", "1")
    assert "is not empty and no run folder" in refuse("score", "flops", *given, "--out", other)
    refuse("score", "flops", *given, "--out", file)
    assert {path: path.read_bytes() for path in (*run.iterdir(), *out.iterdir()) if path.is_file()} == before


def test_infinity_is_the_best_of_scores_and_no_number_the_last(tmp_path, monkeypatch) -> None:
    """Also when the folder is read again, and as JSON that any reader takes."""
    rng = np.random.default_rng(0)
    forms = sorted({SPACE.canonical(SPACE.sample(rng)) for _ in range(9)})[:4]
    given = dict(zip(forms, (1.0, np.inf, -np.inf, 2.0), strict=True))
    monkeypatch.setattr(measure, "score", lambda name, space, form, *rest: given[form])
    table, out = tmp_path / "table.parquet", tmp_path / "out"
    described = {"space": SPACE.to_dict()}
    write_benchmark(table, SPACE, forms, {"digits_test": np.array([2.0, 4.0, 1.0, 3.0])}, described)
    for _ in range(2):  # the second time from the folder
        found = score_subnets(["zen"], CONFIG, str(table), out)
        order = sorted(range(4), key=lambda i: found.values["zen"][i])
        assert [found.true[i] for i in order] == [1.0, 2.0, 3.0, 4.0]
        assert found.table["zen"]["tau"] == pytest.approx(1)
        assert np.isinf(found.values["zen"]).sum() == 2

    def constant(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    lines = [json.loads(text, parse_constant=constant) for text in (out / "values.jsonl").read_text().splitlines()]
    assert sum(line["value"] is None for line in lines) == 1  # as earlier versions wrote minus infinity


def test_a_folder_is_of_one_configuration(tmp_path) -> None:
    given = ["--benchmark", "digits", "--sample", "3", *SIZES, "--device", "cpu", "--out", tmp_path / "out"]
    assert nshot_("score", "synflow", *given)[0] == 0
    assert "seed: 0, not 1" in refuse("score", "synflow", *given, "--seed", "1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert "is not empty and no run folder" in refuse("score", "synflow", *given[:-1], other)
