"""Builds a benchmark: trains many stand-alone subnets in parallel processes, resumable, and averages seeds."""

import dataclasses
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nshot.data.sources import Dataset, load
from nshot.errors import Say, UserError, check_whole
from nshot.files import appending
from nshot.networks.alone import check_batch, make_alone, make_batches, train_alone
from nshot.networks.recipes import Recipe, completed
from nshot.runs.folder import claim, versions
from nshot.runs.lock import locked
from nshot.runs.log import as_line, mended
from nshot.runs.progress import Progress
from nshot.runs.where import On
from nshot.seeding import generator
from nshot.spaces import Space, Subnet, space
from nshot.spaces.additive import ENUMERABLE

from .table import write_benchmark

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class BuildConfig:
    """A benchmark to build. The defaults made the embedded one."""

    space: Space = field(default_factory=lambda: space("nasbench201", channels=4, cells=1, resolution=8))
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=10, batch_size=64, lr=0.1))
    dataset: str = "digits"
    """digits, cifar10, cifar100, imagenet, or images of your own: imagefolder:FOLDER or parquet:FOLDER."""
    split: str = "half"
    """Search split: half, or a JSON file under the data root with lists train and valid."""
    subnets: int = 500
    """How many subnets, drawn at random, no two of one canonical form."""
    seeds: int = 14
    """Trainings of each subnet."""

    def __post_init__(self) -> None:
        check_whole(1, subnets=self.subnets, seeds=self.seeds)
        if self.recipe.tunes:
            raise UserError(
                f"backbone_lr {self.recipe.backbone_lr}, frozen {self.recipe.frozen} have no effect here: networks of "
                "a benchmark are trained from scratch"
            )


def build(
    config: BuildConfig,
    out: str | Path,
    *,
    root: str | Path | None = None,
    on: On | None = None,
    say: Say = print,
) -> Path:
    """Trains every (subnet, seed) that the folder has no result of, and writes ``benchmark.parquet`` there.

    Args:
        config: what to build.
        out: work folder; a killed build continues in it, and may be asked for more subnets or seeds.
        root: data root.
        on: where trainings are done; default: in as many processes of one thread as there are cores.
        say: takes lines for the user.

    Returns:
        The table: for each part (valid, test) the mean over seeds, and each seed's own in ``<dataset>_<part>_seed<i>``.

    Raises:
        UserError: for wrong values, or a folder that holds another build.
    """
    on = on or On()
    data = load(config.dataset, root=root, split=config.split, resolution=config.space.resolution)
    space = config.space.with_classes(data.classes)
    make_batches(data.train, data, config.recipe, 0, space.normalised)  # refuses wrong batches before any folder
    subnets = distinct_subnets(space, config.subnets)
    config.recipe.decay(space, subnets[0])  # and a schedule that the space has no γ for
    with torch.device("meta"):  # and one image a batch where it has no statistics
        check_batch(make_alone(space, subnets[0], config.recipe, 0), config.recipe, data.train.side)
    folder = Path(out)
    with on.open(folder, otherwise=os.cpu_count() or 1, say=say) as there, locked(folder):
        claim(folder, "benchmark", _to_dict(config), free=("subnets", "seeds"), completed=completed, data=data)
        done = {(line["subnet"], line["seed"]): line for line in mended(folder / RESULTS)}
        tasks = [(i, seed) for seed in range(config.seeds) for i in range(len(subnets)) if (i, seed) not in done]
        wanted = len(subnets) * config.seeds
        with (
            appending(folder / RESULTS) as log,
            Progress("build", wanted, wanted - len(tasks), noun="trainings") as progress,
        ):
            say(f"{wanted - len(tasks)} of {wanted} trainings are done, {len(tasks)} to do {there.where}")
            work = [(i, subnets[i], seed) for i, seed in tasks]
            named = partial(_named, space)
            given = space, config.recipe, data
            for result in there.run(_train_one, work, given=given, named=named, watch=progress):
                log.write(as_line(result))
                log.flush()
                done[result["subnet"], result["seed"]] = result
                progress.advance()
                progress.show()
        table = folder / "benchmark.parquet"
        columns = _columns(config, done)
        write_benchmark(table, space, subnets, columns, {**_to_dict(config), "versions": versions()})
    return table


def _columns(config: BuildConfig, done: dict[tuple[int, int], dict[str, Any]]) -> dict[str, np.ndarray]:
    """For each part the mean over seeds, then each seed's own accuracies."""
    columns = {}
    for part in ("valid", "test"):
        seeds = [np.array([done[i, seed][part] for i in range(config.subnets)]) for seed in range(config.seeds)]
        columns[f"{config.dataset}_{part}"] = np.mean(seeds, axis=0)
        columns |= {f"{config.dataset}_{part}_seed{seed}": values for seed, values in enumerate(seeds)}
    return columns


def distinct_subnets(space: Space, count: int, seed: int = 0) -> list[Subnet]:
    """Random subnets of distinct canonical forms, each the leanest of its form.

    Raises:
        UserError: where there are too few.
    """
    most = _forms(space)
    if most is not None and count > most:
        raise UserError(f"subnets {count}: space {space.name} of these sizes has {most} distinct ones")
    rng = generator(seed, "benchmark subnets")
    found: dict[Subnet, None] = {}
    for _ in range(100 * count):
        found.setdefault(space.canonical(space.sample(rng)))
        if len(found) == count:
            return list(found)
    raise UserError(f"subnets {count}: only {len(found)} distinct ones were found in space {space.name}")


def _forms(space: Space) -> int | None:
    """How many distinct subnets a space has; None where it is too large to count."""
    return len(set(map(space.canonical, space.subnets()))) if space.size <= ENUMERABLE else None


def _to_dict(config: BuildConfig) -> dict[str, Any]:
    """The configuration, JSON-able; with the forms, for where a version knows more of them equal it draws others."""
    forms = _forms(config.space)
    config = dataclasses.replace(config, recipe=config.recipe.resolved(config.space))
    values = {**dataclasses.asdict(config), "space": config.space.to_dict()}
    return values if forms is None else {**values, "forms": forms}


def _named(space: Space, index: int, subnet: Subnet, seed: int) -> str:
    return f"training of subnet {index} ({space.format(subnet)}), seed {seed}"


def _train_one(space: Space, recipe: Recipe, data: Dataset, index: int, subnet: Subnet, seed: int) -> dict[str, Any]:
    valid, test = train_alone(space, subnet, data, recipe, seed)
    return {"subnet": index, "seed": seed, "valid": valid, "test": test}
