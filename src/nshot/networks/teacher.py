"""Distillation: labels that are in part what a trained network, the teacher, says (Hinton et al., 2015)."""

from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.data.ahead import Batches
from nshot.data.batches import Normalise
from nshot.data.sources import Dataset
from nshot.errors import UserError, extra, first_line

from .result import NETWORK, read_network


class Teacher:
    """A network that says how probable the classes of the student's images are.

    With its ``share`` w and its probabilities p, the student's loss is ``(1 - w) CE(student, labels) + w CE(student,
    p)``. Cross entropy is linear in the target, so that is the cross entropy with the target ``(1 - w) labels + w p``.

    Args:
        network: gives logits (B, classes).
        mean, std: a number a channel, of pixels from 0 to 255: how its own images are normalised.
        normalise: of the student's images.
        classes: how many.
        share: w, above 0 up to 1.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: list[float],
        std: list[float],
        normalise: Normalise,
        *,
        classes: int,
        share: float,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        own_mean, own_std = (torch.tensor(v).view(3, 1, 1) for v in (normalise.mean, normalise.std))
        its_mean, its_std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
        self._scale, self._shift = own_std / its_std, (own_mean - its_mean) / its_std
        self.classes = classes
        self.share = share
        self.digest: str | None = None
        """Of the file that its weights are from, where they are from one here."""

    def to(self, device: torch.device | str) -> "Teacher":
        self.network.to(device)
        self._scale, self._shift = self._scale.to(device), self._shift.to(device)
        return self

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Of the classes (B, classes), for images as the student sees them (B, 3, H, W)."""
        return self.network(images * self._scale + self._shift).softmax(1)

    def taught(self, batches: Batches, label_smoothing: float) -> Batches:
        """The batches with the loss's target for labels, in which the smoothing of the given labels is done already."""

        def batch(step: int) -> tuple[Tensor, Tensor]:
            images, labels = batches(step)
            given = labels if labels.is_floating_point() else F.one_hot(labels, self.classes).to(images.dtype)
            smooth = given * (1 - label_smoothing) + label_smoothing / self.classes
            return images, torch.lerp(smooth, self.probabilities(images), self.share)

        return batch


def make_teacher(named: str, share: float, data: Dataset, normalise: Normalise) -> Teacher:
    """A teacher: a folder that ``nshot retrain`` wrote; or a model of timm's, ``NAME`` with its pretrained weights,
    which are fetched where they are absent, or ``NAME:FILE`` with those of a checkpoint.

    Raises:
        UserError: for a folder, name or file that cannot be read, or a network of other classes or image size.
    """
    weights = Path(named.partition(":")[2])
    if Path(named).is_dir():
        network, result = read_network(named)
        weights = Path(named) / result.get("folder", "") / NETWORK
        mean, std = result["normalise"]["mean"], result["normalise"]["std"]
        _check_taught(named, result, data)
    else:
        network = _from_timm(named, data)
        mean, std = ([255 * value for value in network.pretrained_cfg[key]] for key in ("mean", "std"))
    teacher = Teacher(network, mean, std, normalise, classes=data.classes, share=share)
    if weights.is_file():
        with open(weights, "rb") as stream:
            found = file_digest(stream, lambda: blake2b(digest_size=8)).hexdigest()
        # Of a model of timm's its name too: others have tensors of the same shapes.
        teacher.digest = found if Path(named).is_dir() else f"{named.partition(':')[0]} {found}"
    side = data.train.side
    try:
        shape = tuple(teacher.probabilities(torch.zeros(2, 3, side, side)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"teacher {named}: cannot read images of {side} pixels ({first_line(error)})") from None
    if shape != (2, data.classes):
        raise UserError(f"teacher {named}: it knows {shape[1]} classes, and {data.name} has {data.classes}")
    return teacher


def _check_taught(named: str, result: dict[str, Any], data: Dataset) -> None:
    """Raises UserError where a network of ours has learned other classes, or images of another size."""
    names = result.get("classes")
    if names is not None and data.names and tuple(names) != data.names:
        lacking = sorted(set(data.names) - set(names)) or ["all, in another order"]
        raise UserError(f"teacher {named}: its classes are not those of {data.name}, which has {lacking[0]!r}")
    if (side := result["space"]["resolution"]) != data.train.side:
        raise UserError(f"teacher {named}: it has learned images of {side} pixels, and these are of {data.train.side}")


def _from_timm(named: str, data: Dataset) -> Any:
    timm = extra("timm", "timm", f"teacher {named}: no folder, and a model of timm's")
    name, _, file = named.partition(":")
    if not timm.is_model(name):
        similar = ", ".join(timm.list_models(f"*{name}*")[:5])
        hint = f" (similar: {similar})" if similar else ""
        raise UserError(f"teacher {named}: neither a folder of a retrained network nor a model of timm's{hint}")
    try:
        if not file:
            return timm.create_model(name, pretrained=True)
        if not Path(file).is_file():
            raise FileNotFoundError(file)  # timm would log a line of its own
        network = timm.create_model(name, num_classes=data.classes)
        timm.models.load_checkpoint(network, file, weights_only=True)  # older versions of timm run code
    except Exception as error:  # a hub's, a file's or a model's own: whatever it is, the teacher is not to be had
        raise UserError(f"teacher {named}: cannot be loaded ({type(error).__name__}: {first_line(error)})") from None
    return network
