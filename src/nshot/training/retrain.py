"""Retrains one subnet from scratch on all that the data set learns from, and tests it."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nshot.data.batches import TrainBatches, heldout_batches
from nshot.data.sources import Dataset, Images
from nshot.errors import UserError, check_whole
from nshot.files import write_json
from nshot.seeding import seeded
from nshot.spaces import Space, Subnet, space

from .alone import Recipe, accuracy, fit_steps, optimizer_of
from .config import space_from_dict
from .runner import Job, Run, Say, execute, fabric, save_weights

NETWORK, RESULT = "network.safetensors", "result.json"


@dataclass(frozen=True)
class RetrainConfig:
    """Everything that determines the retraining of a subnet. Defaults: NAS-Bench-201's recipe on CIFAR-10."""

    space: Space = field(default_factory=lambda: space("nasbench201"))
    recipe: Recipe = field(default_factory=Recipe)
    dataset: str = "cifar10"
    """digits, cifar10, cifar100, or images of your own: imagefolder:FOLDER or parquet:FOLDER."""
    seed: int = 0
    log_every: int = 50
    """Steps between lines of the log."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        check_whole(1, log_every=self.log_every, checkpoint_every=self.checkpoint_every)
        check_whole(0, seed=self.seed)


def retrain(
    config: RetrainConfig, subnet: Subnet, data: Dataset, out: str | Path, *, device: str = "auto", say: Say = print
) -> dict[str, Any]:
    """Trains the subnet's stand-alone network on ``data.train`` and ``data.valid`` together, and tests it.

    The folder gets ``network.safetensors`` and ``result.json``, and continues an unfinished retraining of the same
    configuration.

    Returns:
        What result.json holds: the subnet, its costs, how its images are normalised (of pixels from 0 to 255), the
        names of its ``classes`` where the data set says them, and ``test_accuracy`` in percent.

    Raises:
        UserError: for values that do not fit together, and as `execute`.
    """
    folder = Path(out)
    space = config.space.with_classes(data.classes)
    subnet = space.check(subnet)
    learn = Images(torch.cat([data.train.pixels, data.valid.pixels]), torch.cat([data.train.labels, data.valid.labels]))
    batches = TrainBatches(learn, config.recipe.batch_size, config.seed, flip=data.mirrors)
    described = {**dataclasses.asdict(config), "space": {"name": space.name, **space.sizes()}}
    result: dict[str, Any] = {
        "arch": space.format(subnet),
        "subnet": list(subnet),
        "space": described["space"],
        "dataset": config.dataset,
        "params": space.network_params(subnet),
        "flops": space.flops(subnet),
        "normalise": {"mean": batches.normalise.mean, "std": batches.normalise.std},
        **({"classes": list(data.names)} if data.names else {}),
    }

    lightning = fabric(device)

    def make() -> Job:
        with seeded(config.seed, "init"):
            network = space.network(subnet)
        network.to(lightning.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        batches.to(lightning.device)
        optimizer = optimizer_of(network, config.recipe)
        return Job(
            network,
            optimizer,
            lambda start: fit_steps(network, optimizer, batches, config.recipe, start=start),
            config.recipe.epochs * batches.steps_per_epoch,
            config.recipe.batch_size,
            lightning.device,
        )

    def finish(job: Job) -> None:
        test = heldout_batches(data.test, min(256, len(data.test)), batches.normalise, job.device)
        save_weights(folder / NETWORK, job.module)
        write_json(folder / RESULT, {**result, "test_accuracy": accuracy(job.module, test)})

    config_dict = {**described, "subnet": result["arch"]}
    run = Run(folder, "retrain", config_dict, RESULT, config.log_every, config.checkpoint_every)
    execute(run, make, finish, say)
    return read_result(folder)


def retrain_best(
    config: RetrainConfig,
    subnets: Sequence[Subnet],
    data: Dataset,
    out: str | Path,
    *,
    device: str = "auto",
    say: Say = print,
) -> dict[str, Any]:
    """Retrains several subnets, each in ``part-<i>``, and keeps the best by test accuracy, as few-shot NAS does.

    One alone is retrained in the folder itself.

    Returns:
        What ``result.json`` of the folder holds: the best one's result, its ``folder``, and all test accuracies.
        Chosen by the test images, the best one's accuracy is too good by as much as chance helped it.

    Raises:
        UserError: as `retrain`.
    """
    folder = Path(out)
    if len(subnets) == 1:
        return retrain(config, subnets[0], data, folder, device=device, say=say)
    results = [
        retrain(config, subnet, data, folder / f"part-{i}", device=device, say=say) for i, subnet in enumerate(subnets)
    ]
    accuracies = [result["test_accuracy"] for result in results]
    best = max(range(len(results)), key=accuracies.__getitem__)
    summary = {**results[best], "folder": f"part-{best}", "test_accuracies": accuracies}
    write_json(folder / RESULT, summary)
    return summary


def read_result(folder: Path) -> dict[str, Any]:
    """What a finished retraining wrote."""
    return json.loads((folder / RESULT).read_text())


def read_choice(choice: str) -> tuple[RetrainConfig, list[str]]:
    """The configuration and the subnets that a search.json names; any other text is itself the subnet.

    A search of several supernets names the best subnet of each.

    Raises:
        UserError: for a JSON file that holds no search result.
    """
    if not choice.endswith(".json"):
        return RetrainConfig(), [choice]
    try:
        found = json.loads(Path(choice).read_text())
        space = space_from_dict(found["space"])
        archs = [row["arch"] for row in found.get("parts") or [found["best"]]]
        return RetrainConfig(space=space, dataset=found["dataset"]), archs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{choice} is no search result ({error}): make one with nshot search RUN") from None
