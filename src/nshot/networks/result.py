"""What a finished retraining's folder holds: the result and the network."""

import math
import re
from pathlib import Path
from typing import Any

from torch import nn

from nshot.data.imagenet import CROP
from nshot.errors import UserError, first_line
from nshot.files import read_json
from nshot.runs.checkpoint import load_weights
from nshot.runs.folder import read_config
from nshot.spaces import space_from_dict

NETWORK, RESULT = "network.safetensors", "result.json"
AGAIN = "delete it, and the same command makes it again"


def read_result(folder: Path) -> dict[str, Any]:
    """What a finished retraining wrote, and what one of an earlier version did not say of itself.

    Raises:
        OSError, ValueError, KeyError, TypeError: where it cannot be read, or is none.
    """
    result = read_json(folder / RESULT)
    return checked({"crop": CROP if result["dataset"] == "imagenet" else 1.0, **result})


def known_result(folder: Path) -> dict[str, Any]:
    """As `read_result`, of a folder that is known to hold one. Raises UserError where it is damaged."""
    try:
        return read_result(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / RESULT} cannot be read ({error}): {AGAIN}") from None


def checked(result: dict[str, Any]) -> dict[str, Any]:
    """The result, where all of it that becomes text or code of a hand-over folder is what it should be: a stranger may
    have written it. Raises ValueError, KeyError or TypeError for one that is not."""
    space = space_from_dict(result["space"])
    numbers = [*result["normalise"]["mean"], *result["normalise"]["std"], result["crop"], result["test_accuracy"]]
    whole = [result["params"], result["flops"], result.get("test_images", 1), space.resolution]
    texts = [result["arch"], result["dataset"], *result.get("classes", ())]
    for kind, values in ((float | int, numbers), (int, whole), (str, texts)):
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"{value!r:.40} in its place")
    if len(result.get("classes", range(space.num_classes))) != space.num_classes:
        raise ValueError(f"{len(result['classes'])} names of {space.num_classes} classes")
    if len(numbers) != 8 or not 0 < result["crop"] <= 1 or not all(map(math.isfinite, numbers)):
        raise ValueError("numbers that cannot be")
    if space.parse(result["arch"]) != space.check(result["subnet"]):
        raise ValueError("it names two subnets")
    if not re.fullmatch(r"(part-\d+)?", result.get("folder", "")):
        raise ValueError(f"folder {result['folder']!r:.40}, which is none of its own")
    return result


def read_network(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """A retrained network, in evaluation mode on the CPU, and its result.

    Raises:
        UserError: for a folder that holds no finished retraining.
    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        read_config(folder)  # which names a plug-in that is missing
    try:
        result = read_result(folder)
        space = space_from_dict(result["space"])
        network = space.network(tuple(result["subnet"]))
        network.load_state_dict(load_weights(folder / result.get("folder", "") / NETWORK))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{folder} holds no retrained network ({first_line(error)}): name a folder that nshot retrain made"
        ) from None
    return network.eval(), result
