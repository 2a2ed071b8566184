"""Figures of subnets, each evaluated once however often it is proposed; kept on disk, for killed searches."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from nshot.files import appending
from nshot.runs.log import as_line, mended
from nshot.runs.progress import Progress
from nshot.spaces import Subnet
from nshot.supernets.score import Spread, shards

Evaluate = Callable[[list[Subnet]], np.ndarray]


class Archive:
    """``archive(subnets)`` gives figures (S, 2), accuracy in percent and loss, and evaluates only what is new.

    Args:
        evaluate: figures of subnets in canonical form.
        canonical: the supernet's; subnets of one form are evaluated once, as its leanest member.
        store: a file that keeps the figures; what it holds is not evaluated again.
        spread: evaluates many, some at a time: gives these with their figures, as they come. None: in shards, one
            after the other.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        canonical: Callable[[Subnet], Subnet],
        store: Path | None = None,
        spread: Spread | None = None,
    ) -> None:
        self._spread = spread or (lambda new: ((shard, evaluate(shard)) for shard in shards(new, 1)))
        self.canonical = canonical
        self._store = store
        self.known: dict[Subnet, tuple[float, float]] = {}
        if store is not None and store.exists():
            self.known = {tuple(line["subnet"]): tuple(line["figures"]) for line in mended(store)}

    def __call__(self, subnets: Sequence[Subnet]) -> np.ndarray:
        forms = [self.canonical(subnet) for subnet in subnets]
        new = sorted({form for form in forms if form not in self.known})
        with Progress("search", len(new), noun="subnets") as progress:
            for shard, figures in self._spread(new):
                self._keep(zip(shard, figures.tolist(), strict=True))
                progress.advance(len(shard))
                progress.show()
        return np.array([self.known[form] for form in forms]).reshape(len(forms), 2)

    def _keep(self, rows: Iterable[tuple[Subnet, list[float]]]) -> None:
        lines = []
        for form, (accuracy, loss) in rows:
            self.known[form] = accuracy, loss
            lines.append(as_line({"subnet": list(form), "figures": [accuracy, loss]}))
        if self._store is not None:
            with appending(self._store) as stream:
                stream.write("".join(lines))
