"""How well any ranking can do against a benchmark: how truly networks that are the same agree in it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nshot.ranking.metrics import kendall_tau
from nshot.spaces import Space, Subnet

from .table import Benchmark

LEAST = 10  # subnets with twins below which a tau says nothing


@dataclass(frozen=True)
class Ceiling:
    """Kendall's tau between the accuracies of ``subnets`` subnets and the means of their twins' accuracies."""

    tau: float
    subnets: int


def ceiling(space: Space, benchmark: Benchmark, column: str, subnets: Sequence[Subnet]) -> Ceiling | None:
    """What knowing a network's twins says of its true accuracy: among those that have some, no ranking does better.

    Twins (`Space.twin`) are the same network when trained alone, so that in a benchmark they differ by the noise of
    training alone. Of the subnets that have some there, each counts against the mean of the others of its class. Where
    those are few or a kind of their own (the leanest have most), of the others it says little.

    Args:
        space: what tells twins.
        benchmark: all of its subnets count as twins.
        column: of true accuracies.
        subnets: those that are ranked.

    Returns:
        None where fewer than `LEAST` of the subnets have twins, or all accuracies are equal.
    """
    row = {subnet: i for i, subnet in enumerate(benchmark.subnets)}
    rows = defaultdict(list)
    for subnet, i in row.items():
        rows[space.twin(subnet)].append(i)
    true = benchmark.columns[column]
    own, others = [], []
    for subnet in subnets:
        rest = [i for i in rows[space.twin(subnet)] if i != row[subnet]]
        if rest:
            own.append(true[row[subnet]])
            others.append(true[rest].mean())
    if len(own) < LEAST:
        return None
    tau = kendall_tau(np.array(others), np.array(own))
    return Ceiling(tau, len(own)) if np.isfinite(tau) else None
