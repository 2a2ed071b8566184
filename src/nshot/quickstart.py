"""The whole job on embedded data: SPOS and SPOS + CaLR + MS, ranked against the embedded benchmark; a retraining."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from nshot.benchmarks.rank import Ranking, rank_run
from nshot.data.sources import load
from nshot.networks.recipes import Recipe
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.report.plots import scatter
from nshot.report.tables import print_ranking
from nshot.strategies import Options
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.train import train

METHODS = {"SPOS": Options(), "SPOS + CaLR + MS": Options(schedule="calr", ms="first")}
TRUTH = "digits_test"


def quickstart(out: Path, seed: int = 0) -> None:
    """Trains both supernets, ranks, retrains the best subnet, writes pictures, and says what it found and where."""
    torch.set_num_threads(1)  # tensors this small are slower with more
    base = dataclasses.replace(preset("smoke"), epochs=160, batch_size=64, lr=0.1, seed=seed)
    data = load(base.dataset, resolution=base.space.resolution)
    rankings = {}
    for i, (title, options) in enumerate(METHODS.items(), start=1):
        print(f"[{i}/3] {title}: training a supernet of {base.space.size:,} subnets, then ranking")
        config = dataclasses.replace(base, options=options)
        run = train(config, data, out / title.lower().replace(" + ", "-"), device="cpu", say=_quiet)
        rankings[title], _ = rank_run(run, "digits", sample=0, device="cpu")
    picture = scatter(out / "ranking.png", rankings, "trained alone")
    print_ranking(rankings, TRUTH)
    _explain(rankings)
    _hand_over(base, rankings["SPOS + CaLR + MS"], out)
    print(f"\npicture: {picture}\nruns (logs, TensorBoard events, weights, rankings): {out}")


def _explain(rankings: dict[str, Ranking]) -> None:
    before, after = (ranking.table["accuracy"] for ranking in rankings.values())
    print(
        "Kendall's tau says how truly a supernet orders subnets: 1 as if each had been trained alone, 0 by chance.\n"
        f"Of two subnets, SPOS puts the better one first in {_right(before['tau'])} of cases, with CaLR and MS in "
        f"{_right(after['tau'])}."
    )
    if before["low"] <= after["high"] and after["low"] <= before["high"]:
        print(
            "The intervals over held-out images overlap; other seeds (--seed) differ too: nshot compare says how much."
        )


def _right(tau: float) -> str:
    return f"{50 * (1 + tau):.0f} %"


def _hand_over(base: TrainConfig, ranking: Ranking, out: Path) -> None:
    """Retrains the subnet that the ranking puts first (by accuracy, then by loss)."""
    best = int(np.lexsort((ranking.loss, -ranking.accuracy))[0])
    place = int((ranking.true > ranking.true[best]).sum()) + 1
    print(f"\n[3/3] retraining the subnet that it puts first; its true rank is {place} of {len(ranking.subnets)}")
    recipe = Recipe(epochs=40, batch_size=64, lr=0.1)
    config = RetrainConfig(space=base.space, recipe=recipe, dataset=base.dataset, seed=base.seed)
    data = load(base.dataset, resolution=base.space.resolution)
    result = retrain(config, ranking.subnets[best], data, out / "retrained", device="cpu", say=_quiet)
    print(f"{result['arch']}\n{result['params']:,} parameters, test accuracy {result['test_accuracy']:.1f} %")


def _quiet(line: str) -> None:
    """For steps whose progress the bar shows: only what is out of the ordinary is said."""
    if "corrupt" in line or "resuming" in line:
        print(line)
