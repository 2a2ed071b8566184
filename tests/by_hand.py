"""What tests of methods share: a small space, images of float64, the loop, and one step of torch's SGD."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nshot
from nshot import SeparatedMomentum
from nshot.spaces import Supernet
from nshot.strategies import Strategy
from nshot.strategies.memory import Facts
from nshot.training.loop import train_steps
from nshot.training.optimizers import Idle, sgd
from nshot.training.tools import RunTools, StrategyHooks

SPACE = nshot.space("nasbench201", channels=2, cells=1, resolution=4)
IMAGES, BATCH, EPOCH, LR = 13, 4, 3, 0.1
STEPS = 8  # the third epoch is not finished
X = torch.randn(IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
Y = torch.randint(10, (IMAGES,), generator=torch.Generator().manual_seed(6))


def batches(step: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    at = torch.arange(step, step + BATCH) % IMAGES if positions is None else positions[0]
    return X[at], Y[at]


def validation(step: int) -> tuple[Tensor, Tensor]:
    """The images that methods with a second batch are given."""
    at = (5 * torch.arange(BATCH) + 7 * step + 3) % IMAGES
    return X[at].flip(3), Y[at]


def new_supernet() -> Supernet:
    torch.manual_seed(0)
    return SPACE.supernet().double()


@dataclass
class Result:
    model: Supernet
    strategy: Strategy
    memory: Any


def trained(
    name: str,
    *,
    idle: Idle = "rest",
    clip: float | None = 0.5,
    recipe: dict[str, Any] | None = None,
    steps: int = STEPS,
    **options: Any,
) -> Result:
    """What the loop trains."""
    made = nshot.strategies.strategies[name]
    known: dict[str, Any] = {"total_steps": 3 * EPOCH, "seed": 1, "steps_per_epoch": EPOCH}
    strategy = made(SPACE, options=made.options_type.of(**options), **known)
    model, facts = new_supernet(), Facts(IMAGES, 10, BATCH, LR)
    base = sgd(model.parameters(), idle=idle, clip=clip, fast=False, lr=9.0, **(recipe or {"momentum": 0.9}))
    optimizer = SeparatedMomentum(base, strategy.clusters)
    memory = strategy.memory(model, facts)
    hooks = StrategyHooks(strategy, memory, RunTools(facts, model, optimizer, model, F.cross_entropy, validation))
    for _ in train_steps(model, optimizer, hooks.plan, batches, start=0, total_steps=steps, lr=LR, hooks=hooks):
        pass
    return Result(model, strategy, memory)


def distance(a: nn.Module, b: nn.Module) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def whole_rate(step: int, floor: float = 0.0) -> float:
    return floor + (1 - floor) / 2 * (1 + math.cos(math.pi * (step // EPOCH) / 3))


def step_of(model: nn.Module, optimizer: torch.optim.SGD, loss: Tensor, rate: float, clip: float = 0.5) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.param_groups[0]["lr"] = LR * rate
    optimizer.step()
