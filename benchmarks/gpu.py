"""CUDA graphs on a GPU: are they right, how much faster is a step, what do they cost? In under eight minutes.

python benchmarks/gpu.py [--quick] [--device cuda] [--out docs/results/gpu.json]

Loss and gradients of random subnets, alone and several in one step, by eager kernels and by graphs; ms a step of the
released procedure, of eager kernels and of graphs; seconds of capture and memory. Ends with status 1 where a gradient
is wrong. With ``--device cpu`` nothing is captured, and what is measured is that this runs.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import nshot
import reference
from nshot.nn.graphs import cuda_capture
from step import SIZES, Ours, batch_of

TOLERANCE = 1e-4  # of a gradient's norm, in fp32 without TF32
SMALL = {"channels": 4, "cells": 1, "resolution": 8}


def uncaptured(pool, forward, backward):
    """What stands in for a capture on a CPU."""
    forward()
    backward()
    return forward, backward


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def graphed(trainer: Ours, device: str) -> Ours:
    trainer.net.use_graphs(cuda_capture if device == "cuda" else uncaptured)
    return trainer


def gradients(net: torch.nn.Module, data: tuple, paths: list) -> tuple[float, torch.Tensor]:
    """The losses' sum and all gradients in a row, of a step with these paths."""
    net.zero_grad()
    total = 0.0
    for path in paths:
        loss = F.cross_entropy(net(data[0], path), data[1])
        loss.backward()
        total += loss.item()
    return total, torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])


def errors(size: dict, batch: int, device: str, subnets: list, paths: int) -> dict:
    """Largest differences of graphs from eager kernels, relative to the norm; each part is replayed too."""
    data = batch_of(size, batch, device)
    eager, other = Ours(size, data, fast=False), graphed(Ours(size, data, fast=False), device)
    other.net.load_state_dict(eager.net.state_dict())
    losses, grads = [], []
    for start in [*range(0, len(subnets), paths)] * 2:
        chosen = subnets[start : start + paths]
        (a, g), (b, h) = (gradients(trainer.net, data, chosen) for trainer in (eager, other))
        losses.append(abs(a - b) / abs(a))
        grads.append(float((g - h).norm() / g.norm()))
    return {"paths": paths, "loss": max(losses), "gradient": max(grads)}


def measured(step, subnets: list, device: str, repeats: int) -> float:
    """Median ms a step."""
    times = []
    for _ in range(repeats):
        for subnet in subnets:
            wait(device)
            begin = time.perf_counter()
            step(subnet)
            wait(device)
            times.append(1000 * (time.perf_counter() - begin))
    return round(statistics.median(times), 3)


def speed(size: dict, batch: int, device: str, subnets: list, repeats: int) -> dict:
    data = batch_of(size, batch, device)
    released = reference.Trainer(reference.Supernet(size["channels"], size["cells"]).to(device))
    contiguous = data[0].contiguous()
    calls = {
        "reference": lambda subnet: released.step(contiguous, data[1], subnet),
        "eager": Ours(size, data, fast=False),
        "graphs": graphed(Ours(size, data, fast=False), device),
        "eager, bf16": Ours(size, data, fast=False, bf16=True),
        "graphs, bf16": graphed(Ours(size, data, fast=False, bf16=True), device),
    }
    found: dict = {"batch": batch, "ms": {}, "first pass, s": {}, "peak MB": {}}
    for name, call in calls.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        begin = time.perf_counter()
        for subnet in subnets:
            call(subnet)
        wait(device)
        found["first pass, s"][name] = round(time.perf_counter() - begin, 1)
        found["ms"][name] = measured(call, subnets, device, repeats)
        if device == "cuda":
            found["peak MB"][name] = (torch.cuda.max_memory_allocated() - before) // 2**20
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and few, to see that it runs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("gpu.py: torch finds no CUDA GPU here: run it where there is one", file=sys.stderr)
        return 2
    torch.backends.cudnn.allow_tf32 = False  # for the comparison; a timing has what torch has by default
    rng = np.random.default_rng(0)
    space = nshot.space("nasbench201")
    subnets = [space.sample(rng) for _ in range(4 if args.quick else 30)]
    size = SMALL if args.quick else SIZES["full"]
    checks = [errors(size, 8 if args.quick else 64, args.device, subnets, paths) for paths in (1, 2)]
    torch.backends.cudnn.allow_tf32 = True
    result = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu, nothing is captured",
        "torch": torch.__version__,
        "right": all(check["loss"] < TOLERANCE and check["gradient"] < TOLERANCE for check in checks),
        "checks": checks,
        "speed": [
            speed(size, batch, args.device, subnets[:16], 1 if args.quick else 10)
            for batch in ((8,) if args.quick else (64, 256))
        ],
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
