"""Picks the best subnet of a trained supernet among proposed ones, by accuracy or by loss on held-out images."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from nshot.data.sources import data_root
from nshot.errors import UserError, check_whole
from nshot.files import write_json
from nshot.ranking.evaluate import Scores
from nshot.spaces import FewShot, Subnet
from nshot.spaces.lists import subnets_from_file
from nshot.training.config import TrainConfig
from nshot.training.run import load_run
from nshot.training.score import score_run

from .limits import Limits
from .propose import random_subnets, within

Score = Literal["accuracy", "loss"]


def search_run(
    run: Path,
    limits: Limits,
    *,
    subnets: Path | None = None,
    sample: int = 1000,
    by: Score = "accuracy",
    seed: int = 0,
    images: int | None = None,
    root: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Picks among the subnets of a JSON list, or among ``sample`` random ones, those that keep to the limits.

    Returns:
        As `pick`.

    Raises:
        UserError: for a run, list or number that cannot be used, and limits that no subnet keeps to.
    """
    check_whole(1, sample=sample)
    check_whole(0, seed=seed)
    if by not in get_args(Score):
        raise UserError(f"unknown score {by!r}: choose one of {', '.join(get_args(Score))}")
    config, supernet = load_run(run)
    if subnets is not None:
        candidates = within(config.space, subnets_from_file(subnets, config.space, data_root(root)), limits)
    else:
        candidates = random_subnets(config.space, sample, limits, seed)
    scores = score_run(run, config, supernet, candidates, root=root, images=images, device=device)
    owner = supernet.owner if isinstance(supernet, FewShot) else None
    return pick(run, config, candidates, scores, limits, by, owner)


def pick(
    run: Path,
    config: TrainConfig,
    subnets: Sequence[Subnet],
    scores: Scores,
    limits: Limits,
    by: Score,
    owner: Callable[[Subnet], Any] | None = None,
) -> dict[str, Any]:
    """Writes the ten best of scored subnets to ``search.json`` in the run folder.

    Args:
        run: a finished run.
        config: its configuration.
        subnets: the candidates, all within the limits.
        scores: theirs.
        limits: what they kept to, for the record.
        by: the score; ties of one are broken by the other.
        owner: where several supernets scored, which one a subnet belongs to.

    Returns:
        What search.json holds: ``best`` and the ten best, each with arch, costs, accuracy and loss; with ``owner`` also
        ``parts``, the best of each supernet, which few-shot NAS retrains all (section D of the supplement).
    """
    keys = (-scores.accuracy, scores.mean_loss)
    order = np.lexsort(keys[::-1] if by == "accuracy" else keys)
    space = config.space

    def row(i: int) -> dict[str, Any]:
        return {
            "arch": space.format(subnets[i]),
            "subnet": list(subnets[i]),
            "accuracy": float(scores.accuracy[i]),
            "loss": float(scores.mean_loss[i]),
            "params": space.network_params(subnets[i]),
            "flops": space.flops(subnets[i]),
        }

    top = [row(i) for i in order[:10]]
    result = {
        "space": {"name": space.name, **space.sizes()},
        "dataset": config.dataset,
        "by": by,
        "limits": dataclasses.asdict(limits),
        "candidates": len(subnets),
        "images": scores.correct.shape[1],
        "best": top[0],
        "top": top,
    }
    if owner is not None:
        firsts: dict[Any, int] = {}
        for i in order:
            firsts.setdefault(owner(subnets[i]), i)
        result["parts"] = [row(i) for i in firsts.values()]
    write_json(run / "search.json", result)
    return result
