"""Table A and figure A: every subnet of the NAS-Bench-201 space scored, and what a search of it would answer."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nshot.benchmarks.table import read_benchmark
from nshot.data.sources import Dataset
from nshot.files import write_parquet
from nshot.ranking.metrics import kendall_tau
from nshot.search.propose import all_subnets
from nshot.seeding import generator
from nshot.training.config import TrainConfig
from nshot.training.run import load_run
from nshot.training.score import score_run
from nshot.training.train import train

from .base import Scale
from .runner import Job
from .searched import quiet, training_minutes

SCORES = "scores.parquet"
DRAWS = 1000  # searches of `Scale.candidates` random subnets
BEST = 10


def whole(config: TrainConfig, data: Dataset, run: Path, folder: Path, scale: Scale) -> dict[str, float]:
    """Trains the supernet and scores each canonical form of the space once (``scale.whole``), in ``scores.parquet``.

    The figures are seconds of one thread: of training by its logs, of scoring as they pass.
    """
    train(config, data, run, device="cpu", say=quiet)
    config, supernet = load_run(run)
    count, images = scale.whole
    forms = all_subnets(config.space, supernet.canonical)
    if count is not None:
        forms = [forms[i] for i in sorted(generator(0, "whole space").permutation(len(forms))[:count])]
    began = time.perf_counter()
    scores, _ = score_run(run, config, supernet, forms, images=images, device="cpu", data=data)
    seconds = time.perf_counter() - began
    columns = {
        "arch": [config.space.format(form) for form in forms],
        "accuracy": scores.accuracy,
        "loss": scores.mean_loss,
    }
    write_parquet(folder / SCORES, pa.table(columns))
    return {"training (min)": training_minutes(run, config.batch_size), "scoring (s a subnet)": seconds / len(forms)}


def answers(folder: Path, job: Job, root: str | Path | None) -> dict[str, Any]:
    """What these scores say of the space, against all true accuracies of the benchmark.

    Each subnet has the score of its canonical form; the better accuracy comes first, of equal ones the smaller loss.
    The answer of a form is its leanest subnet. ``best`` is the true accuracy of the first answer, ``rank`` its place
    among all true accuracies, ``ten best`` the mean of the first ten; ``best of n`` what a search of n random subnets
    answers: mean, standard deviation and percentiles over `DRAWS` searches, the same draws for every run.
    """
    space = job.config.space
    benchmark = read_benchmark(job.scale.benchmark, space, root)
    true = benchmark.columns[f"{job.config.dataset}_test"]
    table = pq.read_table(folder / SCORES).to_pydict()
    row = {space.parse(arch): i for i, arch in enumerate(table["arch"])}
    forms = [space.canonical(subnet) for subnet in benchmark.subnets]
    listed = [i for i, form in enumerate(forms) if form in row]
    of = np.array([row[forms[i]] for i in listed])  # the scored form of each listed subnet
    true = true[listed]
    accuracy, loss = np.array(table["accuracy"]), np.array(table["loss"])
    place = np.empty(len(accuracy), np.int64)
    place[np.lexsort((loss, -accuracy))] = np.arange(len(accuracy))
    answer = _answers(of, true, np.array([space.params(benchmark.subnets[i]) for i in listed]), len(accuracy))
    order = np.argsort(place)
    first = answer[order[np.isfinite(answer[order])]]  # of forms that the benchmark has none of, nothing is known
    count = min(job.scale.candidates, len(first))
    rng = generator(0, "searches of table A")
    draws = [_distinct(of[rng.permutation(len(listed))], count) for _ in range(DRAWS)]
    found = np.array([answer[draw[place[draw].argmin()]] for draw in draws])
    costs = json.loads((folder / f"{job.result}.json").read_text())
    low, middle, high = np.percentile(found, [5, 50, 95])
    return {
        f"best of {count}, mean (%)": float(found.mean()),
        "best (%)": float(first[0]),
        f"{BEST} best (%)": float(first[:BEST].mean()),
        "rank": int((true > first[0]).sum()) + 1,
        "tau by accuracy": kendall_tau(accuracy[of], true),
        "tau by loss": kendall_tau(-loss[of], true),
        f"best of {count}, deviation": float(found.std(ddof=1)),
        "5 %": float(low),
        "50 %": float(middle),
        "95 %": float(high),
        "search (min)": costs["training (min)"] + count * costs["scoring (s a subnet)"] / 60,
    }


def _distinct(drawn: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` distinct forms, as a random search takes its candidates."""
    return drawn[np.sort(np.unique(drawn, return_index=True)[1])[:count]]


def _answers(of: np.ndarray, true: np.ndarray, params: np.ndarray, forms: int) -> np.ndarray:
    """The true accuracy of the leanest listed subnet of each form, NaN where none is listed."""
    found = np.full(forms, np.nan)
    lean = np.lexsort((-np.arange(len(params)), -params))  # the leanest, of equal ones the first, is written last
    found[of[lean]] = true[lean]
    return found
