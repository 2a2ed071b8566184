"""How well scores order true accuracies. Numbers in, numbers out."""

import numpy as np
from numpy.typing import ArrayLike


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


def quality(scores: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Kendall's tau, Spearman's correlation and the tau of the best 10 %; scores may be infinite."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    return {"tau": kendall_tau(ranks, truth), "spearman": spearman(ranks, truth), "top_tau": top_tau(ranks, truth)}


def mean_rank(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """The mean of the ranks by two scores, one half each: larger is better."""
    from scipy.stats import rankdata

    return (rankdata(first) + rankdata(second)) / 2


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
