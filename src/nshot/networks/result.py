"""What a finished retraining's folder holds: the result and the network."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from nshot.data.imagenet import CROP
from nshot.errors import UserError
from nshot.runs.folder import read_config
from nshot.spaces import space_from_dict

NETWORK, RESULT = "network.safetensors", "result.json"


def read_result(folder: Path) -> dict[str, Any]:
    """What a finished retraining wrote, and what one of an earlier version did not say of itself."""
    result = json.loads((folder / RESULT).read_text())
    return {"crop": CROP if result["dataset"] == "imagenet" else 1.0, **result}


def read_network(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """A retrained network, in evaluation mode on the CPU, and its result.

    Raises:
        UserError: for a folder that holds no finished retraining.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if (folder / "config.json").exists():
        read_config(folder)  # which names a plug-in that is missing
    try:
        result = read_result(folder)
        space = space_from_dict(result["space"])
        network = space.network(tuple(result["subnet"]))
        network.load_state_dict(load_file(folder / result.get("folder", "") / NETWORK))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        message = str(error).partition("\n")[0]
        raise UserError(
            f"{folder} holds no retrained network ({message}): name a folder that nshot retrain made"
        ) from None
    return network.eval(), result
