"""Trains the supernet of a configuration in a run folder."""

from pathlib import Path

import torch

from nshot.data.batches import TrainBatches
from nshot.data.sources import Dataset
from nshot.dynamic import SeparatedMomentum
from nshot.errors import UserError
from nshot.seeding import seeded
from nshot.strategies import strategies

from .config import TrainConfig, to_dict
from .run import WEIGHTS
from .runner import Job, Run, Say, execute, fabric, save_weights
from .sgd import sgd
from .supernet import train_steps


def train(config: TrainConfig, data: Dataset, out: str | Path, *, device: str = "auto", say: Say = print) -> Path:
    """Trains a supernet and writes its run folder; continues an unfinished run of the same configuration.

    Args:
        config: the run.
        data: what ``load(config.dataset, ...)`` gave.
        out: the run folder.
        device: Fabric's accelerator: auto, cpu, cuda, mps.
        say: takes lines for the user.

    Returns:
        The run folder, which now holds ``supernet.safetensors``.

    Raises:
        UserError: for values that do not fit together, and as `execute`.
    """
    if config.space.num_classes != data.classes:
        raise UserError(f"num_classes {config.space.num_classes}: {data.name} has {data.classes} classes")
    folder = Path(out)
    batches = TrainBatches(data.train, config.batch_size, config.seed, flip=data.mirrors)
    total_steps = config.epochs * batches.steps_per_epoch
    strategy = strategies[config.strategy](
        config.space, total_steps=total_steps, seed=config.seed, options=config.options
    )

    lightning = fabric(device, config.precision)

    def make() -> Job:
        with seeded(config.seed, "init"):
            supernet = config.space.supernet()
        supernet.fast = config.fast == "on"
        supernet.to(memory_format=torch.channels_last)
        model = lightning.setup(supernet)
        base = sgd(
            supernet.parameters(),
            idle=config.idle,
            clip=config.clip,
            fast=config.fast == "on",
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
        optimizer = SeparatedMomentum(base, strategy.clusters)
        batches.to(lightning.device)
        return Job(
            supernet,
            optimizer,
            lambda start: train_steps(
                model,
                optimizer,
                strategy.plan,
                batches,
                start=start,
                total_steps=total_steps,
                lr=config.lr,
                backward=lightning.backward,
            ),
            total_steps,
            config.batch_size,
            lightning.device,
        )

    run = Run(folder, "supernet", to_dict(config), WEIGHTS, config.log_every, config.checkpoint_every)
    execute(run, make, lambda job: save_weights(folder / WEIGHTS, job.module), say)
    return folder
