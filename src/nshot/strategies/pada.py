"""PA&DA (Lu et al., CVPR 2023): paths and images drawn by their importance, so that gradients vary less."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.errors import UserError
from nshot.seeding import generator, torch_generator
from nshot.spaces import Decision, Subnet, Supernet

from .base import Plan, Strategy, strategies
from .memory import Facts, Seen, Tools
from .options import Options


@dataclass(frozen=True)
class PADAOptions(Options):
    """PA&DA: as SPOS, but how paths are drawn is the method."""

    per_epoch: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_draws("PA&DA draws paths by their importance")


class Importance(nn.Module):
    """What options and images came to in this epoch (s, u, and which images were drawn), and what it draws by: p and
    the order of images. On the CPU, where draws are made; decisions with the same options share the first one's row.

    Args:
        decisions: of the space.
        order: the images of the first epoch, a permutation (N,).
        batch_size: how many a step takes.
    """

    s: Tensor
    p: Tensor
    u: Tensor
    drawn: Tensor
    order: Tensor

    def __init__(self, decisions: Sequence[Decision], order: Tensor, batch_size: int) -> None:
        super().__init__()
        options = len(decisions), max(len(d.options) for d in decisions)
        self.register_buffer("s", torch.zeros(options, dtype=torch.float64))
        self.register_buffer("p", torch.zeros(options, dtype=torch.float64))
        self.register_buffer("u", torch.zeros(len(order), dtype=torch.float64))
        self.register_buffer("drawn", torch.zeros(len(order), dtype=torch.bool))
        self.register_buffer("order", order)
        self.batch_size = batch_size


def mixed(importance: Tensor, tau: float) -> Tensor:
    """``τ s / Σs + (1 - τ) / n``; uniform where nothing was important, or importance is no number, as where a training
    diverges, which its loss says."""
    total, even = importance.sum(), torch.full_like(importance, 1 / len(importance))
    return tau * importance / total + (1 - tau) * even if 0 < total < math.inf else even


@strategies.register("pada")
class PADA(Strategy):
    """Each step trains one path; its options are drawn by p and its images by q, both renewed at an epoch's end.

    Importance of an option: ``s <- (s + n) / 2``, n the mean gradient norm of its weights over the decisions that took
    it. Of an image: ``u = ‖softmax f(x) - onehot(y)‖``, averaged likewise where it comes again. At the end of epoch e
    of E, τ = e/E: ``p = τ s/Σs + (1-τ)/n``, ``q = τ u/Σu + (1-τ)/N``, and N images are drawn by q, with replacement.
    """

    name = "pada"
    options_type = PADAOptions
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 0.05, "nesterov": False, "weight_decay": 2.5e-4}

    @classmethod
    def check(cls, supernet: Supernet) -> None:
        try:
            supernet.own_weights(tuple(d.allowed[0] for d in supernet.space.decisions))
        except UserError as error:
            raise UserError(f"strategy {cls.name}: {error}; PA&DA weighs options by their weights' gradients") from None

    @property
    def kinds(self) -> list[int]:
        """Of each decision which distribution is its own."""
        offered = [(d.options, d.allowed) for d in self.space.decisions]
        return [offered.index(options) for options in offered]

    def memory(self, supernet: Supernet, facts: Facts) -> Importance:
        order = torch.randperm(facts.images, generator=torch_generator(self.seed, "order"))  # as other methods'
        memory = Importance(self.space.decisions, order, facts.batch_size)
        self._renew_paths(memory, 0.0)
        return memory

    def images(self, step: int, memory: Importance) -> Tensor:
        size, place = memory.batch_size, step % self.steps_per_epoch
        return memory.order[place * size : self.steps_per_epoch * size].view(-1, size)

    def plan(self, step: int, memory: Importance) -> Plan:  # type: ignore[override]
        rng = generator(self.seed, "path", step)
        path = tuple(int(rng.choice(memory.p.shape[1], p=memory.p[kind].numpy())) for kind in self.kinds)
        return Plan((path,), (1.0,), self.lr(step, path), self.cluster(path))

    def after(self, step: int, plan: Plan, seen: Seen, memory: Importance, tools: Tools) -> None:
        (path,) = plan.paths
        assert isinstance(path, tuple)
        self._weigh_options(path, seen.clip, memory, tools)
        self._weigh_images(seen, memory, tools)
        self.skipped(step, memory)

    def skipped(self, step: int, memory: Importance) -> None:
        """An epoch's last step renews what is drawn, whether it was taken or not."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if place + 1 == self.steps_per_epoch:
            tau = epoch * self.steps_per_epoch / self.total_steps
            self._renew_paths(memory, tau)
            self._renew_images(memory, tau, epoch + 1)

    def _weigh_options(self, path: Subnet, clip: float, memory: Importance, tools: Tools) -> None:
        """s, by the gradients as they were clipped. An option that no gradient reached stays as it was."""
        norms: dict[tuple[int, int], list[list[Tensor]]] = {}
        for kind, option, weights in zip(self.kinds, path, tools.supernet.own_weights(path), strict=True):
            grads = [weight.grad for weight in weights if weight.grad is not None]
            norms.setdefault((kind, option), []).append([torch.linalg.vector_norm(grad) for grad in grads])
        for at, edges in norms.items():
            found = [norm for edge in edges for norm in edge]
            n = clip * float(torch.stack(found).cpu().double().sum()) / len(edges) if found else 0.0
            if n != 0:
                memory.s[at] = (memory.s[at] + n) / 2

    def _weigh_images(self, seen: Seen, memory: Importance, tools: Tools) -> None:
        """u, one after the other: an image may stand in a batch twice."""
        output, labels = seen.outputs[0], seen.batch.labels
        target = F.one_hot(labels, output.shape[1]) if labels.dim() == 1 else labels
        lengths = torch.linalg.vector_norm(output.softmax(1) - target, dim=1)
        assert seen.batch.positions is not None
        for i, u in zip(seen.batch.positions.tolist(), tools.gather(lengths).cpu().double().tolist(), strict=True):
            memory.u[i] = (memory.u[i] + u) / 2 if memory.drawn[i] else u
            memory.drawn[i] = True

    def _renew_paths(self, memory: Importance, tau: float) -> None:
        for kind in set(self.kinds):
            allowed = list(self.space.decisions[kind].allowed)
            memory.p[kind, allowed] = mixed(memory.s[kind, allowed], tau)
        memory.s.zero_()

    def _renew_images(self, memory: Importance, tau: float, epoch: int) -> None:
        q, images = mixed(memory.u, tau).numpy(), len(memory.order)
        drawn = generator(self.seed, "images", epoch).choice(images, images, p=q / q.sum())
        memory.order.copy_(torch.from_numpy(drawn))
        memory.u.zero_()
        memory.drawn.zero_()
