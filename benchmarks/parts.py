"""Where the time of a step and of a ranking goes on the fast path: milliseconds of each kind of kernel.

python benchmarks/parts.py [--quick] [--out docs/results/parts.json]

Random subnets of NAS-Bench-201; what lies between the kernels (plans, Python, allocation, classifier) is "all else".
"""

import argparse
import gc
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nshot
import rank
from nshot.nn import fused
from nshot.training.optimizers import FusedSGD
from step import SIZES, Ours, batch_of

KERNELS = {"convolve": "3x3 convolutions", "pointwise": "1x1 convolutions"}


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds by kind of kernel, of all that runs inside."""
    seconds: dict[str, float] = defaultdict(float)
    kept = {name: getattr(fused, name) for name in (*KERNELS, "call")}
    step = FusedSGD.step

    def watched(name: str, function: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            found = function(*args, **kwargs)
            seconds[name] += time.perf_counter() - begin
            return found

        return run

    def convolution(name: str, function: Callable) -> Callable:
        forward = watched(name, function)

        def run(*args: Any) -> Any:
            out, gradients = forward(*args)
            return out, watched(name, gradients)

        return run

    for name, kind in KERNELS.items():
        setattr(fused, name, convolution(kind, kept[name]))
    fused.call = lambda kernel, *args: watched(kernel, kept["call"])(kernel, *args)
    FusedSGD.step = watched("sgd", step)
    try:
        yield seconds
    finally:
        for name, function in kept.items():
            setattr(fused, name, function)
        FusedSGD.step = step


def parts(run: Callable[[], int]) -> dict[str, float]:
    """Milliseconds by kind, and in all, of each of the things that ``run`` does so many of; once to warm up."""
    run()
    gc.collect()  # not what others left
    with timed() as seconds:
        begin = time.perf_counter()
        count = run()
        whole = time.perf_counter() - begin
    found = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    found["all else"] = whole - sum(found.values())
    return {name: round(1000 * value / count, 2) for name, value in {"all": whole, **found}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps at proxy size, to see that it runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    space, rng = nshot.space("nasbench201"), np.random.default_rng(0)
    subnets = [space.sample(rng) for _ in range(2 if args.quick else 16)]
    many = [space.sample(rng) for _ in range(4 if args.quick else 160)]
    repeats, images, cores = (1, 256, 1) if args.quick else (4, 1024, torch.get_num_threads())

    def stepping(size: str, batch: int) -> dict[str, float]:
        trainer = Ours(SIZES[size], batch_of(SIZES[size], batch))
        return parts(lambda: len([trainer(subnet) for subnet in subnets * repeats]))

    def ranking() -> int:
        rank.seconds_a_subnet(many, images)
        return len(many) * images // 256

    asked = [
        ("proxy step", 1, partial(stepping, "proxy", 64)),
        ("proxy step, batch 2", 1, partial(stepping, "proxy", 2)),
        ("ranking, a batch of 256", 1, partial(parts, ranking)),
    ]
    if not args.quick:
        asked += [("full step", cores, partial(stepping, "full", 64))]
    result = {}
    for name, threads, measure in asked:
        torch.set_num_threads(threads)
        result[name] = {"threads": threads, "ms": measure()}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
