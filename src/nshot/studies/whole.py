"""Table A and figure A: every subnet of the benchmark scored, and what a search of them would answer.

What one search finds among random candidates depends on the candidates by more than methods differ. Scores of all
subnets say how truly a supernet orders the whole space, and what its search would have found by any draw.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nshot.benchmarks.table import Benchmark, read_benchmark
from nshot.data.sources import Dataset
from nshot.files import needed, read_json, read_parquet, write_json, write_parquet
from nshot.ranking.metrics import kendall_tau
from nshot.search.own import own_subnet
from nshot.seeding import generator
from nshot.spaces import FewShot, Space, Subnet, Supernet
from nshot.supernets.config import TrainConfig
from nshot.supernets.load import load_run
from nshot.supernets.score import evaluator, scored
from nshot.supernets.train import train

from .base import AGAIN, Scale
from .runner import Job
from .searched import quiet, searched, training_minutes

SCORES, MINUTES = "scores.parquet", "scores.json"
DRAWS = 1000  # searches of `Scale.candidates` random subnets
BEST = 10
RETRAINED = "retrained, test (%)"


def whole(
    config: TrainConfig,
    data: Dataset,
    run: Path,
    folder: Path,
    scale: Scale,
    benchmark: Benchmark,
    ranked: bool = True,
) -> dict[str, Any]:
    """Trains the supernet and scores every subnet of the benchmark on ``scale.whole`` images, in ``scores.parquet``.

    Subnets of one canonical form are scored once; of several supernets each by that which owns it. Not where the
    method's supernet is not what ranks (``ranked``). What the method itself answers is ``own``, its notation. The other
    figures are times of one thread: of training by its logs, of scoring as it passed, also where either was killed and
    continued. At the paper's scale its own search is run too, and what that found retrained.
    """
    train(config, data, run, device="cpu", say=quiet)
    config, supernet = load_run(run)
    found: dict[str, Any] = {"training (min)": training_minutes(run, config.batch_size)}
    began = time.perf_counter()
    judge = evaluator(run, config, supernet, device="cpu", data=data, say=quiet)[0]
    if (own := own_subnet(run, config, judge)) is not None:
        found |= {"own": config.space.format(own), "own search (min)": (time.perf_counter() - began) / 60}
    if not ranked:
        return found
    found["scoring (min)"] = _score_all(run, config, supernet, folder, scale, benchmark, data)
    if scale.preset == "paper":
        found[RETRAINED] = searched(config, data, run, folder, scale)[RETRAINED]
    return found


def _score_all(
    run: Path,
    config: TrainConfig,
    supernet: Supernet,
    folder: Path,
    scale: Scale,
    benchmark: Benchmark,
    data: Dataset,
) -> float:
    """Writes the table, where it is not there; gives minutes of one thread."""
    if (folder / SCORES).exists() and (folder / MINUTES).exists():
        return float(needed(read_json, folder / MINUTES, AGAIN)["minutes"])
    subnets = sorted(benchmark.subnets)  # the space's order, in which a search draws
    forms = [supernet.canonical(subnet) for subnet in subnets]
    distinct = sorted(set(forms))
    images = min(scale.whole, len(data.valid))
    row = {form: i for i, form in enumerate(distinct)}
    rows = [row[form] for form in forms]
    parts = list(supernet.parts) if isinstance(supernet, FewShot) else []
    columns: dict[str, Any] = {
        "arch": [config.space.format(subnet) for subnet in subnets],
        "form": rows,
        "part": [parts.index(supernet.owner(s)) if isinstance(supernet, FewShot) else 0 for s in subnets],
    }
    with scored(run, config, supernet, distinct, images=images, device="cpu", data=data) as (scores, _):
        columns |= {"accuracy": scores.accuracy[rows], "loss": scores.mean_loss[rows]}
        write_parquet(folder / SCORES, pa.table(columns))
        write_json(folder / MINUTES, {"minutes": scores.seconds / 60})
    return scores.seconds / 60


@dataclass(frozen=True)
class Scored:
    """Subnets (S) of a benchmark with their true accuracies and one supernet's scores."""

    true: np.ndarray
    """(S,) percent."""
    form: np.ndarray
    """(S,) number of the canonical form, from 0; those of one form have one score."""
    part: np.ndarray
    """(S,) which of several supernets owns it."""
    accuracy: np.ndarray
    """(S,) percent."""
    loss: np.ndarray
    """(S,) nats."""
    answer: np.ndarray
    """(F,) the subnet that a search hands over for each form, the leanest that is listed."""

    @classmethod
    def of(cls, space: Space, subnets: Sequence[Subnet], true: np.ndarray, table: pa.Table) -> "Scored":
        form, part, accuracy, loss = (table[name].to_numpy() for name in ("form", "part", "accuracy", "loss"))
        costs = [(space.network_params(subnet), space.flops(subnet), subnet) for subnet in subnets]
        answer = np.empty(form.max() + 1, np.int64)
        for i in sorted(range(len(subnets)), key=costs.__getitem__, reverse=True):
            answer[form[i]] = i  # the leanest is written last
        return cls(true, form, part, accuracy, loss, answer)

    @cached_property
    def best(self) -> np.ndarray:
        """(F,) the answers, the best first: by accuracy, of equal ones by loss, as a search has it."""
        return self.answer[np.lexsort((self.loss[self.answer], -self.accuracy[self.answer]))]


