"""Scores subnets with a finished run's supernet; a killed scoring continues."""

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error

import numpy as np

from nshot.data.sources import Dataset
from nshot.errors import Say
from nshot.files import check_inside, read_stored, write_atomically
from nshot.ranking.evaluate import Scores, evaluate
from nshot.runs.executor import Executor
from nshot.runs.lock import held
from nshot.runs.progress import Progress
from nshot.spaces import Subnet, Supernet

from .config import TrainConfig
from .heldout import Heldout, Scorer, loaded
from .load import WEIGHTS

CHUNK = 64  # subnets scored between two writes to disk
Spread = Callable[[list[Subnet]], Iterator[tuple[list[Subnet], np.ndarray]]]


@contextmanager
def scored(
    folder: Path,
    config: TrainConfig,
    supernet: Supernet,
    subnets: Sequence[Subnet],
    *,
    root: str | Path | None = None,
    images: int | None = None,
    calibration: int | None = None,
    device: str = "auto",
    data: Dataset | None = None,
    mixture: int = 0,
    there: Executor | None = None,
    say: Say = print,
    before: Callable[[dict[str, int]], None] | None = None,
) -> Iterator[tuple[Scores, dict[str, int]]]:
    """Scores of subnets with a run's supernet on its validation images, in class-balanced batches.

    What is scored is kept in the run folder, so that a killed scoring continues; its seconds are those of
    all its processes. It goes when the block, in which the scores are used or written elsewhere, has ended well.

    Args:
        folder: the run folder.
        config: its configuration.
        supernet: its supernet.
        subnets: what to score.
        root: data root.
        images: how many images, the same stratified sample for every subnet; default all.
        calibration: how many batches of training images running statistics are computed from, for each subnet, where
            the supernet keeps such (default: 4).
        device: Fabric's accelerator.
        data: the run's data set, where it is loaded already.
        mixture: seed of the sample and of the order in batches.
        there: who scores, in chunks; None: this process.
        say: takes lines for the user.
        before: takes what is given beside the scores before there are any, and may raise.

    Yields:
        The scores, and what else than supernet and subnets determines them, JSON-able: scores of two runs compare
        where it is equal.

    Raises:
        UserError: for ``images`` outside 2 to what there are, a ``calibration`` without effect or beyond them, and a
            data set that is no longer what the run was made of.
    """
    data = data or loaded(config, root, say)
    scorer = Scorer(folder, images, calibration, device, data, mixture)
    given = scorer.make(config, supernet, say)
    if before is not None:
        before(given.described)
    canonical = supernet.canonical
    forms = sorted({canonical(subnet) for subnet in subnets})
    kept = scoring_name(_weights(folder), list(given.described.values()), forms)
    with held(folder, "a scoring", kept):  # two rankings of the same subnets would write the same files
        store = PartialScores(check_inside(folder, f".{kept}"))
        with Progress("rank", len(forms), len(store), noun="subnets") as progress:
            chunks = [forms[start : start + CHUNK] for start in range(0, len(forms), CHUNK)]
            left = [(i, chunk) for i, chunk in enumerate(chunks) if i not in store]
            for i, found in _found(left, scorer, there):
                store.keep(i, found)
                progress.advance(len(chunks[i]))
                progress.show()
        scores = store.all()
        rows = {form: row for row, form in enumerate(forms)}
        order = [rows[canonical(subnet)] for subnet in subnets]
        yield Scores(scores.correct[order], scores.loss[order], scores.seconds), given.described
        store.forget()


def _found(
    left: list[tuple[int, list[Subnet]]], scorer: Scorer, there: Executor | None
) -> Iterator[tuple[int, Scores]]:
    """The scores of numbered chunks as they come, each with its number."""
    if there is None:
        return (_chunk(scorer, *each) for each in left)
    return there.run(_chunk, left, given=(scorer,), named=scorer.named, needs=there.needs(scorer.device))


def _chunk(scorer: Scorer, index: int, subnets: list[Subnet]) -> tuple[int, Scores]:
    return index, scorer(subnets)


