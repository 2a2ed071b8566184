"""Gradients of depthwise convolutions, ours against torch's, and what they make of a supernet's training step.

python benchmarks/depthwise.py [--quick] [--out docs/results/depthwise.json]

One thread, batch 64. Steps are forward and backward of the same random subnets at the proxy presets' sizes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nshot.nn.depthwise import DepthwiseConv
from nshot.supernets.config import preset

BATCH = 64
# Channels, side, kernel, stride, dilation.
CONVOLUTIONS = [
    (8, 16, 3, 1, 1), (8, 16, 5, 1, 1), (8, 16, 3, 1, 2), (8, 16, 5, 1, 2), (8, 16, 5, 2, 2), (48, 16, 5, 1, 1),
    (48, 16, 7, 1, 1), (48, 16, 7, 2, 1), (96, 8, 5, 1, 1), (36, 32, 5, 1, 2),
]  # fmt: skip


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Median of a call, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return 1000 * float(np.median(times[2:]))


def convolution(c: int, side: int, kernel: int, stride: int, dilation: int, repeats: int) -> dict:
    """Forward, and backward by torch and by us."""
    conv = DepthwiseConv(c, kernel, stride, dilation).to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, c, side, side).to(memory_format=torch.channels_last).requires_grad_()
    g = torch.randn_like(conv(x))
    found = {"channels": c, "side": side, "kernel": kernel, "stride": stride, "dilation": dilation}
    found["forward"] = milliseconds(lambda: conv(x), repeats)
    for name, fast in (("torch", False), ("ours", True)):
        conv.fast = fast
        both = milliseconds(lambda: torch.autograd.grad(conv(x), (x, conv.weight), g), repeats)
        found[name] = both - found["forward"]
    return found


def step(name: str, repeats: int) -> dict:
    """Forward and backward of random subnets, each by torch and then by us."""
    space = preset("proxy", "spos", name).space
    supernet, rng = space.supernet().to(memory_format=torch.channels_last), np.random.default_rng(0)
    images = torch.randn(BATCH, 3, space.resolution, space.resolution).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % space.num_classes
    times: dict[str, list[float]] = {"torch": [], "ours": []}
    for subnet in (space.sample(rng) for _ in range(repeats)):
        for kind, fast in (("torch", False), ("ours", True)):
            supernet.fast = fast
            run = lambda: F.cross_entropy(supernet(images, subnet), labels).backward()  # noqa: B023, E731
            times[kind].append(milliseconds(run, 3))
    return {"space": name} | {kind: float(np.mean(ms)) for kind, ms in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few calls, to see that it runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 2 if args.quick else 20
    result = {
        "convolutions": [convolution(*sizes, repeats) for sizes in CONVOLUTIONS],
        "steps": [step(name, repeats) for name in ("darts", "mobilenet")],
    }
    for row in result["convolutions"] + result["steps"]:
        print(*(f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
