"""Trains each of the other spaces on CIFAR-10 for about ten minutes a core, and ranks 100 of its subnets.

NSHOT_DATA=DATA python benchmarks/spaces.py --runs runs/spaces --jobs 2

For each space: a supernet by SPOS + CaLR + MS at the proxy preset's sizes; 100 random subnets trained alone for a
short while, which is what true accuracy means here; and how the supernet orders them, also among pairs that have the
same number of parameters or of layers, where "larger is better" cannot help. Writes
docs/results/spaces.json and prints the table. What was killed continues.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nshot.benchmarks.build import BuildConfig, build
from nshot.benchmarks.rank import Ranking, rank_run
from nshot.data.sources import load
from nshot.files import write_json
from nshot.networks.alone import Recipe
from nshot.ranking.metrics import kendall_tau
from nshot.runs.log import read_log
from nshot.runs.where import On
from nshot.spaces import Space, Subnet
from nshot.spaces.darts import DARTS, OPS, choices
from nshot.strategies import strategies
from nshot.supernets.config import preset
from nshot.supernets.train import train

EPOCHS = {"mobilenet": 60, "darts": 30, "autoformer": 50}  # ten minutes of supernet training on one core
# How a subnet is trained alone, and on how many images.
ALONE = {
    "mobilenet": (Recipe(epochs=3, batch_size=64, optimizer="adamw", lr=3e-3), 20_000),
    "darts": (Recipe(epochs=2, batch_size=64, lr=0.05), 15_000),
    "autoformer": (Recipe(epochs=2, batch_size=64, lr=0.05), 20_000),
}
# How far apart, in shares of the range of parameters, two subnets of one size may be: few pairs, or more of them.
WIDTHS = (0.02, 0.05)
OURS = {"schedule": "calr", "ms": "first"}
SIZES = {"darts": {"cells": 3}}  # where the proxy preset's would leave too few steps to ten minutes
# Where ten minutes do not train all options of the space, those that are left: one of each kind.
KEPT = {
    "mobilenet": ("MB3_3x3", "MB6_7x7", "skip"),
    "darts": ("avg_pool_3x3", "skip_connect", "sep_conv_3x3"),
}


def longest(space: Space, subnet: Subnet) -> int:
    """Operations, not counting skips, on the longest way through the cells of a DARTS network."""
    assert isinstance(space, DARTS)
    layers = 0
    for at in space.places:
        depths = [0, 0]  # of the cell's two inputs
        for node in choices(subnet, at.kind):
            depths.append(max(depths[source] + (OPS[op] != "skip_connect") for source, op in node))
        layers += max(depths[2:])
    return layers


# What grows with a subnet's layers.
DEPTH: dict[str, Callable[[Space, Subnet], int]] = {
    "darts": longest,
    "mobilenet": lambda space, subnet: -space.format(subnet).count("skip"),
    "autoformer": lambda space, subnet: subnet[[decision.name for decision in space.decisions].index("depth")],
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=Path, default=Path("runs/spaces"))
    arguments.add_argument("--jobs", type=int, default=1, help="processes that train subnets alone")
    arguments.add_argument("--out", type=Path, default=Path("docs/results/spaces.json"))
    arguments.add_argument("spaces", nargs="*", default=list(EPOCHS))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    for name in given.spaces:
        rows = [row for row in rows if row["space"] != name] + [measured(name, given.runs, given.jobs)]
        given.out.write_text(json.dumps(rows, indent=2) + "\n")
    print(markdown(rows))


def measured(name: str, runs: Path, jobs: int) -> dict:
    epochs, (recipe, count) = EPOCHS[name], ALONE[name]
    base = preset("proxy", "spos", name)
    options = strategies["spos"].options_type.of(**OURS)
    config = replace(base, epochs=epochs, options=options, space=replace(base.space, **SIZES.get(name, {})))
    data = load(config.dataset, split=config.split, resolution=config.space.resolution)
    config = replace(config, space=restricted(config.space.with_classes(data.classes), KEPT.get(name, ())))
    run = train(config, data, runs / name, device="cpu")
    truth = BuildConfig(
        space=config.space,
        recipe=recipe,
        dataset=config.dataset,
        split=str(split_alone(runs, count)),
        subnets=100,
        seeds=1,
    )
    table = build(truth, runs / f"{name}-alone", on=On(jobs=jobs))
    ranking, _ = rank_run(run, str(table), sample=0, images=10_000, device="cpu", data=data)
    log = [line for line in read_log(run / "log.jsonl") if "loss" in line]
    tenth = len(log) // 10
    return {
        "space": name,
        "epochs": epochs,
        "epochs alone": recipe.epochs,
        "images alone": count,
        "first loss": float(np.mean([line["loss"] for line in log[:tenth]])),
        "last loss": float(np.mean([line["loss"] for line in log[-tenth:]])),
        "true accuracy": [float(ranking.true.min()), float(ranking.true.max())],
        "tau": kendall_tau(-ranking.loss, ranking.true),
        "tau of params": kendall_tau(ranking.params, ranking.true),
        "matched": {
            **{
                f"params within {100 * width:.0f} %": matched(ranking, near_in_params(ranking, width))
                for width in WIDTHS
            },
            "depth": matched(ranking, same_depth(config.space, ranking)),
        },
    }


def restricted(space: Space, kept: tuple[str, ...]) -> Space:
    """The space with these options alone, wherever a decision has any of them."""
    for decision in space.decisions:
        if options := [option for option in decision.options if option in kept]:
            space = space.restrict(decision.name, *options)
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
        "space", "epochs (alone, on images)", "loss, first and last tenth", "true accuracy (%)", "tau",
        "tau of params alone", *(f"pairs matched in {kind}: right (95 % interval)" for kind in kinds),
    ]  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for row in rows:
        low, high = row["true accuracy"]
        cells = [
            row["space"],
            f"{row['epochs']} ({row['epochs alone']}, {row['images alone']:,})",
            f"{row['first loss']:.2f}, {row['last loss']:.2f}",
            f"{low:.1f} to {high:.1f}",
            f"{row['tau']:.3f}",
            f"{row['tau of params']:.3f}",
            *(said(row["matched"][kind]) for kind in kinds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def said(found: dict) -> str:
    return f"{100 * found['right']:.0f} % of {found['pairs']} ({100 * found['low']:.0f} to {100 * found['high']:.0f})"


if __name__ == "__main__":
    main()
