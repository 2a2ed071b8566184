"""Images that a data set is made of: decoded in memory, or files that are read as they are needed."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import get_worker_info

from nshot.errors import UserError
from nshot.files import shown
from nshot.seeding import generator

from .decode import check_memory, fit, read, reason, too_small
from .reading import LeftOut, Stored

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
SAMPLE = 4096  # files whose pixels stand for all


@dataclass(frozen=True)
class Images:
    """Decoded images: ``pixels`` uint8 (N, H, W, 3), ``labels`` int64 (N,)."""

    pixels: Tensor
    labels: Tensor
    stored: Sequence[Stored] = ()
    """How their owner has them (N,); empty for a data set of ours."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Height and width."""
        return self.pixels.shape[1]

    @property
    def crop(self) -> float:
        """The share of the shorter side that is the side of the central square that was kept."""
        return 1.0

    def subset(self, indices: np.ndarray) -> "Images":
        index = torch.from_numpy(np.ascontiguousarray(indices))
        return Images(self.pixels[index], self.labels[index], _picked(self.stored, indices))

    def resized(self, resolution: int) -> "Images":
        """Antialiased bilinear resize to (resolution, resolution)."""
        if self.pixels.shape[1:3] == (resolution, resolution):
            return self
        chunks = []
        for chunk in self.pixels.split(4096):
            image = chunk.permute(0, 3, 1, 2).float()
            image = F.interpolate(image, (resolution, resolution), mode="bilinear", antialias=True)
            chunks.append(image.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
        return replace(self, pixels=torch.cat(chunks).contiguous())

    def loaded(self, *, none: bool = False) -> "Images":
        return self

    def sample(self) -> "Images":
        """What statistics of the pixels are computed from: all; of many of one's own those that `Files.sample` takes,
        so that they do not depend on whether this machine's memory holds them."""
        return self.subset(_some(len(self))) if self.stored and len(self) > SAMPLE else self


def _some(count: int) -> np.ndarray:
    """Positions of a sample."""
    return np.sort(generator(0, "sample of files").permutation(count)[:SAMPLE])


@dataclass(frozen=True)
class Files:
    """Images on disk, of any sizes: ``paths``, and ``labels`` int64 (N,).

    What cannot be read is found out when it is needed. It is left out then, and where a batch wants it another image of
    its class stands in: the next one.
    """

    paths: Sequence[Path]
    labels: Tensor
    side: int
    """Height and width that they are brought to."""
    crop: float = 1.0
    """The share of the shorter side that is the side of the central square that is kept."""
    stored: Sequence[Stored] = ()
    """How their owner has them (N,)."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What could not be read so far, of all parts."""

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> "Files":
        labels = self.labels[torch.from_numpy(np.ascontiguousarray(indices))]
        return replace(self, paths=_picked(self.paths, indices), labels=labels, stored=_picked(self.stored, indices))

    def resized(self, resolution: int) -> "Files":
        return replace(self, side=resolution)

    def loaded(self, *, none: bool = False) -> Images:
        """All that can be read. Raises UserError where memory cannot hold them, or ``none`` can be read and may not."""
        check_memory(len(self), self.side, f"{self.paths[0].parent.parent}", copies=1)
        pixels = np.zeros((len(self), self.side, self.side, 3), np.uint8)  # filled as files are read: once in memory

        def filled(i: int) -> bool:
            square = self._square(self._read(i, small=True))
            if square is not None:
                pixels[i] = square
            return square is not None

        kept = np.flatnonzero(_each(filled, torch.arange(len(self))))
        if not len(kept) and not none:
            raise UserError(self._none_of(range(len(self))))
        for place, i in enumerate(kept.tolist()):
            if place != i:
                pixels[place] = pixels[i]
        readable = self.subset(kept)
        return Images(torch.from_numpy(pixels[: len(kept)]), readable.labels, readable.stored)

    def sample(self) -> Images:
        """What statistics of the pixels are computed from: some, the same each time."""
        return self.subset(_some(len(self))).loaded()

    def squares(self, index: Tensor) -> Tensor:
        """The central squares of some, uint8 (B, side, side, 3). Raises UserError where none of a class can be read."""
        found = _each(lambda i: self._square(self.whole(i, small=True)), index)
        return torch.from_numpy(np.stack([square for square in found if square is not None]))

    def wholes(self, index: Tensor) -> list["Image"]:
        """Some as they are, upright and in RGB. Raises UserError where none of a class can be read."""
        return _each(self.whole, index)

    def whole(self, i: int, *, small: bool = False) -> "Image":
        """One image or what stands in for it, ``small`` where no more than ``side`` pixels of it count."""
        image = self._read(i, small)
        if image is not None:
            return image
        mates = (self.labels == self.labels[i]).nonzero().flatten()
        place = int((mates < i).sum())
        for j in torch.cat([mates[place + 1 :], mates[:place]]).tolist():
            image = self._read(j, small)
            if image is not None:
                return image
        raise UserError(self._none_of(mates.tolist()))

    def _read(self, i: int, small: bool) -> "Image | None":
        """One image; None where it cannot be used."""
        name = self._name(i)
        if name in self.left_out:
            return None
        try:
            image = read(self.paths[i], round(self.side / self.crop) if small else None)
            trouble = too_small(image.info["side"], self.side)
        except Exception as error:  # a broken file can raise anything
            trouble = reason(error)
        if trouble:
            self.left_out.add(name, trouble)
            return None
        return image

    def _square(self, image: "Image | None") -> np.ndarray | None:
        return None if image is None else np.asarray(fit(image, self.side, self.crop))

    def _name(self, i: int) -> str:
        return self.stored[i].name if self.stored else str(self.paths[i])

    def _none_of(self, indices: Sequence[int]) -> str:
        path, why = self.paths[indices[0]], self.left_out[self._name(indices[0])]
        return f"none of {len(indices)} images beside {shown(path)} can be read ({why}): replace them"


Pictures = Images | Files


def keys(images: Pictures) -> list[bytes]:
    """What tells each image from others wherever it lies: as it is stored, a file's path, or what it shows."""
    if images.stored:
        return [stored.key.encode(errors="surrogateescape") for stored in images.stored]
    if isinstance(images, Files):
        root = Path(os.path.commonpath([path.parent for path in images.paths])) if len(images) else Path()
        return [path.relative_to(root).as_posix().encode(errors="surrogateescape") for path in images.paths]
    return [image.tobytes() for image in images.pixels.numpy()]


def joined(one: Pictures, other: Pictures) -> Pictures:
    """All images of two parts of a data set."""
    stored = [*one.stored, *other.stored]
    if isinstance(one, Files) and isinstance(other, Files):
        return replace(
            one, paths=[*one.paths, *other.paths], labels=torch.cat([one.labels, other.labels]), stored=stored
        )
    one, other = one.loaded(), other.loaded()
    return Images(torch.cat([one.pixels, other.pixels]), torch.cat([one.labels, other.labels]), stored)


def _picked(items: Sequence[T], indices: np.ndarray) -> Sequence[T]:
    return [items[i] for i in indices] if len(items) else items


def _each(function: Callable[[int], T], index: Tensor) -> list[T]:
    """Of all indices in order, in threads (decoders release the interpreter), unless this is one of many processes."""
    if get_worker_info() is not None:
        return [function(i) for i in index.tolist()]
    with ThreadPoolExecutor() as threads:
        return list(threads.map(function, index.tolist()))
