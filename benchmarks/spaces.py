"""Trains each of the other spaces on CIFAR-10 for about ten minutes a core, and ranks 100 of its subnets.

NSHOT_DATA=DATA python benchmarks/spaces.py --runs runs/spaces --jobs 2

For each space: a supernet by SPOS + CaLR + MS at the proxy preset's sizes; 100 random subnets trained alone for a
short while, which is what true accuracy means here; and how the supernet orders them, also among pairs that have the
same number of parameters or of layers, where "larger is better" cannot help. Writes
docs/results/spaces.json and prints the table. What was killed continues.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from nshot.benchmarks.build import BuildConfig, build
from nshot.benchmarks.rank import Ranking, rank_run
from nshot.data.sources import load
from nshot.files import write_json
from nshot.ranking.metrics import kendall_tau
from nshot.spaces import Space, Subnet
from nshot.strategies import strategies
from nshot.training.alone import Recipe
from nshot.training.config import preset
from nshot.training.run import read_log
from nshot.training.train import train

# Epochs of ten minutes of supernet training on one core; then how a subnet is trained alone: epochs, images, seeds.
EPOCHS = {"mobilenet": (20, 1, 20_000, 1), "darts": (20, 3, 10_000, 2), "autoformer": (50, 2, 20_000, 1)}
# How far apart, in shares of the range of parameters, two subnets of one size may be: few pairs, or more of them.
WIDTHS = (0.02, 0.05)
OURS = {"schedule": "calr", "ms": "first"}
# Where the proxy preset's sizes would leave hardly a pixel to the last stages.
SIZES = {"mobilenet": {"strides": (2, 1, 2, 1, 1, 2, 1)}}
# Where ten minutes do not train all options of the space: those that are left of each decision.
KEPT = {"mobilenet": ("MB3_3x3", "MB6_3x3", "skip")}
# What grows with a subnet's layers, where subnets differ in that.
DEPTH: dict[str, Callable[[Space, Subnet], int]] = {
    "mobilenet": lambda space, subnet: -space.format(subnet).count("skip"),
    "autoformer": lambda space, subnet: subnet[[decision.name for decision in space.decisions].index("depth")],
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=Path, default=Path("runs/spaces"))
    arguments.add_argument("--jobs", type=int, default=1, help="processes that train subnets alone")
    arguments.add_argument("--adamw", type=float, metavar="LR", help="train supernets by AdamW at this rate")
    arguments.add_argument("--out", type=Path, default=Path("docs/results/spaces.json"))
    arguments.add_argument("spaces", nargs="*", default=list(EPOCHS))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    for name in given.spaces:
        rows = [row for row in rows if row["space"] != name] + [measured(name, given.runs, given.jobs, given.adamw)]
        given.out.write_text(json.dumps(rows, indent=2) + "\n")
    print(markdown(rows))


def measured(name: str, runs: Path, jobs: int, adamw: float | None) -> dict:
    epochs, alone, count, seeds = EPOCHS[name]
    base = preset("proxy", "spos", name)
    options = strategies["spos"].options_type.of(**OURS)
    config = replace(base, epochs=epochs, options=options, space=replace(base.space, **SIZES.get(name, {})))
    if adamw is not None:
        config = replace(config, optimizer="adamw", lr=adamw)
    data = load(config.dataset, split=config.split, resolution=config.space.resolution)
    config = replace(config, space=restricted(config.space.with_classes(data.classes), KEPT.get(name)))
    run = train(config, data, runs / (name if adamw is None else f"{name}-adamw"), device="cpu")
    truth = BuildConfig(
        space=config.space,
        recipe=Recipe(epochs=alone, batch_size=64, lr=0.05),
        dataset=config.dataset,
        split=str(split_alone(runs, count)),
        subnets=100,
        seeds=seeds,
    )
    table = build(truth, runs / f"{name}-alone-{alone}", jobs=jobs)
    ranking, _ = rank_run(run, str(table), sample=0, images=10_000, device="cpu", data=data)
    log = [line for line in read_log(run / "log.jsonl") if "loss" in line]
    tenth = len(log) // 10
    return {
        "space": name,
        "epochs": epochs,
        "epochs alone": alone,
        "images alone": count,
        "seeds alone": seeds,
        "first loss": float(np.mean([line["loss"] for line in log[:tenth]])),
        "last loss": float(np.mean([line["loss"] for line in log[-tenth:]])),
        "tau of seeds": agreement(table, config.dataset, seeds),
        "true accuracy": [float(ranking.true.min()), float(ranking.true.max())],
        "tau": kendall_tau(-ranking.loss, ranking.true),
        "tau of params": kendall_tau(ranking.params, ranking.true),
        "matched": {
            **{
                f"params within {100 * width:.0f} %": matched(ranking, near_in_params(ranking, width))
                for width in WIDTHS
            },
            **({"depth": matched(ranking, same_depth(config.space, ranking))} if name in DEPTH else {}),
        },
    }


def agreement(table: Path, dataset: str, seeds: int) -> float | None:
    """Tau between two trainings of the same subnets alone, a mean over pairs of seeds: what could be ranked at best."""
    columns = pq.read_table(table, columns=[f"{dataset}_test_seed{seed}" for seed in range(seeds)]).to_pydict()
    pairs = itertools.combinations(map(np.array, columns.values()), 2)
    taus = [kendall_tau(*pair) for pair in pairs]
    return float(np.mean(taus)) if taus else None


def restricted(space: Space, kept: tuple[str, ...] | None) -> Space:
    """The space with these options alone, wherever a decision has them; None: all of it."""
    for decision in space.decisions if kept else ():
        space = space.restrict(decision.name, *(option for option in decision.options if option in kept))
    return space


def split_alone(runs: Path, count: int) -> Path:
    """So many images to train subnets alone; few to validate, for it is the test images that judge them."""
    path = runs.resolve() / f"split-alone-{count}.json"
    order = np.random.default_rng(0).permutation(50_000).tolist()
    write_json(path, {"train": sorted(order[:count]), "valid": sorted(order[count : count + 500])})
    return path


def near_in_params(ranking: Ranking, width: float) -> np.ndarray:
    """Which pairs (S, S) have about as many parameters: at most this share of the range apart."""
    params = ranking.params.astype(float)
    return np.abs(params[:, None] - params) <= width * (params.max() - params.min())


def same_depth(space: Space, ranking: Ranking) -> np.ndarray:
    """Which pairs (S, S) have equally many layers."""
    depths = np.array([DEPTH[space.name](space, subnet) for subnet in ranking.subnets])
    return depths[:, None] == depths


def matched(ranking: Ranking, near: np.ndarray) -> dict:
    """Share of these pairs that the supernet's loss orders rightly.

    The interval is a bootstrap over subnets, as one subnet is in many pairs.
    """
    score, true = -ranking.loss, ranking.true
    right = np.sign(score[:, None] - score) * np.sign(true[:, None] - true)
    upper = np.triu(np.ones_like(near), 1) & near & (right != 0)
    rng = np.random.default_rng(0)

    def share(weights: np.ndarray) -> float:
        each = upper * np.outer(weights, weights)
        return float((each * (right > 0)).sum() / each.sum())

    count = len(true)
    draws = [share(np.bincount(rng.integers(count, size=count), minlength=count)) for _ in range(2000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"pairs": int(upper.sum()), "right": share(np.ones(count)), "low": float(low), "high": float(high)}


def markdown(rows: list[dict]) -> str:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["matched"]))
    titles = [
        "space", "epochs (alone, on images, seeds)", "loss, first and last tenth", "true accuracy (%)",
        "tau of two seeds alone", "tau",
        "tau of params alone", *(f"pairs matched in {kind}: right (95 % interval)" for kind in kinds),
    ]  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for row in rows:
        low, high = row["true accuracy"]
        cells = [
            row["space"],
            f"{row['epochs']} ({row['epochs alone']}, {row['images alone']:,}, {row['seeds alone']})",
            f"{row['first loss']:.2f}, {row['last loss']:.2f}",
            f"{low:.1f} to {high:.1f}",
            "-" if row["tau of seeds"] is None else f"{row['tau of seeds']:.3f}",
            f"{row['tau']:.3f}",
            f"{row['tau of params']:.3f}",
            *(said(row["matched"].get(kind)) for kind in kinds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def said(found: dict | None) -> str:
    if found is None:
        return "-"
    return f"{100 * found['right']:.0f} % of {found['pairs']} ({100 * found['low']:.0f} to {100 * found['high']:.0f})"


if __name__ == "__main__":
    main()
