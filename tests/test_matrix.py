"""Every space with every method, as baseline, with CaLR, with MS and with both: three steps of the loop."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import nshot
from helpers import SMALL
from nshot.dynamic import SeparatedMomentum
from nshot.strategies import strategies
from nshot.training.loop import train_steps
from nshot.training.optimizers import sgd

SETTINGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "calr": {"schedule": "calr"},
    "ms": {"ms": "first"},
    "both": {"schedule": "calr", "ms": "last"},
}
STEPS = 3


def always(images: Tensor, labels: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda step: (images, labels)


@pytest.mark.parametrize("space_name", nshot.list_spaces())
@pytest.mark.parametrize("name", nshot.list_strategies())
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("fast", [False, True])
def test_three_steps(space_name: str, name: str, setting: str, fast: bool) -> None:
    space = nshot.space(space_name, **SMALL[space_name])
    method = strategies[name]
    options = method.options_type.of(**SETTINGS[setting])
    for part in method.parts(space, options, 0)[:2]:
        strategy = method(part, total_steps=STEPS, options=options)
        torch.manual_seed(0)
        supernet = part.supernet().to(memory_format=torch.channels_last)
        supernet.fast = fast
        recipe = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
        base = sgd(supernet.parameters(), idle="rest", clip=5.0, fast=fast, **recipe)
        optimizer = SeparatedMomentum(base, strategy.clusters)
        images, labels = torch.randn(8, 3, space.resolution, space.resolution), torch.arange(8) % 10
        before = {key: p.detach().clone() for key, p in supernet.named_parameters()}
        steps = train_steps(
            supernet, optimizer, strategy.plan, always(images, labels), start=0, total_steps=STEPS, lr=0.05
        )
        losses = [float(loss) for _, loss in steps]
        assert all(torch.tensor(losses).isfinite())
        moved = {key for key, p in supernet.named_parameters() if not p.equal(before[key])}
        # All that the paths use, and nothing else: weight decay spares what rests.
        paths = {path for step in range(STEPS) for path in strategy.plan(step).paths}
        used = set()
        for path in paths:
            supernet.zero_grad()
            supernet(images, path).sum().backward()
            used |= {key for key, p in supernet.named_parameters() if p.grad is not None}
        assert moved == used
