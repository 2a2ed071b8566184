"""Runs what studies need, each distinct run once, in parallel processes; killed and restarted it continues."""

import hashlib
import json
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nshot.benchmarks.rank import rank_run
from nshot.benchmarks.table import read_benchmark
from nshot.data.sources import Dataset, data_root, load
from nshot.errors import DivergedError, Say, UserError, check_whole
from nshot.files import make_folder, needed, read_json, write_json
from nshot.runs.execute import FREE
from nshot.runs.progress import Progress
from nshot.runs.where import On
from nshot.spaces import space
from nshot.spaces.lists import subnets_from_file
from nshot.supernets.config import TrainConfig, to_dict
from nshot.supernets.train import train

from .base import AGAIN, Measured, Scale, Setting, Study

FAILED = "failed.json"
# Part of every run's name. It rises where the same configuration comes to other figures, so that none of before counts
# as one of now. 2: scores on class-balanced mixtures, C(α) of the space that is stood for, a classifier with its bias,
# AdamW that spares norms and biases.
PROTOCOL = 2


@dataclass(frozen=True)
class Job:
    """One run: a setting at a scale with a seed."""

    config: TrainConfig
    scale: Scale
    measured: Measured | None = None

    @classmethod
    def of(cls, setting: Setting, scale: Scale, seed: int) -> "Job":
        return cls(setting.at(scale, seed), scale, setting if isinstance(setting, Measured) else None)

    @property
    def folder(self) -> str:
        """The run's name: two studies that need the same run find it by this."""
        if self.measured is None:
            return self.supernet
        more = {"arguments": self.measured.arguments, "scale": _described(self.scale)}
        return _name(self.measured.function.__name__, self.config, **more)

    @property
    def supernet(self) -> str:
        """The folder of its training, which a ranking and searches of the same supernet share."""
        return _name(self.config.strategy, self.config)

    @property
    def name(self) -> str:
        """Of the run and what is measured of it."""
        return f"{self.folder}/{self.result}"

    @property
    def result(self) -> str:
        """Names the ranking, by the list, the images, and all of the scale that determines it; or what was measured."""
        if self.measured is not None:
            return "measured"
        which = self.scale.subnets.stem if self.scale.subnets else f"sample{self.scale.sample}"
        ranked = {key: _described(self.scale).get(key) for key in ("benchmark", "subnets", "sample", "images", "also")}
        return f"{which}-{self.scale.images or 'all'}-{_digest(ranked)[:8]}"

    @property
    def second(self) -> str:
        """Names the second ranking, where the scale has one."""
        return f"{self.result}-also"

    def is_in(self, folder: Path) -> bool:
        """Whether the folder holds all its results."""
        both = self.measured is None and self.scale.also is not None
        names = [self.result, self.second] if both else [self.result]
        return all((folder / f"{name}.json").exists() for name in names)


def _name(kind: str, config: TrainConfig, **more: Any) -> str:
    # What is as by default is left out, also of the space's sizes: a later version may have more to say.
    defaults = to_dict(TrainConfig())
    own = to_dict(replace(TrainConfig(), space=space(config.space.name)))["space"]
    values = _unlike(to_dict(config), defaults | {"space": own | {"name": defaults["space"]["name"]}}) | more
    for key in FREE:
        values.pop(key, None)
    return f"{kind}-{_digest(values | {'protocol': PROTOCOL})[:12]}"