def answers(folder: Path, job: Job, root: str | Path | None) -> dict[str, Any]:
    """What these scores say of all subnets, against all true accuracies of the benchmark.

    The better accuracy comes first, of equal ones the smaller loss; a form's answer is its leanest subnet. ``best`` is
    the true accuracy of the first answer, ``rank`` its place among all true accuracies, ``10 best`` the mean of the
    first ten; taus are over all subnets. ``best of n`` is what a search of n random subnets answers: mean, standard
    deviation and percentiles over `DRAWS` searches, the same draws for every run. ``own`` is the true accuracy of the
    method's own answer, where it has one.
    """
    space = job.config.space
    benchmark = read_benchmark(job.scale.benchmark, space, root)
    column = f"{job.config.dataset}_test"
    measured = needed(read_json, folder / f"{job.result}.json", AGAIN)
    training = measured["training (min)"]
    own: dict[str, Any] = {}
    if "own" in measured:
        own["own (%)"] = _truth(benchmark, column, space, space.parse(measured["own"]))
        own["own search (min)"] = training + measured["own search (min)"]
    if not (folder / SCORES).exists():
        return own
    table = needed(read_parquet, folder / SCORES, AGAIN)
    subnets = [space.parse(arch) for arch in table["arch"].to_pylist()]
    true = benchmark.truth(column, subnets)
    scored = Scored.of(space, subnets, true, table)
    scoring = measured["scoring (min)"]
    best = true[scored.best]
    count = min(job.scale.candidates, len(best))
    found = drawn(scored, count)
    low, middle, high = np.percentile(found, [5, 50, 95])
    return {
        f"best of {count}, mean (%)": float(found.mean()),
        "best (%)": float(best[0]),
        f"{BEST} best (%)": float(best[:BEST].mean()),
        "rank": int((true > best[0]).sum()) + 1,
        "tau by accuracy": kendall_tau(scored.accuracy, true),
        "tau by loss": kendall_tau(-scored.loss, true),
        f"best of {count}, deviation": float(found.std(ddof=1)),
        "5 %": float(low),
        "50 %": float(middle),
        "95 %": float(high),
        "search (min)": training + scoring * count / len(best),
        "search of all (min)": training + scoring,
        **{name: measured[name] for name in (RETRAINED,) if name in measured},
        **own,
    }


def _truth(benchmark: Benchmark, column: str, space: Space, subnet: Subnet) -> float | None:
    """True accuracy of the leanest subnet that computes the same, or of another that does; None: none is listed."""
    form = space.canonical(subnet)
    same = [form] if form in set(benchmark.subnets) else [s for s in benchmark.subnets if space.canonical(s) == form]
    return float(benchmark.truth(column, same[:1])[0]) if same else None


def drawn(scored: Scored, candidates: int) -> np.ndarray:
    """True accuracy (`DRAWS`,) of what the paper's search answers, by draw.

    Draw i has the candidates of ``nshot search --seed i``, where the benchmark lists the whole space: subnets drawn
    uniformly, none of one form twice. Of several supernets the best of each is trained, and the best of those kept
    (section D).
    """
    by_form = np.argsort(scored.form, kind="stable")
    starts = np.searchsorted(scored.form[by_form], np.arange(len(scored.answer)))
    place = np.empty(len(scored.answer), np.int64)
    place[scored.form[scored.best]] = np.arange(len(place))
    found = np.empty(DRAWS)
    for draw in range(DRAWS):
        turns = np.argsort(generator(draw, "search").permutation(len(by_form)))  # when each subnet is drawn
        firsts = np.minimum.reduceat(turns[by_form], starts)  # when the first of each form is
        chosen = np.argsort(firsts)[:candidates]
        subnets = scored.answer[chosen[np.argsort(place[chosen])]]
        each = np.unique(scored.part[subnets], return_index=True)[1]  # the best of each part
        found[draw] = scored.true[subnets[each]].max()
    return found
