"""What a reading of the whole code found: each once went wrong without a word."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import nshot
import nshot.benchmarks.rank as rank_module
from forked import command
from helpers import nshot_, refuse
from nshot import UserError
from nshot.auto.command import _how
from nshot.auto.estimate import estimate
from nshot.auto.look import look
from nshot.auto.plan import plan
from nshot.data.images import Files
from nshot.data.sources import Dataset, load
from nshot.errors import DivergedError
from nshot.files import read_json
from nshot.networks.recipes import Recipe
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.networks.teacher import make_teacher
from nshot.runs import execute as execute_module
from nshot.search.how import How
from nshot.search.limits import Limits
from nshot.strategies import strategies
from nshot.strategies.alpha import frozen
from nshot.studies.base import SCALES, studies
from nshot.studies.collect import tau
from nshot.studies.command import run_study
from nshot.studies.runner import Job
from nshot.supernets.config import preset
from nshot.supernets.facts import decay_facts
from nshot.supernets.load import load_run
from nshot.supernets.train import train

SIZES = ["--channels", "4", "--cells", "1", "--resolution", "8"]
ARCH = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
OTHER = ARCH.replace("skip_connect", "nor_conv_1x1")
SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin.py"
AT = ["--benchmark", "digits", "--device", "cpu"]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviewed") / "run"
    words = ["train", "spos", "--preset", "smoke", *SIZES, "--epochs", "1", "--device", "cpu", "--out", folder]
    assert nshot_(*words)[0] == 0
    return folder


def folder_of(root: Path, counts: dict[str, int], side: int = 9) -> Path:
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        (root / "train" / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.integers(0, 256, (side, side, 3)) * 0.3 + 80 * label, 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "train" / name / f"{i}.png")
    return root


def test_a_retraining_of_several_does_not_take_anothers_folder(run: Path, tmp_path: Path) -> None:
    words = [*SIZES, "--dataset", "digits", "--epochs", "1", "--device", "cpu", "--out"]
    assert nshot_("retrain", ARCH, *words, tmp_path / "best")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "best").iterdir()}
    assert nshot_("search", run, "--sample", "3", "--name", "several", "--device", "cpu")[0] == 0
    found = read_json(run / "several.json")
    parts = {**found, "parts": [{**found["best"], "arch": arch} for arch in (ARCH, OTHER)]}
    (run / "several.json").write_text(json.dumps({key: value for key, value in parts.items() if key != "sha256"}))
    several = ["retrain", run / "several.json", "--epochs", "1", "--device", "cpu", "--out"]
    assert "best holds another run: choose a new --out for the retraining of several" in refuse(
        *several, tmp_path / "best"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "best").iterdir() if path.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "result.json").write_text('{"mine": 1}')
    assert "mine holds another run" in refuse(*several, tmp_path / "mine")
    status, _, _ = nshot_(*several, tmp_path / "new")
    assert status == 0
    assert nshot_(*several, tmp_path / "new")[0] == 0
    verdict = read_json(tmp_path / "new" / "verdict.json")
    (tmp_path / "new" / "verdict.json").write_text(json.dumps({**verdict, "arch": "another", "test": {}}))
    again = nshot_(*several, tmp_path / "new")[1]
    assert "judging" in again  # a verdict on another network is none on this one
    assert read_json(tmp_path / "new" / "verdict.json")["test"] == verdict["test"]


def test_scores_are_kept_until_the_ranking_is_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = rank_module.write_ranking
    monkeypatch.setattr(rank_module, "write_ranking", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    words = ["rank", run, *AT, "--sample", "7", "--name", "kept"]
    with pytest.raises(KeyboardInterrupt):
        nshot_(*words)
    assert list(run.glob(".scores-*/*.npz"))
    monkeypatch.setattr(rank_module, "write_ranking", written)
    monkeypatch.setattr("nshot.supernets.heldout.evaluate", lambda *given, **more: pytest.fail("scored again"))
    assert nshot_(*words)[0] == 0
    assert pq.read_table(run / "kept.parquet").num_rows == 7
    assert not list(run.glob(".scores-*"))


def test_scores_that_are_all_equal_have_no_tau(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the page nor a study dies of it."""
    plain = rank_module.compare

    def equal(space: Any, subnets: Any, scores: Any, truth: Any, **more: Any) -> Any:
        return plain(space, subnets, dataclasses.replace(scores, correct=scores.correct * False), truth, **more)

    monkeypatch.setattr(rank_module, "compare", equal)
    status, _, _ = nshot_("rank", run, *AT, "--sample", "6", "--name", "equal")
    assert status == 0
    assert read_json(run / "equal.json")["metrics"]["accuracy"]["tau"] is None
    assert nshot_("report", run)[0] == 0
    assert "<td>–</td>" in (run / "report.html").read_text()
    job = Job.of(studies["table-k"].rows[0].setting, SCALES["smoke"], 0)
    (run / f"{job.result}.json").write_text((run / "equal.json").read_text())
    found = tau(run, job, None)
    (run / f"{job.result}.json").unlink()
    assert found["tau by accuracy"] is None
    assert found["±, accuracy"] is None
    assert found["tau by loss"] is not None


