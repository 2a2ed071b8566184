"""How well a ranking can do against a benchmark: how truly networks that are the same agree in it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nshot.ranking.metrics import kendall_tau
from nshot.spaces import Space, Subnet

from .table import Benchmark

LEAST = 30  # subnets with twins; of the official table's, the taus of random tens spread by 0.06, of thirties by 0.025


@dataclass(frozen=True)
class Ceiling:
    """Kendall's tau between the accuracies of ``subnets`` subnets and the means of their twins' accuracies."""

    tau: float
    subnets: int

    @property
    def told(self) -> str:
        return f"ceiling {self.tau:.2f}: as far as a network agrees with itself ({self.subnets:,} subnets have twins)"


def ceiling(space: Space, benchmark: Benchmark, column: str, subnets: Sequence[Subnet]) -> Ceiling | None:
    """What knowing a network's twins says of its true accuracy: about as far as a ranking can come.

    Twins (`Space.twin`) are the same network when trained alone, so that in a benchmark they differ by the noise of
    training alone. Of the subnets that have some there, each counts against the mean of the others of its class. That
    mean has noise too, so a perfect ranking comes a little further. Where those that have twins are few or a kind of
    their own (the leanest have most), of the others it says little.

    Args:
        space: what tells twins.
        benchmark: all of its subnets count as twins.
        column: of true accuracies.
        subnets: those that are ranked.

    Returns:
        None where fewer than `LEAST` of the subnets have twins, all accuracies are equal, or nshot built the table: it
        trains all networks with the same seeds, so that twins have much of their noise in common, some all of it.
    """
    if "seeds" in benchmark.metadata:
        return None
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
