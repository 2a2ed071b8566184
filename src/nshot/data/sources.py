"""What a data set is, how it is named and split for the search, and the embedded digits."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nshot.errors import Say, UserError, check_whole
from nshot.files import read_stored, shown
from nshot.registry import Registry
from nshot.seeding import generator

from .images import Images, Pictures
from .reading import LeftOut
from .split import VALID, held_out


@dataclass(frozen=True)
class Dataset:
    """The three parts of a data set: ``train`` fits weights, ``valid`` ranks subnets, ``test`` judges the winner."""

    name: str
    classes: int
    mirrors: bool
    """Whether an image's mirror image has the same label: if so, training flips."""
    train: Pictures
    valid: Pictures
    test: Pictures
    names: tuple[str, ...] = ()
    """Of the classes, in the order of their labels, where the set says them."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What of one's own images is not used."""
    split: tuple[str, int, str] | None = None
    """Of a split by a file: its name, how many images it lists, and a digest of the lists."""

    def check_side(self, resolution: int) -> None:
        """Raises UserError for images of another height and width than a space's."""
        if (side := self.train.side) != resolution:
            raise UserError(
                f"resolution {resolution}: the images of {self.name} are of {side} pixels, load them with "
                f"resolution={resolution}, or choose a space of theirs"
            )

    def tell_left_out(self, folder: Path, say: Say, *, last: bool = False) -> None:
        """Brings the run folder's list of what is left out up to date, and says what was found while files were read:
        when it has doubled, and at last."""
        total = len(self.train) + len(self.valid) + len(self.test)
        self.left_out.tell(say, self.name, total, last=last)
        self.left_out.write(folder)


@dataclass(frozen=True)
class Source:
    """A data set before its search split: what it learns from, and what it is tested on."""

    classes: int
    learn: Pictures
    test: Pictures
    mirrors: bool = True
    valid: Pictures | None = None
    """A validation part of its own, which then ranks subnets; None: a share of ``learn`` does."""
    names: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)

    def __post_init__(self) -> None:
        for part in (self.learn, self.valid, self.test):
            if isinstance(part, Images):
                _check(part.pixels, part.labels, self.classes)


def _check(pixels: Tensor, labels: Tensor, classes: int) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise UserError(f"pixels are {pixels.dtype} {tuple(pixels.shape)}: must be torch.uint8 (N, H, W, 3)")
    if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
        raise UserError(f"labels are {labels.dtype} {tuple(labels.shape)}: must be torch.int64 ({len(pixels)},)")
    if len(labels) > 0 and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"labels are from {labels.min()} to {labels.max()}: must be from 0 to {classes - 1}")


Loader = Callable[[Path, bool, Say], Source]
"""(data root, whether to download, what takes lines); named sets have a size, so they are resized after."""
sources: Registry[Loader] = Registry("data set", "nshot.data")
OwnLoader = Callable[..., Source]
"""(folder, resolution, what takes lines for the user): images of any size, brought to the resolution as they load.
Where it has keyword parameters ``image`` and ``label``, the user may name columns."""
own: Registry[OwnLoader] = Registry("kind of data set", "nshot.data")


def data_root(root: str | Path | None = None) -> Path:
    """The data root: the argument, else ``NSHOT_DATA``, else ``./data``."""
    return Path(root or os.environ.get("NSHOT_DATA") or "data")


def load(
    name: str,
    *,
    root: str | Path | None = None,
    split: str = "half",
    resolution: int | None = None,
    download: bool = False,
    say: Say = print,
) -> Dataset:
    """A data set by name, split for the search.

    Args:
        name: one of ``sources.names()``; or images of one's own, ``imagefolder:FOLDER`` or ``parquet:FOLDER``, the
            folder being under the root or a full path; with ``:noflip`` after it their mirror images do not count as
            the same (writing, signs); with ``:image=COLUMN`` and ``:label=COLUMN``, of parquet files these columns.
        root: data root, see `data_root`.
        split: ``half``, a fixed random halving of what the set learns from (of one's own images: each by its own hash,
            see `held_out`), unless it has a validation part of its own; or a JSON file, relative to the root, with two
            lists of indices, ``train`` and ``valid``.
        resolution: images are resized to it; those of one's own that are not square are cropped to their centre.
        download: fetch the set with torchvision where it is absent.
        say: takes lines for the user.

    Raises:
        UserError: for an unknown set or split, or a missing, truncated or unfitting file.
    """
    if resolution is not None:
        check_whole(1, resolution=resolution)
    source = _source(name, data_root(root), download, resolution, say)
    train: Pictures
    valid: Pictures
    listed: tuple[str, int, str] | None = None
    if source.valid is None:
        first, second = _split(split, source.learn, is_own(name), data_root(root))
        train, valid = source.learn.subset(first), source.learn.subset(second)
        if split != "half":
            lists = blake2b(json.dumps([first.tolist(), second.tolist()]).encode(), digest_size=8)
            listed = str(split), len(first) + len(second), lists.hexdigest()
    elif split == "half":
        train, valid = source.learn, source.valid
    else:
        raise UserError(f"split {split!r}: {name} has a validation part of its own, leave --split out")
    test = source.test
    if resolution is not None:
        train, valid, test = train.resized(resolution), valid.resized(resolution), test.resized(resolution)
    return Dataset(name, source.classes, source.mirrors, train, valid, test, source.names, source.left_out, listed)


