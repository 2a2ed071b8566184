"""The trainings behind table I and figure B: what gradients of different subnets have in common."""

import math
from pathlib import Path
from typing import Any

from nshot.data.sources import Dataset
from nshot.dynamic import SeparatedMomentum
from nshot.ranking.gradients import SimilarityRecorder, SpreadRecorder
from nshot.seeding import generator
from nshot.spaces import Space, Subnet
from nshot.strategies import Plan, strategies
from nshot.training.config import TrainConfig
from nshot.training.runner import finite
from nshot.training.supernet import smoothed, train_steps
from nshot.training.train import make_batches, make_optimizer, new_supernet

from .base import Scale

DISTANCES = (0, 1, 3, 5)  # A0, A1, A3, A5 of section C.6: how many decisions differ from those of A0


def relatives(space: Space, seed: int) -> tuple[Subnet, ...]:
    """A0, drawn at random, and A0 with 1, 3 and 5 decisions changed; each of them needs all its decisions."""
    rng = generator(seed, "relatives")
    while True:
        base = space.sample(rng)
        found = []
        for distance in DISTANCES:
            other = list(base)
            for i in rng.permutation(len(base))[:distance]:
                other[i] = int(rng.choice([option for option in space.decisions[i].allowed if option != base[i]]))
            found.append(tuple(other))
        if all(space.canonical(subnet) == subnet for subnet in found):
            return tuple(found)


def similarity(config: TrainConfig, data: Dataset, run: Path, folder: Path, scale: Scale) -> dict[str, Any]:
    """Table I: MGCS of A1, A3 and A5 with A0, trained together; the last epoch, the stem's weights."""
    subnets = relatives(config.space, config.seed)
    supernet = new_supernet(config)
    optimizer = SeparatedMomentum(make_optimizer(config, supernet), clusters=1)
    batches = make_batches(config, data)
    total = config.epochs * batches.steps_per_epoch
    recorder = SimilarityRecorder(next(supernet.parameters()), len(subnets))

    def plan(step: int) -> Plan:
        return Plan(subnets, (1.0,) * len(subnets), (1 + math.cos(math.pi * step / total)) / 2, 0)

    steps = train_steps(
        supernet,
        optimizer,
        plan,
        batches,
        start=0,
        total_steps=total,
        lr=config.lr,
        backward=recorder,
        criterion=smoothed(config.label_smoothing),
    )
    for step, loss in steps:
        if (step + 1) % batches.steps_per_epoch == 0:
            finite(float(loss), step)
        if step + 1 == total - batches.steps_per_epoch:
            recorder.forget()
    names = (f"A{distance}" for distance in DISTANCES)
    return {name: value for name, value in zip(names, recorder.means, strict=True) if name != "A0"}


def spread(config: TrainConfig, data: Dataset, run: Path, folder: Path, scale: Scale) -> dict[str, Any]:
    """Figure B: the standard deviation of the gradients that feed one momentum, over training."""
    supernet = new_supernet(config)
    batches = make_batches(config, data)
    total = config.epochs * batches.steps_per_epoch
    strategy = strategies[config.strategy](config.space, total_steps=total, seed=config.seed, options=config.options)
    optimizer = SeparatedMomentum(make_optimizer(config, supernet), strategy.clusters)
    recorder = SpreadRecorder(list(supernet.parameters()), strategy.clusters)
    optimizer.register_step_pre_hook(lambda _, args, kwargs: recorder.add(kwargs["cluster"]))
    curve = []
    steps = train_steps(
        supernet,
        optimizer,
        strategy.plan,
        batches,
        start=0,
        total_steps=total,
        lr=config.lr,
        criterion=smoothed(config.label_smoothing),
    )
    for step, loss in steps:
        if (step + 1) % batches.steps_per_epoch == 0:
            finite(float(loss), step)
            curve.append(recorder.take())
    return {"mean over training": sum(curve) / len(curve), "last epoch": curve[-1], "curve": curve}
