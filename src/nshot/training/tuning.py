"""Pretrained weights: at a learning rate of their own, and at first not at all, while the head learns."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from nshot.errors import UserError


def backbone(network: nn.Module) -> list[Tensor]:
    """All weights but the head's: those of a module named ``classifier``."""
    return [p for name, p in network.named_parameters() if "classifier" not in name.split(".")]


def check_head(network: nn.Module, frozen: int, rate: float) -> None:
    """Raises UserError where the backbone is to learn otherwise than the head, and no module is named as that is."""
    if (frozen, rate) != (0, 1.0) and len(backbone(network)) == len(list(network.parameters())):
        raise UserError(
            f"frozen {frozen}, backbone_lr {rate}: the head learns otherwise than the rest, and no module of the "
            "network is named classifier; name its head so, or set frozen 0 and backbone_lr 1"
        )


def apart(optimizer: Optimizer, weights: Iterable[Tensor], rate: float) -> None:
    """Gives weights of an optimizer that has not stepped yet groups of their own, with that multiple of the rate."""
    chosen = set(weights)
    for group in list(optimizer.param_groups):
        inside = [p for p in group["params"] if p in chosen]
        if not inside:
            continue
        rest = [p for p in group["params"] if p not in chosen]
        if rest:
            group["params"] = rest
            group = {**group, "params": inside}
            optimizer.param_groups.append(group)
        group["lr_scale"] = rate


class Frozen:
    """Keeps weights as they are for a training's first steps: they get no gradient, no decay and no rate.

    Args:
        optimizer: whose groups have either only such weights or none, as `apart` leaves them; before a checkpoint is
            restored, for one of a frozen step holds no rate and no decay.
        weights: which.
        steps: how many.
    """

    def __init__(self, optimizer: Optimizer, weights: Iterable[Tensor], steps: int) -> None:
        self._weights, self._steps = list(weights), steps
        self._optimizer = optimizer
        chosen = set(self._weights)
        self._usual = [
            (group.get("lr_scale", 1.0), group["weight_decay"]) if chosen.issuperset(group["params"]) else None
            for group in optimizer.param_groups
        ]

    def at(self, step: int) -> None:
        """Says which step comes: from it alone follows what is frozen."""
        if self._steps == 0:
            return
        frozen = step < self._steps
        for p in self._weights:
            p.requires_grad_(not frozen)
        for group, usual in zip(self._optimizer.param_groups, self._usual, strict=True):
            if usual is not None:
                group["lr_scale"], group["weight_decay"] = (0.0, 0.0) if frozen else usual
