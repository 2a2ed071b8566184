"""The command line of `nshot auto`: choices from the data, overridden by the flags of the single commands."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nshot.data.sources import Dataset, is_own, load
from nshot.errors import UserError
from nshot.flags import Columns, Download, Where, Workers, parse, positional
from nshot.networks.recipes import Recipe
from nshot.search.limits import Limits
from nshot.search.pick import How
from nshot.supernets.config import TrainConfig

from .job import Job, run_job
from .look import look, stored_side
from .plan import NASBENCH, plan, resolution_for, steps_line

WHAT = (
    "From images to a network that runs elsewhere: looks at the data, chooses a search space and how long to train, "
    "says what it chose and why and how long it will take; then trains a supernet, searches it, retrains the best "
    "subnet, tests it and hands it over. The same command continues a killed job. Each choice can be overridden: "
    "after --train by the flags of nshot train, after --search by those of nshot search, after --retrain by those of "
    "nshot retrain's recipe (--train --help lists them)."
)
PHASES = {"--train": "the supernet", "--search": "the search", "--retrain": "the network"}


@dataclass(frozen=True)
class Auto(Where, Download, Workers, Columns):
    out: Path
    """Gets supernet, network, handover and report.html; a killed job of the same options continues there."""
    max_params: str | None = None
    """Most parameters of the network, such as 300k."""
    max_flops: str | None = None
    """Most multiply-accumulates of one image, such as 60M."""
    max_latency: str | None = None
    """Longest time of an image on this machine, such as 3ms."""
    space: str = NASBENCH
    """The search space."""
    resolution: int | None = None
    """Height and width that images are brought to; default: what most images have, up to 64."""
    seed: int = 0


def auto(args: list[str]) -> None:
    """Runs the job that the arguments ask for. Raises UserError as `run_job`, and for flags and data that cannot be."""
    name = positional(args, "auto", "DATA: imagefolder:FOLDER, parquet:FOLDER or a named data set")
    groups = split_at(args, tuple(PHASES))
    for phase, default in (("--train", TrainConfig()), ("--search", How()), ("--retrain", Recipe())):
        if {"-h", "--help"} & set(groups[phase]):  # answered without any data
            overridden(default, {phase: ["--help"]}, phase)
    given = parse(Auto, groups[""], "auto DATA", WHAT)
    name = given.named(name)
    limits = Limits.of(given.max_params, given.max_flops, None, given.max_latency)
    data, stored = _loaded(name, given)
    side = data.train.side
    seen = look(data, stored)
    chosen = plan(seen, limits, given.space, side)
    train = overridden(replace(chosen.train, seed=given.seed), groups, "--train")
    if train.dataset != name:
        raise UserError(f"dataset {train.dataset} after --train: the data are {name}, which nshot auto is told first")
    if train.space.resolution != side:
        raise UserError(f"resolution {train.space.resolution} after --train: say --resolution before it")
    job = Job(
        seen, train, overridden(How(), groups, "--search"), limits, overridden(chosen.recipe, groups, "--retrain")
    )
    for line in (*seen.lines(), *chosen.reasons, steps_line(seen, job.train, job.recipe)):
        print(line)
    run_job(job, data, given.out, root=given.data_root, device=given.device, workers=given.workers)


def _loaded(name: str, given: Auto) -> tuple[Dataset, int]:
    """The data set at the resolution that is asked for or fits it, and the middle of its images' stored sides."""

    def at(resolution: int | None) -> Dataset:
        return load(name, root=given.data_root, download=given.download, resolution=resolution)

    if is_own(name):
        stored = stored_side(name, given.data_root)
        return at(given.resolution or resolution_for(stored)), stored
    whole = at(None)  # of a named set all images have one size
    wanted = given.resolution or resolution_for(whole.train.side)
    return (whole if wanted == whole.train.side else at(wanted)), whole.train.side


def overridden(default: Any, groups: dict[str, list[str]], phase: str) -> Any:
    """The dataclass with what the flags after ``phase`` say. Raises UserError for flags that it has not."""

    @dataclass(frozen=True)
    class One:
        value: type(default) = field(default_factory=lambda: default)  # type: ignore[valid-type]

    what = f"How {PHASES[phase]} is made; what is not said is as chosen."
    return parse(One, groups[phase], f"auto DATA ... {phase}", what).value


def split_at(args: list[str], flags: tuple[str, ...]) -> dict[str, list[str]]:
    """The arguments after each of these flags, up to the next; those before the first by the empty name."""
    found: dict[str, list[str]] = {name: [] for name in ("", *flags)}
    current = ""
    for arg in args:
        if arg in flags:
            current = arg
        else:
            found[current].append(arg)
    return found
