"""Scores subnets with a finished run's supernet; a killed scoring continues."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile
from zlib import error

import numpy as np
from torch import Tensor

from nshot.data.batches import Normalise, heldout_batches, images_in
from nshot.data.images import Pictures
from nshot.data.manifest import check_manifest
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset, load
from nshot.errors import UserError
from nshot.files import check_inside, read_stored, write_atomically
from nshot.ranking.calibrate import keeps_statistics
from nshot.ranking.evaluate import Scores, evaluate
from nshot.runs.execute import Say
from nshot.runs.lock import held
from nshot.runs.progress import Progress
from nshot.spaces import Subnet, Supernet
from nshot.training.device import fabric

from .config import TrainConfig
from .load import WEIGHTS

VERSION = 2  # of what a score is; 1 took images in their order, so that batches might be of one class
BATCH = 256  # most images whose batch statistics normalise together, as in the released code
CALIBRATION = 4  # batches of that size from which running statistics are computed, where nothing else is said
CHUNK = 64  # subnets scored between two writes to disk


def score_run(
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
    say: Say = print,
) -> tuple[Scores, dict[str, int]]:
    """Scores of subnets with a run's supernet on its validation images, in class-balanced batches.

    What is scored is kept in the run folder until all are, so that a killed scoring continues; its seconds are those of
    all its processes.

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
        say: takes lines for the user.

    Returns:
        The scores, and what else than supernet and subnets determines them, JSON-able: scores of two runs compare
        where it is equal.

    Raises:
        UserError: for ``images`` outside 2 to what there are, a ``calibration`` without effect or beyond them, and a
            data set that is no longer what the run was made of.
    """
    given = _heldout(folder, config, supernet, root, images, calibration, device, data, mixture, say)
    canonical = supernet.canonical
    forms = sorted({canonical(subnet) for subnet in subnets})
    kept = scoring_name(_weights(folder), list(given.described.values()), forms)
    with held(folder, "a scoring", kept):  # two rankings of the same subnets would write the same files
        store = PartialScores(check_inside(folder, f".{kept}"))
        with Progress("rank", len(forms), len(store), noun="subnets") as progress:
            while len(store) < len(forms):
                chunk = forms[len(store) : len(store) + CHUNK]
                store.append(evaluate(supernet, chunk, given.batches, calibration=given.calibration))
                progress.advance(len(chunk))
                progress.show()
        scores = store.finish()
    rows = {form: row for row, form in enumerate(forms)}
    order = [rows[canonical(subnet)] for subnet in subnets]
    return Scores(scores.correct[order], scores.loss[order], scores.seconds), given.described


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
        UserError: as `score_run`.
    """
    given = _heldout(folder, config, supernet, root, images, calibration, device, data, 0, say)
    identity = hashlib.sha256(_weights(folder) + json.dumps(given.described).encode()).hexdigest()[:16]
    return Evaluator(supernet, given), given.described, identity


