"""Where training runs, and in which precision: Lightning Fabric on one device."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from nshot.errors import UserError, first_line

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
        raise UserError(f"device {device!r} with precision {precision!r}: {first_line(error)}") from None
    distributed.join(made.device)
    return made


class Running(nn.Module):
    """A network as it runs on Fabric's device: its operations in Fabric's precision, what it gives in float32.

    Weights and images stay float32, as autocast wants them: the fast path sees what it is made for, and a loss may be
    differentiated by `torch.autograd` itself, which what ``fabric.setup`` returns refuses.
    """

    def __init__(self, network: nn.Module, fabric: Any) -> None:
        super().__init__()
        self.network = network.to(fabric.device)
        self._cast: Any = fabric.autocast

    def forward(self, *args: Any) -> Any:
        with self._cast():
            return _float(self.network(*args))

    def features(self, *args: Any) -> Any:
        """What the network's own ``features`` gives."""
        with self._cast():
            return _float(cast(Any, self.network).features(*args))


def _float(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_float(part) for part in value)
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
