"""Pi-NAS (Peng et al., ICCV 2021): paths learn to see in an image what other paths see in it, without labels."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from nshot.errors import UserError, check_positive, check_share, check_whole
from nshot.seeding import generator, seeded, torch_generator
from nshot.spaces import Subnet, Supernet

from .base import Plan, Strategy, strategies
from .memory import Batch, Facts, Seen, Tools, Trained
from .options import Options

KEY = 128  # numbers of a key
FALLS = (0.6, 0.8)  # shares of the head's training after which its rate is a tenth


@dataclass(frozen=True)
class PiNASOptions(Options):
    """Pi-NAS: two paths a step that differ in every decision, so without MS; schedules that depend on the path weigh
    their gradients."""

    queue: int = 49_152
    """Keys that are remembered at most; of smaller data, as many whole batches as they have."""
    follow: float = 0.999
    """m, the averaged copy's share of itself."""
    temperature: float = 0.2
    """Of the contrastive loss."""
    head: float = 0.5
    """Share of the training, its end, in which the classifier alone is trained."""
    head_lr: float = 0.3
    """Learning rate of the classifier, a tenth after 60 % of its training, and again after 80 %. Published: 30, for
    features of another scale; those of norms without affine weights make it diverge."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, queue=self.queue)
        check_share(follow=self.follow, head=self.head)
        check_positive(temperature=self.temperature, head=self.head, head_lr=self.head_lr)
        self.refuse_ms("the paths of a Pi-NAS step are of several clusters")
        self.refuse_draws("Pi-NAS draws two paths that differ in every decision")


class Contrast(Trained):
    """The averaged copy, the projections onto keys of the supernet and of the copy, and the queue of keys (K, 128).

    Its optimizer has two groups: the supernet's projection, and the supernet's classifier; `PiNAS.after` says each
    step's rates.
    """

    queue: Tensor

    def __init__(self, supernet: Supernet, queue: Tensor) -> None:
        super().__init__()
        classifier, like = cast(nn.Linear, supernet.classifier), next(supernet.parameters())
        width = classifier.in_features
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, KEY)).to(like)
        self.copy = deepcopy(supernet).requires_grad_(False)
        self.projection_copy = deepcopy(self.projection).requires_grad_(False)
        self.register_buffer("queue", queue.to(like))
        self.keys: list[Tensor] = []  # of the step alone
        self._shared = [*zip(_shared(self.copy), _shared(supernet), strict=True)]
        groups: list[dict[str, Any]] = [
            {"params": list(self.projection.parameters()), "weight_decay": 1e-4},
            {"params": list(classifier.parameters())},
        ]
        self.optimizer = SGD(groups, lr=0.0, momentum=0.9)

    @torch.no_grad()
    def follow(self, supernet: Supernet, path: Subnet, m: float) -> None:
        """``θ_k <- m θ_k + (1 - m) θ``: what all paths share, the path's options and the projection."""
        pairs = [*self._shared, *zip(_own(self.copy, path), _own(supernet, path), strict=True)]
        pairs += zip(self.projection_copy.parameters(), self.projection.parameters(), strict=True)
        torch._foreach_lerp_([own for own, _ in pairs], [weight for _, weight in pairs], 1 - m)

    @torch.no_grad()
    def key(self, images: Tensor, path: Subnet) -> Tensor:
        return F.normalize(self.projection_copy(self.copy.features(images, path)))


def _own(supernet: Supernet, path: Subnet) -> list[Tensor]:
    """The weights of the path's options."""
    return [weight for weights in supernet.own_weights(path) for weight in weights]


def _shared(supernet: Supernet) -> list[Tensor]:
    """The weights that no option has for itself, but the classifier's."""
    options = max(len(decision.options) for decision in supernet.space.decisions)
    every = [d.allowed for d in supernet.space.decisions]
    paths = [tuple(allowed[min(i, len(allowed) - 1)] for allowed in every) for i in range(options)]
    own = {weight for path in paths for weight in _own(supernet, path)}
    apart = own | set(cast(nn.Linear, supernet.classifier).parameters())
    return [weight for weight in supernet.parameters() if weight not in apart]


