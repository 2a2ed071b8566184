"""A retrained network with what is done to images before it: from image files to probabilities."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nshot.data.decode import fit, read, reason
from nshot.errors import UserError, first_line
from nshot.networks.result import checked, read_network
from nshot.spaces import space_from_dict

from .folder import is_handed_over, read_file, read_manifest
from .source import weight_names

PT, SAFETENSORS = "weights.pt", "weights.safetensors"


class Classifier(nn.Module):
    """``classifier(pixels)``: uint8 (N, side, side, 3), RGB from 0 to 255, to logits and probabilities (N, classes).

    Args:
        network: a stand-alone network.
        result: of its retraining.
    """

    def __init__(self, network: nn.Module, result: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.result = result
        self.scale: Tensor
        self.shift: Tensor
        scale = 1 / torch.tensor(result["normalise"]["std"])
        self.register_buffer("scale", scale)
        self.register_buffer("shift", -torch.tensor(result["normalise"]["mean"]) * scale)
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(torch.addcmul(self.shift, pixels.float(), self.scale).permute(0, 3, 1, 2))
        return logits, logits.softmax(1)

    @property
    def classes(self) -> list[str]:
        """Their names, in the order of the logits."""
        return self.result["classes"]

    @property
    def side(self) -> int:
        """Height and width of the images."""
        return self.result["space"]["resolution"]

    def square(self, image: Path | bytes) -> np.ndarray:
        """An image file as the network sees it, uint8 (side, side, 3); raises whatever a broken file does."""
        crop = self.result["crop"]
        return np.asarray(fit(read(image, round(self.side / crop)), self.side, crop))

    def squares(self, images: list[Path]) -> list[np.ndarray | str]:
        """Image files as the network sees them, read in threads; of those that cannot be read: why."""
        from PIL import UnidentifiedImageError

        def one(path: Path) -> np.ndarray | str:
            try:
                return self.square(path)
            except Exception as error:  # a broken file can raise anything
                return "it is no image" if isinstance(error, UnidentifiedImageError) else reason(error)

        with ThreadPoolExecutor() as threads:
            return list(threads.map(one, images))


def read_classifier(folder: str | Path) -> Classifier:
    """The classifier of a folder that ``nshot retrain`` or ``nshot export`` wrote, on the CPU.

    Of a hand-over folder no code is run: the network is made anew and takes the folder's weights.

    Raises:
        UserError: for a folder that holds none, or files that are not what was exported.
    """
    folder = Path(folder)
    network, result = _handed_over(folder) if is_handed_over(folder) else read_network(folder)
    return Classifier(network.requires_grad_(False), completed(result))


def completed(result: dict[str, Any]) -> dict[str, Any]:
    """A result with numbers for the names of classes that have none."""
    if "classes" in result:
        return result
    classes = result["space"].get("num_classes", 10)
    return {**result, "classes": [str(i) for i in range(classes)]}


def _handed_over(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    manifest = read_manifest(folder)
    name = next((name for name in (PT, SAFETENSORS) if name in manifest["files"]), None)
    if name is None:
        raise UserError(f"{folder} holds no weights for torch: export the network again with --to torch")
    data = read_file(folder, name)
    try:
        result = checked(manifest["result"])
        network = space_from_dict(result["space"]).network(tuple(result["subnet"])).eval()
        weights, state = _weights(data, name), network.state_dict()
        names = {flat: own for flat, own in weight_names(network).items() if own in state}
        network.load_state_dict({own: weights[flat] for flat, own in names.items()}, strict=False)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{folder} holds no network that this version can read ({first_line(error)}): use its model.py"
        ) from None
    return network, result


def _weights(data: bytes, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        return load(data) if name == SAFETENSORS else torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(first_line(error)) from None
