"""What every strategy is: a pure function from a step, and a memory where it has one, to the step's plan."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from nshot.dynamic.calr import check_decay, decay_ratio, learning_rate
from nshot.errors import UserError, check_whole
from nshot.registry import Registry
from nshot.seeding import generator
from nshot.spaces import Mixture, Space, Subnet, Supernet
from nshot.spaces.additive import ENUMERABLE
from nshot.spaces.feasible import Bound, Feasible, InfeasibleError

from .memory import Batch, Facts, Judge, Seen, Tools
from .options import Options

WINDOW_TRIES = 2000  # plain draws of which one in a window makes all paths such: all windows of earlier versions
MEAN_DRAWS = 20_000  # paths whose mean γ stands for that of a space too large to enumerate


@dataclass(frozen=True)
class Inner:
    """SGD steps on a path alone, from the supernet's weights θ0 as they are and with a momentum of their own, after
    which these are put back: the displacement θ0 - θ is the path's gradient (Reptile)."""

    steps: int
    lr: float
    momentum: float
    clip: float | None
    """Largest norm of an inner step's gradient."""


@dataclass(frozen=True)
class Plan:
    """One training step: the update is ``lr * lr0`` along the optimizer's answer to ``Σ weights_k g(paths_k)``."""

    paths: tuple[Subnet | Mixture, ...]
    weights: tuple[float, ...]
    """Gradient weight of each path."""
    lr: float
    """The step's learning rate as a multiple of the base learning rate lr0."""
    cluster: int
    """Whose momentum the step uses (eq. 7); 0 where momentum is not separated."""
    inner: Inner | None = None
    """What g is where it is no gradient."""
    common: float = 1.0
    """What the weights owe to the paths' schedules, on average: 1 where these are not among the weights."""

    @property
    def rates(self) -> tuple[float, ...]:
        """At what learning rate each path is trained, as a multiple of lr0: a gradient's weight scales its rate."""
        return tuple(self.lr * weight for weight in self.weights)

    def weighed(self, rates: Sequence[float]) -> "Plan":
        """The same with each path at a rate of its own, as a weight of its gradient (Alg. 2 of the supplement)."""
        weights = tuple(weight * rate for weight, rate in zip(self.weights, rates, strict=True))
        return replace(self, weights=weights, common=sum(weights) / sum(self.weights))

    def spread(self) -> "Plan":
        """The same rates for an optimizer to which the scale of gradients means nothing, as AdamW: what paths have in
        common is the rate of the step, and weights say how they differ."""
        if self.common in (0, 1):
            return self
        weights = tuple(weight / self.common for weight in self.weights)
        return replace(self, weights=weights, lr=self.lr * self.common, common=1.0)


def cosine(step: int, total_steps: int) -> float:
    """Half a cosine, from 1 to 0."""
    return (1 + math.cos(math.pi * step / total_steps)) / 2


