"""Trains the supernet of a configuration in a run folder."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from nshot.data.ahead import made
from nshot.data.batches import SecondBatches, TrainBatches
from nshot.data.sources import Dataset
from nshot.dynamic import SeparatedMomentum
from nshot.errors import Say, UserError, check_whole
from nshot.files import check_inside, write_json
from nshot.nn.drop import set_drop_path
from nshot.nn.graphs import cuda_capture
from nshot.nn.synced import synchronise
from nshot.runs.checkpoint import digest, save_weights
from nshot.runs.execute import FREE, Job, Run, execute
from nshot.runs.folder import claim
from nshot.runs.lock import locked
from nshot.runs.progress import Progress
from nshot.runs.where import On
from nshot.seeding import generator, seeded
from nshot.spaces import Space, Subnet, Supernet
from nshot.strategies import Plan, Strategy, strategies
from nshot.strategies.memory import Facts
from nshot.training import distributed
from nshot.training.device import Running, fabric
from nshot.training.loop import smoothed, train_steps
from nshot.training.optimizers import RestingSlices, sgd_or_adamw
from nshot.training.skipping import Skipping
from nshot.training.tools import RunTools, StrategyHooks
from nshot.training.tuning import Frozen, apart, backbone

from .checks import check_batch, check_supernet, goes_by_shares
from .config import TrainConfig, completed, resumable, to_dict
from .facts import decay_facts, told
from .load import ANSWER, PARTS, WEIGHTS, bare_supernet, initial_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Used = Callable[[tuple[Subnet, ...]], None]


def train(
    config: TrainConfig,
    data: Dataset,
    out: str | Path,
    *,
    device: str = "auto",
    on: On | None = None,
    workers: int = 0,
    say: Say = print,
) -> Path:
    """Trains a supernet and writes its run folder; continues an unfinished run of the same configuration.

    A method with several supernets trains each in a folder ``part-<i>`` of its own. Processes that torchrun starts
    train together, each on its share of every batch.

    Args:
        config: the run.
        data: what ``load(config.dataset, ...)`` gave.
        out: the run folder.
        device: Fabric's accelerator: auto, cpu, cuda, mps.
        on: where several supernets are trained; None: one after the other, here.
        workers: processes that make batches ahead of time, the same as without.
        say: takes lines for the user.

    Returns:
        The run folder, which (or whose parts) now hold ``supernet.safetensors``.

    Raises:
        UserError: for values that do not fit together, and as `execute`.
    """
    if config.space.num_classes != data.classes:
        raise UserError(f"num_classes {config.space.num_classes}: {data.name} has {data.classes} classes")
    data.check_side(config.space.resolution)
    on = on or On()
    check_whole(0, workers=workers)
    parts = strategies[config.strategy].parts(config.space, config.options, config.seed)
    if len(parts) > 1:
        return _train_parts(config, parts, data, Path(out), device, on, workers, say)
    if not on.here:
        raise UserError(f"{on.said} has no effect: {config.strategy} trains one supernet here")
    one = _Training.checked(config, data, device, workers)
    decay = decay_facts(one.strategy)
    every = config.log_every, config.checkpoint_every
    opening = told(decay) if decay else ""
    processes = distributed.size() if goes_by_shares(config) else None
    folder = Path(out)
    begun = _contents(one.given)
    run = Run(folder, "supernet", to_dict(config), WEIGHTS, *every, resumable, decay, opening, data, processes, begun)
    execute(run, one.job, lambda job: one.finish(job, folder), say)
    return folder


def _contents(given: Mapping[str, Tensor] | None) -> dict[str, str]:
    """Of the weights that a configuration names, as `claim` has them."""
    return {} if given is None else {"init": digest(given)}


@dataclass(frozen=True)
class _Training:
    """What the training of one supernet begins with, where nothing is left that could be refused."""

    config: TrainConfig
    batches: TrainBatches
    second: SecondBatches | None
    strategy: Strategy
    facts: Facts
    lightning: "Fabric"
    given: Mapping[str, Tensor] | None
    """Weights that are not new."""
    workers: int

    @classmethod
    def checked(cls, config: TrainConfig, data: Dataset, device: str, workers: int) -> Self:
        """Raises UserError for values that do not fit together."""
        batches = make_batches(config, data)
        strategy = make_strategy(config, batches.steps_per_epoch)
        second = make_second(config, data, batches) if strategy.validates else None
        facts = Facts(len(data.train), data.classes, config.batch_size, config.lr, config.optimizer)
        lightning, given = fabric(device, config.precision), initial_weights(config)
        strategy.check_facts(facts)
        if config.diverging == "skip":
            strategy.check_skips()
        check_supernet(config, lightning.device)
        check_batch(config)
        return cls(config, batches, second, strategy, facts, lightning, given, workers)

    def job(self) -> Job:
        """The supernet, its optimizer and the steps."""
        config, strategy, lightning = self.config, self.strategy, self.lightning
        supernet = self._supernet()
        model = Running(supernet, lightning)
        if config.graphs == "on":
            supernet.use_graphs(cuda_capture)  # on the device that it is on by now
        optimizer, used = make_optimizer(config, supernet, strategy.clusters)
        memory = strategy.memory(supernet, self.facts)
        hooks = self._hooks(supernet, model, optimizer, memory, used)
        skipping = Skipping(config.skips, supernet, optimizer, memory) if config.diverging == "skip" else None
        total_steps = config.epochs * self.batches.steps_per_epoch
        images = made(self.batches, self.workers, total_steps, lightning.device)
        backward = distributed.averaged(Tensor.backward, [*supernet.parameters(), *memory.parameters()])
        how: dict[str, Any] = {
            "total_steps": total_steps,
            "lr": config.lr,
            "backward": backward,
            "used": used,
            "seed": distributed.own_seed(config.seed),
            "hooks": hooks,
            "skipping": skipping,
        }
        return Job(
            supernet,
            optimizer,
            lambda start: train_steps(model, optimizer, hooks.plan, images, start=start, **how),
            total_steps,
            config.batch_size,
            lightning.device,
            rates=lambda step: [config.lr * rate for rate in hooks.planned(step).rates],
            paths=lambda step: [] if list(memory.state_dict()) else self._named(strategy.plan(step, memory)),
            memory=memory,
            figures=lambda: strategy.figures(memory),
            skipping=skipping,
        )

    def _supernet(self) -> Supernet:
        supernet = new_supernet(self.config)
        if self.given is not None:
            supernet.load_state_dict(self.given, strict=False)  # where it is of other classes, the classifier is new
        return supernet

    def _hooks(
        self, supernet: Supernet, model: nn.Module, optimizer: SeparatedMomentum, memory: nn.Module, used: Used
    ) -> StrategyHooks:
        """What happens between steps: the method's own, and which weights are held."""
        config, an_epoch = self.config, self.batches.steps_per_epoch
        validation = None if self.second is None else self.second.to(self.lightning.device)
        tools = RunTools(self.facts, supernet, optimizer, model, smoothed(config.label_smoothing), validation, used)
        kept = Frozen(optimizer, backbone(supernet), config.frozen * an_epoch)
        warmup, spread = config.warmup * an_epoch, config.optimizer == "adamw"
        return StrategyHooks(self.strategy, memory, tools, warmup, kept.at, spread)

    def _named(self, plan: Plan) -> list[str]:
        return [self.config.space.format(path) for path in plan.paths if isinstance(path, tuple)]

    def finish(self, job: Job, folder: Path) -> None:
        """Writes the weights, and the subnet that the method ends with, if it has one."""
        if (answer := self.strategy.answer(job.memory)) is not None:
            write_json(folder / ANSWER, {"arch": self.config.space.format(answer), "subnet": list(answer)})
        save_weights(folder / WEIGHTS, job.module)


