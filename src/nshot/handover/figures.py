"""How good answers are: accuracy with its interval, by class, and which class is taken for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from torch import Tensor


def accuracy_of(right: int, images: int) -> dict[str, Any]:
    """``accuracy`` in percent, ``low`` and ``high`` of its 95 % interval (Wilson, 1927), ``right`` and ``images``."""
    interval = binomtest(right, images).proportion_ci(method="wilson")
    return {
        "accuracy": 100 * right / images,
        "low": 100 * float(interval.low),
        "high": 100 * float(interval.high),
        "right": right,
        "images": images,
    }


def off(found: Tensor, expected: Tensor) -> float | None:
    """By how much logits are not those of the network; None where rounding explains it."""
    difference = float((found - expected).abs().max())
    return None if difference < 1e-4 * max(1.0, float(expected.abs().max())) else difference


def confusion(labels: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """How many images of each class (rows) were said to be of each class (columns): int64 (classes, classes)."""
    return np.bincount(labels * classes + said, minlength=classes**2).reshape(classes, classes)


def judged(labels: np.ndarray, said: np.ndarray, classes: int) -> dict[str, Any]:
    """`accuracy_of`, and ``balanced_accuracy``: the mean recall, in percent, of the classes that have images."""
    table = confusion(labels, said, classes)
    counts = table.sum(axis=1)
    recall = table.diagonal()[counts > 0] / counts[counts > 0]
    return {
        **accuracy_of(int(table.trace()), len(labels)),
        "balanced_accuracy": 100 * float(recall.mean()),
    }


def by_class(table: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """For each class of a `confusion`: its ``name``, how many ``images`` it has and how many were ``said`` to be of it,
    ``recall`` with ``low`` and ``high`` of its interval, and ``precision``, in percent; None where there is no image.
    """
    rows = []
    for i, name in enumerate(names):
        right, images, said = int(table[i, i]), int(table[i].sum()), int(table[:, i].sum())
        recall = accuracy_of(right, images) if images else {"accuracy": None, "low": None, "high": None}
        rows.append(
            {
                "name": name,
                "images": images,
                "said": said,
                "recall": recall["accuracy"],
                "low": recall["low"],
                "high": recall["high"],
                "precision": 100 * right / said if said else None,
            }
        )
    return rows