def _described(scale: Scale) -> dict[str, Any]:
    """What of a scale is as by default is left out, and what the run's configuration has."""
    values = {f.name: getattr(scale, f.name) for f in fields(Scale) if f.name != "overrides"}
    values["subnets"] = scale.subnets and str(scale.subnets)
    return _unlike(values, {f.name: f.default for f in fields(Scale)})


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _unlike(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults, also inside."""
    found = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            value = _unlike(value, default)
            if value:
                found[key] = value
        elif value != default:
            found[key] = value
    return found


def jobs_of(
    studies: Sequence[Study], scale: Scale, seeds: int, before: Mapping[str, Container[str]] | None = None
) -> dict[str, Job]:
    """The distinct runs by folder, the first seed of every row before the second.

    ``before`` says for each study which runs' figures it has already (``collect.Known``).
    """
    have = before or {}
    check_whole(1, seeds=seeds)
    found: dict[str, Job] = {}
    for seed in range(seeds):
        for study in studies:
            for row in study.rows:
                job = Job.of(row.setting, scale, seed)
                if job.name not in have.get(study.name, ()):
                    found.setdefault(job.folder, job)
    return found


def run_jobs(
    jobs: dict[str, Job],
    runs: Path,
    *,
    on: On | None = None,
    root: str | Path | None = None,
    say: Say = print,
) -> None:
    """Trains and ranks what the folder ``runs`` does not have yet; one that fails is marked, the others go on.

    ``on`` says where; by default in one process of this machine.

    Raises:
        UserError: where data, benchmark or list cannot be had; then nothing is started.
    """
    on = on or On()
    cores = os.cpu_count() or 1
    if on.on == "local" and (on.jobs or 1) > cores:
        raise UserError(f"jobs {on.jobs}: this machine has {cores} cores, and each run takes one")
    todo = [job for name, job in jobs.items() if not is_done(runs / name, job)]
    done = f"{len(jobs) - len(todo)} of {len(jobs)} runs are done"
    if not todo:
        say(done)
        return
    groups: dict[tuple[str, str, int], list[Job]] = {}  # by the data that runs are of: loaded once
    for job in todo:
        groups.setdefault((job.config.dataset, job.config.split, job.config.space.resolution), []).append(job)
    data = [_checked(group, root) for group in groups.values()]
    make_folder(runs)
    with (
        on.open(runs, say=say) as there,
        Progress("study", len(jobs), len(jobs) - len(todo), noun="runs") as progress,
    ):
        say(f"{done}, {len(todo)} to do {there.where}")
        for group, own in zip(groups.values(), data, strict=True):
            for lines in there.run(_run_all, _work(group, own, runs, root), given=(own,), named=_named, watch=progress):
                for line in lines:
                    progress.advance()
                    say(line)
                progress.show()


Work = tuple[Job, Path, Path]


def _work(
    group: list[Job], data: Dataset, runs: Path, root: str | Path | None
) -> list[tuple[list[Work], str | Path | None]]:
    """Tasks of the processes: jobs of one supernet go one after another, so that it is trained once."""
    chains: dict[str, list[Work]] = {}
    for job in group:
        work = with_classes(job, data), runs / job.supernet, runs / job.folder
        chains.setdefault(job.supernet, []).append(work)
    return [(chain, root) for chain in chains.values()]


def _named(chain: list[Work], root: str | Path | None) -> str:
    return ", ".join(folder.name for _, _, folder in chain)


def _checked(group: list[Job], root: str | Path | None) -> Dataset:
    """The data set, once it is clear that all that the runs need is there."""
    config = group[0].config
    ranked = [job for job in group if job.measured is None]
    judged = [job for job in group if job.measured is not None and job.measured.benchmark]
    for job in ranked[:1] + judged[:1]:
        _check_benchmark(job, root)
    return load(config.dataset, root=root, split=config.split, resolution=config.space.resolution)


def _check_benchmark(job: Job, root: str | Path | None) -> None:
    config = job.config
    benchmark = read_benchmark(job.scale.benchmark, config.space, root)
    listed = benchmark.subnets
    if job.measured is None and job.scale.subnets is not None:
        listed = subnets_from_file(job.scale.subnets, config.space, data_root(root), benchmark.numbered)
    benchmark.truth(f"{config.dataset}_test", listed)


def with_classes(job: Job, data: Dataset) -> Job:
    return replace(job, config=replace(job.config, space=job.config.space.with_classes(data.classes)))


def is_done(folder: Path, job: Job) -> bool:
    """Whether the run is ranked, or has failed for good."""
    return job.is_in(folder) or (folder / FAILED).exists()


def _run_all(data: Dataset, chain: list[Work], root: str | Path | None) -> list[str]:
    return [_run_one(data, *work, root) for work in chain]


def _run_one(data: Dataset, job: Job, run: Path, folder: Path, root: str | Path | None) -> str:
    """Trains and ranks, or measures; says how it went."""
    scale = job.scale
    if job.is_in(folder):  # of a chain that was taken up again
        return f"{folder.name} is done already"
    try:
        if (run / FAILED).exists():
            folder.mkdir(exist_ok=True)
            write_json(folder / FAILED, needed(read_json, run / FAILED, AGAIN))
            return f"{folder.name} failed with {run.name}"
        if job.measured is not None:
            folder.mkdir(parents=True, exist_ok=True)
            more = dict(job.measured.arguments)
            if job.measured.benchmark:
                more["benchmark"] = read_benchmark(scale.benchmark, job.config.space, root)
            figures = job.measured.function(job.config, data, run, folder, scale, **more)
            write_json(folder / f"{job.result}.json", figures)
            return f"{folder.name} is measured"
        train(job.config, data, folder, device="cpu", say=lambda line: None)
        where: dict[str, Any] = {"root": root, "device": "cpu", "data": data}
        if scale.also is not None and not (folder / f"{job.second}.json").exists():
            sample, images = scale.also
            rank_run(folder, scale.benchmark, sample=sample, images=images, name=job.second, **where)
        which: dict[str, Any] = {"subnets": scale.subnets, "sample": scale.sample, "images": scale.images}
        ranking, _ = rank_run(folder, scale.benchmark, **which, name=job.result, **where)
    except UserError as error:
        if isinstance(error, DivergedError):  # training it again would diverge again
            write_json(folder / FAILED, {"error": str(error)})
            if error.folder.is_relative_to(run):  # and so it would for whoever else needs this supernet
                write_json(run / FAILED, {"error": str(error)})
        return f"{folder.name} failed: {error}"
    taus = ", ".join(f"{row['tau']:.3f} by {score}" for score, row in ranking.table.items())
    return f"{folder.name}: tau {taus}"
