"""Retrains one subnet, from scratch or from given weights, on all that the data set learns from, and tests it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from nshot.data.ahead import made
from nshot.data.batches import TrainBatches, heldout_batches, images_in
from nshot.data.images import joined
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset
from nshot.errors import Say, UserError, check_choices, check_whole
from nshot.files import check_inside, make_folder, needed, read_json, write_json
from nshot.runs.checkpoint import digest, save_weights
from nshot.runs.execute import Job, Run, execute
from nshot.runs.lock import held
from nshot.runs.progress import Progress
from nshot.runs.where import On
from nshot.spaces import Space, Subnet, space
from nshot.training import distributed
from nshot.training.device import Running, fabric

from .alone import Alone, accuracy, check_batch, fit_steps, kept_of, make_alone, make_batches
from .recipes import Recipe, completed
from .result import AGAIN, NETWORK, RESULT, known_result
from .teacher import Teacher, make_teacher

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Weights = Mapping[str, Tensor]
Begin = Callable[[Subnet], Weights]


@dataclass(frozen=True)
class RetrainConfig:
    """Everything that determines the retraining of a subnet. Defaults: NAS-Bench-201's recipe on CIFAR-10."""

    space: Space = field(default_factory=lambda: space("nasbench201"))
    recipe: Recipe = field(default_factory=Recipe)
    dataset: str = "cifar10"
    """digits, cifar10, cifar100, imagenet, or images of your own: imagefolder:FOLDER or parquet:FOLDER."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    init: Path | None = None
    """Weights the network begins with: a finished run's folder, those that its supernet has for it; pretrained, or a
    file, as nshot train has it: slices of these; None: new ones, training is from scratch."""
    teacher: str | None = None
    """Distil: from a folder that nshot retrain wrote, a timm model NAME (its pretrained weights), or NAME:FILE."""
    distill: float = 0.5
    """Share of the teacher's opinion in the labels."""
    seed: int = 0
    log_every: int = 50
    """Steps between lines of the log."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        check_whole(1, log_every=self.log_every, checkpoint_every=self.checkpoint_every)
        check_whole(0, seed=self.seed)
        check_choices(self)
        if not 0 < self.distill <= 1:
            raise UserError(f"distill {self.distill}: must be above 0, up to 1")
        if self.init is None and self.recipe.tunes:
            raise UserError(
                f"backbone_lr {self.recipe.backbone_lr}, frozen {self.recipe.frozen} have no effect without --init"
            )
        if self.teacher is None and self.distill != type(self).distill:
            raise UserError(f"distill {self.distill} has no effect without --teacher")


def retrain(
    config: RetrainConfig,
    subnet: Subnet,
    data: Dataset,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int = 0,
    begin: Begin | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Trains the subnet's stand-alone network on ``data.train`` and ``data.valid`` together, and tests it.

    The folder gets ``network.safetensors`` and ``result.json``, and continues an unfinished retraining of the same
    configuration. ``workers`` processes make its batches, the same as without them. ``begin`` gives what
    ``config.init`` names: of a subnet, its network's weights by name.

    Returns:
        What result.json holds: the subnet, its costs, which share of an image's shorter side is kept (``crop``), how
        images are normalised (of pixels from 0 to 255), the names of its ``classes`` where the data set says them, and
        ``test_accuracy`` in percent of ``test_images``.

    Raises:
        UserError: for values that do not fit together, and as `execute`.
    """
    distributed.alone("a retraining")
    check_whole(0, workers=workers)
    if (config.init is None) != (begin is None):
        raise ValueError("begin has to give the weights that config.init names")
    one = _Retraining.checked(config, subnet, data, device, workers, begin)
    folder, every = Path(out), (config.log_every, config.checkpoint_every)
    run = Run(folder, "retrain", one.described(), RESULT, *every, one.completed, data=data, contents=one.contents())
    execute(run, one.job, lambda job: one.finish(job, folder), say)
    return known_result(folder)


