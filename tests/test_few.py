"""Few-shot runs: several supernets in one folder, each subnet run by its owner; beginning with a trained supernet."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import kendalltau

from helpers import nshot_, quiet
from nshot import UserError
from nshot.benchmarks.rank import rank_run
from nshot.benchmarks.table import EMBEDDED, read_benchmark, write_benchmark
from nshot.errors import DivergedError
from nshot.files import read_json
from nshot.networks.recipes import Recipe
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.ranking.evaluate import evaluate
from nshot.runs.where import On
from nshot.spaces import FewShot
from nshot.strategies import Options, strategies
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.load import load_run
from nshot.supernets.train import train


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    options = strategies["fsnas"].options_type.of(schedule="calr", ms="first", split_at="3<-1")
    return dataclasses.replace(preset("smoke", "fsnas"), epochs=1, options=options)


@pytest.fixture(scope="module")
def run(config, digits, tmp_path_factory) -> Path:
    return train(config, digits, tmp_path_factory.mktemp("few") / "run", device="cpu", say=quiet)


def test_each_part_is_a_run_of_its_own(run: Path, config: TrainConfig) -> None:
    folders = sorted(path.name for path in run.glob("part-*"))
    assert folders == [f"part-{i}" for i in range(5)]
    weights = [load_file(run / folder / "supernet.safetensors") for folder in folders]
    # Part i has option i alone on the edge that splits, so only parts 2 and 3 have a convolution there.
    names = [{name for name in part if "stages.0.0.edges.4" in name} for part in weights]
    assert [len(found) for found in names] == [0, 0, 1, 1, 0]
    part, _ = load_run(run / "part-3")
    assert part.space == config.space.restrict("3<-1", "nor_conv_3x3")


def test_a_part_that_diverges_in_a_process_of_its_own_says_so(config, digits, tmp_path: Path) -> None:
    wild = dataclasses.replace(config, lr=1e30, clip=None)
    with pytest.raises(
        DivergedError, match=r"^the loss is (nan|inf) at step \d+ \(of \|.*\|\): lower --lr, or set --clip$"
    ) as error:
        train(wild, digits, tmp_path / "run", device="cpu", on=On(jobs=2), say=quiet)
    assert error.value.folder.parent == tmp_path / "run"


def test_a_clipped_training_that_diverges_is_not_told_to_clip(config, digits, tmp_path: Path) -> None:
    wild = dataclasses.replace(config, lr=1e30, clip=5.0)
    clipped = (
        r"^the loss is (nan|inf) at step \d+ \(of \|.*\|\), though gradients are clipped to 5: lower --lr, or --clip$"
    )
    with pytest.raises(DivergedError, match=clipped):
        train(wild, digits, tmp_path / "run", device="cpu", say=quiet)
    recipe = Recipe(epochs=1, batch_size=64, lr=1e30, clip=0.5)
    again = RetrainConfig(config.space, recipe, "digits")
    with pytest.raises(DivergedError, match=r"though gradients are clipped to 0\.5: lower --lr, or --clip"):
        retrain(again, (3,) * 6, digits, tmp_path / "again", device="cpu", say=quiet)


def test_the_owner_runs_a_subnet(run: Path, config: TrainConfig) -> None:
    _, few = load_run(run)
    images = torch.randn(8, 3, 8, 8)
    rng = np.random.default_rng(0)
    for _ in range(10):
        subnet = config.space.sample(rng)
        _, own = load_run(run / f"part-{subnet[4]}")
        assert few(images, subnet).equal(own(images, subnet))
        assert few.extract(subnet)(images).equal(own(images, subnet))
    subnets = sorted(config.space.sample(rng) for _ in range(20))
    with torch.inference_mode():
        many = list(few.forward_many(images, subnets))
    assert all(logits.equal(few(images, subnet)) for logits, subnet in zip(many, subnets, strict=True))


def test_a_dead_edge_still_says_who_owns_a_subnet(run: Path, config: TrainConfig) -> None:
    """Edge 3<-1 is dead where 1<-0 is none; the parts have other weights all the same."""
    _, few = load_run(run)
    dead = [(0, 3, 0, 3, option, 3) for option in range(5)]
    assert len({config.space.canonical(subnet) for subnet in dead}) == 1
    assert len({few.canonical(subnet) for subnet in dead}) == 5
    images = torch.randn(8, 3, 8, 8)
    outputs = [few(images, subnet) for subnet in dead]
    assert all(few(images, few.canonical(subnet)).equal(out) for subnet, out in zip(dead, outputs, strict=True))
    assert not outputs[0].equal(outputs[1])


def test_it_is_ranked_like_any_run(run: Path) -> None:
    ranking, _ = rank_run(run, "digits", sample=30, images=200, name="some", device="cpu")
    assert len(ranking.subnets) == 30
    assert read_json(run / "some.json")["subnets"] == 30


def test_a_part_is_ranked_by_the_rows_of_the_whole_table_that_are_in_it(run: Path, config: TrainConfig) -> None:
    """By their notation; a list may not name others."""
    table = pq.read_table(EMBEDDED).to_pylist()
    true = {row["arch"]: row["digits_test"] for row in table if row["arch"].split("|")[7].startswith("nor_conv_3x3")}
    ranking, _ = rank_run(run / "part-3", "digits", sample=0, images=40, device="cpu")
    archs = [config.space.format(subnet) for subnet in ranking.subnets]
    assert sorted(archs) == sorted(true)
    assert len(archs) < len(table)
    np.testing.assert_allclose(ranking.true, [true[arch] for arch in archs])
    listed = run.parent / "listed.json"
    others = [row["arch"] for row in table if row["arch"] not in true]
    listed.write_text(json.dumps([*archs[:3], others[0]]))
    with pytest.raises(UserError, match=r"listed\.json: "):
        rank_run(run / "part-3", "digits", subnets=listed, name="listed", device="cpu")
    none = config.space.restrict("1<-0", "none").restrict("2<-0", "none").restrict("3<-0", "none")
    subnets = list(none.subnets())
    write_benchmark(run.parent / "t.parquet", none, subnets, {"digits_test": np.arange(len(subnets), dtype=float)}, {})
    assert read_benchmark(str(run.parent / "t.parquet"), none).subnets == subnets
    other = config.space.restrict("1<-0", "skip_connect")
    with pytest.raises(UserError, match="has none of the 3,125 subnets"):
        read_benchmark(str(run.parent / "t.parquet"), other)


def test_parallel_parts_are_the_same(run: Path, config: TrainConfig, digits, tmp_path: Path) -> None:
    """And what is trained already is left alone."""
    said: list[str] = []
    train(config, digits, tmp_path / "run", device="cpu", on=On(jobs=2), say=said.append)
    assert len(said) == 5
    for i in range(5):
        ours, theirs = (load_file(r / f"part-{i}" / "supernet.safetensors") for r in (run, tmp_path / "run"))
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)
    said.clear()
    train(config, digits, tmp_path / "run", device="cpu", say=said.append)
    assert len(said) == 5
    assert all("finished already" in line for line in said)


def test_an_unfinished_run_is_refused(config: TrainConfig, digits, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    whole = train(config, digits, tmp_path / "whole", device="cpu", say=quiet)
    (whole / "part-2" / "supernet.safetensors").unlink()
    with pytest.raises(UserError, match="part-2 is not finished"):
        load_run(whole)


def test_wrong_options_leave_nothing(config: TrainConfig, digits, tmp_path: Path) -> None:
    wrong = dataclasses.replace(config, options=dataclasses.replace(config.options, ms="3<-1"))
    with pytest.raises(UserError, match="ms '3<-1': the decision has one option left"):
        train(wrong, digits, tmp_path / "run", device="cpu", say=quiet)
    with pytest.raises(UserError, match="jobs 2 has no effect: spos trains one supernet"):
        train(preset("smoke"), digits, tmp_path / "run", device="cpu", on=On(jobs=2), say=quiet)
    with pytest.raises(UserError, match="options Options: strategy fsnas takes FewOptions"):
        dataclasses.replace(config, options=Options())
    with pytest.raises(UserError, match="jobs 0"):
        train(config, digits, tmp_path / "run", device="cpu", on=On(jobs=0), say=quiet)
    assert not (tmp_path / "run").exists()


def test_each_part_scores_its_subnets_at_once(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order they come: they share the work of what they have in common."""
    space = config.space
    parts = strategies["fsnas"].parts(space, config.options, 0)
    few = FewShot(space, [part.supernet() for part in parts])
    rng, calls = np.random.default_rng(0), []
    subnets = [space.sample(rng) for _ in range(40)]
    images = torch.randn(4, 3, 8, 8)
    many = type(few.parts[0]).forward_many
    monkeypatch.setattr(type(few.parts[0]), "forward_many", lambda *given: calls.append(given[0]) or many(*given))
    with torch.inference_mode():
        found = list(few.forward_many(images, subnets))
        assert len(calls) == len(set(calls)) == 5
        for logits, subnet in zip(found, subnets, strict=True):
            torch.testing.assert_close(logits, few.owner(subnet)(images, subnet), rtol=1e-4, atol=1e-5)


