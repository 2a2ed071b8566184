"""What a data set is like, as far as choices follow from it, and what follows from its counts alone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np

from nshot.data.images import Images, Pictures
from nshot.data.listing import find_folders, image_files
from nshot.data.parquet import stored_images
from nshot.data.sources import Dataset, data_root, own_columns, own_folder

SAMPLE = 500  # images whose stored sizes are looked at


@dataclass(frozen=True)
class Look:
    """What was seen of a data set.

    ``side`` is the median of the shorter sides of its images as they are stored, in pixels; ``least`` and ``most`` are
    the sizes of the smallest and the largest class of what is learned from. A ``side`` of 0: it is not known.
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
        sides = f"; the shorter side is {self.side} pixels in the middle" if self.side else ""
        found = [
            f"{self.name}: {self.classes} classes, {self.train:,} images to train on, {self.valid:,} to rank on, "
            f"{self.test:,} to test on{sides}"
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
    sides = list(_sides(_some(name, own_folder(name, data_root(root)))))
    return round(median(sides)) if sides else 0


def resolution_for(side: int, sides: Sequence[int]) -> int:
    """The largest of these that images of this shorter side have; the first, to which smaller ones are enlarged."""
    return max((s for s in sides if s <= side), default=sides[0])


def epochs_for(count: int, batch: int, steps: tuple[int, int], epochs: int, fewest: int = 1) -> int:
    """So many epochs, but no fewer and no more steps than ``steps`` says, and no fewer epochs than ``fewest``."""
    an_epoch = max(1, count // batch)
    least, most = (-(-bound // an_epoch) for bound in steps)
    return max(fewest, least, min(epochs, most))


def _sides(images: Iterable[Path | BytesIO]) -> Iterator[int]:
    from PIL import Image, UnidentifiedImageError

    for stored in images:
        try:
            with Image.open(stored) as image:
                yield min(image.size)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            continue  # whoever loads the set says which cannot be read


def _some(name: str, folder: Path) -> list[Path] | list[BytesIO]:
    """Files from all over a folder's parts, or the first images of its tables; not what else lies beside them."""
    kind = name.partition(":")[0]
    if kind == "parquet":
        return [BytesIO(stored) for stored in stored_images(folder, SAMPLE, **own_columns(name))]
    parts = [path for paths in find_folders(folder).values() for path in paths] if kind == "imagefolder" else [folder]
    files = [file for part in parts if part.is_dir() for file in image_files(part)]
    return files[:: -(-len(files) // SAMPLE) or 1]


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
