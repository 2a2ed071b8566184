"""The trainings behind table I and figure B: what gradients of different subnets have in common."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nshot.data.batches import TrainBatches
from nshot.data.sources import Dataset
from nshot.dynamic import SeparatedMomentum
from nshot.files import needed, read_json, write_json
from nshot.ranking.gradients import SimilarityRecorder, SpreadRecorder
from nshot.runs.execute import Job, Run, execute
from nshot.seeding import generator
from nshot.spaces import Space, Subnet
from nshot.strategies import Plan
from nshot.strategies.base import cosine
from nshot.supernets.config import TrainConfig, completed, to_dict
from nshot.supernets.train import make_batches, make_optimizer, make_strategy, new_supernet
from nshot.training.loop import smoothed, train_steps

from .base import AGAIN, Scale

Steps = Iterator[tuple[int, Tensor]]
DISTANCES = (0, 1, 3, 5)  # A0, A1, A3, A5 of section C.6: how many decisions differ from those of A0


def relatives(space: Space, seed: int) -> tuple[Subnet, ...]:
    """A0, drawn at random, and A0 with 1, 3 and 5 decisions changed; in each of them all decisions matter."""
    rng = generator(seed, "relatives")
    while True:
        base = space.sample(rng)
        found = []
        for distance in DISTANCES:
            other = list(base)
            for i in rng.permutation(len(base))[:distance]:
                other[i] = int(rng.choice([option for option in space.decisions[i].allowed if option != base[i]]))
            found.append(tuple(other))
        if all(_matter(space, subnet) for subnet in found):
            return tuple(found)


def _matter(space: Space, subnet: Subnet) -> bool:
    """Whether each decision that is not at its first option would give another output if it were."""
    firsts = [(*subnet[:i], d.allowed[0], *subnet[i + 1 :]) for i, d in enumerate(space.decisions)]
    return all(other == subnet or space.canonical(other) != space.canonical(subnet) for other in firsts)


def similarity(config: TrainConfig, data: Dataset, run: Path, folder: Path, scale: Scale) -> dict[str, Any]:
    """Table I: MGCS of A1, A3 and A5 with A0, trained together; the last epoch, the stem's weights."""
    subnets = relatives(config.space, config.seed)
    batches = make_batches(config, data)
    last = (config.epochs - 1) * batches.steps_per_epoch  # first step of the last epoch
    total = last + batches.steps_per_epoch

    def plan(step: int) -> Plan:
        return Plan(subnets, (1.0,) * len(subnets), cosine(step, total), 0)

    def make() -> Job:
        supernet = new_supernet(config)
        optimizer, used = make_optimizer(config, supernet, clusters=1)
        recorder = SimilarityRecorder(next(supernet.parameters()), len(subnets))

        def steps(start: int) -> Steps:
            for step, loss in _steps(config, supernet, optimizer, plan, batches, start, used=used, backward=recorder):
                if step + 1 == last:
                    recorder.forget()
                yield step, loss

        return _job(config, supernet, recorder, optimizer, steps, total)

    def means(recorder: SimilarityRecorder) -> dict[str, Any]:
        names = (f"A{distance}" for distance in DISTANCES)
        return {name: value for name, value in zip(names, recorder.means, strict=True) if name != "A0"}

    return _recorded(config, folder, "similarity", make, means)


def spread(config: TrainConfig, data: Dataset, run: Path, folder: Path, scale: Scale) -> dict[str, Any]:
    """Figure B: the standard deviation of the gradients that feed one momentum, over training."""
    batches = make_batches(config, data)
    epoch = batches.steps_per_epoch
    total = config.epochs * epoch
    strategy = make_strategy(config, epoch)

    def make() -> Job:
        supernet = new_supernet(config)
        optimizer, used = make_optimizer(config, supernet, strategy.clusters)
        recorder = SpreadRecorder(list(supernet.parameters()), strategy.clusters, config.epochs)
        optimizer.register_step_pre_hook(lambda _, args, kwargs: recorder.add(kwargs["cluster"]))

        def steps(start: int) -> Steps:
            for step, loss in _steps(config, supernet, optimizer, strategy.plan, batches, start, used=used):
                if (step + 1) % epoch == 0:
                    recorder.take(step // epoch)
                yield step, loss

        return _job(config, supernet, recorder, optimizer, steps, total)

    def curve(recorder: SpreadRecorder) -> dict[str, Any]:
        values = recorder.curve.tolist()
        return {"mean over training": sum(values) / len(values), "last epoch": values[-1], "curve": values}

    return _recorded(config, folder, "spread", make, curve)


class Watched(nn.Module):
    """A supernet and what records its training, which a checkpoint keeps together."""

    def __init__(self, supernet: nn.Module, recorder: nn.Module) -> None:
        super().__init__()
        self.supernet = supernet
        self.recorder = recorder


def _steps(
    config: TrainConfig,
    supernet: nn.Module,
    optimizer: SeparatedMomentum,
    plan: Callable[[int], Plan],
    batches: TrainBatches,
    start: int,
    **given: Any,
) -> Steps:
    total = config.epochs * batches.steps_per_epoch
    given["criterion"] = smoothed(config.label_smoothing)
    return train_steps(supernet, optimizer, plan, batches, start=start, total_steps=total, lr=config.lr, **given)


def _job(
    config: TrainConfig,
    supernet: nn.Module,
    recorder: nn.Module,
    optimizer: SeparatedMomentum,
    steps: Callable[[int], Steps],
    total: int,
) -> Job:
    return Job(Watched(supernet, recorder), optimizer, steps, total, config.batch_size, torch.device("cpu"))


def _recorded(
    config: TrainConfig, folder: Path, kind: str, make: Callable[[], Job], figures: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """Trains in the folder, from where a killed training was, and gives the figures of what was recorded."""
    result = folder / f"{kind}-recorded.json"
    run = Run(folder, kind, to_dict(config), result.name, config.log_every, config.checkpoint_every, completed)
    execute(run, make, lambda job: write_json(result, figures(job.module.recorder)), say=lambda line: None)
    return needed(read_json, result, AGAIN)
