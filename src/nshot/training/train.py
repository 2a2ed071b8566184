"""Trains the supernet of a configuration in a run folder: resumes by itself, loses nothing to a crash."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nshot.data.batches import TrainBatches
from nshot.data.sources import Dataset
from nshot.dynamic import SeparatedMomentum
from nshot.errors import UserError
from nshot.seeding import seeded
from nshot.spaces import Supernet
from nshot.strategies import strategies

from . import checkpoint
from .config import TrainConfig, to_dict
from .progress import Progress
from .run import WEIGHTS, Log, claim, locked
from .supernet import train_steps

Say = Callable[[str], None]


def train(config: TrainConfig, data: Dataset, out: str | Path, *, device: str = "auto", say: Say = print) -> Path:
    """Trains a supernet and writes its run folder; continues an unfinished run of the same configuration.

    Args:
        config: the run; its space's ``num_classes`` must be the data's.
        data: what ``load(config.dataset, ...)`` gave.
        out: the run folder.
        device: Fabric's accelerator: auto, cpu, cuda, mps.
        say: takes lines for the user.

    Returns:
        The run folder, which now holds ``supernet.safetensors``.

    Raises:
        UserError: for values that do not fit together, a folder that holds another run or that another process writes,
            and a loss that is not finite.
    """
    folder = Path(out)
    batches = TrainBatches(data.train, config.batch_size, config.seed, flip=data.mirrors)
    strategy = strategies[config.strategy](
        config.space, total_steps=config.epochs * batches.steps_per_epoch, seed=config.seed, options=config.options
    )
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        resumed = claim(folder, "supernet", to_dict(config))
        if (folder / WEIGHTS).exists():
            say(f"{folder} is finished already: nothing to do")
            return folder
        fabric = _fabric(config, device)
        with seeded(config.seed, "init"):
            supernet = config.space.supernet()
        model, optimizer = _setup(config, supernet, strategy.clusters, fabric)
        batches.to(fabric.device)
        losses = torch.zeros(config.log_every, device=fabric.device)  # read off the device when logged
        start, state, corrupt = checkpoint.load_newest(folder)
        for name in corrupt:
            say(f"checkpoint {name} is corrupt: falling back to the older one")
        if state is not None:
            supernet.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            losses.copy_(state["losses"])
        if resumed:
            say(f"resuming {folder} at step {start} of {strategy.total_steps}")

        log = Log(folder, start)
        with Progress("train", strategy.total_steps, start, unit=config.batch_size) as progress:
            steps = train_steps(
                model, optimizer, strategy.plan, batches, start=start, total_steps=strategy.total_steps,
                lr=config.lr, clip=config.clip, idle=config.idle, backward=fabric.backward,
            )
            for step, loss in steps:
                losses[step % config.log_every] = loss
                done = step + 1
                if done % config.log_every == 0 or done == strategy.total_steps:
                    _log(log, losses[: (step % config.log_every) + 1], done, optimizer, progress)
                if done % config.checkpoint_every == 0:
                    checkpoint.save(folder, done, _state(supernet, optimizer, losses))
                progress.advance()
        log.close()
        _finish(folder, supernet)
    return folder


def _fabric(config: TrainConfig, device: str) -> Any:
    from lightning.fabric import Fabric

    return Fabric(accelerator=device, devices=1, precision=config.precision)


def _setup(config: TrainConfig, supernet: Supernet, clusters: int, fabric: Any) -> tuple[Any, SeparatedMomentum]:
    """The model as Fabric runs it, and the optimizer over the parameters that Fabric placed."""
    supernet.to(memory_format=torch.channels_last)
    model = fabric.setup(supernet)
    sgd = torch.optim.SGD(
        supernet.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    return model, SeparatedMomentum(sgd, clusters)


def _state(supernet: Supernet, optimizer: SeparatedMomentum, losses: Tensor) -> dict[str, Any]:
    return {"model": supernet.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}


def _log(log: Log, losses: Tensor, step: int, optimizer: SeparatedMomentum, progress: Progress) -> None:
    loss = float(losses.double().mean())
    if loss != loss or loss == float("inf"):
        raise UserError(f"the loss is {loss} by step {step}: lower --lr, or set --clip")
    log.write(step, loss=loss, lr=optimizer.param_groups[0]["lr"], images_per_second=progress.rate)
    progress.show(loss=loss)


def _finish(folder: Path, supernet: Supernet) -> None:
    from safetensors.torch import save

    weights = {key: value.contiguous().cpu() for key, value in supernet.state_dict().items()}
    checkpoint.write_atomically(folder / WEIGHTS, save(weights))
