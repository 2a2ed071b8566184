"""A training step of each method: NAS-Bench-201 at proxy size.

python benchmarks/methods.py [--quick] [--out docs/results/methods.json]

DARTS and GDAS against a plain torch loop of the same method. The plain loop is the released procedure: contiguous
tensors, torch's own modules, SGD and Adam, every option of every edge for DARTS; second order by copies of the weights
in place. Methods of paths against nshot's own plain path (torch's modules and SGD) and, by how many passes forward and
backward a step has, against a step of SPOS. The contenders in turn, one thread, the same batches; a ratio is the median
over rounds of the ratio of a round's mean step. Prints JSON.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nshot
from nshot.dynamic import SeparatedMomentum
from nshot.spaces import Mixture
from nshot.strategies import strategies
from nshot.strategies.memory import Facts
from nshot.training.loop import train_steps
from nshot.training.optimizers import sgd
from nshot.training.tools import RunTools, StrategyHooks

SIZE = {"channels": 16, "cells": 1, "resolution": 16}
RECIPE = {"lr": 0.025, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
CASES: dict[str, tuple[str, dict]] = {
    "darts, first order": ("darts", {"order": 1}),
    "darts, second order": ("darts", {"order": 2}),
    "gdas": ("gdas", {}),
}
# Of methods of paths how often a step runs forward and backward. Cream's teacher runs forward too, and its meta network
# learns every 200 steps; Pi-NAS's paths and their averages see two views each, and its classifier two more paths.
PASSES = {
    "spos": 1,
    "random": 1,
    "pada": 1,
    "fairnas": 5,
    "nsas": 9,
    "sumnas": 10,
    "sandwich": 4,
    "cream": 1,
    "pinas": 4,
}


def batch_of(count: int, form: torch.memory_format) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(count)
    images = torch.randn(count, 3, SIZE["resolution"], SIZE["resolution"], generator=draw)
    return images.contiguous(memory_format=form), torch.randint(10, (count,), generator=draw)


class Ours:
    """nshot's own loop, one step a call."""

    def __init__(self, name: str, options: dict, batch: int, fast: bool) -> None:
        method = strategies[name]
        images, labels = batch_of(batch, torch.channels_last)
        views = images.repeat(method.views, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        data = views, labels.repeat(method.views)
        space = nshot.space("nasbench201", **SIZE)
        self.net = space.supernet().to(memory_format=torch.channels_last)
        self.net.fast = fast
        optimizer = SeparatedMomentum(sgd(self.net.parameters(), idle="drift", clip=5.0, fast=fast, **RECIPE), 1)
        known = {"total_steps": 10**6, "steps_per_epoch": 390}
        strategy = method(space, options=method.options_type.of(**options), **known)
        facts = Facts(25_000, 10, batch, 0.025)

        def batches(step: int, *chosen: Tensor) -> tuple[Tensor, Tensor]:
            return data

        tools = RunTools(facts, self.net, optimizer, self.net, F.cross_entropy, batches)
        hooks = StrategyHooks(strategy, strategy.memory(self.net, facts), tools)
        known = {"start": 0, "total_steps": 10**6, "lr": 0.025}
        self.steps = train_steps(self.net, optimizer, hooks.plan, batches, hooks=hooks, **known)

    def __call__(self) -> None:
        next(self.steps)


class Plain:
    """The same method by autograd, on the supernet's plain path."""

    def __init__(self, name: str, options: dict, batch: int) -> None:
        self.data = batch_of(batch, torch.contiguous_format)
        self.net = nshot.space("nasbench201", **SIZE).supernet()
        self.net.fast = False
        self.alpha = nn.Parameter(1e-3 * torch.randn(6, 5))
        self.sgd = torch.optim.SGD(self.net.parameters(), **RECIPE)
        self.adam = torch.optim.Adam([self.alpha], 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        self.hard, self.second = name == "gdas", options.get("order") == 2

    def mixture(self) -> Mixture:
        if not self.hard:
            return Mixture(self.alpha.softmax(1))
        noise = -torch.empty(6, 5).exponential_().log()
        p = ((self.alpha.log_softmax(1) + noise) / 10).softmax(1)
        picks = p.argmax(1)
        return Mixture(F.one_hot(picks, 5) - p.detach() + p, tuple(picks.tolist()))

    def loss(self) -> Tensor:
        return F.cross_entropy(self.net(self.data[0], self.mixture()), self.data[1])

    def __call__(self) -> None:
        self.sgd.zero_grad()
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.sgd.step()
        self.adam.zero_grad()
        if self.second:
            self.unrolled()
        else:
            self.loss().backward()
        self.adam.step()

    def unrolled(self) -> None:
        weights, rate = list(self.net.parameters()), 0.025
        before = [w.detach().clone() for w in weights]
        momenta = [self.sgd.state[w]["momentum_buffer"] for w in weights]
        grads = torch.autograd.grad(self.loss(), weights)
        with torch.no_grad():
            for w, g, m in zip(weights, grads, momenta, strict=True):
                w -= rate * (0.9 * m + g + 5e-4 * w)
        *v, own = torch.autograd.grad(self.loss(), [*weights, self.alpha])
        radius = 0.01 / torch.cat([g.flatten() for g in v]).norm()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for w, old, g in zip(weights, before, v, strict=True):
                    w.copy_(old + sign * radius * g)
            ends.append(torch.autograd.grad(self.loss(), self.alpha)[0])
        with torch.no_grad():
            for w, old in zip(weights, before, strict=True):
                w.copy_(old)
        self.alpha.grad = own - rate * (ends[0] - ends[1]) / (2 * radius)


def rounds(calls: dict[Any, Callable[[], None]], repeats: int, steps: int) -> dict[Any, list[float]]:
    """Of each round the mean milliseconds of a step, after one that is not measured."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            begin = time.perf_counter()
            for _ in range(steps):
                call()
            times[name].append(1000 * (time.perf_counter() - begin) / steps)
    return times


def compare(name: str, options: dict, repeats: int, steps: int, batch: int = 64) -> dict[str, float]:
    torch.manual_seed(0)
    calls = {
        "plain loop": Plain(name, options, batch),
        "plain path": Ours(name, options, batch, fast=False),
        "fast path": Ours(name, options, batch, fast=True),
    }
    times = rounds(calls, repeats, steps)
    found = {key: round(statistics.median(each), 2) for key, each in times.items()}
    pairs = zip(times["plain loop"], times["fast path"], strict=True)
    return {**found, "plain loop over fast path": round(statistics.median(a / b for a, b in pairs), 2)}


def compare_paths(repeats: int, steps: int, batch: int = 64) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    calls = {(name, fast): Ours(name, {}, batch, fast) for name in PASSES for fast in (False, True)}
    times = rounds(calls, repeats, steps)

    def ratio(a: tuple[str, bool], b: tuple[str, bool]) -> float:
        return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))

    return {
        name: {
            "plain path": round(statistics.median(times[name, False]), 2),
            "fast path": round(statistics.median(times[name, True]), 2),
            "plain path over fast path": round(ratio((name, False), (name, True)), 2),
            "passes": passes,
            "a pass over SPOS's step": round(ratio((name, True), ("spos", True)) / passes, 2),
        }
        for name, passes in PASSES.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeats, steps = (1, 2) if args.quick else (5, 8)
    load = [round(value, 2) for value in os.getloadavg()]
    results = {name: compare(*case, repeats, steps) for name, case in CASES.items()}
    results |= compare_paths(repeats, 2 * steps)
    said = {"size": SIZE, "batch": 64, "threads": 1, "load before": load, "ms a step": results}
    print(json.dumps(said, indent=1))
    if args.out:
        args.out.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
