"""SPOS + CaLR + MS against the released procedure written out in plain torch: five SGDs, float64, no code shared."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nshot.dynamic import SeparatedMomentum
from nshot.seeding import seeded
from nshot.strategies import strategy
from nshot.supernets.config import preset
from nshot.training.loop import train_steps
from nshot.training.optimizers import sgd

STEPS, TOTAL, LR = 10, 25, 0.025
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(16, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(10, (16,), generator=generator)


def convolved(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Convolution and batch norm by hand: each channel's mean and biased variance over the batch."""
    y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    return (y - mean) / (var + 1e-5).sqrt()


def operation(x: Tensor, op: int, weights: dict[str, Tensor], edge: str) -> Tensor:
    if op == 0:
        return 0 * x
    if op == 1:
        return x
    if op == 4:
        ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
        box = torch.ones(1, 1, 3, 3, dtype=x.dtype)
        sums = F.conv2d(x.flatten(0, 1)[:, None], box, padding=1).view_as(x)
        return sums / F.conv2d(ones, box, padding=1)
    return convolved(x.relu(), weights[f"{edge}.{'nor_conv_1x1' if op == 2 else 'nor_conv_3x3'}.conv.weight"])


def logits(x: Tensor, path: tuple[int, ...], weights: dict[str, Tensor]) -> Tensor:
    x = convolved(x, weights["stem.conv.weight"])
    for stage in range(3):
        if stage:
            block = f"reductions.{stage - 1}"
            shortcut = F.conv2d(F.avg_pool2d(x, 2), weights[f"{block}.shortcut.weight"])
            x = convolved(x.relu(), weights[f"{block}.conv_a.conv.weight"], stride=2)
            x = shortcut + convolved(x.relu(), weights[f"{block}.conv_b.conv.weight"])
        nodes = [x, 0, 0, 0]
        for e, ((target, source), op) in enumerate(zip(EDGES, path, strict=True)):
            nodes[target] = nodes[target] + operation(nodes[source], op, weights, f"stages.{stage}.0.edges.{e}")
        x = nodes[3]
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    pooled = ((x - mean) / (var + 1e-5).sqrt()).relu().mean((2, 3))
    return pooled @ weights["classifier.weight"].T + weights["classifier.bias"]


def gamma(path: tuple[int, ...]) -> float:
    """Eq. 4 with γ' = 4 and the golden figures of C(α) at the paper's size."""
    low, high = 72_752, 1_524_272
    cost = low + 26_880 * path.count(2) + 241_920 * path.count(3)
    omega = -(4 - 1 / 4) / (math.log(high) - math.log(low))
    return omega * math.log(cost) + 1 / 4 - omega * math.log(high)


def test_ten_steps_are_the_released_ones() -> None:
    config = preset("smoke")
    plans = strategy("spos", config.space, total_steps=TOTAL, seed=4, schedule="calr", ms="first")
    with seeded(4, "init"):
        supernet = config.space.supernet().double()
    ours = {name: value.detach().clone().requires_grad_() for name, value in supernet.named_parameters()}
    assert "classifier.bias" in ours

    base = sgd(supernet.parameters(), idle="drift", clip=5.0, fast=False, lr=LR, momentum=0.9, weight_decay=5e-4,
               nesterov=True)  # fmt: skip
    steps = train_steps(
        supernet, SeparatedMomentum(base, 5), plans.plan, batch, start=0, total_steps=STEPS, lr=LR
    )  # a run that is cut off after ten of its steps
    losses = [float(loss) for _, loss in steps]

    optimizers = [
        torch.optim.SGD(ours.values(), lr=LR, momentum=0.9, weight_decay=5e-4, nesterov=True) for _ in range(5)
    ]
    expected = []
    for step in range(STEPS):
        (path,) = plans.plan(step).paths
        images, labels = batch(step)
        loss = F.cross_entropy(logits(images, path, ours), labels)
        loss.backward()
        for weight in ours.values():  # what the torch of that time left on weights off the path
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.nn.utils.clip_grad_norm_(list(ours.values()), 5.0)
        for group in optimizers[path[0]].param_groups:
            group["lr"] = LR * (1 - step / TOTAL) ** gamma(path)
        optimizers[path[0]].step()
        optimizers[path[0]].zero_grad()
        expected.append(float(loss.detach()))

    assert np.allclose(losses, expected, rtol=0, atol=1e-9)
    for name, value in supernet.named_parameters():
        assert torch.allclose(value, ours[name], rtol=0, atol=1e-9), name
    assert float(supernet.classifier.bias.detach().abs().max()) > 1e-3  # type: ignore[union-attr]
