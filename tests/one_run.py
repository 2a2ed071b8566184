"""A training of a method with a memory, as tests take it apart: some steps of it, its state, and another from there."""

import io
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import nshot
from nshot import SeparatedMomentum
from nshot.spaces import Space, Supernet
from nshot.strategies.memory import Facts
from nshot.training.loop import train_steps
from nshot.training.optimizers import Idle, sgd
from nshot.training.tools import RunTools, StrategyHooks

SPACE = nshot.space("nasbench201", channels=2, cells=1, resolution=8)
IMAGES, BATCH, EPOCH, LR = 21, 8, 4, 0.1
X = torch.randn(IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
Y = torch.randint(10, (IMAGES,), generator=torch.Generator().manual_seed(6))


def batches(step: int) -> tuple[Tensor, Tensor]:
    at = torch.arange(3 * step, 3 * step + BATCH) % IMAGES
    return X[at], Y[at]


def seen_often(x: Tensor, y: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Each time with other noise, but for the first."""
    noise = torch.randn(views, *x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)
    return torch.cat([x + 0.3 * view * (i > 0) for i, view in enumerate(noise)]), y.repeat(views)


def new_supernet(space: Space = SPACE) -> Supernet:
    torch.manual_seed(0)
    return space.supernet().double()


class OneRun:
    """Three epochs of four steps, in float64 on the plain path; of given images, float32."""

    def __init__(
        self,
        name: str,
        *,
        space: Space = SPACE,
        data: tuple[Tensor, Tensor] | None = None,
        fast: bool = False,
        idle: Idle = "rest",
        clip: float | None = 0.5,
        **options: Any,
    ) -> None:
        made = nshot.strategies.strategies[name]
        known: dict[str, Any] = {"total_steps": 3 * EPOCH, "seed": 1, "steps_per_epoch": EPOCH}
        self.strategy = made(space, options=made.options_type.of(**options), **known)
        made_of = batches if data is None else lambda step: data
        self.batches = lambda step: seen_often(*made_of(step), made.views)
        self.model = new_supernet(space) if data is None else new_supernet(space).float()
        self.model.fast = fast
        facts = Facts(IMAGES, 10, BATCH, LR)
        self.strategy.check_facts(facts)
        base = sgd(self.model.parameters(), idle=idle, clip=clip, fast=fast, lr=9.0, momentum=0.9)
        self.optimizer = SeparatedMomentum(base, self.strategy.clusters)
        self.memory = self.strategy.memory(self.model, facts)
        tools = RunTools(facts, self.model, self.optimizer, self.model, F.cross_entropy)
        self.hooks = StrategyHooks(self.strategy, self.memory, tools)

    def steps(self, start: int, stop: int) -> list[float]:
        """Trains these; their losses."""
        known: dict[str, Any] = {"start": start, "total_steps": stop, "lr": LR, "seed": 3, "hooks": self.hooks}
        steps = train_steps(self.model, self.optimizer, self.hooks.plan, self.batches, **known)
        return [float(loss) for _, loss in steps]

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.model, self.optimizer, self.memory

    def state(self) -> bytes:
        """As a file."""
        buffer = io.BytesIO()
        torch.save([part.state_dict() for part in self.parts], buffer)
        return buffer.getvalue()

    def load(self, state: bytes) -> None:
        for part, values in zip(self.parts, torch.load(io.BytesIO(state), weights_only=True), strict=True):
            part.load_state_dict(values)
