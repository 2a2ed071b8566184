"""Batches of a data set: a training batch is a function of (seed, step), a held-out batch of its position."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from nshot.errors import UserError
from nshot.seeding import torch_generator

from .augment import Augment, crop_flip, pad
from .images import Files, Images, Pictures
from .reading import LeftOut
from .strong import Strong

Given = tuple[Sequence[float], Sequence[float]]


class Normalise:
    """uint8 (B, H, W, 3) to float (B, 3, H, W), channels-last in memory, zero mean and unit variance a channel.

    ``mean`` and ``std`` are of pixels from 0 to 255, a number a channel: those of the images, or ``given``.
    """

    def __init__(self, images: Pictures, given: Given | None = None) -> None:
        if given is None:
            sample = images.sample().pixels.float().reshape(-1, 3)
            std, mean = torch.std_mean(sample, dim=0)
        else:
            mean, std = (torch.tensor(values) for values in given)
        self.mean, self.std = mean.tolist(), std.clamp_min(1.0).tolist()
        self.scale = 1 / std.clamp_min(1.0)
        self.shift = -mean * self.scale

    def to(self, device: torch.device | str) -> "Normalise":
        """The same there; this one, which other batches may share, stays where it is."""
        moved = copy.copy(self)
        moved.scale, moved.shift = self.scale.to(device), self.shift.to(device)
        return moved

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(self.shift, pixels.float(), self.scale).permute(0, 3, 1, 2)


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch takes the images."""
    return torch.randperm(images, generator=torch_generator(seed, "order", epoch))


