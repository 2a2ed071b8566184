"""Table A's figures from scores of all subnets, against loops over subnets; the scores against plain passes."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau

import nshot.studies.whole as module
import nshot.supernets.heldout as heldout
import nshot.supernets.score as score
from helpers import SMALL
from needs import needs_table
from nshot import UserError
from nshot.benchmarks.table import Benchmark, read_benchmark
from nshot.data.batches import Normalise, heldout_batches
from nshot.data.mixture import mixture
from nshot.data.sources import load
from nshot.runs.where import On
from nshot.search.propose import random_subnets
from nshot.seeding import generator
from nshot.spaces import FewShot, Space, Subnet, space
from nshot.strategies import strategies
from nshot.studies.base import SCALES, Measured, Row, Setting, Study
from nshot.studies.runner import Job, jobs_of, run_jobs
from nshot.studies.whole import DRAWS, SCORES, Scored, answers, drawn, whole
from nshot.supernets.config import TrainConfig
from nshot.supernets.load import load_run

SMOKE = SCALES["smoke"]
FULL = space("nasbench201", **SMALL["nasbench201"])
Canonical = Callable[[Subnet], Subnet]


def job_of(scale_name: str) -> Job:
    return Job.of(Measured("spos", function=whole, benchmark=True), SCALES[scale_name], 0)


def few_shot() -> FewShot:
    """A supernet for each option of the first edge."""
    names = [FULL.decisions[0].options[i] for i in FULL.decisions[0].allowed]
    return FewShot(FULL, [FULL.restrict("1<-0", name).supernet() for name in names])


def table_of(subnets: Sequence[Subnet], canonical: Canonical, parts: bool, seed: int = 0) -> tuple[pa.Table, dict]:
    """Random scores of the forms, many equal in accuracy; as a table, and by form."""
    forms = sorted({canonical(subnet) for subnet in subnets})
    rng = np.random.default_rng(seed)
    accuracy, loss = rng.integers(20, 60, len(forms)).astype(float), rng.permutation(len(forms)) / 100
    row = {form: i for i, form in enumerate(forms)}
    rows = [row[canonical(subnet)] for subnet in subnets]
    part = [subnet[0] if parts else 0 for subnet in subnets]
    columns = {
        "arch": list(map(FULL.format, subnets)), "form": rows, "part": part,
        "accuracy": accuracy[rows], "loss": loss[rows],
    }  # fmt: skip
    return pa.table(columns), {form: (a, -b) for form, a, b in zip(forms, accuracy, loss, strict=True)}


@pytest.mark.parametrize("parts", [False, True])
def test_figures_are_those_of_a_loop_over_subnets(parts: bool, tmp_path: Path) -> None:
    """Of the embedded benchmark, which lists two subnets of some forms, and not the leanest of others."""
    job = job_of("smoke")
    own = job.config.space
    benchmark = read_benchmark("digits", own)
    canonical: Canonical = few_shot().canonical if parts else own.canonical
    subnets = sorted(benchmark.subnets)
    table, by_form = table_of(subnets, canonical, parts)
    pq.write_table(table, tmp_path / SCORES)
    (tmp_path / f"{job.result}.json").write_text(json.dumps({"training (min)": 7.0, "scoring (min)": 3.0}))
    found = answers(tmp_path, job, None)

    true = dict(zip(benchmark.subnets, benchmark.columns["digits_test"], strict=True))
    answer: dict[Subnet, Subnet] = {}
    for subnet in subnets:
        form = canonical(subnet)
        if form not in answer or own.network_params(subnet) < own.network_params(answer[form]):
            answer[form] = subnet
    assert len(answer) < len(subnets)
    assert any(form not in true for form in answer)
    best = sorted(answer, key=by_form.__getitem__, reverse=True)
    assert found["best (%)"] == true[answer[best[0]]]
    assert found["10 best (%)"] == pytest.approx(sum(true[answer[form]] for form in best[:10]) / 10)
    assert found["rank"] == 1 + sum(value > found["best (%)"] for value in true.values())
    for name, sign in (("accuracy", 0), ("loss", 1)):
        scores = [by_form[canonical(subnet)][sign] for subnet in subnets]
        assert found[f"tau by {name}"] == pytest.approx(kendalltau(scores, [true[s] for s in subnets]).statistic)

    reached = []
    for draw in range(DRAWS):
        candidates: list[Subnet] = []
        for i in generator(draw, "search").permutation(len(subnets)):
            form = canonical(subnets[i])
            if form not in candidates:
                candidates.append(form)
            if len(candidates) == job.scale.candidates:
                break
        groups = {form[0] if parts else 0 for form in candidates}
        winners = [max((f for f in candidates if not parts or f[0] == g), key=by_form.__getitem__) for g in groups]
        reached.append(max(true[answer[form]] for form in winners))
    assert found["best of 4, mean (%)"] == pytest.approx(np.mean(reached))
    assert found["best of 4, deviation"] == pytest.approx(np.std(reached, ddof=1))
    assert [found[f"{q} %"] for q in (5, 50, 95)] == pytest.approx(np.percentile(reached, [5, 50, 95]))
    assert found["search (min)"] == pytest.approx(7 + 4 * 3 / len(answer))
    assert found["search of all (min)"] == pytest.approx(10)


@pytest.mark.parametrize("parts", [False, True])
def test_a_draw_is_the_search_of_its_seed(parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among all 15,625; where parts own subnets, the best of each is kept and the truly best of those counts."""
    canonical: Canonical = few_shot().canonical if parts else FULL.canonical
    subnets = list(FULL.subnets())
    table, by_form = table_of(subnets, canonical, parts)
    true = np.random.default_rng(1).normal(90, 3, len(subnets))
    scored = Scored.of(FULL, subnets, true, table)
    leanest = {canonical(subnets[i]): subnets[i] for i in scored.answer}
    assert all(form == subnet for form, subnet in leanest.items())  # what a search proposes
    monkeypatch.setattr(module, "DRAWS", 8)
    found = drawn(scored, 100)
    reached = dict(zip(subnets, true, strict=True))
    for seed in range(8):
        candidates = random_subnets(FULL, 100, seed=seed, canonical=canonical)
        groups = [[s for s in candidates if s[0] == part] for part in range(5)] if parts else [candidates]
        assert found[seed] == max(reached[max(group, key=by_form.__getitem__)] for group in groups if group)


