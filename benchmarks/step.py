"""A training step of nshot against the released procedure and against its own convolutions alone.

python benchmarks/step.py [--quick] [--out docs/results/step.json]

Same subnets, same batch, the contenders in turn; the figure is the median of the ratios, subnet by subnet. Prints JSON.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import nshot
import reference
from nshot.dynamic import SeparatedMomentum
from nshot.nn.cells import KERNELS, OPS, live_edges
from nshot.strategies.base import Plan
from nshot.training.loop import train_steps
from nshot.training.optimizers import sgd

SIZES = {
    "full": {"channels": 16, "cells": 5, "resolution": 32},
    "proxy": {"channels": 16, "cells": 1, "resolution": 16},
}


def batch_of(size: dict, batch: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(batch, 3, size["resolution"], size["resolution"])
    return images.to(device, memory_format=torch.channels_last), torch.randint(10, (batch,)).to(device)


class Bf16(torch.nn.Module):
    """The supernet under autocast, as ``--precision bf16-mixed`` runs it."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x, subnet):
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.net(x, subnet)


class Ours:
    """nshot's own loop, one step a call."""

    def __init__(self, size: dict, data: tuple, *, fast=True, clusters=5, bf16=False, dynamic=True, idle="drift"):
        self.space = nshot.space("nasbench201", **size)
        self.net = self.space.supernet().to(data[0].device, memory_format=torch.channels_last)
        self.net.fast = fast
        recipe = {"lr": 0.025, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
        optimizer = SeparatedMomentum(sgd(self.net.parameters(), idle=idle, clip=5.0, fast=fast, **recipe), clusters)
        options = {"schedule": "calr", "ms": "first"} if dynamic else {}
        self.strategy = nshot.strategy("spos", self.space, total_steps=10**6, **options)
        self.clusters, self.subnet = clusters, ()
        model = Bf16(self.net) if bf16 else self.net
        self.steps = train_steps(model, optimizer, self.plan, lambda step: data, start=0, total_steps=10**6, lr=0.025)

    def plan(self, step: int) -> Plan:
        drawn = self.strategy.plan(step)  # what a step costs, then the subnet that is measured; clusters in turn
        return dataclasses.replace(drawn, paths=(self.subnet,), cluster=step % self.clusters)

    def __call__(self, subnet: tuple[int, ...]) -> None:
        self.subnet = subnet
        next(self.steps)


def convolutions(size: dict, subnet: tuple[int, ...]) -> list[tuple[int, int, int, int, int, int]]:
    """(count, C in, C out, kernel, stride, resolution of the input) of a step's convolutions."""
    c, n, r = size["channels"], size["cells"], size["resolution"]
    kernels = [KERNELS[OPS[op]] for op in live_edges(subnet) if OPS[op] in KERNELS]
    found = [(1, 3, c, 3, 1, r)]
    for i in range(3):
        if i:
            found += [(1, c, 2 * c, 3, 2, r), (1, 2 * c, 2 * c, 3, 1, r // 2), (1, c, 2 * c, 1, 1, r // 2)]
            c, r = 2 * c, r // 2
        found += [(n, c, c, k, 1, r) for k in kernels]
    return found


class Floor:
    """The convolutions of a step, forward and backward, and nothing else."""

    def __init__(self, size: dict, batch: int, dtype: torch.dtype) -> None:
        self.size, self.batch, self.dtype, self.made = size, batch, dtype, {}

    def __call__(self, subnet: tuple[int, ...]) -> None:
        for count, c_in, c, k, stride, r in convolutions(self.size, subnet):
            key = (c_in, c, k, stride, r)
            if key not in self.made:
                form = {"dtype": self.dtype, "memory_format": torch.channels_last}
                x, w = torch.randn(self.batch, c_in, r, r).to(**form), torch.randn(c, c_in, k, k).to(**form)
                self.made[key] = x, w, torch.randn(self.batch, c, r // stride, r // stride).to(**form)
            x, w, g = self.made[key]
            mask = [c_in != 3, True, False]
            for _ in range(count):
                F.conv2d(x, w, None, stride, k // 2)
                torch.ops.aten.convolution_backward(
                    g, x, w, None, [stride] * 2, [k // 2] * 2, [1, 1], False, [0, 0], 1, mask
                )


def alternate(calls: dict[str, Callable], subnets: list, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every call for every subnet, the median of the repeats.

    In each repeat a call has all subnets one after another, as a training has them: where another call comes between
    two steps, each finds the caches and the freed memory of the other.
    """
    times = {name: [[] for _ in subnets] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            for subnet in subnets[-3:]:
                call(subnet)  # not measured: what came before was another
            for i, subnet in enumerate(subnets):
                begin = time.perf_counter()
                call(subnet)
                times[name][i].append(1000 * (time.perf_counter() - begin))
    return {name: [statistics.median(t) for t in each] for name, each in times.items()}


def ratio(times: dict[str, list[float]], a: str, b: str) -> float:
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))


def compare(name: str, threads: int, subnets: list, repeats: int, batch: int = 64) -> dict:
    """Reference, plain path, fast path, and the floors, at one size."""
    torch.set_num_threads(threads)
    size, data = SIZES[name], batch_of(SIZES[name], batch)
    trainer = reference.Trainer(reference.Supernet(size["channels"], size["cells"]))
    contiguous = data[0].contiguous()
    calls = {
        "reference": lambda subnet: trainer.step(contiguous, data[1], subnet),
        "plain": Ours(size, data, fast=False),
        "fast": Ours(size, data),
        "fast bf16": Ours(size, data, bf16=True),
        "floor": Floor(size, batch, torch.float32),
        "floor bf16": Floor(size, batch, torch.bfloat16),
    }
    times = alternate(calls, subnets, repeats)
    return {
        "size": name,
        "threads": threads,
        "batch": batch,
        "ms": {key: round(statistics.mean(value), 2) for key, value in times.items()},
        "reference over fast": round(ratio(times, "reference", "fast"), 2),
        "reference over plain": round(ratio(times, "reference", "plain"), 2),
        "fast over floor": round(ratio(times, "fast", "floor"), 2),
        "reference over fast bf16": round(ratio(times, "reference", "fast bf16"), 2),
        "fast bf16 over its floor": round(ratio(times, "fast bf16", "floor bf16"), 2),
    }


def variants(subnets: list, repeats: int) -> dict:
    """Proxy size, one thread: what CaLR and MS cost, what clusters cost, idle weights, batch sizes."""
    torch.set_num_threads(1)
    size = SIZES["proxy"]
    data = batch_of(size, 64)
    calls = {
        "neither": Ours(size, data, clusters=1, dynamic=False),
        "CaLR + MS": Ours(size, data),
        "one cluster": Ours(size, data, clusters=1),
        "25 clusters": Ours(size, data, clusters=25),
        "idle rest": Ours(size, data, idle="rest"),
    }
    times = alternate(calls, subnets, repeats)
    found = {name: round(ratio(times, name, "neither"), 4) for name in calls}
    by_batch = {
        batch: round(statistics.mean(alternate({"b": Ours(size, batch_of(size, batch))}, subnets, repeats)["b"]), 2)
        for batch in (16, 32, 64, 128, 256)
    }
    many = round(ratio(times, "25 clusters", "one cluster"), 4)
    return {"over neither": found, "25 clusters over one": many, "ms by batch": by_batch}


def processes(seconds: float) -> dict:
    """Steps a second of one and of two processes of one thread, proxy size."""
    code = (
        "import sys, time; sys.path.insert(0, 'benchmarks'); import torch; torch.set_num_threads(1);"
        "import numpy as np;"
        "from step import *; o = Ours(SIZES['proxy'], batch_of(SIZES['proxy'], 64)); r = np.random.default_rng(0);"
        f"[o(o.space.sample(r)) for _ in range(20)]; n = 0; end = time.time() + {seconds}\n"
        "while time.time() < end: o(o.space.sample(r)); n += 1\n"
        f"print(n / {seconds})"
    )
    found = {}
    for count in (1, 2):
        runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(count)]
        found[count] = round(sum(float(run.communicate()[0]) for run in runs), 1)
    return found


def memory(clusters: int) -> int:
    """Peak memory of 60 full-size steps in a fresh process, in MB; clusters 0: the reference, of contiguous images."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import torch; torch.set_num_threads(1);"
        "import numpy as np;"
        "from step import *; r = np.random.default_rng(0); size = SIZES['full']; d = batch_of(size, 64);"
        f"o = Ours(size, d, clusters={clusters}) if {clusters} else None;"
        "t = None if o else reference.Trainer(reference.Supernet(16, 5)); s = nshot.space('nasbench201');"
        "[o(s.sample(r)) if o else t.step(d[0].contiguous(), d[1], s.sample(r)) for _ in range(60)];"
        "print(next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM')) // 1024)"
    )
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps at proxy size, to see that it runs")
    parser.add_argument("--only", choices=["full", "proxy"], help="one comparison only")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    space = nshot.space("nasbench201")
    subnets = [space.sample(rng) for _ in range(3 if args.quick else 16)]
    repeats = 1 if args.quick else 5
    wanted = [args.only] if args.only else ["proxy"] if args.quick else ["full", "proxy"]
    threads = {"full": torch.get_num_threads(), "proxy": 1}
    results: dict = {"comparisons": [compare(name, threads[name], subnets, repeats) for name in wanted]}
    if not args.only:
        results["variants"] = variants(subnets, repeats)
    if not args.quick and not args.only:
        results["steps a second by processes"] = processes(10.0)
        results["peak MB"] = {name: memory(k) for name, k in {"reference": 0, "1": 1, "5": 5, "25": 25}.items()}
    print(json.dumps(results, indent=1))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
