"""ImageNet in its usual layout, read from disk as it is needed."""

from pathlib import Path

import numpy as np

from nshot.errors import UserError
from nshot.seeding import generator

from .own import files_of, listing
from .sources import Source, sources

VALID = 50  # images of each class that rank subnets, at most one in ten
CROP = 224 / 256  # at test: the central 224 pixels of the shorter side brought to 256


@sources.register("imagenet")
def imagenet(root: Path, download: bool) -> Source:
    """``imagenet/train/<class>/`` and ``imagenet/val/<class>/``, with any number of classes.

    Subnets are judged on ``val``, and ranked on images that are held out of ``train``, the same each time: 50 of each
    class, as in ProxylessNAS, or a tenth of a class with fewer than 500.
    """
    folder = root / "imagenet"
    if download:
        raise UserError(f"download has no effect on imagenet: unpack its archives to {folder}/train and {folder}/val")
    if not folder.is_dir():
        raise UserError(f"data set 'imagenet' not found under {root}: expected imagenet/train/<class>/ and val/")
    names, parts = listing(folder, print)
    if set(parts) != {"train", "valid"}:
        raise UserError(f"{folder} must have the parts train and val, and no other")
    learn, test = (files_of(*parts[part], 224, CROP) for part in ("train", "valid"))
    held = _held_out(learn.labels.numpy(), len(names), folder)
    return Source(
        len(names),
        learn.subset(np.flatnonzero(~held)),
        test,
        valid=learn.subset(np.flatnonzero(held)),
        names=tuple(names),
    )


def _held_out(labels: np.ndarray, classes: int, folder: Path) -> np.ndarray:
    held = np.zeros(len(labels), bool)
    rng = generator(0, "imagenet ranking images")
    for label in range(classes):
        own = np.flatnonzero(labels == label)
        if len(own) < 2:
            raise UserError(f"{folder}/train: a class has {len(own)} image: each needs 2, one to rank subnets on")
        held[rng.permutation(own)[: max(1, min(VALID, len(own) // 10))]] = True
    return held