def is_own(name: str) -> bool:
    """Whether this names images of one's own."""
    return ":" in name


def own_folder(name: str, root: Path) -> Path:
    """Where images of one's own lie that are named so. Raises UserError for a name without a folder."""
    return root / _parsed(name)[0]


def own_columns(name: str) -> dict[str, str]:
    """The columns that such a name says: of ``image``, of ``label``."""
    return _parsed(name)[2]


def _source(name: str, root: Path, download: bool, resolution: int | None, say: Say) -> Source:
    kinds = ", ".join(f"{kind}:FOLDER" for kind in own.names())
    if not is_own(name):
        if name not in sources.names():
            known = ", ".join(sources.names())
            raise UserError(f"unknown data set {name!r}: choose one of {known}, or images of your own by {kinds}")
        return sources[name](root, download, say)
    folder, mirrors, options = _parsed(name)
    if download:
        raise UserError(f"download has no effect on data set {name!r}: its images are those of the folder")
    loader = own[name.partition(":")[0]]
    for option, value in options.items():
        if option not in signature(loader).parameters:
            raise UserError(f"{option} column {value!r} has no effect on data set {name!r}: it has no columns")
    source = loader(root / folder, resolution, say, **options)
    return replace(source, mirrors=mirrors)


def _parsed(name: str) -> tuple[Path, bool, dict[str, str]]:
    """Of images of one's own that are named so: their folder, whether mirror images count as the same, and columns."""
    folder, *marks = re.split(r":(?=noflip(?::|$)|image=|label=)", name.partition(":")[2])
    if not folder:
        kinds = ", ".join(f"{kind}:FOLDER" for kind in own.names())
        raise UserError(f"data set {name!r} names no folder: choose one by {kinds}")
    if shown(name) != name:
        raise UserError(f"data set {shown(name)!r} has a name that is no text: rename the folder")
    options: dict[str, str] = {}
    for mark in marks:
        option, _, value = mark.partition("=")
        if mark != "noflip" and (not value or option in options):
            raise UserError(f"data set {name!r} must name one {option} column, as :{option}=COLUMN")
        if mark != "noflip":
            options[option] = value
    try:
        return Path(folder).expanduser(), "noflip" not in marks, options
    except RuntimeError:
        raise UserError(f"data set {name!r}: nobody has the home {folder.partition('/')[0]} here") from None


def _split(split: str, learn: Pictures, own_: bool, root: Path) -> tuple[np.ndarray, np.ndarray]:
    count = len(learn)
    if split == "half" and own_:
        held = held_out(learn, VALID, "search split")
        if held.sum() == 0:
            raise UserError(f"{count} images to learn from are too few, for some of them must rank subnets: bring more")
        return np.flatnonzero(~held), np.flatnonzero(held)
    if split == "half":
        order = generator(0, "search split").permutation(count)
        return np.sort(order[: count // 2]), np.sort(order[count // 2 :])
    path = root / split
    try:
        lists = json.loads(read_stored(path))
        parts = [lists[part] for part in ("train", "valid")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"split {split!r}: needs 'half' or a JSON file under {root} with lists 'train' and 'valid' "
            f"({type(error).__name__}: {error})"
        ) from None
    for part in parts:
        if not isinstance(part, list) or not part or not all(type(i) is int and 0 <= i < count for i in part):
            raise UserError(f"split {split!r}: each list must hold whole numbers from 0 to {count - 1}")
    if len(set(parts[0]) | set(parts[1])) != len(parts[0]) + len(parts[1]):
        raise UserError(f"split {split!r}: its indices must be distinct")
    return np.array(parts[0]), np.array(parts[1])


@sources.register("digits")
def digits(root: Path, download: bool, say: Say) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels; a fixed third is the test set. Needs no files."""
    from sklearn.datasets import load_digits

    if download:
        raise UserError("download has no effect on data set 'digits': its images are embedded")
    data = load_digits()
    gray = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8))
    images = Images(gray[..., None].expand(-1, -1, -1, 3).contiguous(), torch.from_numpy(data.target).long())
    order = generator(0, "digits test split").permutation(len(images))
    return Source(10, images.subset(np.sort(order[599:])), images.subset(np.sort(order[:599])), mirrors=False)
