"""Why a supernet of many blocks learns slowly: the loss of one path trained alone by the same loop, beside SPOS's.

NSHOT_DATA=DATA python benchmarks/one_path.py [--space mobilenet] [--steps 400] [--lr 0.045]

Proxy sizes, SGD, one thread; the training loss in fifths of the steps.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from nshot.data.sources import load
from nshot.dynamic import SeparatedMomentum
from nshot.strategies import strategies
from nshot.training.config import preset
from nshot.training.supernet import train_steps
from nshot.training.train import make_batches, make_optimizer, new_supernet


def losses(space: str, steps: int, lr: float, one: bool) -> list[float]:
    config = replace(preset("proxy", "spos", space), lr=lr, optimizer="sgd")
    data = load(config.dataset, resolution=config.space.resolution)
    config = replace(config, space=config.space.with_classes(data.classes))
    supernet = new_supernet(config)
    plan = strategies["spos"](config.space, total_steps=steps, seed=0, options=config.options).plan
    always = plan(0).paths
    optimizer = SeparatedMomentum(make_optimizer(config, supernet), 1)
    found = train_steps(
        supernet,
        optimizer,
        (lambda step: replace(plan(step), paths=always)) if one else plan,
        make_batches(config, data),
        start=0,
        total_steps=steps,
        lr=lr,
    )
    return [float(np.mean(part)) for part in np.array_split([float(loss) for _, loss in found], 5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mobilenet")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=0.045)
    given = parser.parse_args()
    torch.set_num_threads(1)
    base = given.lr
    for title, lr, one in (
        ("one path", base, True),
        ("random paths", base, False),
        ("random paths", base / 4, False),
        ("random paths", base / 16, False),
    ):
        shown = ", ".join(f"{loss:.3f}" for loss in losses(given.space, given.steps, lr, one))
        print(f"| {title} | {lr:g} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
