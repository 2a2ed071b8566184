"""Augmentation beyond crop and flip, made of timm's parts: each batch a function of (seed, step)."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nshot.errors import extra
from nshot.seeding import seeded_everywhere, torch_generator

from .augment import Augment, cutout


def _timm(module: str) -> Any:
    return extra(f"timm.data.{module}", "timm", "augmentation")


def _randaugment(fill: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """Two of timm's operations, of magnitude 9 ± 0.5, at most 10. There posterize would keep no bit of a pixel, which
    is a black image to some versions of Pillow and an error to others: its own magnitude ends before."""
    policy = _timm("auto_augment").rand_augment_transform("rand-m9-mstd0.5-inc1", fill)
    for operation in policy.ops:
        if operation.name.startswith("Posterize"):
            operation.magnitude_max = 9.999
    return policy


class Strong:
    """Applies an `Augment` to batches that are cropped and flipped already.

    Args:
        augment: what is done.
        side: height and width of the images.
        mean: of each channel, of pixels from 0 to 255: what operations fill borders with.
        classes: how many.
        seed: of the run.
        own: part of the draws' names, different for processes whose draws must be.

    Raises:
        UserError: where timm is needed and not installed.
    """

    def __init__(
        self, augment: Augment, *, side: int, mean: list[float], classes: int, seed: int, own: str = ""
    ) -> None:
        self.augment = augment
        self.seed, self.own = seed, own
        fill = {"translate_const": int(0.45 * side), "img_mean": tuple(round(value) for value in mean)}
        # An image at a time, in timm's order: crop, then policy.
        self._single: list[Callable[[Image.Image], Image.Image]] = []
        if augment.crop == "resized":
            crop = _timm("transforms").RandomResizedCropAndInterpolation
            self._single.append(crop(side, interpolation="bicubic"))
        if augment.policy == "autoaugment":
            self._single.append(_timm("auto_augment").auto_augment_transform("original", fill))
        if augment.policy == "randaugment":
            self._single.append(_randaugment(fill))
        self._erasing = self._mixing = None
        if augment.erasing > 0:
            self._erasing = _timm("random_erasing").RandomErasing
        if augment.mixes:
            sizes = {"mixup_alpha": augment.mixup, "cutmix_alpha": augment.cutmix}
            self._mixing = _timm("mixup").Mixup(**sizes, label_smoothing=0.0, num_classes=classes)

    def pixels(self, batch: Tensor, step: int) -> Tensor:
        """uint8 (B, H, W, 3), cropped and flipped, to the same."""
        if not self._single:
            return batch
        return self.changed([Image.fromarray(pixels) for pixels in batch.cpu().numpy()], step).to(batch.device)

    def changed(self, images: Iterable[Image.Image], step: int) -> Tensor:
        """What is done to an image at a time, in RGB, of any size where crops are resized: uint8 (B, H, W, 3)."""
        found = []
        with seeded_everywhere(self.seed, f"policy{self.own}", step, torch.device("cpu")):
            for image in images:
                for transform in self._single:
                    image = transform(image)
                found.append(np.asarray(image))
        return torch.from_numpy(np.stack(found))

    def batch(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W), which change in place, and labels (B,).

        Where images are mixed, the labels become shares of classes (B, classes).
        """
        if self._erasing is not None:
            with seeded_everywhere(self.seed, f"erasing{self.own}", step, images.device):
                self._erasing(self.augment.erasing, mode="pixel", device=images.device)(images)
        if self.augment.cutout:
            images = cutout(images, self.augment.cutout, torch_generator(self.seed, f"cutout{self.own}", step))
        if self._mixing is not None:
            with seeded_everywhere(self.seed, f"mixing{self.own}", step, images.device):
                images, labels = self._mixing(images, labels)
        return images, labels
