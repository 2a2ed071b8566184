"""Data sets of the user's own: what becomes of their parts, and folders of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nshot.errors import Say, UserError
from nshot.files import shown

from .decode import memory_needed, stacked
from .images import Files, Images, Pictures
from .listing import Listed, listing
from .manifest import MANIFEST
from .reading import Encoded, LeftOut, Reader
from .sources import Source, own
from .split import TEST, held_out


@own.register("imagefolder")
def imagefolder(folder: Path, resolution: int | None, say: Say) -> Source:
    """``train/<class>/<images>``, with ``val`` (or ``valid``, ``validation``) and ``test`` where they are.

    Classes are the names of the folders, sorted. Images in folders below a class's belong to it, also where they are
    linked; hidden files do not count, other files that are no images are left out, and said.
    """
    reader = Reader(folder.name, resolution, say)
    names, listed = listing(folder, reader.left_out, say)
    count = sum(len(some.labels) for some in listed.values())
    needed, memory = memory_needed(count, resolution)
    parts: dict[str, Pictures]
    if needed > memory:
        say(f"{folder.name}: {count:,} images are too many for the memory, so each is read when it is needed")
        parts = {part: files_of(some, reader.left_out, resolution) for part, some in listed.items()}
    else:
        parts = {part: _read(folder, some, names, reader) for part, some in listed.items()}
    reader.tell()
    return assembled(parts, names, folder, say, reader.left_out)


def assembled(
    parts: Mapping[str, Pictures], names: Sequence[str], where: Path, say: Say, left_out: LeftOut | None = None
) -> Source:
    """A source of these parts; where there is no ``test``, about a fifth of each class's train images is held out.

    Raises:
        UserError: for a class with too few images.
    """
    learn = parts["train"]
    counts = np.bincount(learn.labels.numpy(), minlength=len(names))
    needed = 1 if "test" in parts else 2
    if counts.min() < needed:
        name = names[int(counts.argmin())]
        why = "" if needed == 1 else ", one of them to test on, for there is no test part"
        raise UserError(f"{where}: class {name!r} has {counts.min()} train images: each needs {needed}{why}")
    test = parts.get("test")
    if test is None:
        held = held_out(learn, TEST, "test")
        say(
            f"{where.name}: no test part, so {held.sum():,} of {len(learn):,} train images are held out to test on "
            f"({MANIFEST} in the run folder names them)"
        )
        learn, test = learn.subset(np.flatnonzero(~held)), learn.subset(np.flatnonzero(held))
    return Source(len(names), learn, test, valid=parts.get("valid"), names=tuple(names), left_out=left_out or LeftOut())


def files_of(listed: Listed, left_out: LeftOut, resolution: int | None, crop: float = 1.0) -> Files:
    """Images that are read when they are needed."""
    return Files(listed.paths, torch.tensor(listed.labels), resolution or 0, crop, listed.stored, left_out)


def _read(folder: Path, listed: Listed, classes: list[str], reader: Reader) -> Images:
    """Those of a part that can be read, in memory."""
    part = folder / listed.stored[0].name.partition("/")[0]
    encoded = [Encoded(stored.name, path) for stored, path in zip(listed.stored, listed.paths, strict=True)]
    pixels, stored, kept = reader(encoded, part.name)
    reader.left_out.sizes.update({shown(one.name): one.size for one in listed.stored if one.name in reader.left_out})
    target = np.array(listed.labels, np.int64)[kept]
    for label, name in enumerate(classes):
        if not (target == label).any():
            first = listed.stored[listed.labels.index(label)].name
            why = f"{first.rpartition('/')[2]}: {reader.left_out[first]}"
            raise UserError(f"class folder {part / name} has no image that can be read ({why}): put some there")
    return Images(torch.from_numpy(stacked(pixels, folder)), torch.from_numpy(target), stored)
