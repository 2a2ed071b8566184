"""What one seed for all parts of FSNAS does, against parts of seeds of their own.

python benchmarks/fsnas_seeds.py --preset smoke --epochs 20 --seeds 5
NSHOT_DATA=DATA python benchmarks/fsnas_seeds.py --preset proxy --epochs 3 --seeds 5

Trains FSNAS with each of the seeds, which is the one arm. The other is made of the same parts: supernet k of shift d
takes part i from the run of seed k + d i, modulo their number, so that all parts have other seeds; its figure is the
mean over shifts. Over all k each part is in both arms equally often. A subnet's score is that of the supernet that owns
it, so mixtures are put together from scores. The interval pairs the arms by k; that they share parts makes it wide
rather than narrow. Killed, it continues.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean

import numpy as np
import pyarrow.parquet as pq
import torch

from nshot.benchmarks.rank import rank_run
from nshot.data.sources import load
from nshot.ranking.metrics import kendall_tau
from nshot.ranking.seeds import difference, over_seeds
from nshot.spaces import Space
from nshot.strategies import strategies
from nshot.studies.base import SCALES, Setting
from nshot.supernets.config import TrainConfig
from nshot.supernets.train import train

SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"accuracy": np.asarray, "loss": np.negative}
Table = dict[str, np.ndarray]


def ranked(config: TrainConfig, preset: str, images: int, folder: Path) -> Table:
    """Trains and ranks a run where that is not done; the columns of its ranking."""
    name, scale = f"ranking-{images}", SCALES[preset]
    if not (folder / f"{name}.json").exists():
        data = load(config.dataset, split=config.split, resolution=config.space.resolution)
        train(replace(config, space=config.space.with_classes(data.classes)), data, folder, device="cpu")
        which = {"sample": 0} if scale.subnets is None else {"subnets": scale.subnets}
        rank_run(folder, scale.benchmark, **which, images=images, name=name, device="cpu", data=data)
    table = pq.read_table(folder / f"{name}.parquet").to_pydict()
    return {key: np.array(table[key]) for key in ("arch", "true", *SCORES)}


def owners(space: Space, config: TrainConfig, archs: np.ndarray) -> np.ndarray:
    """The number of the part that each subnet belongs to."""
    parts = strategies[config.strategy].parts(space, config.options, config.seed)
    subnets = [space.parse(str(arch)) for arch in archs]
    return np.array([next(i for i, part in enumerate(parts) if subnet in part) for subnet in subnets])


def mixed(scores: np.ndarray, owner: np.ndarray, k: int, shift: int) -> np.ndarray:
    """(S,): of scores (runs, S), each subnet's by the run that its part is from; shift 0 takes all from run k."""
    return scores[(k + shift * owner) % len(scores), np.arange(scores.shape[1])]


def compared(tables: list[Table], owner: np.ndarray) -> dict[str, object]:
    """For each score, Kendall's taus of both arms, their means, and the mixed ones' minus the others'."""
    count = len(tables)
    found: dict[str, object] = {}
    for name, signed in SCORES.items():
        scores, true = np.stack([signed(table[name]) for table in tables]), tables[0]["true"]
        taus = [[kendall_tau(mixed(scores, owner, k, shift), true) for shift in range(count)] for k in range(count)]
        one, own = ({k: row[0] for k, row in enumerate(taus)}, {k: mean(row[1:]) for k, row in enumerate(taus)})
        change = difference(one, own)
        found[f"tau by {name}"] = {
            "one seed": {"values": list(one.values()), **asdict(over_seeds(list(one.values())))},
            "seeds of their own": {"values": list(own.values()), **asdict(over_seeds(list(own.values())))},
            "difference": {**asdict(change), "shown": change.shown},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/fsnas-seeds"))
    parser.add_argument("--out", type=Path, help="default: docs/results/fsnas-seeds-PRESET.json")
    parser.add_argument("--preset", choices=SCALES, default="proxy")
    parser.add_argument("--epochs", type=int, default=3, help="of each part")
    parser.add_argument("--seeds", type=int, default=5, help="a prime number, at least as many as parts")
    parser.add_argument("--images", type=int, default=2048, help="that rank; of smoke at most 256")
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = min(given.images, SCALES[given.preset].images or given.images)
    configs = [
        replace(Setting("fsnas").at(SCALES[given.preset], seed), epochs=given.epochs) for seed in range(given.seeds)
    ]
    space = configs[0].space
    parts = len(strategies["fsnas"].parts(space, configs[0].options, 0))
    if given.seeds < parts or any(given.seeds % n == 0 for n in range(2, math.isqrt(given.seeds) + 1)):
        parser.error(f"--seeds {given.seeds}: must be a prime number of at least {parts}, or parts would share a seed")
    tables = [
        ranked(config, given.preset, images, given.runs / f"{given.preset}-seed{config.seed}") for config in configs
    ]
    owner = owners(space, configs[0], tables[0]["arch"])
    settings = {"preset": given.preset, "epochs": given.epochs, "images": images, "subnets": len(owner)}
    result = {**settings, "seeds": given.seeds, **compared(tables, owner)}
    out = given.out or Path(f"docs/results/fsnas-seeds-{given.preset}.json")
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(out.read_text())


if __name__ == "__main__":
    main()
