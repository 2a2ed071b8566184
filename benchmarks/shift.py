"""The feature shift of SPOS at smoke scale, with and without momentum separation, and before any training.

python benchmarks/shift.py --seeds 5 --runs runs/shift --out docs/results/shift.json

All supernets are given the same paths and images. Differences are paired by seed. Killed, it continues.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from nshot.data.batches import Normalise, heldout_batches
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset, load
from nshot.ranking.seeds import Mean, difference, over_seeds
from nshot.ranking.shift import feature_shift
from nshot.report.shift_plot import thirds
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.shift import mean_shift, shift_paths, shift_runs
from nshot.supernets.train import new_supernet, train

ARMS: dict[str, str | None] = {"SPOS": None, "SPOS + MS": "first"}  # the MS decision
PATHS, IMAGES = 400, 64
DEPTHS = ("all layers", "first third", "middle", "last third")
Figures = dict[str, float]  # by `DEPTHS`


def config_of(ms: str | None, seed: int) -> TrainConfig:
    base = preset("smoke")
    return replace(base, options=replace(base.options, ms=ms), seed=seed)


def figures(layers: dict[str, Any]) -> Figures:
    return dict(zip(DEPTHS, [mean_shift(layers), *thirds(layers)], strict=True))


def untrained(seed: int, data: Dataset) -> Figures:
    config = config_of(None, seed)
    valid = mixture(data.valid, IMAGES)
    pixels, _ = heldout_batches(valid, IMAGES, Normalise(data.train))[0]
    return figures(feature_shift(new_supernet(config), shift_paths(config.space, PATHS, 0), pixels))


def trained(ms: str | None, seed: int, data: Dataset, folder: Path) -> Figures:
    train(config_of(ms, seed), data, folder, device="cpu")
    return figures(shift_runs([folder], paths=PATHS, images=IMAGES, device="cpu", data=data)[folder])


def measured(seeds: int, runs: Path) -> dict[str, Any]:
    config = config_of(None, 0)
    data = load(config.dataset, split=config.split, resolution=config.space.resolution)
    found = {"untrained": {seed: untrained(seed, data) for seed in range(seeds)}}
    for arm, ms in ARMS.items():
        found[arm] = {seed: trained(ms, seed, data, runs / f"ms-{ms}-{seed}") for seed in range(seeds)}

    def by_seed(arm: str, depth: str) -> dict[int, float]:
        return {seed: each[depth] for seed, each in found[arm].items()}

    pairs = [("SPOS + MS", "SPOS"), ("SPOS", "untrained")]
    return {
        "command": f"python benchmarks/shift.py --seeds {seeds} --runs runs/shift --out docs/results/shift.json",
        "paths": PATHS,
        "images": IMAGES,
        "seeds": seeds,
        "shift": found,
        "means": {arm: {d: asdict(over_seeds(list(by_seed(arm, d).values()))) for d in DEPTHS} for arm in found},
        "differences": {
            f"{a} minus {b}": {d: asdict(difference(by_seed(b, d), by_seed(a, d))) for d in DEPTHS} for a, b in pairs
        },
    }


def markdown(result: dict[str, Any]) -> str:
    """A row a supernet, mean with half its interval; a row a difference, with its interval and whether it is shown."""
    lines = [f"| supernet | {' | '.join(DEPTHS)} |", f"|{' --- |' * (len(DEPTHS) + 1)}"]
    for arm, row in result["means"].items():
        lines.append(f"| {arm} | {' | '.join(_mean(Mean(**row[depth])) for depth in DEPTHS)} |")
    for name, row in result["differences"].items():
        lines.append(f"| {name} | {' | '.join(_difference(Mean(**row[depth])) for depth in DEPTHS)} |")
    return "\n".join(lines)


def _mean(mean: Mean) -> str:
    return f"{mean.mean:.3f}" + ("" if mean.high is None else f" ± {mean.high - mean.mean:.3f}")


def _difference(mean: Mean) -> str:
    if mean.low is None:
        return f"{mean.mean:+.3f}"
    return f"{mean.mean:+.3f} ({mean.low:+.3f} to {mean.high:+.3f}), {'shown' if mean.shown else 'not shown'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/shift"))
    parser.add_argument("--out", type=Path, help="JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = measured(given.seeds, given.runs)
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