class Strategy(ABC):
    """An N-shot method on one space for one length of training.

    Args:
        space: where paths are drawn.
        total_steps: T of eq. 3.
        seed: all draws depend on (seed, step) alone.
        options: CaLR, MS, sampling and controls.
        steps_per_epoch: for what a method decides by epochs.

    A method with a memory overrides `memory`, and those of the hooks that it needs; the loop calls them in this order:
    ``images``, ``before``, ``plan``, for each path ``objective``, the update, ``after``; ``skipped`` in place of these
    two. Only ``before``, ``after`` and ``skipped`` change the memory, by values that are equal in all processes, and by
    draws from (seed, purpose, step).
    """

    name: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options
    clip: ClassVar[float | None] = 5.0
    """Norm to which gradients are clipped where a run does not say it; None does not clip. As released."""
    recipe: ClassVar[dict[str, Any]] = {}
    """Of a run's configuration what the method has otherwise than SPOS, in every preset."""
    views: ClassVar[int] = 1
    """How many times each image is in a batch, each time augmented anew: first all images once, then again."""
    validates: ClassVar[bool] = False
    """Whether training takes validation images too (`Tools.second`)."""
    replays: ClassVar[bool] = True
    """Whether its steps can replay CUDA graphs, which are those of subnets."""

    @classmethod
    def parts(cls, space: Space, options: Options, seed: int) -> list[Space]:
        """The spaces that get a supernet each: a partition of ``space``; of a part, the part itself."""
        return [space]

    def __init__(
        self, space: Space, *, total_steps: int, seed: int = 0, options: Options | None = None, steps_per_epoch: int = 1
    ) -> None:
        check_whole(1, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        check_whole(0, seed=seed)
        self.space = space
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.options = options or self.options_type()
        self.gamma = space.gamma if self.options.gamma is None else self.options.gamma
        self._counted = space.counted(self.options.resolved(space).complexity_of or "own")
        self.cost = getattr(self._counted, self.options.complexity)
        if self.options.decays:
            try:
                check_decay(self.cost_range, self.gamma, self.options.g)
            except ValueError as error:
                raise UserError(f"schedule {self.options.schedule!r} on space {space.name}: {error}") from None
        self.ms_decision = self._ms_decision()
        self._window = self._open_window(self.seed, probes=WINDOW_TRIES, hits=1)

    @classmethod  # noqa: B027
    def check(cls, supernet: Supernet) -> None:
        """Raises UserError where the space's supernet, here without values, has not what the method needs of it."""

    @classmethod
    def even(cls, options: Options) -> bool:
        """Whether all weights must be trained at one rate, as where a step is looked ahead to."""
        return False

    def check_facts(self, facts: Facts) -> None:  # noqa: B027
        """Raises UserError where the run's data, batches or epochs do not do for the method."""

    def check_skips(self) -> None:  # noqa: B027
        """Raises UserError where a step cannot be as if it had not been, once its loss is known."""

    def memory(self, supernet: Supernet, facts: Facts) -> nn.Module:
        """A new memory, on the device where the method wants it: all that plans depend on besides (seed, step), in
        parameters and buffers of fixed sizes. A memory with an optimizer is a `Trained`."""
        return nn.Module()

    def images(self, step: int, memory: Any) -> Tensor | None:
        """Which training images step ``step`` takes, of all processes together, and which later steps take as far as
        it is decided, so that they can be made ahead: (steps, B) positions. None: the run's own order."""
        return None

    def before(self, step: int, batch: Batch, memory: Any, tools: Tools) -> None:  # noqa: B027
        """What happens before the step is planned: an update of the memory, such as α's."""

    @abstractmethod
    def plan(self, step: int, memory: Any = None) -> Plan:
        """What step ``step`` (from 0) trains."""

    def objective(self, step: int, plan: Plan, k: int, batch: Batch, memory: Any, tools: Tools) -> tuple[Tensor, Any]:
        """The loss of path k, whose gradients its weights and the memory's parameters get, and what `after` sees."""
        output = tools.output(batch.images, plan.paths[k])
        return tools.loss(output, batch.labels), output

    def after(self, step: int, plan: Plan, seen: Seen, memory: Any, tools: Tools) -> None:  # noqa: B027
        """What happens after the update of the supernet's weights, before its gradients are cleared. Those of the
        memory's parameters are the method's to clear."""

    def skipped(self, step: int, memory: Any) -> None:  # noqa: B027
        """What a step changes of the memory though it was skipped, as where it ends an epoch."""

    def answer(self, memory: Any) -> Subnet | None:
        """The subnet that training ends with, if it does."""
        return None

    def figures(self, memory: Any) -> dict[str, float | list[float]]:
        """What the log says of the memory, beside the loss."""
        return {}

    def choose(self, judge: Judge) -> Subnet | None:
        """The subnet that the method's own search finds with the trained supernet, if it has one."""
        return None

    @cached_property
    def cost_range(self) -> tuple[int, int]:
        """(Cmin, Cmax), for what depends on C(α): a space of many subnets may not tell it."""
        return self._counted.complexity(self.options.complexity)[1]

    @cached_property
    def clusters(self) -> int:
        """How many momenta the optimizer keeps: the options of the MS decision, or 1."""
        return 1 if self.ms_decision is None else len(self.space.decisions[self.ms_decision].options)

    def cluster(self, path: Subnet) -> int:
        """Eq. 7: the option of the MS decision."""
        if self.options.ms == "shuffled":
            return int(generator(self.seed, f"cluster {path}").integers(self.clusters))
        return 0 if self.ms_decision is None else path[self.ms_decision]

    def draw(self, rng: np.random.Generator) -> Subnet:
        """A path, uniformly or in proportion to its complexity, within the window of FLOPs."""
        path = self._proposed(rng)
        while not self._accepts(path, rng):
            path = self._proposed(rng)
        return path

    def _proposed(self, rng: np.random.Generator) -> Subnet:
        """A plain draw where the window is hit at all, as in earlier versions, whose runs go on so; else one inside."""
        return self.space.sample(rng) if self._window.often else self._window.draw(rng)

    def _accepts(self, path: Subnet, rng: np.random.Generator) -> bool:
        if self.options.sampling == "proportional" and rng.random() * self.cost_range[1] > self.cost(path):
            return False
        return self._window.keeps(path)

    def _open_window(self, seed: int, **often: int) -> Feasible:
        """The window of FLOPs; raises UserError where no subnet is inside."""
        low, high = self.options.min_flops, self.options.max_flops
        bound = Bound(self.space.flops, -math.inf if low is None else low, math.inf if high is None else high)
        try:
            return Feasible(self.space, [bound], generator(seed, "window"), **often)
        except InfeasibleError as error:
            among = "" if error.looked is None else f" of {error.looked:,} looked at"
            raise UserError(
                f"min_flops {low}, max_flops {high}: no subnet{among} is inside; "
                f"space {self.space.name} of these sizes comes nearest with {error.nearest[0]:,.0f} FLOPs"
            ) from None

    def lr(self, step: int, path: Subnet) -> float:
        """The schedule's learning rate for that path, as a multiple of lr0."""
        schedule = self.options.schedule
        if schedule == "constant":
            return 1.0
        if schedule == "cosine":
            return self.cosine(step)
        return learning_rate(1.0, self._whole(step), self.total_steps, self.decay(path))

    def cosine(self, step: int) -> float:
        """From 1 to the share ``lr_floor``."""
        floor = self.options.lr_floor
        return floor + (1 - floor) * cosine(self._whole(step), self.total_steps)

    def _whole(self, step: int) -> int:
        """The step whose rate this one has: with ``per_epoch`` its epoch's first."""
        return step - step % self.steps_per_epoch if self.options.per_epoch else step

    def decay(self, path: Subnet) -> float:
        """γ(α) of eq. 4, or what a control puts in its place."""
        schedule, power = self.options.schedule, self.options.power
        if schedule == "power":
            return self.mean_decay if power == "mean" else power
        if schedule == "shuffled":  # γ of a subnet drawn anew for each path, the same at every step
            path = self.draw(generator(self.seed, f"shuffled {path}"))
        return self._decay_ratio(path) / (self.mean_decay if schedule == "centred" else 1)

    def _decay_ratio(self, path: Subnet) -> float:
        return decay_ratio(self.cost(path), self.cost_range, self.gamma, self.options.g)

    @cached_property
    def mean_decay(self) -> float:
        """The mean of γ(α) (eq. 4) over the paths that are drawn: what CaLR's rate has in common with one that decays
        alike for all; where draws depend on a memory, over plain ones. Exact where the space can be enumerated, else of
        20,000 paths, the same for every seed."""
        if self.space.size > ENUMERABLE:
            rng = generator(0, "mean decay")
            like = copy(self)
            if self.space.groups is not None:  # as likely paths, without waiting for a rare one
                like._window = self._open_window(0)
            return float(np.mean([self._decay_ratio(like.draw(rng)) for _ in range(MEAN_DRAWS)]))
        paths = [path for path in self.space.subnets() if self._window.keeps(path)]
        proportional = self.options.sampling == "proportional"
        shares = [self.cost(path) if proportional else 1 for path in paths]
        return float(np.average([self._decay_ratio(path) for path in paths], weights=shares))

    def _ms_decision(self) -> int | None:
        ms = self.options.ms
        open_decisions = [i for i, d in enumerate(self.space.decisions) if len(d.allowed) > 1]
        if ms is None:
            return None
        if ms in ("first", "last", "random", "shuffled") and not open_decisions:
            raise UserError(f"ms {ms!r}: the space has no decision left to cluster by")
        if ms in ("first", "last", "shuffled"):
            return open_decisions[-1 if ms == "last" else 0]
        if ms == "random":
            return open_decisions[generator(self.seed, "ms").integers(len(open_decisions))]
        index = self.space.decision_index(ms)
        if index not in open_decisions:
            raise UserError(f"ms {ms!r}: the decision has one option left, choose one with more")
        return index


strategies: Registry[type[Strategy]] = Registry("strategy", "nshot.strategies")