def test_weights_that_are_not_finite_at_the_end_are_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last step, of a run that is shorter than the steps between checkpoints."""
    steps = execute_module._steps

    def broken(run: Any, job: Any, *given: Any) -> int:
        found = steps(run, job, *given)
        with torch.no_grad():
            next(job.module.parameters()).fill_(float("nan"))
        return found

    monkeypatch.setattr(execute_module, "_steps", broken)
    config = dataclasses.replace(preset("smoke"), epochs=1, space=SPACE)
    with pytest.raises(DivergedError):
        train(config, load("digits", resolution=8), tmp_path / "run", device="cpu", say=quiet)
    assert not (tmp_path / "run" / "supernet.safetensors").exists()


def test_paper_scale_of_imagenet_has_no_cifar_split() -> None:
    """It has a validation part of its own; of the settings of all studies the split is cifar10's alone."""
    seen = set()
    for study in (studies[name] for name in studies.names()):
        for row in study.rows:
            config = row.setting.at(SCALES["paper"], 0)
            seen.add((config.dataset, config.split))
    assert {split for dataset, split in seen if dataset != "cifar10"} == {"half"}
    assert ("cifar10", "nasbench201/cifar10-split.json") in seen
    assert any(dataset == "imagenet" for dataset, _ in seen)


def test_all_studies_leave_out_what_has_no_such_scale(tmp_path: Path) -> None:
    said: list[str] = []
    run_study("all", "deep", seeds=1, runs=tmp_path / "runs", out=tmp_path / "out", run=False, say=said.append)
    assert any("rows are of spaces that have no preset deep, left out" in line for line in said)


@pytest.mark.parametrize("schedule", ["calr", "centred", "shuffled"])
def test_a_window_of_a_small_space_is_not_asked_of_the_papers(schedule: str) -> None:
    base = preset("proxy", "spos", "mobilenet")
    window = {"schedule": schedule, "max_flops": sum(base.space.flops_range) / 2}
    options = strategies["spos"].options_type.of(**window)
    facts = decay_facts(strategies["spos"](base.space, total_steps=1, options=options))
    free = strategies["spos"].options_type.of(schedule=schedule)
    whole = decay_facts(strategies["spos"](base.space, total_steps=1, options=free))
    assert facts["paper_mean_decay"] == whole["paper_mean_decay"]


