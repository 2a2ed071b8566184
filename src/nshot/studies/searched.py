"""The searches behind tables B, C, H, L and M: a supernet, its best subnet in a limit, and what that one reaches."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nshot.data.sources import Dataset
from nshot.networks.recipes import Recipe, recipe, recipe_name
from nshot.networks.retrain import RetrainConfig, retrain, retrain_best
from nshot.ranking.evaluate import Scores
from nshot.runs.log import read_log, trained_seconds
from nshot.search.limits import Limits
from nshot.search.pick import How, pick
from nshot.search.propose import random_subnets
from nshot.spaces import Subnet
from nshot.spaces.base import ComplexityOf
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.load import load_run
from nshot.supernets.score import scored
from nshot.supernets.train import train

from .base import Scale


def quiet(line: str) -> None:
    """Runs of a study say nothing themselves."""


def retrained(
    config: TrainConfig, data: Dataset, run: Path, folder: Path, scale: Scale, epochs: int | None = None
) -> dict[str, Any]:
    """Test accuracy of the best of random subnets, retrained (tables B, L, M); at the paper's scale by the space's own
    recipe, for so many ``epochs`` where the table says them."""
    train(config, data, run, device="cpu", say=quiet)
    space = config.space.retrained
    how = Recipe(epochs=scale.retrain_epochs, batch_size=64, lr=0.05)
    if scale.preset == "paper":
        how = recipe(recipe_name(space, config.dataset))
        how = how if epochs is None else replace(how, epochs=epochs)
    with _scored(run, data, scale, Limits()) as (subnets, scores, _):
        best = subnets[int(np.lexsort((scores.mean_loss, -scores.accuracy))[0])]
        again = RetrainConfig(space=space, recipe=how, dataset=config.dataset, seed=config.seed)
        result = retrain(again, best, data, folder / "retrained", device="cpu", say=quiet)
    return {
        "retrained, test (%)": result["test_accuracy"],
        "with supernet weights (%)": float(scores.accuracy.max()),
        "parameters (M)": result["params"] / 1e6,
    }


def searched(
    config: TrainConfig,
    data: Dataset,
    run: Path,
    folder: Path,
    scale: Scale,
    schedule: Literal["cosine", "calr"] = "cosine",
    complexity_of: ComplexityOf | None = None,
) -> dict[str, Any]:
    """Table H, and at the paper's scale A: the best of random subnets, retrained with this schedule, CaLR's by that
    C(α); of several supernets, the best of each is retrained and the best of those kept (section D).

    The search's minutes are those of one thread that trains and scores, also where either was killed and continued.
    """
    train(config, data, run, device="cpu", say=quiet)
    how = recipe("cifar") if scale.preset == "paper" else Recipe(epochs=scale.retrain_epochs, batch_size=64, lr=0.05)
    how = replace(how, schedule=schedule, complexity_of=complexity_of)
    with _scored(run, data, scale, Limits()) as (subnets, scores, score):
        minutes = training_minutes(run, config.batch_size) + scores.seconds / 60
        supernet = load_run(run)[1]
        figures = np.stack([scores.accuracy, scores.mean_loss], axis=1)
        made = {"search": How(sample=scale.candidates, seed=config.seed).record(), "score": score}
        found = pick(run, config, supernet, subnets, figures, made, Limits(), "accuracy", name="study")
        best = [tuple(row["subnet"]) for row in found.get("parts") or [found["best"]]]
        again = RetrainConfig(config.space.retrained, how, config.dataset, seed=config.seed)
        result = retrain_best(again, best, data, folder / "retrained", device="cpu", say=quiet)
    return {
        "retrained, test (%)": result["test_accuracy"],
        "with supernet weights (%)": found["best"]["accuracy"],
        "parameters (M)": result["params"] / 1e6,
        "search (min)": minutes,
        "subnet": result["subnet"],
    }


def training_minutes(run: Path, batch_size: int) -> float:
    """How long a run, or all its parts, trained, by its logs."""
    return sum(trained_seconds(read_log(log), batch_size) for log in run.rglob("log.jsonl")) / 60


def limited(
    config: TrainConfig, data: Dataset, run: Path, folder: Path, scale: Scale, limits: Sequence[float]
) -> dict[str, Any]:
    """Accuracy with supernet weights of the best subnet below each limit of parameters (table C: no retraining).

    ``limits`` are in millions, of the space at full scale; at others, whose networks are small, they are the same
    shares of the space's range.
    """
    train(config, data, run, device="cpu", say=quiet)
    low, high = config.space.params_range
    full = preset("paper", config.strategy, config.space.name).space.params_range
    found: dict[str, Any] = {}
    with ExitStack() as kept:  # until all are there
        for limit in limits:
            share = (limit * 1e6 - full[0]) / (full[1] - full[0])
            most = low + (high - low) * share
            scores = kept.enter_context(_scored(run, data, scale, Limits(max_params=round(most))))[1]
            found[f"best below limit {limit:g}M (%)"] = float(scores.accuracy.max())
    return found


@contextmanager
def _scored(
    run: Path, data: Dataset, scale: Scale, limits: Limits
) -> Iterator[tuple[list[Subnet], Scores, dict[str, int]]]:
    """Random subnets and their scores, which are kept until what is done with them is done."""
    config, supernet = load_run(run)
    subnets = random_subnets(config.space, scale.candidates, limits, config.seed, supernet.canonical)
    with scored(run, config, supernet, subnets, images=scale.images, device="cpu", data=data) as (scores, score):
        yield subnets, scores, score
