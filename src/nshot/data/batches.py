"""Batches from images in memory: a training batch is a function of (seed, step), a held-out batch of its position."""

import torch
from torch import Tensor

from nshot.errors import UserError
from nshot.seeding import torch_generator

from .augment import Augment, crop_flip, pad
from .sources import Images
from .strong import Strong


class Normalise:
    """uint8 (B, H, W, 3) to float (B, 3, H, W), channels-last in memory, zero mean and unit variance a channel.

    ``mean`` and ``std`` are of pixels from 0 to 255, a number a channel.
    """

    def __init__(self, images: Images) -> None:
        sample = images.pixels.float().reshape(-1, 3)
        std, mean = torch.std_mean(sample, dim=0)
        self.mean, self.std = mean.tolist(), std.clamp_min(1.0).tolist()
        self.scale = 1 / std.clamp_min(1.0)
        self.shift = -mean * self.scale

    def to(self, device: torch.device | str) -> "Normalise":
        self.scale, self.shift = self.scale.to(device), self.shift.to(device)
        return self

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(self.shift, pixels.float(), self.scale).permute(0, 3, 1, 2)


class TrainBatches:
    """``batches(step)`` is the augmented batch of that step: images (B, 3, H, W) float, labels (B,).

    Each epoch is a fresh permutation; the last images that fill no batch are left out of it. Crops are padded by an
    eighth of the resolution. Where ``augment`` mixes images, labels are shares of ``classes`` (B, classes).

    Raises:
        UserError: for a batch size below 1 or above the number of images, an odd one where images are mixed, a cutout
            larger than they are, or augmentation without timm, which it needs.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        *,
        flip: bool,
        augment: Augment | None = None,
        classes: int = 0,
    ) -> None:
        if not 1 <= batch_size <= len(images):
            raise UserError(f"batch_size {batch_size}: must be from 1 to the {len(images)} training images")
        augment, side = augment or Augment(), images.pixels.shape[1]
        if augment.mixes and batch_size % 2:
            raise UserError(f"batch_size {batch_size}: mixup and cutmix pair the images, so it must be even")
        if augment.cutout > side:
            raise UserError(f"cutout {augment.cutout}: must not exceed the {side} pixels of the images")
        self.batch_size = batch_size
        self.steps_per_epoch = len(images) // batch_size
        self.seed = seed
        self.flip = flip
        self.margin = side // 8 if augment.crop == "padded" else 0
        self.normalise = Normalise(images)
        self.strong = Strong(augment, side=side, mean=self.normalise.mean, classes=classes, seed=seed)
        self._padded = pad(images.pixels, self.margin)
        self._labels = images.labels
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def to(self, device: torch.device | str) -> "TrainBatches":
        """Moves all images to the device: batches are then made there."""
        self.normalise.to(device)
        self._padded, self._labels = self._padded.to(device), self._labels.to(device)
        return self

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = torch.randperm(len(self._labels), generator=torch_generator(self.seed, "order", epoch))
            self._order = (epoch, order.to(self._labels.device))
        index = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        generator = torch_generator(self.seed, "augment", step)
        pixels = self.strong.pixels(crop_flip(self._padded, index, self.margin, self.flip, generator), step)
        return self.strong.batch(self.normalise(pixels), self._labels[index], step)


def heldout_batches(
    images: Images, batch_size: int, normalise: Normalise, device: torch.device | str = "cpu"
) -> list[tuple[Tensor, Tensor]]:
    """All images in their order, unaugmented, in batches of ``batch_size`` (the last one may be smaller).

    Raises:
        UserError: for a batch size below 1 or above the number of images.
    """
    if not 1 <= batch_size <= len(images):
        raise UserError(f"batch_size {batch_size}: must be from 1 to the {len(images)} held-out images")
    pairs = zip(images.pixels.split(batch_size), images.labels.split(batch_size), strict=True)
    return [(normalise(pixels.to(device)), labels.to(device)) for pixels, labels in pairs]