def make_batches(config: TrainConfig, data: Dataset) -> TrainBatches:
    """The training batches of a configuration. Raises UserError as `TrainBatches`."""
    views = strategies[config.strategy].views
    return TrainBatches(data.train, config.batch_size, config.seed, views=views, **_made_as(config, data))


def make_second(config: TrainConfig, data: Dataset, first: TrainBatches) -> SecondBatches:
    """The validation batches of a method that trains on them too. Raises UserError as `TrainBatches`."""
    seed = int(generator(config.seed, "second").integers(2**31))
    second = SecondBatches(data.valid, config.batch_size, seed, **_made_as(config, data))
    second.normalise = first.normalise
    return second


def _made_as(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    share = (distributed.rank(), distributed.size())
    own = {"flip": data.mirrors, "augment": config.augment, "classes": data.classes, "share": share}
    return {**own, "given": config.space.normalised}


def make_strategy(config: TrainConfig, steps_per_epoch: int) -> Strategy:
    """The configuration's method. Raises UserError for options that the space has no use for."""
    total_steps = config.epochs * steps_per_epoch
    known: dict[str, Any] = {"seed": config.seed, "options": config.options, "steps_per_epoch": steps_per_epoch}
    return strategies[config.strategy](config.space, total_steps=total_steps, **known)


def new_supernet(config: TrainConfig) -> Supernet:
    """The supernet before its first step, channels-last."""
    with seeded(config.seed, "init"):
        supernet = bare_supernet(config)
    set_drop_path(supernet, config.drop_path)
    if config.sync_bn == "on":
        synchronise(supernet)
    return supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_optimizer(config: TrainConfig, supernet: Supernet, clusters: int) -> tuple[SeparatedMomentum, Used]:
    """The configuration's optimizer with so many momenta, and what is told each step's paths (`train_steps`)."""
    base = sgd_or_adamw(
        config.optimizer,
        supernet,
        idle=config.idle,
        clip=config.clipping,
        fast=config.fast == "on",
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        decayed=config.decayed,
        nesterov=config.nesterov,
    )
    if config.init is not None:
        apart(base, backbone(supernet), config.backbone_lr)
    used = RestingSlices(base, supernet).used if config.idle == "rest" else lambda paths: None
    return SeparatedMomentum(base, clusters), used


def _train_parts(
    config: TrainConfig, parts: list[Space], data: Dataset, folder: Path, device: str, on: On, workers: int, say: Say
) -> Path:
    """Each part is a run of its own: what is finished is left alone, what was killed continues."""
    if not on.here and distributed.size() > 1:
        flag = on.said.split()[0]
        raise UserError(f"{on.said}: {distributed.size()} processes train each supernet together, leave out --{flag}")
    configs = [dataclasses.replace(config, space=part) for part in parts]
    where = fabric(device, config.precision).device
    for part in configs:  # refuses what cannot be before any folder
        strategies[part.strategy](part.space, total_steps=1, seed=part.seed, options=part.options)
        given = initial_weights(part)
        check_supernet(part, where)
        check_batch(part)
    make_batches(config, data)
    first = distributed.rank() == 0  # the others write nothing
    with on.beside(folder, say) as there, locked(folder) if first else nullcontext():
        if first:
            begun = _contents(given)  # of the last part, which has as many as any
            claim(folder, PARTS, to_dict(config), free=FREE, completed=completed, data=data, contents=begun)
        todo = [(part, check_inside(folder, f"part-{i}"), device, workers) for i, part in enumerate(configs)]
        if there is None:
            for part, out, *_ in todo:
                train(part, data, out, device=device, workers=workers, say=say)
        else:
            more: dict[str, Any] = {"named": _named, "needs": there.needs(device)}
            with Progress("parts", len(todo), noun="parts") as progress:
                for line in there.run(_train_part, todo, given=(data,), watch=progress, **more):
                    progress.advance()
                    say(line)
    return folder


def _named(config: TrainConfig, out: Path, *_: Any) -> str:
    return f"{config.strategy}'s {out.name}"


def _train_part(data: Dataset, config: TrainConfig, out: Path, device: str, workers: int) -> str:
    lines: list[str] = []
    train(config, data, out, device=device, workers=workers, say=lines.append)
    return "; ".join([*lines, f"{out} is trained"])
