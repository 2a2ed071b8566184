"""Ranking of nshot against the released procedure: seconds a subnet, proxy size, CIFAR-10 or images made up.

python benchmarks/rank.py [--quick] [--whole] [--out docs/results/rank.json]

The reference decodes every image for every subnet in four fresh worker processes; nshot keeps images in memory, and
subnets share batches, stem and the decided part of the first cell. ``--whole``: time all 15,625 subnets on 1,024
images, in two processes of one thread each.
"""

import argparse
import io
import json
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import nshot
import reference
from nshot.ranking.evaluate import evaluate

SIZES = {"channels": 16, "cells": 1, "resolution": 16}


def encoded(count: int) -> list[bytes]:
    """PNG files of 32x32 pixels in memory, as a data set has them."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    found = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        found.append(buffer.getvalue())
    return found


def batches_of(images: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    side = SIZES["resolution"]
    x = torch.randn(images, 3, side, side, generator=generator).to(memory_format=torch.channels_last)
    return list(zip(x.split(256), torch.zeros(images, dtype=torch.long).split(256), strict=True))


def seconds_a_subnet(subnets: list, images: int) -> float:
    space = nshot.space("nasbench201", **SIZES)
    supernet = space.supernet().to(memory_format=torch.channels_last)
    batches = batches_of(images)
    begin = time.perf_counter()
    evaluate(supernet, subnets, batches, canonical=space.canonical)
    return (time.perf_counter() - begin) / len(subnets)


def _part(part: list, images: int) -> None:
    torch.set_num_threads(1)
    seconds_a_subnet(part, images)


def whole(images: int) -> dict:
    """Minutes for all subnets in two processes; each has every second half of the sorted canonical forms."""
    space = nshot.space("nasbench201", **SIZES)
    forms = sorted({space.canonical(subnet) for subnet in space.subnets()})
    halves = [forms[: len(forms) // 2], forms[len(forms) // 2 :]]
    begin = time.perf_counter()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(_part, halves, [images] * 2))
    minutes = (time.perf_counter() - begin) / 60
    return {"subnets": space.size, "distinct forms": len(forms), "images": images, "minutes": round(minutes, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few subnets and images, to see that it runs")
    parser.add_argument("--whole", action="store_true", help="also time all subnets")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    images, count, repeats = (256, 2, 1) if args.quick else (2048, 8, 3)
    space = nshot.space("nasbench201", **SIZES)
    rng = np.random.default_rng(0)
    few = [space.sample(rng) for _ in range(count)]
    many = [space.sample(rng) for _ in range(count if args.quick else 327)]
    data = reference.Encoded(encoded(images), [0] * images, SIZES["resolution"])
    net = reference.Supernet(SIZES["channels"], SIZES["cells"])
    theirs, ours = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        for subnet in few:
            reference.rank_one(net, data, subnet)
        theirs.append((time.perf_counter() - begin) / count)
        ours.append(seconds_a_subnet(many, images))
    result = {
        "threads": torch.get_num_threads(),
        "images": images,
        "reference, s a subnet": round(statistics.median(theirs), 4),
        "nshot, s a subnet": round(statistics.median(ours), 4),
        "ratio": round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 1),
    }
    if args.whole:
        result["whole space"] = whole(1024)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
