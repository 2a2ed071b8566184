"""Table A's figures from scores of the whole space, against explicit loops over subnets."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau

from nshot.benchmarks.table import read_benchmark
from nshot.seeding import generator
from nshot.studies.base import SCALES, Measured, Setting
from nshot.studies.runner import Job
from nshot.studies.whole import DRAWS, SCORES, answers, whole


def job_of(scale_name: str) -> Job:
    scale = SCALES[scale_name]
    job = Job.of(Measured("spos", function=whole), scale, 0)
    return job


def written(folder: Path, job: Job, forms: list, accuracy: np.ndarray, loss: np.ndarray) -> None:
    arch = [job.config.space.format(form) for form in forms]
    pq.write_table(pa.table({"arch": arch, "accuracy": accuracy, "loss": loss}), folder / SCORES)
    (folder / f"{job.result}.json").write_text(json.dumps({"training (min)": 7.0, "scoring (s a subnet)": 3.0}))


@pytest.mark.parametrize("some", [1.0, 0.6])
def test_figures_are_those_of_a_loop_over_subnets(some: float, tmp_path: Path) -> None:
    """Of all forms, and of some of them: then the subnets of the others do not count."""
    job = job_of("smoke")
    space = job.config.space
    benchmark = read_benchmark("digits", space)
    rng = np.random.default_rng(0)
    forms = sorted({space.canonical(subnet) for subnet in benchmark.subnets})
    forms = [form for form in forms if rng.random() < some] + [(4, 4, 4, 4, 4, 4)]  # one that the benchmark lacks
    accuracy = rng.integers(20, 60, len(forms)).astype(float)  # many are equal: losses decide
    accuracy[-1] = 99.0
    loss = rng.permutation(len(forms)) / 100
    written(tmp_path, job, forms, accuracy, loss)
    found = answers(tmp_path, job, None)

    score = {form: (right, -lost) for form, right, lost in zip(forms, accuracy, loss, strict=True)}
    true = dict(zip(benchmark.subnets, benchmark.columns["digits_test"], strict=True))
    counted = [subnet for subnet in benchmark.subnets if space.canonical(subnet) in score]
    answer: dict = {}
    for subnet in counted:
        form = space.canonical(subnet)
        if form not in answer or space.params(subnet) < space.params(answer[form]):
            answer[form] = subnet
    best = sorted(answer, key=lambda form: score[form], reverse=True)
    assert found["best (%)"] == true[answer[best[0]]]
    assert found["10 best (%)"] == pytest.approx(sum(true[answer[form]] for form in best[:10]) / 10)
    assert found["rank"] == 1 + sum(true[subnet] > found["best (%)"] for subnet in counted)
    for name, sign in (("accuracy", 0), ("loss", 1)):
        scores = [score[space.canonical(subnet)][sign] for subnet in counted]
        assert found[f"tau by {name}"] == pytest.approx(kendalltau(scores, [true[s] for s in counted]).statistic)

    order = generator(0, "searches of table A")
    reached = []
    for _ in range(DRAWS):
        candidates: list = []
        for i in order.permutation(len(counted)):
            form = space.canonical(counted[i])
            if form not in candidates:
                candidates.append(form)
            if len(candidates) == job.scale.candidates:
                break
        reached.append(true[answer[max(candidates, key=lambda form: score[form])]])
    assert found["best of 4, mean (%)"] == pytest.approx(np.mean(reached))
    assert found["best of 4, deviation"] == pytest.approx(np.std(reached, ddof=1))
    assert [found[f"{q} %"] for q in (5, 50, 95)] == pytest.approx(np.percentile(reached, [5, 50, 95]))
    assert found["search (min)"] == pytest.approx(7 + 4 * 3 / 60)


def test_of_the_whole_space_it_takes_seconds_and_truth_finds_the_best(tmp_path: Path) -> None:
    root = Path(os.environ.get("NSHOT_DATA") or "data")
    if not (root / "nasbench201" / "table.parquet").exists():
        pytest.skip(f"no nasbench201/table.parquet under {root}: set NSHOT_DATA")
    job = job_of("proxy")
    space = job.config.space
    table = read_benchmark("nasbench201", space, root)
    true = dict(zip(table.subnets, table.columns["cifar10_test"], strict=True))
    forms = sorted({space.canonical(subnet) for subnet in table.subnets})
    assert len(forms) == 7548
    written(tmp_path, job, forms, np.array([true[form] for form in forms]), np.zeros(len(forms)))
    began = time.process_time()
    found = answers(tmp_path, job, root)
    assert time.process_time() - began < 30
    assert found["best (%)"] == max(true[form] for form in forms)
    assert found["rank"] == 1 + sum(value > found["best (%)"] for value in true.values())
    assert 0.9 < found["tau by accuracy"] < 1  # members of one form differ by noise alone
    assert found["5 %"] < found["best of 100, mean (%)"] < found["95 %"] <= found["best (%)"]


def test_scale_says_how_much_is_scored() -> None:
    smoke = SCALES["smoke"]
    setting = Measured("spos", function=whole)
    assert Job.of(setting, smoke, 0).folder != Job.of(setting, replace(smoke, whole=(301, 64)), 0).folder
    assert Job.of(Setting("spos"), smoke, 0).name == Job.of(Setting("spos"), replace(smoke, whole=(301, 64)), 0).name
