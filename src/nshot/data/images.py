"""Images that a data set is made of: decoded in memory, or files that are read as they are needed."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import get_worker_info

from nshot.errors import UserError
from nshot.seeding import generator

from .decode import check_memory, check_size, fit, read

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
SAMPLE = 4096  # files whose pixels stand for all


@dataclass(frozen=True)
class Images:
    """Decoded images: ``pixels`` uint8 (N, H, W, 3), ``labels`` int64 (N,)."""

    pixels: Tensor
    labels: Tensor

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
        return Images(self.pixels[index], self.labels[index])

    def resized(self, resolution: int) -> "Images":
        """Antialiased bilinear resize to (resolution, resolution)."""
        if self.pixels.shape[1:3] == (resolution, resolution):
            return self
        chunks = []
        for chunk in self.pixels.split(4096):
            image = chunk.permute(0, 3, 1, 2).float()
            image = F.interpolate(image, (resolution, resolution), mode="bilinear", antialias=True)
            chunks.append(image.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
        return Images(torch.cat(chunks).contiguous(), self.labels)

    def loaded(self) -> "Images":
        return self

    def sample(self) -> "Images":
        """What statistics of the pixels are computed from: all."""
        return self


@dataclass(frozen=True)
class Files:
    """Images on disk, of any sizes: ``paths``, and ``labels`` int64 (N,)."""

    paths: Sequence[Path]
    labels: Tensor
    side: int
    """Height and width that they are brought to."""
    crop: float = 1.0
    """The share of the shorter side that is the side of the central square that is kept."""

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> "Files":
        return replace(self, paths=[self.paths[i] for i in indices], labels=self.labels[torch.from_numpy(indices)])

    def resized(self, resolution: int) -> "Files":
        return replace(self, side=resolution)

    def loaded(self) -> Images:
        """All of them, decoded. Raises UserError where the memory cannot hold them, or one cannot be read."""
        check_memory(len(self), self.side, f"{self.paths[0].parent.parent}", copies=1)
        return Images(self.squares(torch.arange(len(self))), self.labels)

    def sample(self) -> Images:
        """What statistics of the pixels are computed from: some, the same each time."""
        order = generator(0, "sample of files").permutation(len(self))
        return self.subset(np.sort(order[:SAMPLE])).loaded()

    def squares(self, index: Tensor) -> Tensor:
        """The central squares of some, uint8 (B, side, side, 3). Raises UserError for one that cannot be read."""

        def square(i: int) -> np.ndarray:
            return np.asarray(fit(self.whole(i, small=True), self.side, self.crop))

        return torch.from_numpy(np.stack(_each(square, index)))

    def wholes(self, index: Tensor) -> list["Image"]:
        """Some as they are, upright and in RGB. Raises UserError for one that cannot be read."""
        return _each(self.whole, index)

    def whole(self, i: int, *, small: bool = False) -> "Image":
        """One image, ``small`` where no more than ``side`` pixels of it count."""
        try:
            image = read(self.paths[i], round(self.side / self.crop) if small else None)
        except Exception as error:  # a broken file can raise anything
            message = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self.paths[i]} cannot be read ({message}): replace it, or take it away") from None
        check_size(self.paths[i], image.info["side"], self.side)
        return image


Pictures = Images | Files


def joined(one: Pictures, other: Pictures) -> Pictures:
    """All images of two parts of a data set."""
    labels = torch.cat([one.labels, other.labels])
    if isinstance(one, Files) and isinstance(other, Files):
        return replace(one, paths=[*one.paths, *other.paths], labels=labels)
    return Images(torch.cat([one.loaded().pixels, other.loaded().pixels]), labels)


def _each(function: Callable[[int], T], index: Tensor) -> list[T]:
    """Of all indices in order, in threads (decoders release the interpreter), unless this is one of many processes."""
    if get_worker_info() is not None:
        return [function(i) for i in index.tolist()]
    with ThreadPoolExecutor() as threads:
        return list(threads.map(function, index.tolist()))
