"""A step of the sandwich rule against its paths one by one, and where its time goes: a network of timm, 96 pixels.

python benchmarks/sandwich.py [--quick] [--out docs/results/sandwich.json]

Contenders, in turn, on the same paths and images with one thread: nshot's step of ``sandwich`` (the largest network,
the smallest and two random ones, the last three taught by the first; one update); nshot's step of ``spos`` for each of
the four; a plain torch step for each of the four as a network of its own, made of timm's modules. The figure is the
median over steps of the ratio of their times. Prints JSON.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import nshot
from nshot.strategies import strategies
from nshot.strategies.base import Plan
from nshot.strategies.memory import Facts
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.train import make_optimizer, new_supernet
from nshot.training.loop import train_steps
from nshot.training.tools import RunTools, StrategyHooks

BATCH = 32
KINDS = {
    "conv": "convolutions, torch's",
    "Depthwise": "gradients of depthwise convolutions, ours",
    "batch_norm": "batch norms",
    "hardtanh": "ReLU6",
    "relu": "ReLU6",
    "upsample": "images to a side",
    "clone": "copies of slices",
    "copy_": "copies of slices",
    "contiguous": "copies of slices",
    "foreach": "SGD",
    "add": "sums",
}


def config_of(resolution: int) -> TrainConfig:
    space = nshot.space("timm", resolution=resolution, num_classes=10)
    return dataclasses.replace(preset("proxy", "sandwich", "timm"), space=space, batch_size=BATCH, epochs=100)


def images_of(resolution: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, resolution, resolution, generator=draw)
    return images.contiguous(memory_format=torch.channels_last), torch.randint(10, (BATCH,), generator=draw)


class Sandwich:
    """nshot's own loop, one step of ``sandwich`` a call."""

    def __init__(self, config: TrainConfig, data: tuple[Tensor, Tensor]) -> None:
        net = new_supernet(config)
        optimizer, used = make_optimizer(config, net, 1)
        self.strategy = strategies["sandwich"](config.space, total_steps=10**6, steps_per_epoch=100)
        facts = Facts(1000, 10, BATCH, config.lr)
        tools = RunTools(facts, net, optimizer, net, F.cross_entropy, used=used)
        hooks = StrategyHooks(self.strategy, self.strategy.memory(net, facts), tools)
        known = {"start": 0, "total_steps": 10**6, "lr": config.lr, "used": used}
        self.steps = train_steps(net, optimizer, hooks.plan, lambda step: data, hooks=hooks, **known)

    def __call__(self, step: int) -> None:
        next(self.steps)


class OneByOne:
    """nshot's own loop, a step of ``spos`` for each path."""

    def __init__(self, config: TrainConfig, data: tuple[Tensor, Tensor], paths: Callable[[int], tuple]) -> None:
        net = new_supernet(config)
        optimizer, used = make_optimizer(config, net, 1)
        self.paths, self.todo = paths, []
        known = {"start": 0, "total_steps": 10**6, "lr": config.lr, "used": used}
        self.steps = train_steps(net, optimizer, lambda step: self.todo.pop(0), lambda step: data, **known)

    def __call__(self, step: int) -> None:
        self.todo = [Plan((path,), (1.0,), 1.0, 0) for path in self.paths(step)]
        while self.todo:
            next(self.steps)


class Plain:
    """Each path as a network of timm's, a step each by torch alone; making the networks is not timed."""

    def __init__(self, config: TrainConfig, data: tuple[Tensor, Tensor], paths: Callable[[int], tuple]) -> None:
        self.space, self.data, self.paths, self.made = config.space, data, paths, {}
        self.recipe = {"lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}

    def make(self, step: int) -> None:
        nets = [self.space.network(path).to(memory_format=torch.channels_last) for path in self.paths(step)]
        self.made = {step: [(net, torch.optim.SGD(net.parameters(), nesterov=True, **self.recipe)) for net in nets]}

    def __call__(self, step: int) -> None:
        for net, sgd in self.made[step]:
            sgd.zero_grad()
            F.cross_entropy(net(self.data[0]), self.data[1]).backward()
            sgd.step()


def times(config: TrainConfig, data: tuple[Tensor, Tensor], steps: int) -> dict[str, list[float]]:
    """Milliseconds of each step, after two that are not measured."""
    ours = Sandwich(config, data)

    def paths(step: int) -> tuple:
        return ours.strategy.plan(step).paths

    plain = Plain(config, data, paths)
    calls = {"sandwich": ours, "one by one": OneByOne(config, data, paths), "plain torch": plain}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for step in range(steps + 2):
        plain.make(step)
        for name, call in calls.items():
            begin = time.perf_counter()
            call(step)
            found[name].append(1000 * (time.perf_counter() - begin))
    return {name: each[2:] for name, each in found.items()}


def kinds(config: TrainConfig, data: tuple[Tensor, Tensor], steps: int) -> dict[str, float]:
    """Milliseconds a step of ``sandwich`` by kind of operator, as torch's profiler counts an operator's own time."""
    ours = Sandwich(config, data)
    ours(0)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for step in range(1, steps + 1):
            ours(step)
    found: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        kind = next((kind for part, kind in KINDS.items() if part in event.key), "all else")
        found[kind] += event.self_cpu_time_total / 1000 / steps
    return {kind: round(ms, 1) for kind, ms in sorted(found.items(), key=lambda item: -item[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps at 32 pixels, to see that it runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    resolution, steps = (32, 1) if args.quick else (96, 20)
    config, data = config_of(resolution), images_of(resolution)
    load = [round(value, 2) for value in os.getloadavg()]
    measured = times(config, data, steps)
    medians = {name: round(statistics.median(each), 1) for name, each in measured.items()}
    over = {
        f"sandwich over {name}": round(
            statistics.median(a / b for a, b in zip(measured["sandwich"], measured[name], strict=True)), 3
        )
        for name in ("one by one", "plain torch")
    }
    said = {"model": config.space.model, "resolution": resolution, "batch": BATCH, "threads": 1, "load before": load}
    said |= {"steps": steps, "ms a step": medians, **over, "ms by kind": kinds(config, data, max(1, steps // 4))}
    print(json.dumps(said, indent=1))
    if args.out:
        args.out.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
