"""`nshot auto` on a folder of 450 photos, as a new user runs it where pretrained weights are at hand, beside a linear
classifier on the features of the pretrained network.

NSHOT_DATA=DATA python benchmarks/photos.py --seeds 0 1 2 --test 4000 [--runs runs/photos] [--out FILE]

The photos are CIFAR-10 training images, 45 of each class, drawn by the seed, as PNG files. nshot holds some of them out
to test on; here all is tested on the first of CIFAR-10's own test images, which it never sees. The linear classifier
learns from the images that nshot learned from (`linear`), and from all 450 (`linear, all`). What was killed continues;
its minutes are then not known.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from auto import cut, said
from nshot.data.batches import Normalise, heldout_batches
from nshot.data.images import joined
from nshot.data.sources import Dataset, load
from nshot.handover.figures import accuracy_of
from nshot.networks.alone import accuracy
from nshot.networks.result import read_network
from pretrained import probe, study


def tested(folder: Path, data: Dataset) -> dict[str, Any]:
    """A tuned network's accuracy on the test images, and its costs."""
    network, result = read_network(folder)
    normalise = Normalise(data.test, (tuple(result["normalise"]["mean"]), tuple(result["normalise"]["std"])))
    percent = accuracy(network, heldout_batches(data.test, 250, normalise))
    costs = {key: result[key] for key in ("arch", "params", "flops")}
    return {**costs, **accuracy_of(round(percent / 100 * len(data.test)), len(data.test))}


def row(seed: int, runs: Path, test: Any) -> dict[str, Any]:
    """What comes of the photos of one seed."""
    folder, job = runs / f"images-{seed}", runs / f"job-{seed}"
    if not folder.exists():
        cut(45, folder, seed)
    named, anew, began = f"imagefolder:{folder.resolve()}", not job.exists(), time.monotonic()
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-m", "nshot.cli", "auto", named, "--out", str(job)], check=True)
    minutes = (time.monotonic() - began) / 60
    used = (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used) / 60
    photos = load(named, resolution=study().space.resolution)
    data = dataclasses.replace(photos, test=test)
    every = dataclasses.replace(data, valid=joined(photos.valid, photos.test))
    return {
        "seed": seed,
        "minutes": round(minutes, 1) if anew else None,
        "processor minutes": round(used, 1) if anew else None,
        "latency_ms": json.loads((job / "network" / "verdict.json").read_text())["latency_ms"],
        "network": tested(job / "network", data),
        "whole": tested(job / "whole", data),
        "linear": probe(study(), data),
        "linear, all": probe(study(), every),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    head = [
        "seed", "minutes", "nshot's network", "its FLOPs, of the whole", "ms an image", "whole network, tuned",
        "linear on features", "linear, all 450",
    ]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in rows:
        share = row["network"]["flops"] / row["whole"]["flops"]
        cells = [
            str(row["seed"]),
            "-" if row["minutes"] is None else f"{row['minutes']:.1f}",
            said(row["network"]),
            f"{share:.0%}",
            f"{row['latency_ms']:.1f}",
            *(said(row[name]) for name in ("whole", "linear", "linear, all")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--runs", type=Path, default=Path("runs/photos"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/photos.json"))
    given = parser.parse_args()
    test = load("cifar10", resolution=study().space.resolution).test.subset(np.arange(given.test))
    for seed in given.seeds:
        made = row(seed, given.runs, test)
        rows = json.loads(given.out.read_text()) if given.out.exists() else []
        rows = sorted([r for r in rows if r["seed"] != seed] + [made], key=lambda r: r["seed"])
        given.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(*(f"{name}: {said(made[name])}" for name in ("network", "whole", "linear", "linear, all")), sep="\n")


if __name__ == "__main__":
    main()
