"""The tau of one supernet at infinitely many images, with an interval: what a finite number of images hides.

Noise of images lowers a tau. By how much is seen by adding more of it: half of the images have twice the noise (SIMEX,
Cook and Stefanski, JASA 1994). For normal scores sin(π τ / 2) is their correlation ρ, and ρ^-2 a straight line in the
variance of the noise, which is followed back to none. Resampling images with replacement does not do: repeats make
scores noisier than they were, so percentiles lie below the tau itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import asin, pi, sin

import numpy as np
from numpy.typing import ArrayLike

from nshot.seeding import generator

from .metrics import kendall_tau

Metric = Callable[[ArrayLike, ArrayLike], float]
BLOCKS = 1024  # groups of images that are drawn together
HALVES = 60
LEAST = 0.1  # of the scores' variance that is no noise: below it a tau without noise is not told
REACH = 2.6  # standard deviations; by the coverage in simulations, for following back to no noise adds some of its own


@dataclass(frozen=True)
class AtInfinity:
    """A tau at infinitely many images: the estimate, and the 95 % interval that it lies in; nan where there is none."""

    tau: float
    low: float
    high: float


def at_infinity(
    per_image: np.ndarray,
    truth: ArrayLike,
    metric: Metric = kendall_tau,
    *,
    seed: int = 0,
) -> AtInfinity:
    """The rank correlation that this supernet's scores would have on infinitely many images of the same kind.

    Args:
        per_image: (S, N), a score of every subnet on every image, larger is better; images in random order.
        truth: (S,) true accuracies, kept as they are.
        metric: Kendall's tau, or a rank correlation that noise lowers alike.
        seed: of the halves.

    Returns:
        The estimate and its interval, which says nothing of the spread over seeds of training. nan where the scores are
        constant, or noise is all there is: halves of the images rank so much worse than all that nothing tells what is
        left without noise.
    """
    halves = _halves(per_image, metric, truth, seed)
    whole = metric(per_image.mean(axis=1, dtype=np.float64), truth)
    halves = halves[np.isfinite(halves)]
    if not np.isfinite(whole) or len(halves) < 2:
        return AtInfinity(*[float("nan")] * 3)
    rho, half = sin(pi * whole / 2), sin(pi * float(halves.mean()) / 2)
    grown = _without_noise(rho, half) / rho if rho else 1.0
    if np.isnan(grown):
        return AtInfinity(*[float("nan")] * 3)
    estimate = min(max(rho * grown, -1.0), 1.0)
    # A half differs from the whole by as much as the whole from what it would be without noise.
    spread = float(np.std(np.sin(pi * halves / 2), ddof=1)) * grown
    reach = REACH * spread
    low, high = (min(max(value, -1.0), 1.0) for value in (estimate - reach, estimate + reach))
    return AtInfinity(*(2 / pi * asin(value) for value in (estimate, low, high)))


def _without_noise(rho: float, half: float) -> float:
    """ρ without noise, from that at the noise of all images and at twice as much; nan where these take nearly all.

    ``(ρ / ρ without noise)²`` is the share of the scores' variance that is no noise. Where that is small or below zero,
    what is left without noise would be told by chance alone.
    """
    if rho * half <= 0:
        return float("nan")
    if abs(half) >= abs(rho):
        return rho  # no noise is seen
    inverse = 2 / rho**2 - 1 / half**2
    if inverse * rho**2 < LEAST:
        return float("nan")
    return float(np.copysign(max(inverse, 1.0) ** -0.5, rho))


def _halves(per_image: np.ndarray, metric: Metric, truth: ArrayLike, seed: int) -> np.ndarray:
    """The metric on halves of the images, drawn without replacement, each with its other half."""
    images = per_image.shape[1]
    starts = np.unique(np.linspace(0, images, min(images, BLOCKS), endpoint=False).astype(int))
    blocks = np.add.reduceat(per_image.astype(np.float32), starts, axis=1)
    sizes = np.diff(np.append(starts, images)).astype(np.float32)
    rng = generator(seed, "halves")
    found = []
    for _ in range(HALVES // 2):
        half = rng.permutation(len(starts)) < len(starts) // 2
        for chosen in (half, ~half):
            weight = chosen.astype(np.float32)
            if weight.any():
                found.append(metric(blocks @ weight / (sizes @ weight), truth))
    return np.array(found)