def evaluator(
    folder: Path,
    config: TrainConfig,
    supernet: Supernet,
    *,
    root: str | Path | None = None,
    images: int | None = None,
    calibration: int | None = None,
    device: str = "auto",
    data: Dataset | None = None,
    say: Say = print,
) -> tuple["Evaluator", dict[str, int], str]:
    """What evaluates subnets with a run's supernet.

    Returns:
        It, what determines its figures besides supernet and subnet (``images`` among that), and a name that says with
        which weights and images.

    Raises:
        UserError: as `scored`.
    """
    scorer = Scorer(folder, images, calibration, device, data or loaded(config, root, say))
    given = scorer.make(config, supernet, say)
    identity = hashlib.sha256(_weights(folder) + json.dumps(given.described).encode()).hexdigest()[:16]
    return Evaluator(supernet, given, scorer), given.described, identity


def _weights(folder: Path) -> bytes:
    """Those of the run, or of all its parts: what says which scoring this is."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob(WEIGHTS)))


@dataclass(frozen=True)
class Evaluator:
    """Evaluates subnets on held-out images: of a list accuracy in percent and loss (S, 2)."""

    supernet: Supernet
    given: Heldout
    scorer: Scorer

    def __call__(self, subnets: list[Subnet]) -> np.ndarray:
        return _figures(self.scorer, subnets)[1]

    @contextmanager
    def spread(self, there: Executor | None) -> Iterator[Spread]:
        """What evaluates many subnets, in shards: each with its figures, as they come."""
        if there is None:
            yield lambda subnets: (_figures(self.scorer, shard) for shard in shards(subnets, 1))
            return
        more: dict[str, Any] = {"given": (self.scorer,), "needs": there.needs(self.scorer.device)}
        with there.crew(_figures, named=partial(self.scorer.named, 0), **more) as do:
            yield lambda subnets: do((shard,) for shard in shards(subnets, there.at_once))

    @property
    def images(self) -> int:
        return self.given.images

    def accuracy(self, subnet: Subnet, positions: Sequence[int] | None = None) -> float:
        """As `nshot.strategies.memory.Judge` has it."""
        batches = self.given.batches if positions is None else self.given.some(positions)
        return float(evaluate(self.supernet, [subnet], batches, calibration=self.given.calibration).accuracy[0])


def _figures(scorer: Scorer, subnets: list[Subnet]) -> tuple[list[Subnet], np.ndarray]:
    scores = scorer(subnets)
    return subnets, np.stack([scores.accuracy, scores.mean_loss], axis=1)


def shards(subnets: list[Subnet], workers: int) -> Iterator[list[Subnet]]:
    """Subnets in shards, at most `CHUNK` each, so that all workers have some."""
    size = min(CHUNK, max(1, math.ceil(len(subnets) / workers)))
    return (subnets[start : start + size] for start in range(0, len(subnets), size))


def scoring_name(weights: bytes, scored_on: list[int], subnets: Sequence[Subnet]) -> str:
    """Which scoring this is: of which weights, on what else determines the scores, of which subnets in order."""
    return f"scores-{hashlib.sha256(weights + json.dumps([*scored_on, CHUNK, subnets]).encode()).hexdigest()[:16]}"


def _read_chunk(path: Path) -> Scores | None:
    """What was kept of a scoring; None where it is damaged, or of an earlier version, which did not say its seconds."""
    try:
        with np.load(io.BytesIO(read_stored(path))) as part:
            return Scores(part["correct"], part["loss"], float(part["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, error):
        return None


class PartialScores:
    """Scores of a list of subnets in chunks, kept in a hidden folder of the run until they are of use elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        found = {int(path.stem): _read_chunk(path) for path in folder.glob("[0-9][0-9][0-9][0-9][0-9].npz")}
        self._chunks = {index: chunk for index, chunk in found.items() if chunk is not None}

    def __len__(self) -> int:
        return sum(len(chunk.correct) for chunk in self._chunks.values())

    def __contains__(self, index: int) -> bool:
        return index in self._chunks

    def keep(self, index: int, chunk: Scores) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, correct=chunk.correct, loss=chunk.loss, seconds=chunk.seconds)
        write_atomically(self._folder / f"{index:05d}.npz", buffer.getvalue())
        self._chunks[index] = chunk

    def all(self) -> Scores:
        chunks = [chunk for _, chunk in sorted(self._chunks.items())]
        return Scores(
            np.concatenate([chunk.correct for chunk in chunks]),
            np.concatenate([chunk.loss for chunk in chunks]),
            sum(chunk.seconds for chunk in chunks),
        )

    def forget(self) -> None:
        """The hidden folder goes."""
        shutil.rmtree(self._folder)
