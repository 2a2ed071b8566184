"""ImageNet in its usual layout, read from disk as it is needed."""

from pathlib import Path

import numpy as np

from nshot.errors import Say, UserError
from nshot.seeding import generator

from .listing import find_folders, listing
from .own import files_of
from .reading import LeftOut
from .sources import Source, sources

VALID = 50  # images of each class that rank subnets, at most one in ten
CROP = 224 / 256  # at test: the central 224 pixels of the shorter side brought to 256


@sources.register("imagenet")
def imagenet(root: Path, download: bool, say: Say) -> Source:
    """``imagenet/train/<class>/`` and ``imagenet/val/<class>/``, with any number of classes.

    Subnets are judged on ``val``, and ranked on images that are held out of ``train``, the same each time: 50 of each
    class, as in ProxylessNAS, or a tenth of a class with fewer than 500.
    """
    folder = root / "imagenet"
    if download:
        raise UserError(f"download has no effect on imagenet: unpack its archives to {folder}/train and {folder}/val")
    if not folder.is_dir():
        raise UserError(f"data set 'imagenet' not found under {root}: expected imagenet/train/<class>/ and val/")
    left_out = LeftOut()
    names, parts = listing(folder, left_out, say)
    if set(parts) != {"train", "valid"}:
        raise UserError(f"{folder} must have the parts train and val, and no other")
    learn, test = (files_of(parts[part], left_out, 224, CROP) for part in ("train", "valid"))
    labels = learn.labels.numpy()
    counts = np.bincount(labels, minlength=len(names))
    if counts.min() < 2:
        name = names[int(counts.argmin())]
        raise UserError(
            f"{folder}: class {name!r} has {counts.min()} train image: each needs 2, one to rank subnets on"
        )
    held = _held_out(labels, len(names))
    rank, learn = learn.subset(np.flatnonzero(held)), learn.subset(np.flatnonzero(~held))
    return Source(len(names), learn, test, valid=rank, names=tuple(names), left_out=left_out)


def is_there(root: Path) -> bool:
    """Whether its two folders are under the data root."""
    try:
        return set(find_folders(root / "imagenet")) == {"train", "valid"}
    except UserError:
        return False


def _held_out(labels: np.ndarray, classes: int) -> np.ndarray:
    """Which train images rank subnets: bool (N,), drawn by their places in the official archive, the same each time."""
    held = np.zeros(len(labels), bool)
    rng = generator(0, "imagenet ranking images")
    for label in range(classes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held[rows[: max(1, min(VALID, len(rows) // 10))]] = True
    return held
