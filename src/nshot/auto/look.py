"""What a data set is like, as far as choices follow from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from nshot.data.images import Images, Pictures
from nshot.data.listing import SUFFIXES
from nshot.data.sources import Dataset, data_root, own_folder

SAMPLE = 500  # images whose stored sizes are looked at


@dataclass(frozen=True)
class Look:
    """What was seen of a data set.

    ``side`` is the median of the shorter sides of its images as they are stored, in pixels; ``least`` and ``most`` are
    the sizes of the smallest and the largest class of what is learned from.
    """

    name: str
    classes: int
    train: int
    valid: int
    test: int
    side: int
    least: int
    most: int
    repeated: int = 0
    """Images of the test part that are in another part too, pixel by pixel."""

    @property
    def majority(self) -> float:
        """The share of the largest class: what saying it always gets right."""
        return self.most / (self.train + self.valid)

    def lines(self) -> list[str]:
        """It, for a person."""
        found = [
            f"{self.name}: {self.classes} classes, {self.train:,} images to train on, {self.valid:,} to rank on, "
            f"{self.test:,} to test on; the shorter side is {self.side} pixels in the middle"
        ]
        if self.most > 3 * self.least:
            found.append(
                f"the classes are unbalanced, {self.least:,} to {self.most:,} images: look at the balanced accuracy, "
                f"for saying the largest class always is right on {self.majority:.0%}"
            )
        if self.repeated:
            found.append(
                f"WARNING: {self.repeated:,} of {self.test:,} test images are in another part too, pixel by pixel: the "
                "test accuracy will be too high"
            )
        return found


def look(data: Dataset, side: int) -> Look:
    """Looks at a data set that is loaded; ``side`` as `stored_side` has it."""
    labels = np.concatenate([part.labels.numpy() for part in (data.train, data.valid)])
    counts = np.bincount(labels, minlength=data.classes)
    train, valid, test = len(data.train), len(data.valid), len(data.test)
    least, most = int(counts.min()), int(counts.max())
    return Look(data.name, data.classes, train, valid, test, side, least, most, _repeated(data))


def stored_side(name: str, root: str | Path | None) -> int:
    """The median of the shorter sides of some images of a set of one's own, as stored; 0 where none can be read, which
    whoever loads the set says."""
    sides = list(_sides(own_folder(name, data_root(root))))
    return round(median(sides)) if sides else 0


def _sides(folder: Path) -> Iterator[int]:
    from PIL import Image, UnidentifiedImageError

    for stored in _some(folder):
        try:
            with Image.open(stored) as image:
                yield min(image.size)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            continue  # whoever loads the set says which cannot be read


def _some(folder: Path) -> Iterator[Any]:
    """Files or buffers of images, from all over the folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if files:
        yield from files[:: -(-len(files) // SAMPLE)]
        return
    import io

    import pyarrow.parquet as pq

    for path in sorted(folder.rglob("train-*.parquet"))[:1]:
        for batch in pq.ParquetFile(path).iter_batches(SAMPLE):
            for column in batch.columns:
                for value in column.to_pylist():
                    content = value.get("bytes") if isinstance(value, dict) else value
                    if isinstance(content, bytes):
                        yield io.BytesIO(content)
            return


def _repeated(data: Dataset) -> int:
    """How many test images are in another part; of images that are read from disk, none is compared."""
    parts = [data.train, data.valid, data.test]
    if not all(isinstance(part, Images) for part in parts):
        return 0
    *others, test = (_digests(part) for part in parts)
    seen = set().union(*others)
    return sum(digest in seen for digest in test)


def _digests(part: Pictures) -> list[bytes]:
    return [blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in part.loaded().pixels]
