"""Inner steps on one path, whose displacement of the weights is the path's gradient (Reptile; SUMNAS)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nshot.strategies.base import Inner


def displace(
    run: Callable[[], tuple[Tensor, Any]],
    weight: float,
    inner: Inner,
    optimizer: Optimizer,
    backward: Callable[[Tensor], None],
) -> tuple[Tensor, Any]:
    """Adds ``weight (θ0 - θ)`` to the gradients of the optimizer's weights, which are θ0 again when it returns.

    θ is what ``inner.steps`` steps of SGD on the path's loss lead to: ``μ <- β μ + g``, ``θ <- θ - lr μ``, g clipped. A
    weight off the path has no part in it, and no gradient of it.

    Args:
        run: the path's loss and output, by the weights as they are.
        weight: of the path's gradient.
        inner: the steps.
        optimizer: whose weights.
        backward: how a loss becomes gradients.

    Returns:
        Loss and output before the first step.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    others = [p.grad for p in weights]  # of the step's earlier paths
    began: dict[Tensor, Tensor] = {}
    momenta: dict[Tensor, Tensor] = {}
    first: tuple[Tensor, Any] | None = None
    for _ in range(inner.steps):
        for p in weights:
            p.grad = None
        loss, output = run()
        first = first or (loss, output)
        backward(loss)
        live = [p for p in weights if p.grad is not None]
        if inner.clip is not None:
            nn.utils.clip_grad_norm_(live, inner.clip)
        _step(live, inner, began, momenta)
    with torch.no_grad():
        for p, other in zip(weights, others, strict=True):
            p.grad = other
            if p in began:
                moved = (began[p] - p).mul_(weight)
                p.grad = moved if other is None else other.add_(moved)
                p.copy_(began[p])
    assert first is not None
    return first


@torch.no_grad()
def _step(live: list[nn.Parameter], inner: Inner, began: dict[Tensor, Tensor], momenta: dict[Tensor, Tensor]) -> None:
    for p in live:
        assert p.grad is not None
        if p in momenta:
            momenta[p].mul_(inner.momentum).add_(p.grad)
        else:
            began[p], momenta[p] = p.detach().clone(), p.grad
        p.sub_(momenta[p], alpha=inner.lr)
