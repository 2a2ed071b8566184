"""Trainings in float64 on the plain path by two processes that share each batch, and by one that has all of it."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nshot
import nshot.supernets.train as train_module
from nshot.data.batches import TrainBatches
from nshot.data.sources import Dataset, load
from nshot.runs.execute import Job
from nshot.strategies import strategies
from nshot.supernets.config import TrainConfig, preset
from nshot.training.device import fabric

BATCH, RATE = 16, 0.05


def config_of(method: str, seed: int, **more: Any) -> TrainConfig:
    """Several epochs in 100 steps; of a method with several supernets the first."""
    base = preset("smoke", method)
    whole = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
    space = strategies[method].parts(whole, base.options, seed)[0].with_classes(10)
    rate = {"lr": min(base.lr, RATE)} if method != "sumnas" else {}
    return dataclasses.replace(
        base, space=space, batch_size=BATCH, epochs=3, seed=seed, fast="off", sync_bn="on", **rate, **more
    )


class Both:
    """The shares of two processes as one batch, of each view."""

    def __init__(self, shares: Sequence[TrainBatches]) -> None:
        self.shares = shares
        self.steps_per_epoch, self.normalise = shares[0].steps_per_epoch, shares[0].normalise
        self.left_out = shares[0].left_out

    def to(self, device: torch.device) -> "Both":
        return self

    def __call__(self, step: int, *positions: Tensor) -> tuple[Tensor, Tensor]:
        views = self.shares[0].views
        parts = [[part.chunk(views) for part in share(step, *positions)] for share in self.shares]
        return tuple(torch.cat([p for view in zip(*(s[i] for s in parts), strict=True) for p in view]) for i in (0, 1))


class Doubles:
    """Batches in float64."""

    def __init__(self, batches: Any, *_: Any) -> None:
        self.batches = batches

    def to(self, device: torch.device) -> "Doubles":
        return self

    def __call__(self, *asked: Any) -> tuple[Tensor, ...]:
        return tuple(x.double() if x.is_floating_point() else x for x in self.batches(*asked))


def as_one() -> None:
    """Has this process train on both shares."""

    def both(make: Any) -> Any:
        def made(*args: Any) -> Both:
            shares = []
            for rank in "01":
                os.environ.update(RANK=rank, WORLD_SIZE="2")
                shares.append(make(*args))
                del os.environ["RANK"], os.environ["WORLD_SIZE"]
            return Both(shares)

        return made

    train_module.make_batches = both(train_module.make_batches)
    train_module.make_second = both(train_module.make_second)


def trained(config: TrainConfig, data: Dataset, steps: int) -> Job:
    """The job of a run as `train` makes it, after so many steps."""
    jobs: list[Job] = []

    def some_steps(run: Any, make: Any, *_: Any) -> None:
        job = make()
        jobs.append(job)
        for step, _ in job.steps(0):
            if step + 1 == steps:
                break

    second = train_module.make_second
    train_module.execute, train_module.made = some_steps, Doubles
    train_module.make_second = lambda *given: Doubles(second(*given))  # type: ignore[assignment]
    train_module.fabric = lambda device, _: fabric(device, "64-true")
    train_module.train(config, data, "nowhere", device="cpu")
    train_module.make_second = second
    return jobs[0]


def tensors(prefix: str, state: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield prefix, state.detach().clone()
    elif isinstance(state, dict | list | tuple):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors(f"{prefix}.{key}", value)
    elif isinstance(state, int | float) and not isinstance(state, bool):
        yield prefix, torch.tensor(float(state))


def process(rank: int | None, port: int, runs: Sequence[tuple[str, int]], steps: int, out: Path) -> None:
    """Trains all and writes what each came to: one of two processes, or alone."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    if rank is None:
        as_one()
    else:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), **where)
    data = load("digits", resolution=8)
    for method, seed in runs:
        job = trained(config_of(method, seed), data, steps)
        parts = {"weights": job.module, "momentum": job.optimizer, "memory": job.memory}
        state = dict(pair for name, part in parts.items() for pair in tensors(name, part.state_dict()))
        partial = out / f"{method}-{seed}-{rank}.partial"
        torch.save(state, partial)
        partial.rename(out / f"{method}-{seed}-{rank}.pt")
