"""Where training runs: Lightning Fabric on one device."""

from typing import Any

import torch

from nshot.errors import UserError

from . import distributed


def fabric(device: str, precision: str = "32-true") -> Any:
    """Lightning Fabric on one device, of several processes that train together each on its own.

    Raises:
        UserError: where the device or the precision is not to be had.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in there:
        raise UserError(f"unknown device {device!r}: choose one of {', '.join(there)}")
    if not there[device]:
        raise UserError(f"device {device!r}: torch finds no such GPU on this machine, leave --device out")
    try:
        made = Fabric(accelerator=device, devices=distributed.devices(device), precision=precision)  # type: ignore[arg-type]
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        message = str(error).partition("\n")[0]
        raise UserError(f"device {device!r} with precision {precision!r}: {message}") from None
    distributed.join(made.device)
    return made
