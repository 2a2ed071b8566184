"""Which augmentation there is, and of whole batches, seeded: random crop with padding, horizontal flip, cutout."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nshot.errors import UserError, check_choices, check_whole


@dataclass(frozen=True)
class Augment:
    """What training images go through besides the horizontal flip. Defaults: a random crop alone."""

    crop: Literal["padded", "resized"] = "padded"
    """Random crops of images padded by an eighth, or (resized) of 8 to 100 % of an image, resized to the whole."""
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    """autoaugment: ImageNet's policy; randaugment: two operations of magnitude 9 ± 0.5. An image at a time: slow."""
    erasing: float = 0.0
    """Probability that a random rectangle of an image becomes noise."""
    cutout: int = 0
    """Side of a square, anywhere in an image, that becomes its mean colour; 0: none."""
    mixup: float = 0.0
    """α of the beta distribution by which two images and their labels are blended; 0: they are not."""
    cutmix: float = 0.0
    """α of the beta distribution of a pasted part of another image; with mixup, a batch has either; 0: none."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole(0, cutout=self.cutout)
        if not 0 <= self.erasing <= 1:
            raise UserError(f"erasing {self.erasing}: must be from 0 to 1")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} {getattr(self, name)}: must be 0 or more")

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of classes."""
        return self.mixup > 0 or self.cutmix > 0


def pad(pixels: Tensor, margin: int) -> Tensor:
    """Images (N, H, W, 3) with ``margin`` black pixels on every side."""
    n, h, w, c = pixels.shape
    padded = pixels.new_zeros(n, h + 2 * margin, w + 2 * margin, c)
    padded[:, margin : margin + h, margin : margin + w] = pixels
    return padded


def crop_flip(padded: Tensor, index: Tensor, margin: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crops of ``padded[index]`` back to the unpadded size, half of them mirrored where ``flip``.

    Args:
        padded: uint8 (N, H + 2 margin, W + 2 margin, 3).
        index: int64 (B,).

    Returns:
        uint8 (B, H, W, 3).
    """
    n, h, w, c = padded.shape
    side = 2 * margin + 1
    # Every crop is a window of the padded image: a strided view (N, side, side, H, W, 3), gathered once.
    sn, sh, sw, sc = padded.stride()
    windows = padded.as_strided((n, side, side, h - 2 * margin, w - 2 * margin, c), (sn, sh, sw, sh, sw, sc))
    offset = torch.randint(side, (2, len(index)), generator=generator).to(padded.device)
    batch = windows[index, offset[0], offset[1]]
    if flip:
        mirrored = (torch.rand(len(index), generator=generator) < 0.5).to(padded.device)
        batch = torch.where(mirrored[:, None, None, None], batch.flip(2), batch)
    return batch


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square of zeros in each image, centred on any pixel and cut off at the border (DeVries and Taylor, 2017).

    Args:
        images: float (B, 3, H, W), of mean zero.
        side: of the square.
    """
    b, _, h, w = images.shape
    kept = []
    for length in (h, w):
        centre = torch.randint(length, (b, 1), generator=generator)
        at = torch.arange(length) - centre
        kept.append(~((at >= -(side // 2)) & (at < side - side // 2)))
    rows, columns = (part.to(images.device) for part in kept)
    return images * (rows[:, None, :, None] | columns[:, None, None, :])
