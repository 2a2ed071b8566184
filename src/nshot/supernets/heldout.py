"""What a run's subnets are scored on: held-out images in batches, and who scores wherever that is brought."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nshot.data.batches import Normalise, heldout_batches, images_in
from nshot.data.images import Pictures
from nshot.data.manifest import check_manifest
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset, load
from nshot.errors import Say, UserError
from nshot.ranking.calibrate import keeps_statistics
from nshot.ranking.evaluate import Scores, evaluate
from nshot.spaces import Space, Subnet, Supernet
from nshot.training.device import fabric

from .config import TrainConfig
from .load import load_run

VERSION = 2  # of what a score is; 1 took images in their order, so that batches might be of one class
BATCH = 256  # most images whose batch statistics normalise together, as in the released code
CALIBRATION = 4  # batches of that size from which running statistics are computed, where nothing else is said


@dataclass(frozen=True)
class Heldout:
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


@dataclass
class Scorer:
    """Scores subnets of a run on its held-out images. Brought to another process it loads the run there, once.

    Args:
        folder: the run folder.
        images: see `scored`, as of ``calibration``, ``device`` and ``data``.
        mixture: seed of the sample and of the order in batches.
    """

    folder: Path
    images: int | None
    calibration: int | None
    device: str
    data: Dataset
    mixture: int = 0
    _made: tuple[Space, Supernet, Heldout] | None = field(default=None, init=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    def make(self, config: TrainConfig, supernet: Supernet, say: Say) -> Heldout:
        """Brings the run's supernet and its images together. Raises UserError as `scored`."""
        asked = self.images, self.calibration, self.device
        given = heldout(self.folder, config, supernet, *asked, self.data, self.mixture, say)
        self._made = config.space, supernet, given
        return given

    def __call__(self, subnets: Sequence[Subnet]) -> Scores:
        if self._made is None:
            self.make(*load_run(self.folder), lambda line: None)
        assert self._made is not None
        _, supernet, given = self._made
        return evaluate(supernet, subnets, given.batches, calibration=given.calibration)

    def named(self, index: int, subnets: Sequence[Subnet]) -> str:
        """What a shard is called for the user."""
        assert self._made is not None
        return f"scoring of {len(subnets)} subnets from {self._made[0].format(subnets[0])} on"


def loaded(config: TrainConfig, root: str | Path | None, say: Say) -> Dataset:
    return load(config.dataset, root=root, split=config.split, resolution=config.space.resolution, say=say)


def heldout(
    folder: Path,
    config: TrainConfig,
    supernet: Supernet,
    images: int | None,
    calibration: int | None,
    device: str,
    data: Dataset,
    seed: int,
    say: Say,
) -> Heldout:
    """A run's validation images and what its running statistics are computed from; moves the supernet to them."""
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

    return Heldout(images_in(batches), batches, [pixels for pixels, _ in drawn], seed, some)


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
