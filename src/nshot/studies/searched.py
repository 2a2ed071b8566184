"""The searches behind tables B, C, L and M: a supernet, its best subnet within a limit, and what that one reaches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nshot.data.sources import Dataset
from nshot.search.limits import Limits
from nshot.search.propose import random_subnets
from nshot.spaces import Subnet
from nshot.training.config import TrainConfig, preset
from nshot.training.recipes import Recipe
from nshot.training.retrain import RetrainConfig, retrain
from nshot.training.run import load_run
from nshot.training.score import score_run
from nshot.training.train import train

from .base import Scale


def quiet(line: str) -> None:
    """Runs of a study say nothing themselves."""


def retrained(config: TrainConfig, data: Dataset, folder: Path, scale: Scale) -> dict[str, Any]:
    """Test accuracy of the best of random subnets, retrained (tables B, L, M)."""
    run = train(config, data, folder / "supernet", device="cpu", say=quiet)
    subnets, accuracies, losses = _scored(run, data, scale, Limits())
    best = subnets[int(np.lexsort((losses, -accuracies))[0])]
    recipe = Recipe(epochs=scale.retrain_epochs, batch_size=64, lr=0.05)
    again = RetrainConfig(space=config.space, recipe=recipe, dataset=config.dataset, seed=config.seed)
    result = retrain(again, best, data, folder / "retrained", device="cpu", say=quiet)
    return {
        "retrained, test (%)": result["test_accuracy"],
        "with supernet weights (%)": float(accuracies.max()),
        "parameters (M)": result["params"] / 1e6,
    }


def limited(config: TrainConfig, data: Dataset, folder: Path, scale: Scale, limits: Sequence[float]) -> dict[str, Any]:
    """Accuracy with supernet weights of the best subnet below each limit of parameters (table C: no retraining).

    ``limits`` are in millions, of the space at full scale; at others, whose networks are small, they are the same
    shares of the space's range.
    """
    run = train(config, data, folder / "supernet", device="cpu", say=quiet)
    low, high = config.space.params_range
    full = preset("paper", config.strategy, config.space.name).space.params_range
    found: dict[str, Any] = {}
    for limit in limits:
        share = (limit * 1e6 - full[0]) / (full[1] - full[0])
        most = low + (high - low) * share
        _, accuracies, _ = _scored(run, data, scale, Limits(max_params=round(most)))
        found[f"best below limit {limit:g}M (%)"] = float(accuracies.max())
    return found


def _scored(run: Path, data: Dataset, scale: Scale, limits: Limits) -> tuple[list[Subnet], np.ndarray, np.ndarray]:
    config, supernet = load_run(run)
    subnets = random_subnets(config.space, scale.candidates, limits, config.seed)
    scores = score_run(run, config, supernet, subnets, images=scale.images, device="cpu", data=data)
    return subnets, scores.accuracy, scores.mean_loss