class TrainBatches:
    """``batches(step)`` is the augmented batch of that step: images (B, 3, H, W) float, labels (B,).

    Each epoch is a fresh permutation; the last images that fill no batch are left out of it. Crops are padded by an
    eighth of the resolution; resized crops of files are cut from the image as it is stored. Where ``augment`` mixes
    images, labels are shares of ``classes`` (B, classes).

    Args:
        images: what batches are drawn from.
        batch_size: of all processes together.
        seed: of all draws.
        flip: whether half of the images are mirrored.
        augment: what else is done; default: crops.
        classes: how many; for labels that are shares.
        share: (i, n): only the i-th of n equal parts of each batch is made, with draws of its own.
        views: how many times a batch has each image, each time augmented anew: first all once, then all again.
        given: mean and standard deviation to normalise by; default: those of the images.

    Raises:
        UserError: for a batch size below 1 or above the number of images, one that cannot be shared out evenly, an odd
            one where images are mixed, a cutout larger than they are, or augmentation without timm, which it needs.
    """

    def __init__(
        self,
        images: Pictures,
        batch_size: int,
        seed: int,
        *,
        flip: bool,
        augment: Augment | None = None,
        classes: int = 0,
        share: tuple[int, int] = (0, 1),
        views: int = 1,
        given: Given | None = None,
    ) -> None:
        if not 1 <= batch_size <= len(images):
            raise UserError(f"batch_size {batch_size}: must be from 1 to the {len(images)} training images")
        self._part, parts = share
        if batch_size % parts:
            raise UserError(f"batch_size {batch_size}: must be a multiple of the {parts} processes")
        augment, side = augment or Augment(), images.side
        if augment.mixes and batch_size // parts % 2:
            each = f", and so must the {batch_size // parts} of a process" if parts > 1 else ""
            raise UserError(f"batch_size {batch_size}: mixup and cutmix pair the images, so it must be even{each}")
        if augment.mixes and views > 1:
            raise UserError(f"mixup {augment.mixup}, cutmix {augment.cutmix}: the method compares views of one image")
        if augment.cutout > side:
            raise UserError(f"cutout {augment.cutout}: must not exceed the {side} pixels of the images")
        self.batch_size = batch_size
        self.views = views
        self.steps_per_epoch = len(images) // batch_size
        self.seed = seed
        self.flip = flip
        self.margin = side // 8 if augment.crop == "padded" else 0
        self.normalise = Normalise(images, given)
        self._own = f" {self._part}" if self._part else ""
        self._size = batch_size // parts
        self.strong = Strong(augment, side=side, mean=self.normalise.mean, classes=classes, seed=seed, own=self._own)
        self._images = images if isinstance(images, Files) else None
        self.left_out = images.left_out if isinstance(images, Files) else LeftOut()
        self._padded = torch.empty(0) if isinstance(images, Files) else pad(images.pixels, self.margin)
        self._labels = images.labels
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def to(self, device: torch.device | str) -> "TrainBatches":
        """Moves all images that are in memory to the device: batches are then made there."""
        self.normalise = self.normalise.to(device)
        self._padded, self._labels = self._padded.to(device), self._labels.to(device)
        return self

    def __call__(self, step: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``positions``: (steps, batch size), the images of this step and of those after it, instead of its own."""
        whole = self._permuted(step) if positions is None else positions[0].to(self._labels.device)
        index = whole[self._part * self._size : (self._part + 1) * self._size].repeat(self.views)
        generator = torch_generator(self.seed, f"augment{self._own}", step)
        if self._images is None:
            pixels = self.strong.pixels(crop_flip(self._padded, index, self.margin, self.flip, generator), step)
        else:
            pixels = self._from_files(self._images, index.cpu(), generator, step).to(self._labels.device)
        return self.strong.batch(self.normalise(pixels), self._labels[index], step)

    def _permuted(self, step: int) -> Tensor:
        """The images of a step, of all processes together."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self._labels), self.seed, epoch).to(self._labels.device))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def _from_files(self, files: Files, index: Tensor, generator: torch.Generator, step: int) -> Tensor:
        every = torch.arange(len(index))
        if self.strong.augment.crop == "resized":
            return crop_flip(self.strong.changed(files.wholes(index), step), every, 0, self.flip, generator)
        padded = pad(files.squares(index), self.margin)
        return self.strong.pixels(crop_flip(padded, every, self.margin, self.flip, generator), step)


class SecondBatches(TrainBatches):
    """``batches(step)`` are images drawn uniformly with replacement, otherwise as `TrainBatches`: the validation images
    of methods that take a second batch a step. ``normalise`` is that of the first."""

    def __call__(self, step: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        draw = torch_generator(self.seed, "second", step)
        return super().__call__(step, torch.randint(len(self._labels), (1, self.batch_size), generator=draw))


class Heldout(Sequence[tuple[Tensor, Tensor]]):
    """Batches that are normalised each time they are asked for: as floats, all would take four times the memory."""

    def __init__(self, images: Images, batch_size: int, normalise: Normalise, device: torch.device | str) -> None:
        self.images = len(images)
        count = -(-len(images) // batch_size)
        pairs = zip(images.pixels.tensor_split(count), images.labels.tensor_split(count), strict=True)
        self._parts, self._normalise, self._device = list(pairs), normalise, device

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        pixels, labels = self._parts[i]
        return self._normalise(pixels.to(self._device)), labels.to(self._device)


def heldout_batches(
    images: Pictures, batch_size: int, normalise: Normalise, device: torch.device | str = "cpu"
) -> Sequence[tuple[Tensor, Tensor]]:
    """All images in their order, unaugmented, in as few batches of at most ``batch_size`` as can be, evenly filled.

    Files that cannot be read are left out.

    Raises:
        UserError: for a batch size below 1 or above the number of images.
    """
    if not 1 <= batch_size <= len(images):
        raise UserError(f"batch_size {batch_size}: must be from 1 to the {len(images)} held-out images")
    batches = Heldout(images.loaded(), batch_size, normalise, device)
    return batches if isinstance(images, Files) else list(batches)


def images_in(batches: Sequence[tuple[Tensor, Tensor]]) -> int:
    """How many images they hold."""
    return batches.images if isinstance(batches, Heldout) else sum(len(labels) for _, labels in batches)
