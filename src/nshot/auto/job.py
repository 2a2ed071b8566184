"""The whole job: train, search, retrain, hand over, report; in one folder, continued where it was killed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nshot.data.sources import Dataset
from nshot.errors import Say, UserError
from nshot.files import check_inside, make_folder, typed
from nshot.handover.export import export
from nshot.handover.figures import accuracy_of
from nshot.handover.verdict import judge, read_verdict
from nshot.networks.choice import read_choice
from nshot.networks.recipes import Recipe
from nshot.networks.result import NETWORK as WEIGHTS
from nshot.networks.result import known_result
from nshot.networks.retrain import RetrainConfig, retrain, retrain_best
from nshot.report.confusion import plot_confusion
from nshot.report.page import NETWORK, SUPERNET, write_report
from nshot.report.tables import print_verdict
from nshot.runs.folder import read_config
from nshot.search.begin import LARGEST, begin_with, subnets_of
from nshot.search.latency import Latency, fitted, keep
from nshot.search.limits import Limits
from nshot.search.pick import How, search_run
from nshot.search.propose import ENUMERABLE, random_subnets
from nshot.strategies import Strategy, strategies
from nshot.supernets.config import TrainConfig
from nshot.supernets.load import initial_weights, load_run
from nshot.supernets.score import scored
from nshot.supernets.train import train

from .estimate import estimate
from .look import Look
from .pretrained import by_labels
from .trial import better, same_weights

WHOLE = "whole"  # folder of the whole network, where a pretrained one is shrunk
TRIALS = "trials"  # likewise, of the search's best and of the whole network on smaller images
HANDOVER = "handover"
CHECKED = 20  # random subnets whose scores say whether a supernet has learned anything


@dataclass(frozen=True)
class Job:
    """What is done with a data set."""

    look: Look
    train: TrainConfig
    how: How
    limits: Limits
    recipe: Recipe


def run_job(
    job: Job,
    data: Dataset,
    out: Path,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    workers: int = 0,
    say: Say = print,
) -> dict[str, Any]:
    """Runs the phases that are not done yet, and says what each comes to.

    Args:
        job: what is done.
        data: the data set, loaded at the resolution of ``job.train.space``.
        out: gets ``supernet``, ``network`` and ``handover``, each a folder as the single commands write it; where a
            pretrained network is shrunk also ``whole``, that network tuned, and ``trials``.
        root: data root.
        device: Fabric's accelerator.
        workers: processes that make batches.
        say: takes lines for the user.

    Returns:
        The verdict on the network, as `judge` has it.

    Raises:
        UserError: as the single commands, and before anything is trained for limits that no subnet keeps to.
    """
    names = SUPERNET, NETWORK, HANDOVER, WHOLE, TRIALS
    supernet, network, handed, whole, trials = (check_inside(out, name) for name in names)
    config = replace(job.train, space=job.train.space.with_classes(data.classes))
    begun = (supernet / "config.json").exists()
    latency = _check(config, job, begun, say)
    make_folder(out)
    if not begun:
        say(f"this will take about {estimate(config, job.recipe, data, job.how.most, device)}, measured here")
    say(f"[1/4] training a supernet of {config.space.size:,} subnets: {supernet}")
    train(config, data, supernet, device=device, workers=workers, say=say)
    if latency is not None:
        keep(supernet, latency)
    _check_learned(supernet, job, data, device, say)
    say(f"[2/4] searching its best subnet, {job.limits}")
    found = search_run(supernet, job.limits, job.how, root=root, device=device, data=data, say=say)
    best = found["best"]
    say(f"best: {best['arch']}, {best['params']:,} parameters, {best['accuracy']:.1f} % with the supernet's weights")
    given: dict[str, Any] = {"device": device, "workers": workers, "say": say}
    _retrain(job, best["arch"], data, (supernet, network, whole, trials), given)
    verdict = read_verdict(network) or judge(network, data, device=device, say=say)
    print_verdict(verdict)
    if config.init is not None:
        _compare(known_result(whole), known_result(network), whole, say)
    plot_confusion(network / "confusion.png", verdict)
    say(f"[4/4] handing it over: {handed}")
    say(f"written: {', '.join(map(str, export(network, handed, say=say)))}")
    say(f"written: {write_report(out)}; classify images with: nshot predict {typed(handed)} IMAGES")
    return verdict


def _check(config: TrainConfig, job: Job, begun: bool, say: Say) -> Latency | None:
    """Refuses now, not in an hour, what cannot be found and weights that cannot be read.

    Returns:
        The table of latency that was measured for it, where that is limited and nothing has begun.
    """
    space = config.space.retrained
    random_subnets(space, 1, replace(job.limits, max_latency=None), 0, config.space.canonical)
    if job.how.method == "exhaustive" and space.size > ENUMERABLE:
        raise UserError(f"method exhaustive: the space has {space.size:,} subnets, choose random, evolution or nsga2")
    method = strategies[config.strategy]
    if job.how.method == "own" and method.answer is Strategy.answer and method.choose is Strategy.choose:
        raise UserError(f"method own: {config.strategy} has no answer of its own, choose another")
    if begun:
        return None
    initial_weights(config)
    if job.limits.max_latency is None:
        return None
    say("measuring latencies on this machine, for the limit")
    latency = Latency(space, fitted(space))
    random_subnets(space, 1, job.limits.by(latency), 0, config.space.canonical)
    return latency


def _retrain(job: Job, best: str, data: Dataset, folders: tuple[Path, ...], given: dict[str, Any]) -> None:
    """Trains what the search found: from scratch, or from weights that are tuned, taught by the whole network."""
    supernet, network, whole, trials = folders
    default, archs = read_choice(str(supernet / "search.json"))
    init, how = None if job.train.init is None else supernet, "from scratch"
    again = RetrainConfig(default.space, job.recipe, job.train.dataset, init=init, seed=job.train.seed)
    if init is not None:
        how = "from weights that are tuned, taught by the whole network,"
        again, chosen = _taught(again, best, job, data, (network, whole, trials), given)
        archs, given = [chosen], {**given, "begin": begin_with(again.init, again.space)}
    given["say"](f"[3/4] training it {how} on all {len(data.train) + len(data.valid):,} images: {network}")
    retrain_best(again, [again.space.parse(arch) for arch in archs], data, network, **given)


def _taught(
    again: RetrainConfig,
    best: str,
    job: Job,
    data: Dataset,
    folders: tuple[Path, Path, Path],
    given: dict[str, Any],
) -> tuple[RetrainConfig, str]:
    """Tunes the whole network; how it teaches another, and which: the search's best, where that stands its trial.

    The whole network on smaller images begins with the weights that teach, another with the supernet's.
    """
    network, whole, trials = folders
    # Not with the supernet's weights, which saw half of the images.
    itself = replace(again, recipe=by_labels(job.recipe), init=job.train.init)
    teacher = _whole(itself, data, whole, given)
    again = replace(again, teacher=str(teacher), distill=1.0)
    if (network / "config.json").exists():  # begun, perhaps by a version that judged trials otherwise
        chosen = again.space.parse(read_config(network)["config"]["subnet"])
    else:
        chosen = better(again, itself, again.space.parse(best), job.limits, data, trials, given)
    if same_weights(again.space, chosen):
        again = replace(again, init=teacher / WEIGHTS)
    return again, again.space.format(chosen)


def _compare(whole: dict[str, Any], network: dict[str, Any], folder: Path, say: Say) -> None:
    """Says what the smaller network costs in accuracy, and how to have the other."""
    share = network["flops"] / whole["flops"]
    say(
        f"the network is right on {network['test_accuracy']:.1f} % with {share:.0%} of the FLOPs, the whole one on "
        f"{whole['test_accuracy']:.1f} % of the same; that is handed over by: nshot export {typed(folder)} --out FOLDER"
    )


def _whole(again: RetrainConfig, data: Dataset, out: Path, given: dict[str, Any]) -> Path:
    """Tunes the whole network, which teaches, and says how good it is: what the one that is found is measured by."""
    given["say"](f"tuning the whole network, which teaches: {out}")
    (subnet,) = subnets_of(again.space, [LARGEST])
    assert again.init is not None
    result = retrain(again, subnet, data, out, begin=begin_with(again.init, again.space), **given)
    right = round(result["test_accuracy"] / 100 * result["test_images"])
    found = accuracy_of(right, result["test_images"])
    given["say"](
        f"the whole network: {found['accuracy']:.1f} % ({found['low']:.1f} to {found['high']:.1f}) of "
        f"{found['images']:,} test images, {result['params']:,} parameters, {result['flops']:,} FLOPs"
    )
    return out


def _check_learned(run: Path, job: Job, data: Dataset, device: str, say: Say) -> None:
    """Says loudly where a supernet does not know more than which class is largest."""
    config, supernet = load_run(run)
    subnets = random_subnets(config.space, min(CHECKED, config.space.size), Limits(), 0, supernet.canonical)
    with scored(run, config, supernet, subnets, device=device, data=data, say=say) as (scores, _):
        known = accuracy_of(round(float(np.median(scores.accuracy)) / 100 * len(data.valid)), len(data.valid))
    if known["low"] <= 100 * job.look.majority:
        say(
            f"WARNING: the supernet is right on {known['accuracy']:.0f} % of {known['images']:,} images (the middle of "
            f"{len(subnets)} random subnets), not shown to be better than saying the largest class always "
            f"({100 * job.look.majority:.0f} %): what it ranks is noise. Stop here (Ctrl-C), and train longer "
            "(--epochs) or bring more images"
        )