@pytest.mark.skipif(sys.platform == "win32", reason="commands are forked")
@pytest.mark.parametrize(
    "words",
    [
        ["score", "zico", "--space", "blocks", "--dataset", "stripes", "--benchmark", "built/benchmark.parquet"],
        ["benchmark", "build", "--space", "blocks", "--dataset", "stripes", "--epochs", "1", "--subnets", "3"],
    ],
)
def test_plug_ins_come_before_what_is_of_them(words: list[str], tmp_path: Path) -> None:
    """In other processes, which read classes of the plug-in before anything looks one up."""
    (tmp_path / "mine.py").write_text(EXAMPLE.read_text())
    more = ["--plugin", "mine.py", "--jobs", "2"]
    build = ["benchmark", "build", "--space", "blocks", "--dataset", "stripes", "--epochs", "1", "--subnets", "4"]
    assert command(*build, *more, "--out", "built", cwd=tmp_path).returncode == 0
    done = command(*words, *more, "--out", "other", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_trains_all_weights_at_one_rate_does_not_freeze_some(run: Path, tmp_path: Path) -> None:
    at = ["--preset", "smoke", *SIZES, "--epochs", "4", "--init", run, "--frozen", "1", "--out", tmp_path / "never"]
    for words in (["darts", "--order", "2"], ["cream"]):
        assert "trains all weights at one rate" in refuse("train", *words, *at)
    supernet = SPACE.supernet()
    first = next(supernet.parameters()).requires_grad_(False)
    with frozen(supernet):
        assert not any(weight.requires_grad for weight in supernet.parameters())
    assert not first.requires_grad
    assert all(weight.requires_grad for weight in supernet.parameters() if weight is not first)


def test_nothing_is_separated_without_momentum(tmp_path: Path) -> None:
    said = "ms 'first' has no effect with momentum 0, which has nothing to separate: add --momentum 0.9"
    at = ["--preset", "smoke", "--ms", "first", "--out", tmp_path / "never"]
    assert said in refuse("train", "sumnas", *at)
    assert said in refuse("train", "spos", "--momentum", "0", "--no-nesterov", *at)


@pytest.mark.parametrize("images", [513, 599, 100])
def test_random_searchs_candidates_are_judged_on_equally_many_images(images: int) -> None:
    class Noting:
        def __init__(self) -> None:
            self.images, self.seen = images, []

        def accuracy(self, path: Any, positions: list[int]) -> float:
            self.seen.append(positions)
            return 50.0

    judge = Noting()
    strategies["random"](SPACE, total_steps=1, options=strategies["random"].options_type()).choose(judge)
    assert {len(batch) for batch in judge.seen} == {min(512, images)}
    assert all(len(set(batch)) == len(batch) for batch in judge.seen)


def test_parts_that_were_not_begun_are_not_forgotten(tmp_path: Path) -> None:
    """A run of several supernets that was stopped between two."""
    train_ = ["train", "fsnas", "--preset", "smoke", *SIZES, "--epochs", "1", "--device", "cpu", "--out"]
    assert nshot_(*train_, tmp_path / "run")[0] == 0
    for part in sorted((tmp_path / "run").glob("part-*"))[1:]:
        for path in part.iterdir():
            path.unlink()
        part.rmdir()
    with pytest.raises(UserError, match="is not finished: continue it with the same nshot train command"):
        load_run(tmp_path / "run")
    assert nshot_("report", tmp_path / "run")[0] == 0
    assert "The training is not finished" in (tmp_path / "run" / "report.html").read_text()


def test_a_split_file_belongs_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSHOT_DATA", str(tmp_path))
    count = len(load("digits").train) + len(load("digits").valid)
    lists = {"train": list(range(400)), "valid": list(range(400, count))}
    (tmp_path / "s.json").write_text(json.dumps(lists))
    words = ["train", "spos", "--preset", "smoke", *SIZES, "--epochs", "1", "--split", "s.json", "--device", "cpu"]
    assert nshot_(*words, "--out", tmp_path / "run")[0] == 0
    assert nshot_("rank", tmp_path / "run", *AT, "--sample", "4")[0] == 0
    (tmp_path / "s.json").write_text(json.dumps({"train": lists["valid"], "valid": lists["train"]}))
    for line in (
        ["rank", tmp_path / "run", *AT, "--sample", "5", "--name", "other"],
        ["search", tmp_path / "run", "--sample", "3", "--device", "cpu"],
        [*words, "--out", tmp_path / "run"],
    ):
        assert "digits is not what" in (said := refuse(*line))
        assert "1 replaced, such as s.json" in said
    (tmp_path / "s.json").write_text(json.dumps(lists))
    assert nshot_("search", tmp_path / "run", "--sample", "3", "--device", "cpu")[0] == 0
    assert nshot_("retrain", tmp_path / "run", "--epochs", "1", "--device", "cpu", "--out", tmp_path / "best")[0] == 0


def test_ones_own_images_that_a_file_splits_can_be_retrained_on(tmp_path: Path) -> None:
    pets = folder_of(tmp_path / "pets", {"cat": 20, "dog": 20})
    count = len(load(f"imagefolder:{pets}").train) + len(load(f"imagefolder:{pets}").valid)
    (tmp_path / "s.json").write_text(json.dumps({"train": list(range(0, count, 2)), "valid": list(range(1, count, 2))}))
    at = ["--data-root", tmp_path, "--device", "cpu"]
    words = ["train", "spos", "--preset", "smoke", *SIZES, "--dataset", f"imagefolder:{pets}", "--split", "s.json"]
    assert nshot_(*words, "--epochs", "1", "--batch-size", "8", *at, "--out", tmp_path / "run")[0] == 0
    assert nshot_("search", tmp_path / "run", "--sample", "3", *at)[0] == 0
    again = ["retrain", tmp_path / "run", "--epochs", "1", "--batch-size", "8", *at, "--out", tmp_path / "best"]
    status, _, err = nshot_(*again)
    assert (status, err) == (0, "")
    some = {"train": list(range(0, 20, 2)), "valid": list(range(1, 20, 2))}  # the others are retrained on alone
    (tmp_path / "s.json").write_text(json.dumps(some))
    assert nshot_(*words, "--epochs", "1", "--batch-size", "8", *at, "--out", tmp_path / "some")[0] == 0
    assert nshot_("search", tmp_path / "some", "--sample", "3", *at)[0] == 0
    few = ["retrain", tmp_path / "some", "--epochs", "1", "--batch-size", "8", *at, "--out", tmp_path / "few"]
    assert nshot_(*few)[0] == 0
    assert nshot_("verdict", tmp_path / "best", *at)[0] == 0
    next(iter((pets / "train" / "cat").iterdir())).unlink()
    assert "is not what" in refuse(*again[:-1], tmp_path / "other")


def test_a_teacher_has_learned_the_same(tmp_path: Path) -> None:
    names = {"one": {"cat": 12, "dog": 12}, "other": {"cat": 12, "hen": 12}}
    data = {
        name: load(f"imagefolder:{folder_of(tmp_path / name, counts)}", resolution=8) for name, counts in names.items()
    }
    config = RetrainConfig(SPACE.with_classes(2), Recipe(epochs=1, batch_size=8), data["one"].name)
    retrain(config, SPACE.parse(ARCH), data["one"], tmp_path / "teacher", device="cpu", say=quiet)
    taught = dataclasses.replace(config, teacher=str(tmp_path / "teacher"))
    retrain(taught, SPACE.parse(ARCH), data["one"], tmp_path / "taught", device="cpu", say=quiet)
    with pytest.raises(UserError, match=r"its classes are not those of .*, which has 'hen'"):
        retrain(
            dataclasses.replace(taught, dataset=data["other"].name),
            SPACE.parse(ARCH),
            data["other"],
            tmp_path / "never",
            device="cpu",
            say=quiet,
        )
    larger = load(data["one"].name, resolution=16)
    with pytest.raises(UserError, match="it has learned images of 8 pixels, and these are of 16"):
        make_teacher(str(tmp_path / "teacher"), 0.5, larger, nshot_normalise(larger))


def nshot_normalise(data: Any) -> Any:
    from nshot.data.batches import Normalise

    return Normalise(data.train)


def test_a_block_of_files_of_which_none_can_be_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pets", {"cat": 3})
    paths = sorted((folder / "train" / "cat").iterdir())
    for path in paths:
        path.write_bytes(b"no image")
    files = Files(paths, torch.zeros(3, dtype=torch.long), 8)
    with pytest.raises(UserError):
        files.loaded()
    assert files.loaded(none=True).pixels.shape == (0, 8, 8, 3)


def test_how_many_subnets_a_search_scores_at_most() -> None:
    assert How(sample=30).most == 30
    assert How(method="evolution", population=10, generations=3).most == 30
    assert How(method="nsga2", population=10, generations=3).most == 30
    assert How(method="own").most == 1
    assert How(method="exhaustive").most > 10**9


def test_flags_of_auto_that_had_no_effect_or_could_not_be(tmp_path: Path) -> None:
    at = ["auto", "digits", "--out", tmp_path / "never", "--device", "cpu", "--train"]
    assert "nshot auto holds out images by itself" in refuse(*at, "--split", "s.json")
    assert "say --init before it" in refuse(*at, "--init", tmp_path / "w.pth")
    assert _how(["--method", "evolution"], True) == How() == _how([], False)
    assert _how(["--method=nsga2"], True) == How()
    assert _how(["--method", "random"], True) == _how(["--method=random"], True) == How(sample=100)
    at = ["auto", "digits", "--out", tmp_path / "never", "--device", "cpu"]
    assert "spos has no answer of its own" in refuse(*at, "--search", "--method", "own")
    both = refuse(*at, "--max-params", "10", "--max-latency", "3ms")
    assert "no subnet keeps to max params 10: space nasbench201 of these sizes comes nearest with 18,738 param" in both
    assert _how(["--seed", "3"], True).sample == 100
    assert not (tmp_path / "never").exists()


def test_a_long_warm_up_is_estimated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a step takes, here by a clock of its own."""
    config = dataclasses.replace(preset("smoke"), space=SPACE, epochs=3, warmup=2, batch_size=32)
    data, recipe = load("digits", resolution=8), Recipe(epochs=4, batch_size=64, warmup=3)
    monkeypatch.setattr("nshot.auto.estimate._step", lambda run: {"supernet": 0.25, "network": 0.125}[run.name])
    found = estimate(config, recipe, data, 3, "cpu")
    assert found.train == 0.25 * 3 * (len(data.train) // 32)
    assert found.retrain == 0.125 * 4 * ((len(data.train) + len(data.valid)) // 64)


def test_an_estimate_tests_on_little_and_leaves_what_cannot_be_read_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Dataset] = []
    config, data = dataclasses.replace(preset("smoke"), space=SPACE, batch_size=32), load("digits", resolution=8)
    monkeypatch.setattr("nshot.auto.estimate._step", lambda run: 1.0)
    for name in ("train", "retrain"):
        monkeypatch.setattr(f"nshot.auto.estimate.{name}", lambda *given, **how: seen.extend(given))
    estimate(config, Recipe(), data, 3, "cpu")
    found = [one for one in seen if isinstance(one, Dataset)]
    assert [len(one.test) for one in found] == [64, 64] < [len(data.test)] * 2
    data.left_out.add("a.png", "broken")
    said: list[str] = []
    for one in found:
        one.left_out.tell(said.append, "here", 9)
    assert not said
    data.left_out.tell(said.append, "here", 9)
    assert len(said) == 1


def test_few_images_are_not_refused_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = look(load("digits", resolution=8), 8)
    assert plan(seen, Limits(), "nasbench201", 8).recipe.augment.policy == "randaugment"
    monkeypatch.setattr("nshot.auto.plan.find_spec", lambda name: None)
    chosen = plan(seen, Limits(), "nasbench201", 8)
    assert chosen.recipe.augment.policy == "none"
    assert any("needs timm" in reason for reason in chosen.reasons)