@dataclass(frozen=True)
class _Retraining:
    """What the training of one network begins with, where nothing is left that could be refused."""

    config: RetrainConfig
    space: Space
    subnet: Subnet
    data: Dataset
    batches: TrainBatches
    lightning: "Fabric"
    given: Weights | None
    """Weights that are not new."""
    teacher: Teacher | None
    workers: int

    @classmethod
    def checked(
        cls, config: RetrainConfig, subnet: Subnet, data: Dataset, device: str, workers: int, begin: Begin | None
    ) -> Self:
        """Raises UserError for values that do not fit together."""
        space = config.space.with_classes(data.classes)
        subnet = space.check(subnet)
        data.check_side(space.resolution)
        given = None if begin is None else begin(subnet)
        learn = joined(data.train, data.valid)
        batches = make_batches(learn, data, config.recipe, config.seed, space.normalised)
        lightning, teacher = fabric(device, config.precision), None
        if config.teacher is not None:
            teacher = make_teacher(config.teacher, config.distill, data, batches.normalise).to(lightning.device)
        config.recipe.decay(space, subnet)
        with torch.device("meta"):
            check_batch(make_alone(space, subnet, config.recipe, config.seed), config.recipe, learn.side)
        return cls(config, space, subnet, data, batches, lightning, given, teacher, workers)

    def described(self) -> dict[str, Any]:
        """For ``config.json``: all that determines the run."""
        recipe = self.config.recipe.resolved(self.space)
        return {
            **dataclasses.asdict(dataclasses.replace(self.config, recipe=recipe)),
            "space": self.space.to_dict(),
            "init": None if self.config.init is None else str(self.config.init),
            "subnet": self.space.format(self.subnet),
        }

    def contents(self) -> dict[str, str]:
        """Of the weights that the configuration names."""
        digests = {"init": self.given and digest(self.given), "teacher": self.teacher and self.teacher.digest}
        return {name: found for name, found in digests.items() if found}

    def completed(self, stored: dict[str, Any]) -> dict[str, Any]:
        """As `completed`; earlier versions trained from scratch alone, and later ones kept a teacher's digest here."""
        return {"init": None, **{k: v for k, v in completed(stored).items() if k != "teacher_weights"}}

    def job(self) -> Job:
        """The network, its optimizer and the steps."""
        recipe, device, teacher = self.config.recipe, self.lightning.device, self.teacher
        alone = make_alone(self.space, self.subnet, recipe, self.config.seed, self.given).to(device)
        total = recipe.epochs * self.batches.steps_per_epoch
        images = made(self.batches, self.workers, total, device)
        optimizer = recipe.make_optimizer(alone.network)
        frozen = kept_of(alone, optimizer, recipe, self.batches.steps_per_epoch)
        return Job(
            alone,
            optimizer,
            lambda start: fit_steps(
                alone,
                optimizer,
                images if teacher is None else teacher.taught(images, recipe.label_smoothing),
                recipe,
                recipe.decay(self.space, self.subnet),
                self.batches.steps_per_epoch,
                start=start,
                model=Running(alone, self.lightning),
                seed=self.config.seed,
                taught=teacher is not None,
                frozen=frozen,
            ),
            total,
            recipe.batch_size,
            device,
        )

    def finish(self, job: Job, folder: Path) -> None:
        """Writes the weights, and ``result.json`` with what the test comes to."""
        data, space, normalise = self.data, self.space, self.batches.normalise
        test = heldout_batches(mixture(data.test), min(256, len(data.test)), normalise.to(job.device), job.device)
        assert isinstance(job.module, Alone)
        network = job.module.kept
        save_weights(folder / NETWORK, network)
        result = {
            "arch": space.format(self.subnet),
            "subnet": list(self.subnet),
            "space": self.space.to_dict(),
            "dataset": self.config.dataset,
            "params": space.network_params(self.subnet),
            "flops": space.flops(self.subnet),
            "crop": data.test.crop,
            "normalise": {"mean": normalise.mean, "std": normalise.std},
            **({"classes": list(data.names)} if data.names else {}),
            "test_accuracy": accuracy(network, test),
            "test_images": images_in(test),
        }
        write_json(folder / RESULT, result)


def retrain_best(
    config: RetrainConfig,
    subnets: Sequence[Subnet],
    data: Dataset,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int = 0,
    begin: Begin | None = None,
    on: On | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Retrains several subnets, each in ``part-<i>``, and keeps the best by test accuracy, as few-shot NAS does.

    One alone is retrained in the folder itself.

    ``on`` says where they are retrained; None: here, one after the other.

    Returns:
        What ``result.json`` of the folder holds: the best one's result, its ``folder``, and all test accuracies.
        Chosen by the test images, the best one's accuracy is too good by as much as chance helped it.

    Raises:
        UserError: as `retrain`.
    """
    folder, on = Path(out), on or On()
    how: dict[str, Any] = {"device": device, "workers": workers}
    if len(subnets) == 1:
        if not on.here:
            raise UserError(f"{on.said} has no effect: one subnet is retrained here")
        return retrain(config, subnets[0], data, folder, begin=begin, say=say, **how)
    parts = [check_inside(folder, f"part-{i}") for i in range(len(subnets))]
    results = []
    _Retraining.checked(config, subnets[0], data, device, workers, begin)
    make_folder(folder)
    with on.beside(folder, say) as there, held(folder, "a retraining of several", "retraining"):
        _check_of_several(folder)
        if there is None:
            each = zip(subnets, parts, strict=True)
            results = [retrain(config, subnet, data, part, begin=begin, say=say, **how) for subnet, part in each]
        else:
            tasks = [(s, part, begin and begin(s)) for s, part in zip(subnets, parts, strict=True)]
            more: dict[str, Any] = {"named": _named, "needs": there.needs(device)}
            with Progress("retrain", len(parts), noun="subnets") as progress:
                for line in there.run(_retrain_part, tasks, given=(config, data, how), watch=progress, **more):
                    progress.advance()
                    say(line)
            results = [known_result(part) for part in parts]
        return _best(folder, results)


def _check_of_several(folder: Path) -> None:
    """Raises UserError for a folder that holds something else than the retraining of several subnets."""
    known = needed(read_json, folder / RESULT, AGAIN) if (folder / RESULT).exists() else {"folder": ""}
    if (folder / "config.json").exists() or "folder" not in known:
        raise UserError(f"{folder} holds another run: choose a new --out for the retraining of several subnets")


def _best(folder: Path, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Writes which network is the best of those in the parts."""
    accuracies = [result["test_accuracy"] for result in results]
    best = max(range(len(results)), key=accuracies.__getitem__)
    summary = {**results[best], "folder": f"part-{best}", "test_accuracies": accuracies}
    write_json(folder / RESULT, summary)
    return summary


def _named(subnet: Subnet, part: Path, *_: Any) -> str:
    return f"retraining of {part.name}"


def _retrain_part(
    config: RetrainConfig, data: Dataset, how: dict[str, Any], subnet: Subnet, part: Path, weights: Weights | None
) -> str:
    begin = None if weights is None else lambda _: weights
    lines: list[str] = []
    retrain(config, subnet, data, part, begin=begin, say=lines.append, **how)
    return "; ".join([*lines, f"{part} is retrained"])
