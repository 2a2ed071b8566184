"""Cream of the crop (Peng et al., NeurIPS 2020): the best paths so far teach others; a meta network chooses which."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD

from nshot.errors import UserError, check_positive, check_whole
from nshot.seeding import seeded
from nshot.spaces import Subnet, Supernet

from .base import Plan, strategies
from .board import Board, Run
from .memory import Batch, Facts, Seen, Tools
from .options import Options
from .spos import SPOS

SLICE = 4  # images of an entry
META_CLIP = 1.0  # largest norm of a meta update's gradients

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class CreamOptions(Options):
    """Cream: as SPOS; CaLR's rate and MS's cluster are those of the step's path, also in meta updates."""

    board: int = 10
    """Prioritised paths at most."""
    teach_after: int | None = None
    """E0, the last epoch, from 0, in which nothing is taught; None: a sixth of the epochs (42 of 250, 20 of 120)."""
    meta_every: int = 200
    """Steps between meta updates, counted in each epoch from 0, at which there is none."""
    meta_lr: float = 1e-4
    """Learning rate of the meta network, a multiple of which each step has as the weights of lr0."""
    variant: Literal["published", "released"] = "published"
    """released: a meta update moves the path's real weights too, its gradient goes through the first weight alone, as
    far as meta_lr, and ρ is that of the board's last entry."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, board=self.board, meta_every=self.meta_every)
        check_positive(meta_lr=self.meta_lr)
        if self.teach_after is not None:
            check_whole(-1, teach_after=self.teach_after)


@strategies.register("cream")
class Cream(SPOS):
    """Each step trains one path a, which the board's path with the largest score s teaches (KD), ρ = sigmoid(-s):
    ``L = (ρ KD + (2 - ρ) CE) / 2``; until epoch E0, and while the board is empty, CE.

    A meta update: ``θ' = θ - η ∇_θ(ρ KD)`` on the step's images 0 to 3, and the cross entropy by θ' on images 4 to 7
    goes back through θ' into M (of batches below 8, the halves). η is the weights' learning rate.
    """

    name = "cream"
    options_type = CreamOptions
    options: CreamOptions

    @property
    def _teach_after(self) -> int:
        if self.options.teach_after is not None:
            return self.options.teach_after
        return min(round(self._epochs / 6), self._epochs - 2)  # where epochs are few, the last one teaches at least

    @property
    def _epochs(self) -> int:
        return math.ceil(self.total_steps / self.steps_per_epoch)

    @classmethod
    def even(cls, options: Options) -> bool:
        return True

    def check_facts(self, facts: Facts) -> None:
        if self._teach_after > self._epochs - 2:
            raise UserError(f"teach_after {self._teach_after}: of {self._epochs} epochs none would be taught")
        if facts.batch_size < 2:
            raise UserError(f"batch_size {facts.batch_size}: Cream's meta update takes two images at least")

    def check_skips(self) -> None:
        if self.options.variant == "released":
            raise UserError(
                "diverging skip: Cream's released variant moves weights before the step's loss is known; leave it out"
            )

    def memory(self, supernet: Supernet, facts: Facts) -> Board:
        with seeded(self.seed, "meta network"):
            sizes = min(SLICE, facts.batch_size // 2), self.space.resolution, facts.classes
            board = Board(self.options.board, len(self.space.decisions), next(supernet.parameters()), *sizes)
        board.optimizer = SGD(board.meta.parameters(), self.options.meta_lr, momentum=0.9, nesterov=True)
        return board

    def before(self, step: int, batch: Batch, memory: Board, tools: Tools) -> None:
        place = step % self.steps_per_epoch
        if self._taught(step, memory) and place > 0 and place % self.options.meta_every == 0:
            self._meta_update(step, batch, memory, tools)

    def objective(
        self, step: int, plan: Plan, k: int, batch: Batch, memory: Board, tools: Tools
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What `after` sees: the outputs, and the teacher's shares of the classes."""
        path = _only(plan)
        if not self._taught(step, memory):
            output = tools.output(batch.images, path)
            return tools.loss(output, batch.labels), (output.detach(), output.detach().softmax(1))
        rho, shares = self._teacher(tools.output, path, batch.images, memory)
        output = tools.output(batch.images, path)
        loss = (rho * F.cross_entropy(output, shares) + (2 - rho) * tools.loss(output, batch.labels)) / 2
        return loss, (output.detach(), shares)

    def after(self, step: int, plan: Plan, seen: Seen, memory: Board, tools: Tools) -> None:
        path, (output, shares), labels = _only(plan), seen.outputs[0], seen.batch.labels
        self._train_meta(step, path, memory)
        if step // self.steps_per_epoch <= self._teach_after:
            return
        right = output.argmax(1) == (labels if labels.dim() == 1 else labels.argmax(1))
        top1, flops = 100 * float(tools.mean(right.float().mean())), float(self.space.flops(path))
        if memory.welcomes(top1, flops):
            size = memory.images.shape[1]
            memory.insert(path, top1, flops, _first(seen.batch.images, size, tools), _first(shares, size, tools))

    def answer(self, memory: Board) -> Subnet | None:
        return memory.members()[0] if memory.count else None

    def _taught(self, step: int, memory: Board) -> bool:
        return step // self.steps_per_epoch > self._teach_after and bool(memory.count)

    def _teacher(self, run: Run, path: Subnet, images: Tensor, memory: Board) -> tuple[Tensor, Tensor]:
        """ρ, and the teacher's shares of the images."""
        members = memory.members()
        with torch.no_grad():
            scores = torch.cat([memory.score(i, path, run) for i in range(len(members))])
            best = int(scores.argmax())
            shares = run(images, members[best]).softmax(1)
        weighed = best if self.options.variant == "published" else len(members) - 1
        return torch.sigmoid(-memory.score(weighed, path, run)).squeeze(), shares

    def _meta_update(self, step: int, batch: Batch, memory: Board, tools: Tools) -> None:
        size, path, meta = memory.images.shape[1], self._path(step), list(memory.meta.parameters())
        x, y = _first(batch.images, 2 * size, tools), _first(batch.labels, 2 * size, tools)
        weights = {name: p.detach().clone().requires_grad_() for name, p in tools.supernet.named_parameters()}

        def run(images: Tensor, subnet: Subnet, moved: Weights | None = None) -> Tensor:
            return functional_call(tools.supernet, moved or weights, (images, subnet))

        with tools.supernet.differentiable():
            rho, shares = self._teacher(run, path, x[:size], memory)
            loss = rho * F.cross_entropy(run(x[:size], path), shares)
            found = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
            g = {name: grad for name, grad in zip(weights, found, strict=True) if grad is not None}
            if self.options.variant == "published":
                eta = tools.facts.lr * self.lr(step, path)
                moved = {name: p - eta * g[name] if name in g else p for name, p in weights.items()}
                loss = tools.loss(run(x[size:], path, moved), y[size:])
            else:
                self._update_really(step, path, g, tools)
                eta = self.options.meta_lr * self.lr(step, path)
                loss = self._through_first(eta, g, tools, lambda: tools.loss(tools.output(x[size:], path), y[size:]))
            grads = tools.gradients(loss, meta)
        for p, grad in zip(meta, grads, strict=True):
            p.grad = grad
        nn.utils.clip_grad_norm_(meta, META_CLIP)
        self._train_meta(step, path, memory)

    def _update_really(self, step: int, path: Subnet, g: Weights, tools: Tools) -> None:
        """The path's real weights take the optimizer's step."""
        real = {name: p for name, p in tools.supernet.named_parameters() if name in g}
        for name, p in real.items():
            p.grad = tools.mean(g[name].detach().clone())
        nn.utils.clip_grad_norm_(real.values(), META_CLIP)
        tools.update(path, self.lr(step, path), self.cluster(path))

    def _through_first(self, eta: float, g: Weights, tools: Tools, validation: Callable[[], Tensor]) -> Tensor:
        """What has the gradient of a loss by the real weights through the first weight's ``- η g`` alone."""
        name, first = next(iter(tools.supernet.named_parameters()))
        (upstream,) = tools.gradients(validation(), [first])
        return -eta * (g[name] * upstream).sum()

    def _train_meta(self, step: int, path: Subnet, memory: Board) -> None:
        """A step by the gradients that M has, if any."""
        memory.optimizer.param_groups[0]["lr"] = self.options.meta_lr * self.lr(step, path)
        memory.optimizer.step()
        memory.optimizer.zero_grad()


def _only(plan: Plan) -> Subnet:
    (path,) = plan.paths
    assert isinstance(path, tuple)
    return path


def _first(value: Tensor, count: int, tools: Tools) -> Tensor:
    """The first rows of all processes' together."""
    return tools.gather(value[:count])[:count]
