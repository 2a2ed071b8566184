"""How well scores order true accuracies. Numbers in, numbers out."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from nshot.seeding import generator


def kendall_tau(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b of two lists of numbers, from -1 to 1; nan where either is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(scores, truth).statistic)


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation, from -1 to 1; nan where either is constant."""
    from scipy.stats import rankdata

    a, b = rankdata(scores), rankdata(truth)
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def top_tau(scores: ArrayLike, truth: ArrayLike, share: float = 0.1) -> float:
    """Kendall's tau among the truly best ``share`` of subnets (at least two): what a search has to tell apart."""
    scores, truth = np.asarray(scores), np.asarray(truth)
    best = np.argsort(-truth, kind="stable")[: max(2, round(share * len(truth)))]
    return kendall_tau(scores[best], truth[best])


def bootstrap_interval(
    per_image: np.ndarray,
    truth: ArrayLike,
    metric: Callable[[ArrayLike, ArrayLike], float] = kendall_tau,
    *,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a metric over the choice of held-out images: images are drawn anew with replacement.

    Args:
        per_image: (S, N), a score of every subnet on every image, larger is better.
        truth: (S,) true accuracies, kept as they are.

    Returns:
        Lower and upper bound, nan where the metric never has a value. They say how much the finite number of images
        blurs the metric of *this* supernet; the spread over seeds of training is another matter.
    """
    images = per_image.shape[1]
    # Up to 2,500 blocks of successive images keep the product below small; with more images a block has several.
    starts = np.arange(0, images, -(-images // 2500))
    blocks = np.add.reduceat(per_image.astype(np.float32), starts, axis=1)
    sizes = np.diff(np.append(starts, images)).astype(np.float32)
    draws = generator(seed, "bootstrap").multinomial(len(starts), np.full(len(starts), 1 / len(starts)), size=samples)
    weights = draws.T.astype(np.float32)
    means = (blocks @ weights) / (sizes @ weights)
    values = [metric(means[:, i], truth) for i in range(samples)]
    tail = (1 - level) / 2
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def complexity_bias(scores: ArrayLike, truth: ArrayLike, complexity: ArrayLike) -> float:
    """CB: among pairs of subnets that scores order wrongly, the share in which the less complex one is put first.

    0.5 is fair, 1 puts small subnets first whenever it errs. Pairs that tie in scores, truth or complexity do not
    count; nan where no pair is left. Our definition of table D's CB, which the supplement does not define.
    """
    s, t, c = (np.asarray(values, dtype=np.float64) for values in (scores, truth, complexity))
    wrong = small_first = 0
    for i in range(len(s) - 1):  # row by row: all pairs at once would not fit for a whole space
        ds, dt, dc = np.sign(s[i] - s[i + 1 :]), np.sign(t[i] - t[i + 1 :]), np.sign(c[i] - c[i + 1 :])
        mistaken = (ds * dt < 0) & (dc != 0)
        wrong += int(mistaken.sum())
        small_first += int((mistaken & (ds * dc < 0)).sum())
    return small_first / wrong if wrong else float("nan")


def complexity_convergence(accuracy: ArrayLike, truth: ArrayLike, complexity: ArrayLike) -> float:
    """C³: Kendall's tau between complexity and convergence, the supernet's accuracy over the true one.

    0 is fair, below 0 complex subnets have converged less. Our definition of table D's C³, which the supplement does
    not define.
    """
    return kendall_tau(complexity, np.asarray(accuracy, dtype=np.float64) / np.asarray(truth, dtype=np.float64))