def small(strategy: str) -> tuple[Space, Benchmark, TrainConfig]:
    """A space of 3 x 3 x 2 x 3 subnets with a benchmark that lists them all, in another order."""
    chosen = FULL
    for edge in ("1<-0", "2<-1", "3<-2"):
        chosen = chosen.restrict(edge, "none", "skip_connect", "nor_conv_1x1")
    chosen = chosen.restrict("2<-0", "skip_connect", "avg_pool_3x3").restrict("3<-0", "none").restrict("3<-1", "none")
    subnets = list(chosen.subnets())[::-1]
    benchmark = Benchmark("small", subnets, {"digits_test": np.arange(len(subnets), dtype=float)}, {})
    options = strategies[strategy].options_type.of()
    config = TrainConfig(strategy=strategy, options=options, space=chosen, dataset="digits", epochs=1, batch_size=64)
    return chosen, benchmark, config


@pytest.mark.parametrize("strategy", ["spos", "fsnas"])
def test_scores_are_those_of_every_subnet_alone(strategy: str, tmp_path: Path) -> None:
    """Each run by its owner, none spared because another is equal to it."""
    chosen, benchmark, config = small(strategy)
    data = load("digits", resolution=chosen.resolution)
    folder = tmp_path / "folder"
    folder.mkdir()
    times = whole(config, data, tmp_path / "run", folder, SMOKE, benchmark)
    assert times.keys() == {"training (min)", "scoring (min)"}
    assert min(times.values()) > 0
    table = pq.read_table(folder / SCORES).to_pydict()
    subnets = list(chosen.subnets())
    assert table["arch"] == list(map(chosen.format, subnets))

    _, supernet = load_run(tmp_path / "run")
    images = heldout_batches(mixture(data.valid, SMOKE.whole), SMOKE.whole, Normalise(data.train))
    (pixels, labels), *more = images
    assert not more
    assert len(labels) == 64
    with torch.inference_mode():
        for row, subnet in enumerate(subnets):
            logits = supernet(pixels, subnet)
            assert table["loss"][row] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
            assert table["accuracy"][row] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())
    owners = [subnet[0] if strategy == "fsnas" else 0 for subnet in subnets]
    firsts = [owners.index(owner) for owner in owners]
    assert [table["part"].index(part) for part in table["part"]] == firsts
    distinct = {(part, loss) for part, loss in zip(table["part"], table["loss"], strict=True)}
    assert len(set(table["form"])) == len(distinct) < len(subnets)


