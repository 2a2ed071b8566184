"""`nshot auto --max-params 300k` as a new user runs it, on CIFAR-10 cut to a few PNG files a class; beside it the
largest network of the space, which that limit forbids, trained by the same recipe.

python benchmarks/auto.py --images 45 --runs runs/auto [--out docs/results/auto.json]

The folder has a train part alone, so nshot holds out what it tests on. What was killed continues; minutes are then of
the last start.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nshot.data.images import joined
from nshot.data.sources import load
from nshot.handover.figures import accuracy_of
from nshot.networks.recipes import Recipe, completed
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.spaces import space_from_dict


def cut(images: int, folder: Path, seed: int = 0) -> None:
    """So many CIFAR-10 images of each class, drawn by a seed, as PNG files; the folder is there once it is whole."""
    data = load("cifar10")
    learn = joined(data.train, data.valid).loaded()
    labels, rng = learn.labels.numpy(), np.random.default_rng(seed)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    for label in range(10):
        place = partial / "train" / str(label)
        place.mkdir(parents=True)
        for i in rng.permutation(np.flatnonzero(labels == label))[:images]:
            Image.fromarray(learn.pixels[i].numpy()).save(place / f"{i:05d}.png")
    partial.rename(folder)


def largest(job: Path, data: str) -> dict[str, Any]:
    """The test accuracy of the space's largest network, trained as the one that was found."""
    stored = json.loads((job / "network" / "config.json").read_text())["config"]
    recipe = completed(stored)["recipe"]
    recipe["augment"] = type(Recipe().augment)(**recipe["augment"])
    space = space_from_dict(stored["space"])
    config = RetrainConfig(space, Recipe(**recipe), data, seed=stored["seed"])
    subnet = max(space.subnets(), key=space.params)
    images = load(data, resolution=space.resolution)
    result = retrain(config, subnet, images, job / "largest", device="cpu")
    right = round(result["test_accuracy"] / 100 * result["test_images"])
    return {"params": result["params"], **accuracy_of(right, result["test_images"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=45, help="of each class")
    parser.add_argument("--runs", type=Path, default=Path("runs/auto"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/auto.json"))
    given = parser.parse_args()
    folder, job = (given.runs / f"{kind}-{given.images}" for kind in ("images", "job"))
    if not folder.exists():
        cut(given.images, folder)
    data, began = f"imagefolder:{folder.resolve()}", time.monotonic()
    command = [sys.executable, "-m", "nshot.cli", "auto", data, "--max-params", "300k", "--out", str(job)]
    subprocess.run(command, check=True)
    minutes, used = (time.monotonic() - began) / 60, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime / 60
    verdict = json.loads((job / "network" / "verdict.json").read_text())
    row = {
        "images": 10 * given.images,
        "minutes": round(minutes, 1),
        "processor minutes": round(used, 1),
        "params": verdict["params"],
        "latency_ms": verdict["latency_ms"],
        "network": verdict["test"],
        "linear": {key: verdict["baselines"]["linear"][key] for key in ("accuracy", "low", "high", "p")},
        "largest": largest(job, data),
    }
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    rows = sorted([r for r in rows if r["images"] != row["images"]] + [row], key=lambda r: r["images"])
    given.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))


def markdown(rows: list[dict[str, Any]]) -> str:
    head = [
        "images", "minutes (of a processor)", "parameters", "ms an image", "test accuracy", "linear on pixels",
        "largest network, its parameters",
    ]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in rows:
        cells = [
            f"{row['images']:,}",
            f"{row['minutes']:.0f} ({row['processor minutes']:.0f})",
            f"{row['params']:,}",
            f"{row['latency_ms']:.2f}",
            said(row["network"]),
            said(row["linear"]),
            f"{said(row['largest'])}, {row['largest']['params']:,}" if row.get("largest") else "not run",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def said(found: dict[str, Any]) -> str:
    return f"{found['accuracy']:.1f} % ({found['low']:.1f} to {found['high']:.1f})"


if __name__ == "__main__":
    main()