def test_a_training_begins_with_a_trained_supernet(config: TrainConfig, digits, tmp_path: Path) -> None:
    one = train(dataclasses.replace(preset("smoke"), epochs=1), digits, tmp_path / "one", device="cpu", say=quiet)
    # So small a learning rate that what it began with is still seen.
    still = dataclasses.replace(config, init=one, lr=1e-12, weight_decay=0.0)
    few = train(still, digits, tmp_path / "few", device="cpu", say=quiet)
    given = load_file(one / "supernet.safetensors")
    for i in range(5):
        for name, weight in load_file(few / f"part-{i}" / "supernet.safetensors").items():
            torch.testing.assert_close(weight, given[name], rtol=0, atol=1e-8)
    said: list[str] = []
    two = one.rename(tmp_path / "two")
    train(dataclasses.replace(still, init=two), digits, few, device="cpu", say=said.append)
    assert sum("finished already" in line for line in said) == 5
    shutil.rmtree(few / "part-0")
    train(dataclasses.replace(still, init=two), digits, few, device="cpu", say=quiet)
    assert [read_json(few / f"part-{i}" / "config.json")["config"]["init"] for i in (0, 1)] == [str(two), str(one)]
    train(dataclasses.replace(preset("smoke"), epochs=1, seed=1), digits, one, device="cpu", say=quiet)
    with pytest.raises(
        UserError, match=r"holds another run \(init: .*; init: other content than it had\): choose a new"
    ):
        train(still, digits, few, device="cpu", say=quiet)
    other = dataclasses.replace(config, init=one, space=dataclasses.replace(config.space, channels=8))
    with pytest.raises(UserError, match=r"init .*: its supernet has no .* of this shape"):
        train(other, digits, tmp_path / "other", device="cpu", say=quiet)
    assert not (tmp_path / "other").exists()