def test_seconds_of_scoring_are_those_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was killed, and where parts of an earlier version do not say theirs: those are scored again."""
    chosen, benchmark, config = small("spos")
    data = load("digits", resolution=chosen.resolution)
    run, folder = tmp_path / "run", tmp_path
    monkeypatch.setattr(score, "CHUNK", 4)
    evaluate, calls = heldout.evaluate, [0]

    def timed(*args, **options):  # every chunk takes a minute
        calls[0] += 1
        if calls[0] == stop:
            raise KeyboardInterrupt
        return replace(evaluate(*args, **options), seconds=60.0)

    monkeypatch.setattr(heldout, "evaluate", timed)
    stop = 0
    forms = len({chosen.canonical(subnet) for subnet in benchmark.subnets})
    chunks = -(-forms // 4)
    assert chunks > 4
    assert whole(config, data, run, folder, SMOKE, benchmark)["scoring (min)"] == chunks
    expected = (folder / SCORES).read_bytes()
    calls, stop = [0], 0
    assert whole(config, data, run, folder, SMOKE, benchmark)["scoring (min)"] == chunks  # as where a retraining died
    assert calls[0] == 0

    (folder / SCORES).unlink()
    calls, stop = [0], 4
    with pytest.raises(KeyboardInterrupt):
        whole(config, data, run, folder, SMOKE, benchmark)
    stop = 0
    assert whole(config, data, run, folder, SMOKE, benchmark)["scoring (min)"] == chunks
    assert calls[0] == 1 + chunks  # the call that was killed, and each chunk once
    assert (folder / SCORES).read_bytes() == expected

    (folder / SCORES).unlink()
    calls, stop = [0], 4
    with pytest.raises(KeyboardInterrupt):
        whole(config, data, run, folder, SMOKE, benchmark)
    for path in run.glob(".scores-*/*.npz"):
        with np.load(path) as part:
            correct, loss = part["correct"], part["loss"]
        np.savez(path, correct=correct, loss=loss)
    stop = 0
    assert whole(config, data, run, folder, SMOKE, benchmark)["scoring (min)"] == chunks
    assert calls[0] == 4 + chunks
    assert (folder / SCORES).read_bytes() == expected


def test_evaluating_says_what_it_took(tmp_path: Path) -> None:
    chosen, benchmark, _ = small("spos")
    data = load("digits", resolution=chosen.resolution)
    batches = heldout_batches(mixture(data.valid, 64), 64, Normalise(data.train))
    began = time.perf_counter()
    seconds = score.evaluate(chosen.supernet(), benchmark.subnets, batches).seconds
    assert 0 < seconds <= time.perf_counter() - began


@needs_table
def test_of_the_whole_space_it_takes_seconds_and_truth_finds_the_best(tmp_path: Path) -> None:
    job = job_of("proxy")
    own = job.config.space
    benchmark = read_benchmark("nasbench201", own)
    true = dict(zip(benchmark.subnets, benchmark.columns["cifar10_test"], strict=True))
    subnets = sorted(benchmark.subnets)
    forms = sorted({own.canonical(subnet) for subnet in subnets})
    assert (len(subnets), len(forms)) == (15_625, 7548)
    row = {form: i for i, form in enumerate(forms)}
    rows = [row[own.canonical(subnet)] for subnet in subnets]
    scores = np.array([true[form] for form in forms])[rows]
    columns = {"form": rows, "part": np.zeros(len(rows), int), "accuracy": scores, "loss": np.zeros(len(rows))}
    pq.write_table(pa.table({"arch": list(map(own.format, subnets)), **columns}), tmp_path / SCORES)
    (tmp_path / f"{job.result}.json").write_text(json.dumps({"training (min)": 7.0, "scoring (min)": 3.0}))
    began = time.process_time()
    found = answers(tmp_path, job, None)
    assert time.process_time() - began < 30
    assert found["best (%)"] == max(true[form] for form in forms)
    assert found["rank"] == 1 + sum(value > found["best (%)"] for value in true.values())
    assert 0.9 < found["tau by accuracy"] < 1  # members of one form differ by noise alone
    assert found["5 %"] < found["best of 100, mean (%)"] < found["95 %"] <= found["best (%)"]


def test_at_the_papers_scale_what_its_search_finds_is_retrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, benchmark, config = small("spos")
    data = load("digits", resolution=config.space.resolution)
    monkeypatch.setattr(module, "searched", lambda *args: {"retrained, test (%)": 12.5, "parameters (M)": 1.0})
    job = Job(config, replace(SMOKE, preset="paper"), Measured("spos", function=whole, benchmark=True))
    for preset in ("smoke", "paper"):
        measured = whole(config, data, tmp_path / "run", tmp_path, replace(SMOKE, preset=preset), benchmark)
        (tmp_path / "measured.json").write_text(json.dumps(measured))
        monkeypatch.setattr(module, "read_benchmark", lambda *args: benchmark)
        found = answers(tmp_path, job, None)
        assert found.get("retrained, test (%)") == (12.5 if preset == "paper" else None)
        assert "parameters (M)" not in found


def test_without_its_benchmark_nothing_is_started(tmp_path: Path) -> None:
    """What is measured by a benchmark needs it only when the supernet is trained."""
    scale = replace(SMOKE, benchmark=str(tmp_path / "no.parquet"))
    study = Study("a", "a title", (Row("a row", Measured("spos", function=whole, benchmark=True)),))
    with pytest.raises(UserError, match=r"no\.parquet' not found"):
        run_jobs(jobs_of([study], scale, 1), tmp_path / "runs", on=On(jobs=1))
    assert not (tmp_path / "runs").exists()


def test_scale_says_on_how_many_images() -> None:
    more = replace(SMOKE, whole=128)
    setting = Measured("spos", function=whole, benchmark=True)
    assert Job.of(setting, SMOKE, 0).folder != Job.of(setting, more, 0).folder
    assert Job.of(Setting("spos"), SMOKE, 0).name == Job.of(Setting("spos"), more, 0).name
