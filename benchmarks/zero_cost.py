"""Scores that need no training on NAS-Bench-201's true accuracies (CIFAR-10), alone and with one SPOS supernet's loss.

NSHOT_DATA=DATA python benchmarks/zero_cost.py --runs runs/zero-cost --out docs/results/zero-cost.json

The 327-list at the proxy's sizes with three seeds and at the paper's sizes with one; 1,000 random subnets at the
proxy's. The supernet is SPOS's of the preset proxy, seed 0. Killed, it continues.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from nshot.benchmarks.rank import rank_run
from nshot.benchmarks.zero_cost import ScoreConfig, ZeroCost, score_subnets
from nshot.data.sources import load
from nshot.ranking.seeds import Mean, over_seeds
from nshot.scores import COSTS
from nshot.spaces import space
from nshot.studies.base import RANK_LIST, SPLIT
from nshot.supernets.config import preset
from nshot.supernets.train import train

NAMES = [*COSTS, "synflow", "zen", "zico", "gradnorm"]
PROXY = {"channels": 16, "cells": 1, "resolution": 16}
# Of each setting: sizes, seeds, which subnets, and the images on which the supernet's loss is taken where it is.
SETTINGS: dict[str, tuple[dict[str, int], int, dict[str, Any], int]] = {
    "327-list, proxy sizes": (PROXY, 3, {"subnets": RANK_LIST}, 4096),
    "1,000 random, proxy sizes": (PROXY, 1, {"sample": 1000}, 1024),
    "327-list, paper's sizes": ({}, 1, {"subnets": RANK_LIST}, 0),
}
RECALLED = {"zico": {"tau": 0.61, "spearman": 0.80}, "zen": {"tau": 0.29, "spearman": 0.38}}
COLUMNS = ("tau", "Spearman", "best 10 %")
KEYS = ("tau", "spearman", "top_tau")


def supernet(folder: Path) -> Path:
    """SPOS of the preset proxy, trained where it is not."""
    config = replace(preset("proxy"), split=SPLIT)
    data = load(config.dataset, split=config.split, resolution=config.space.resolution)
    return train(config, data, folder, device="cpu")


def scored(name: str, runs: Path, seed: int) -> ZeroCost:
    sizes, _, which, images = SETTINGS[name]
    config = ScoreConfig(space("nasbench201", **sizes), split=SPLIT, seed=seed)
    listed = "list" if "subnets" in which else "random"
    out = runs / f"{'proxy' if sizes else 'paper'}-{seed}"
    given: dict[str, Any] = {**which, "device": "cpu"}
    if images and not (runs / "spos" / f"{listed}.json").exists():
        rank_run(supernet(runs / "spos"), "nasbench201", **which, images=images, name=listed, device="cpu")
    given |= {"run": runs / "spos", "ranking": listed} if images else {}
    return score_subnets(NAMES, config, "nasbench201", out, **given, name=listed)


def measured(runs: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (sizes, seeds, _, images) in SETTINGS.items():
        each = [scored(name, runs, seed) for seed in range(seeds)]
        rows = {
            row: {
                **{key: [one.table[row][key] for one in each] for key in KEYS},
                "mean tau": over_seeds([one.table[row]["tau"] for one in each]).mean,
                "seconds": [one.seconds.get(row) for one in each],
            }
            for row in each[0].table
        }
        ceiling = each[0].ceiling
        found[name] = {"sizes": sizes, "subnets": len(each[0].subnets), "images of the loss": images, "scores": rows}
        found[name]["ceiling"] = None if ceiling is None else asdict(ceiling)
    command = "python benchmarks/zero_cost.py --runs runs/zero-cost --out docs/results/zero-cost.json"
    return {"command": command, "recalled, not measured": RECALLED, "settings": found}


def markdown(result: dict[str, Any]) -> str:
    """A table a setting: a row a score, and where there is a supernet its loss and the combinations."""
    parts = []
    for name, setting in result["settings"].items():
        seeds = max(len(row["tau"]) for row in setting["scores"].values())
        lines = [f"{name} ({setting['subnets']} subnets, {seeds} seed{'s' * (seeds > 1)}):", ""]
        lines += [f"| score | {' | '.join(COLUMNS)} | s a subnet |", f"|{' --- |' * (len(COLUMNS) + 2)}"]
        for score, row in setting["scores"].items():
            cells = [_number(row[key]) for key in KEYS]
            taken = [seconds for seconds in row["seconds"] if seconds]
            cells.append(f"{sum(taken) / len(taken):.3f}" if taken else "-")
            lines.append(f"| {score} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _number(values: list[float]) -> str:
    """A mean with half its interval; where all seeds agree, as of what draws nothing, or there are few: the value."""
    mean: Mean = over_seeds(values)
    spread = "" if mean.high is None or len(set(values)) == 1 else f" ± {mean.high - mean.mean:.3f}"
    return f"{mean.mean:.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/zero-cost"))
    parser.add_argument("--out", type=Path, help="JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = measured(given.runs)
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