def _weights(folder: Path) -> bytes:
    """Those of the run, or of all its parts: what says which scoring this is."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob(WEIGHTS)))


@dataclass(frozen=True)
class _Heldout:
    """What subnets are scored on: ``images`` validation images in batches, and batches of training images."""

    images: int
    batches: Sequence[tuple[Tensor, Tensor]]
    calibration: list[Tensor]
    mixture: int
    some: Callable[[Sequence[int]], Sequence[tuple[Tensor, Tensor]]]
    """Some of the images, by their positions, as one batch."""

    @property
    def described(self) -> dict[str, int]:
        """What of it determines the scores of a run."""
        own = {"images": self.images, "batch": BATCH, "mixture": self.mixture, "calibration": len(self.calibration)}
        return {"version": VERSION, **own}


@dataclass(frozen=True)
class Evaluator:
    """Evaluates subnets on held-out images: of a list accuracy in percent and loss (S, 2)."""

    supernet: Supernet
    given: _Heldout

    def __call__(self, subnets: list[Subnet]) -> np.ndarray:
        scores = evaluate(self.supernet, subnets, self.given.batches, calibration=self.given.calibration)
        return np.stack([scores.accuracy, scores.mean_loss], axis=1)

    @property
    def images(self) -> int:
        return self.given.images

    def accuracy(self, subnet: Subnet, positions: Sequence[int] | None = None) -> float:
        """As `nshot.strategies.memory.Judge` has it."""
        batches = self.given.batches if positions is None else self.given.some(positions)
        return float(evaluate(self.supernet, [subnet], batches, calibration=self.given.calibration).accuracy[0])


def _heldout(
    folder: Path,
    config: TrainConfig,
    supernet: Supernet,
    root: str | Path | None,
    images: int | None,
    calibration: int | None,
    device: str,
    data: Dataset | None,
    seed: int,
    say: Say,
) -> _Heldout:
    """A run's validation images and what its running statistics are computed from; moves the supernet to them."""
    if data is None:
        data = load(config.dataset, root=root, split=config.split, resolution=config.space.resolution, say=say)
    check_manifest(folder, data)
    if data.classes != config.space.num_classes:
        raise UserError(f"{data.name} has {data.classes} classes, the run was trained on {config.space.num_classes}")
    valid = data.valid
    if images is not None and not 2 <= images <= len(valid):
        raise UserError(f"images {images}: must be from 2 to the {len(valid)} validation images")
    valid = mixture(valid, images, seed)
    train = _calibration_images(supernet, data.train, calibration, config.seed)
    lightning = fabric(device)
    supernet.to(lightning.device)
    normalise = Normalise(data.train, config.space.normalised).to(lightning.device)
    batches = heldout_batches(valid, min(BATCH, len(valid)), normalise, lightning.device)
    drawn = heldout_batches(train, min(BATCH, len(train)), normalise, lightning.device) if train else []
    data.tell_left_out(folder, say, last=True)

    def some(positions: Sequence[int]) -> Sequence[tuple[Tensor, Tensor]]:
        return heldout_batches(valid.subset(np.array(positions)), len(positions), normalise, lightning.device)

    return _Heldout(images_in(batches), batches, [pixels for pixels, _ in drawn], seed, some)


def _calibration_images(supernet: Supernet, train: Pictures, batches: int | None, seed: int) -> Pictures | None:
    """Training images, unaugmented as those that are scored, drawn by the run's seed; None where none are needed."""
    if not keeps_statistics(supernet):
        if batches is not None:
            raise UserError(f"calibration {batches} has no effect: this supernet has no running statistics")
        return None
    size = min(BATCH, len(train))
    most = len(train) // size
    batches = min(CALIBRATION, most) if batches is None else batches
    if not 1 <= batches <= most:
        raise UserError(f"calibration {batches}: must be from 1 to the {most} batches of {size} training images")
    return mixture(train, batches * size, seed)


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
    """Scores of a list of subnets, kept in a hidden folder of the run until they are complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._chunks: list[Scores] = []
        while (path := self._path(len(self._chunks))).exists():
            if (chunk := _read_chunk(path)) is None:
                break
            self._chunks.append(chunk)

    def __len__(self) -> int:
        return sum(len(chunk.correct) for chunk in self._chunks)

    def append(self, chunk: Scores) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, correct=chunk.correct, loss=chunk.loss, seconds=chunk.seconds)
        write_atomically(self._path(len(self._chunks)), buffer.getvalue())
        self._chunks.append(chunk)

    def finish(self) -> Scores:
        """All scores; the hidden folder goes."""
        shutil.rmtree(self._folder)
        return Scores(
            np.concatenate([chunk.correct for chunk in self._chunks]),
            np.concatenate([chunk.loss for chunk in self._chunks]),
            sum(chunk.seconds for chunk in self._chunks),
        )

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:05d}.npz"
