"""Every space with every method, as baseline, with CaLR, with MS and with both: three steps of the loop."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nshot
from helpers import SMALL
from nshot.dynamic import SeparatedMomentum
from nshot.errors import UserError
from nshot.spaces import Space
from nshot.strategies import Options, Plan, strategies
from nshot.strategies.memory import Facts
from nshot.training.loop import train_steps
from nshot.training.optimizers import sgd
from nshot.training.tools import RunTools, StrategyHooks

SETTINGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "calr": {"schedule": "calr"},
    "ms": {"ms": "first"},
    "both": {"schedule": "calr", "ms": "last"},
}
STEPS, EPOCH, BATCH = 3, 2, 8
REFUSED = {  # what a method means nothing with, or cannot run on
    ("nsas", "ms"): "ms 'first': the paths of an NSAS step are of several clusters",
    ("nsas", "both"): "ms 'last': the paths of an NSAS step are of several clusters",
    ("pada", "autoformer"): "strategy pada: space autoformer: its options share their weights",
    ("pinas", "ms"): "ms 'first': the paths of a Pi-NAS step are of several clusters",
    ("pinas", "both"): "ms 'last': the paths of a Pi-NAS step are of several clusters",
    ("pinas", "autoformer"): "strategy pinas: space autoformer: its options share their weights",
    ("pinas", "darts"): "strategy pinas: space darts: its supernet gives no features before the classifier",
    ("pada", "timm"): "strategy pada: space timm: its options share their weights",
    ("pinas", "timm"): "strategy pinas: space timm: its options share their weights",
    ("pinas", "mobilenet"): "strategy pinas: space mobilenet: its supernet gives no features before the classifier",
}
MIXED = {  # by methods that train mixtures
    "calr": "schedule 'calr': a step trains a mixture",
    "ms": "ms 'first': a step trains a mixture",
    "both": "schedule 'calr': a step trains a mixture",
    "mobilenet": "the supernet of space mobilenet runs no mixtures",
    "autoformer": "the supernet of space autoformer runs no mixtures",
    "timm": "the supernet of space timm runs no mixtures",
}

REFUSED |= {(name, key): said for name in ("darts", "gdas") for key, said in MIXED.items()}


def always(images: Tensor, labels: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda step, positions=None: (images, labels)


def asked(name: str, setting: str, space: Space) -> Options:
    """The options, where the space has what the method needs."""
    strategies[name].check(space.supernet())
    return strategies[name].options_type.of(**SETTINGS[setting])


@pytest.mark.parametrize("space_name", nshot.list_spaces())
@pytest.mark.parametrize("name", nshot.list_strategies())
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("fast", [False, True])
def test_three_steps(space_name: str, name: str, setting: str, fast: bool) -> None:
    space = nshot.space(space_name, **SMALL[space_name])
    method = strategies[name]
    for key in ((name, space_name), (name, setting)):
        if key in REFUSED:
            with pytest.raises(UserError, match=REFUSED[key]):
                asked(name, setting, space)
            return
    options = asked(name, setting, space)
    for part in method.parts(space, options, 0)[:2]:
        strategy = method(part, total_steps=STEPS, options=options, steps_per_epoch=EPOCH)
        torch.manual_seed(0)
        supernet = part.supernet().to(memory_format=torch.channels_last)
        supernet.fast = fast
        recipe = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
        base = sgd(supernet.parameters(), idle="rest", clip=5.0, fast=fast, **recipe)
        optimizer = SeparatedMomentum(base, strategy.clusters)
        side, count = space.resolution, BATCH * strategy.views
        images, labels = torch.randn(count, 3, side, side), torch.arange(count) % 10
        facts = Facts(EPOCH * BATCH, 10, BATCH, 0.05)
        tools = RunTools(facts, supernet, optimizer, supernet, F.cross_entropy, always(images, labels))
        hooks = StrategyHooks(strategy, strategy.memory(supernet, facts), tools)
        paths = set()

        def plan(step: int, hooks: StrategyHooks = hooks, paths: set[Any] = paths) -> Plan:
            todo = hooks.plan(step)
            paths.update(todo.paths if todo.lr > 0 else ())
            return todo

        before = {key: p.detach().clone() for key, p in supernet.named_parameters()}
        steps = train_steps(
            supernet, optimizer, plan, always(images, labels), start=0, total_steps=STEPS, lr=0.05, hooks=hooks
        )
        losses = [float(loss) for _, loss in steps]
        assert all(torch.tensor(losses).isfinite())
        moved = {key for key, p in supernet.named_parameters() if not p.equal(before[key])}
        # All that the paths use, and nothing else: weight decay spares what rests.
        used = set()
        for path in paths:
            supernet.zero_grad()
            supernet(images, path).sum().backward()
            used |= {key for key, p in supernet.named_parameters() if p.grad is not None}
        assert moved == used
