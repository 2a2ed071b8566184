"""What DARTS and GDAS share: α, weights of options that are learnt on validation images beside the supernet's own."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nshot.errors import UserError, check_positive, check_share
from nshot.seeding import torch_generator
from nshot.spaces import Decision, Mixture, Subnet, Supernet

from .base import Plan, Strategy
from .memory import Batch, Facts, Seen, Tools, Trained
from .options import Options

BETAS = 0.5, 0.999  # of Adam
INITIAL = 1e-3  # standard deviation of α before the first step
SKIP = "skip_connect"


@dataclass(frozen=True)
class AlphaOptions(Options):
    """As SPOS, without CaLR, MS and draws: a step trains a mixture of options, which is no subnet of the space."""

    lr_floor: float = 0.04
    per_epoch: bool = True
    alpha_lr: float = 3e-4
    """Learning rate of α, constant."""
    alpha_decay: float = 1e-3
    """Weight decay of α, in its gradient."""
    variant: Literal["published", "released"] = "published"
    """released, as NAS-Bench-201's code: α's gradients of its last step and of this one's training images count in the
    norm that gradients are clipped to; first-order DARTS steps the weights before α."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(alpha_lr=self.alpha_lr)
        check_share(alpha_decay=self.alpha_decay)
        why = "a step trains a mixture of all options, which is no path"
        if self.weighs:
            raise UserError(f"schedule {self.schedule!r}: {why} of a complexity; choose cosine or constant")
        self.refuse_ms(f"{why} of a cluster")
        self.refuse_draws(f"{why} that is drawn")


class Alpha(Trained):
    """α (edges, options), its Adam, and the gradient of its last step.

    Args:
        edges: of the space.
        alpha: as it begins.
        lr: of Adam.
        decay: likewise.
    """

    last: Tensor
    missing: Tensor

    def __init__(self, edges: tuple[Decision, ...], alpha: Tensor, lr: float, decay: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(alpha)
        missing = [[option not in d.allowed for option in range(alpha.shape[1])] for d in edges]
        self.register_buffer("last", torch.zeros_like(alpha))
        self.register_buffer("missing", torch.tensor(missing, device=alpha.device), persistent=False)
        self.optimizer = torch.optim.Adam([self.alpha], lr=lr, betas=BETAS, weight_decay=decay)

    def logs(self) -> Tensor:
        """log softmax α, over the options that an edge has."""
        return self.alpha.masked_fill(self.missing, float("-inf")).log_softmax(1)

    def step(self, gradient: Tensor) -> None:
        self.alpha.grad = gradient
        self.optimizer.step()
        self.alpha.grad = None
        self.last.copy_(gradient)


@contextmanager
def frozen(supernet: Supernet) -> Iterator[None]:
    """Inside, no gradients of the weights are prepared for: a pass for α alone is quicker without."""
    trained = [weight for weight in supernet.parameters() if weight.requires_grad]
    supernet.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


class Differentiable(Strategy):
    """A step trains the weights by the mixture that α says, and α by validation images."""

    options_type = AlphaOptions
    options: AlphaOptions
    validates = True
    replays = False

    @classmethod
    def check(cls, supernet: Supernet) -> None:
        if not supernet.mixtures:
            raise UserError(
                f"strategy {cls.name}: the supernet of space {supernet.space.name} runs no mixtures of options; "
                "choose space nasbench201 or darts, unrestricted"
            )

    def memory(self, supernet: Supernet, facts: Facts) -> Alpha:
        edges, like = self.space.edges, next(supernet.parameters())
        size = len(edges), len(edges[0].options)
        alpha = INITIAL * torch.randn(size, generator=torch_generator(self.seed, "alpha"), dtype=torch.float64)
        return Alpha(edges, alpha.to(like), self.options.alpha_lr, self.options.alpha_decay)

    @abstractmethod
    def mixture(self, step: int, purpose: str, memory: Alpha) -> Mixture:
        """What α says at a step, for the pass that trains the ``weights`` or ``alpha``."""

    @property
    def leads(self) -> bool:
        """Whether α's step comes before that of the weights."""
        return False

    def before(self, step: int, batch: Batch, memory: Alpha, tools: Tools) -> None:
        if self.leads:
            memory.step(self.gradient(step, batch, memory, tools))
        if self.options.variant == "released":
            memory.alpha.grad = memory.last.clone()
            tools.clip_with([memory.alpha])

    def plan(self, step: int, memory: Alpha) -> Plan:  # type: ignore[override]
        mixture = self.mixture(step, "weights", memory)
        if self.options.variant == "published":
            mixture = Mixture(mixture.weights.detach(), mixture.taken)
        return Plan((mixture,), (1.0,), self.lr(step, ()), 0)

    def after(self, step: int, plan: Plan, seen: Seen, memory: Alpha, tools: Tools) -> None:
        memory.alpha.grad = None
        if not self.leads:
            memory.step(self.gradient(step, seen.batch, memory, tools))

    def gradient(self, step: int, batch: Batch, memory: Alpha, tools: Tools) -> Tensor:
        """α's, of the validation loss, by the weights as they are: first order."""
        return self.alone(step, tools.second(step), memory, tools)

    def alone(self, step: int, batch: Batch, memory: Alpha, tools: Tools) -> Tensor:
        """The gradient of α, and of nothing else, of the loss on these images."""
        with frozen(tools.supernet):
            (found,) = tools.gradients(self.loss(step, batch, memory, tools), [memory.alpha])
        return found

    def loss(self, step: int, batch: Batch, memory: Alpha, tools: Tools) -> Tensor:
        return tools.loss(tools.output(batch.images, self.mixture(step, "alpha", memory)), batch.labels)

    def answer(self, memory: Alpha) -> Subnet:
        """What is left of the mixture: of each edge the option of the largest weight, where the space takes one."""
        return self.space.strongest(memory.logs().tolist())

    def figures(self, memory: Alpha) -> dict[str, float | list[float]]:
        """The answer as it is now, by its options' numbers; and where edges may skip, how many would."""
        logs = memory.logs().tolist()
        now = self.space.strongest(logs)
        kept = [d.options[option] for d, option in zip(self.space.decisions, now, strict=True)]
        return {"answer": [float(option) for option in now], "skips": float(kept.count(SKIP))}
