"""Scores that need no training of many subnets: in this process, or some at a time wherever there is room."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from nshot.data.batches import TrainBatches
from nshot.data.sources import Dataset
from nshot.runs.executor import Executor
from nshot.scores import Batches, score
from nshot.spaces import Space, Subnet
from nshot.training.device import fabric

BATCHES = 2
CHUNK = 16  # subnets that are scored in one job, elsewhere than in this process
Value = dict[str, Any]


@dataclass
class Measure:
    """Scores a canonical form, and says how long it took. Brought to another process it makes its batches there.

    Args:
        space: of the subnets, with the classes of the data set.
        data: what batches of training images are made of.
        batch_size: images in each.
        seed: of weights, images and draws.
        device: Fabric's accelerator.
    """

    space: Space
    data: Dataset
    batch_size: int
    seed: int
    device: str
    _made: Batches | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        _ = self.batches  # refuses what cannot be here, not elsewhere

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    @property
    def batches(self) -> Batches:
        if self._made is None:
            flip, given = self.data.mirrors, self.space.normalised
            made = TrainBatches(self.data.train, self.batch_size, self.seed, flip=flip, given=given)
            made = made.to(fabric(self.device).device)
            self._made = [made(step) for step in range(BATCHES)]
        return self._made

    def __call__(self, name: str, form: Subnet) -> Value:
        batches, began = self.batches, perf_counter()
        value = score(name, self.space, form, batches, self.seed)
        return {"value": stored(value), "seconds": perf_counter() - began}

    def named(self, chunk: Sequence[tuple[str, Subnet]]) -> str:
        """What a job is called for the user."""
        return f"{chunk[0][0]} of {len(chunk)} subnets from {self.space.format(chunk[0][1])} on"


def stored(value: float) -> float | str | None:
    """A score as JSON has it: null for minus infinity, the text inf for infinity."""
    return value if np.isfinite(value) else "inf" if value > 0 else None


def read_stored(value: float | str | None) -> float:
    """The score that `stored` was given."""
    return float("-inf" if value is None else value)


def measured(
    left: list[tuple[str, Subnet]], measure: Measure, there: Executor | None
) -> Iterator[tuple[str, Subnet, Value]]:
    """Scores and subnets with what comes of them, as it comes."""
    if there is None:
        yield from ((name, form, measure(name, form)) for name, form in left)
        return
    chunks = [(left[start : start + CHUNK],) for start in range(0, len(left), CHUNK)]
    needs = there.needs(measure.device)
    for values in there.run(_values, chunks, given=(measure,), named=measure.named, needs=needs):
        yield from values


def _values(measure: Measure, chunk: list[tuple[str, Subnet]]) -> list[tuple[str, Subnet, Value]]:
    return [(name, form, measure(name, form)) for name, form in chunk]
