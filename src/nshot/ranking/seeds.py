"""Figures of several seeds: their mean, the difference of two methods, with 95 % intervals. Numbers in, numbers out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 3  # seeds below which a spread is hardly known: then there is no interval


@dataclass(frozen=True)
class Mean:
    """A mean, or a difference of means, and its interval; None where there are too few seeds for one."""

    mean: float
    low: float | None = None
    high: float | None = None
    how: str = ""
    """Of a difference: paired or Welch's."""

    @property
    def shown(self) -> bool | None:
        """Whether the interval leaves 0 out; None without an interval."""
        return None if self.low is None or self.high is None else not self.low <= 0 <= self.high


def over_seeds(values: Sequence[float]) -> Mean:
    """The mean over seeds with its t-interval."""
    return _interval(np.asarray(values, dtype=np.float64), "")


def difference(first: Mapping[int, float], second: Mapping[int, float], *, paired: bool = True) -> Mean:
    """``second`` minus ``first``, figures by seed.

    Paired by the seeds that both have, where they have some: the t-interval of the differences. Else, or where
    ``paired`` is False, Welch's interval of two means.
    """
    common = sorted(first.keys() & second.keys())
    if common and paired:
        return _interval(np.array([second[seed] - first[seed] for seed in common]), "paired")
    a, b = (np.array(list(figures.values()), dtype=np.float64) for figures in (first, second))
    mean = float(b.mean() - a.mean())
    if min(len(a), len(b)) < LEAST:
        return Mean(mean, how="Welch's")
    shares = np.array([values.var(ddof=1) / len(values) for values in (a, b)])
    if not shares.any():
        return Mean(mean, mean, mean, "Welch's")
    freedom = shares.sum() ** 2 / (shares**2 / [len(a) - 1, len(b) - 1]).sum()
    return _around(mean, float(np.sqrt(shares.sum())), float(freedom), "Welch's")


def _interval(values: np.ndarray, how: str) -> Mean:
    if len(values) < LEAST:
        return Mean(float(values.mean()), how=how)
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return _around(float(values.mean()), error, len(values) - 1, how)


def _around(mean: float, error: float, freedom: float, how: str) -> Mean:
    from scipy.stats import t

    reach = error * float(t.ppf(0.975, freedom))
    return Mean(mean, mean - reach, mean + reach, how)