@strategies.register("pinas")
class PiNAS(Strategy):
    """Each step trains two paths a_0, a_1 that differ in every decision, on two views each of the same images:
    ``L = InfoNCE(q_0, k_1) + InfoNCE(q_1, k_0)``, queries q by the supernet and keys k by its averaged copy.

    Then the supernet rests, and its classifier is trained on the features of random paths.
    """

    name = "pinas"
    options_type = PiNASOptions
    options: PiNASOptions
    clip: ClassVar[float | None] = None
    views: ClassVar[int] = 4
    recipe: ClassVar[dict[str, Any]] = {
        "optimizer": "sgd",
        "lr": 0.03,
        "nesterov": False,
        "weight_decay": 1e-4,
        "idle": "rest",
    }

    def __init__(self, *args: Any, **known: Any) -> None:
        super().__init__(*args, **known)
        self.head_steps = max(1, round(self.options.head * self.total_steps))
        self.total_steps -= self.head_steps  # T of the paths' schedule

    @classmethod
    def check(cls, supernet: Supernet) -> None:
        path, side = tuple(d.allowed[0] for d in supernet.space.decisions), 8
        try:
            supernet.own_weights(path)
            supernet.features(next(supernet.parameters()).new_empty(2, 3, side, side), path)
        except UserError as error:
            raise UserError(f"strategy {cls.name}: {error}; choose --space nasbench201") from None

    def check_facts(self, facts: Facts) -> None:
        if self.options.queue < facts.batch_size:
            raise UserError(f"queue {self.options.queue}: must hold a batch of {facts.batch_size} at least")

    def memory(self, supernet: Supernet, facts: Facts) -> Contrast:
        size = min(self.options.queue, facts.images) // facts.batch_size * facts.batch_size
        queue = F.normalize(torch.randn(size, KEY, generator=torch_generator(self.seed, "queue")))
        with seeded(self.seed, "projection"):
            return Contrast(supernet, queue)

    def before(self, step: int, batch: Batch, memory: Contrast, tools: Tools) -> None:
        memory.keys = []
        if step < self.total_steps:
            for path, view in zip(self._pair(step), batch.images.chunk(self.views)[2:], strict=True):
                memory.follow(tools.supernet, path, self.options.follow)
                memory.keys.append(memory.key(view, path))

    def plan(self, step: int, memory: Any = None) -> Plan:
        if step >= self.total_steps:
            path = self.draw(generator(self.seed, "head", step))
            return Plan((path,), (1.0,), 0.0, 0)  # the supernet rests
        paths = self._pair(step)
        if self.options.weighs:
            return Plan(paths, (1.0, 1.0), 1.0, 0).weighed([self.lr(step, path) for path in paths])
        return Plan(paths, (1.0, 1.0), self.lr(step, paths[0]), 0)

    def objective(
        self, step: int, plan: Plan, k: int, batch: Batch, memory: Contrast, tools: Tools
    ) -> tuple[Tensor, None]:
        view, path = batch.images.chunk(self.views)[k], cast(Subnet, plan.paths[k])
        if step >= self.total_steps:
            with torch.no_grad():
                features = tools.features(view, path)
            return tools.loss(cast(nn.Module, tools.supernet.classifier)(features), batch.labels[: len(view)]), None
        query = F.normalize(memory.projection(tools.features(view, path)))
        like, unlike = (query * memory.keys[1 - k]).sum(1, keepdim=True), query @ memory.queue.T
        logits = torch.cat([like, unlike], 1) / self.options.temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device)), None

    def after(self, step: int, plan: Plan, seen: Seen, memory: Contrast, tools: Tools) -> None:
        projection, head = memory.optimizer.param_groups
        projection["lr"] = tools.facts.lr * plan.lr
        done = (step - self.total_steps) / self.head_steps
        head["lr"] = self.options.head_lr * 0.1 ** sum(done >= fall for fall in FALLS)
        for p in (p for p in head["params"] if p.grad is not None):
            p.grad = p.grad * seen.clip
        memory.optimizer.step()
        memory.optimizer.zero_grad()
        if memory.keys:
            keys = tools.gather((memory.keys[0] + memory.keys[1]) / 2)
            place = step * len(keys) % len(memory.queue)
            memory.queue[place : place + len(keys)] = keys

    def _pair(self, step: int) -> tuple[Subnet, Subnet]:
        """Two options of each decision; of one that has one left, that."""
        rng = generator(self.seed, "path", step)
        drawn = [rng.permutation(decision.allowed).tolist() for decision in self.space.decisions]
        return tuple(options[0] for options in drawn), tuple(options[:2][-1] for options in drawn)