def test_the_best_of_each_part_is_retrained_and_the_best_of_those_kept(run: Path, tmp_path: Path) -> None:
    """Few-shot NAS's last steps, from the command line."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    status, _, err = nshot_("search", copy, "--sample", "60", "--images", "200", "--device", "cpu")
    assert (status, err) == (0, "")
    found = read_json(copy / "search.json")
    assert sorted(row["subnet"][4] for row in found["parts"]) == [0, 1, 2, 3, 4]
    assert found["parts"][0] == found["best"]
    _, few = load_run(copy)
    for row in (*found["parts"], *found["top"]):  # the leanest that its part has
        assert few.canonical(tuple(row["subnet"])) == tuple(row["subnet"])
    out = tmp_path / "best"
    flags = ["--epochs", "1", "--batch-size", "64", "--device", "cpu"]
    status, said, err = nshot_("retrain", copy / "search.json", "--out", out, *flags)
    assert (status, err) == (0, "")
    result = read_json(out / "result.json")
    each = [read_json(out / f"part-{i}" / "result.json")["test_accuracy"] for i in range(5)]
    assert result["test_accuracies"] == each
    assert result["test_accuracy"] == max(each)
    assert (out / result["folder"] / "network.safetensors").exists()
    assert result["folder"] in said


# what one seed for all parts does (benchmarks/fsnas_seeds.py)


@pytest.fixture
def fsnas_seeds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return importlib.import_module("fsnas_seeds")


def test_a_mixture_has_the_scores_of_the_supernet_of_its_parts(fsnas_seeds: ModuleType, config: TrainConfig) -> None:
    space, count = config.space, 5
    parts = strategies["fsnas"].parts(space, config.options, 0)
    torch.manual_seed(0)
    runs = [[part.supernet() for part in parts] for _ in range(count)]
    batches = [(torch.randn(64, 3, 8, 8), torch.arange(64) % 10)]
    rng = np.random.default_rng(0)
    subnets = [space.sample(rng) for _ in range(40)]
    owner = fsnas_seeds.owners(space, config, np.array([space.format(subnet) for subnet in subnets]))
    assert owner.tolist() == [subnet[4] for subnet in subnets]  # the parts are the options of edge 3<-1
    scores = np.stack([evaluate(FewShot(space, supernets), subnets, batches).mean_loss for supernets in runs])
    for k, shift in [(0, 0), (3, 0), (2, 1), (4, 3)]:
        taken = [(k + shift * i) % count for i in range(count)]
        assert len(set(taken)) == (count if shift else 1)
        mixture = FewShot(space, [runs[run][i] for i, run in enumerate(taken)])
        expected = evaluate(mixture, subnets, batches).mean_loss
        assert fsnas_seeds.mixed(scores, owner, k, shift) == pytest.approx(expected)


def test_what_seeds_of_their_own_change_is_found(fsnas_seeds: ModuleType) -> None:
    """Parts whose scores are off by what their run's seed says: alike within a run, so that only mixtures suffer."""
    rng = np.random.default_rng(0)
    true, owner = rng.normal(size=400), rng.integers(5, size=400)
    tables = [{"true": true, "accuracy": true + 3 * run, "loss": rng.normal(size=400)} for run in range(7)]
    found = fsnas_seeds.compared(tables, owner)
    by_accuracy, by_loss = found["tau by accuracy"], found["tau by loss"]
    assert by_accuracy["one seed"]["mean"] == pytest.approx(1)
    assert by_accuracy["difference"]["high"] < -0.2
    assert by_accuracy["difference"]["shown"]
    assert by_loss["difference"]["shown"] is False
    each = [
        kendalltau(tables[0]["true"], [tables[(2 + d * o) % 7]["accuracy"][i] for i, o in enumerate(owner)]).statistic
        for d in range(1, 7)
    ]
    assert by_accuracy["seeds of their own"]["values"][2] == pytest.approx(sum(each) / 6)
