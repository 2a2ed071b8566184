"""What every strategy is: a pure function from a step to its plan, drawn from (seed, step) alone."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from nshot.dynamic.calr import check_decay, decay_ratio, learning_rate
from nshot.errors import UserError, check_choices, check_positive, check_whole
from nshot.registry import Registry
from nshot.seeding import generator
from nshot.spaces import Space, Subnet

WINDOW_TRIES = 2000  # random subnets among which one must lie in a window of FLOPs


@dataclass(frozen=True)
class Plan:
    """One training step: the update is ``lr * lr0`` along the optimizer's answer to ``Σ weights_k g(paths_k)``."""

    paths: tuple[Subnet, ...]
    weights: tuple[float, ...]
    """Gradient weight of each path."""
    lr: float
    """The step's learning rate as a multiple of the base learning rate lr0."""
    cluster: int
    """Whose momentum the step uses (eq. 7); 0 where momentum is not separated."""


@dataclass(frozen=True)
class Options:
    """What the paper adds to a strategy (CaLR, MS), and the controls that tell its effects apart."""

    schedule: Literal["cosine", "calr", "power", "shuffled", "constant"] = "cosine"
    """Learning rate: cosine; calr (eq. 3); power, (1 - t/T)^k for all subnets; shuffled, CaLR with another subnet's
    decay ratio; constant."""
    gamma: float | None = None
    """γ', the largest decay ratio of CaLR (eq. 4); None: the space's own, in the paper 4 on NAS-Bench-201, 3 on
    MobileNet."""
    g: Literal["log", "linear", "exp"] = "log"
    """g of eq. i."""
    complexity: Literal["params", "flops"] = "params"
    """The measure C(α) of CaLR and of sampling in proportion."""
    power: float = 2.18
    """k of --schedule power; 2.18 is the mean decay ratio of CaLR on NAS-Bench-201."""
    ms: str | None = None
    """Momentum separation: the decision that clusters subnets, by name, or first, last, random; None: off. Control:
    shuffled, as many clusters as the first decision has options, each subnet in one drawn at random."""
    sampling: Literal["uniform", "proportional"] = "uniform"
    """Paths drawn uniformly, or in proportion to their complexity (table G)."""
    min_flops: int | None = None
    """Paths are drawn among subnets of at least so many multiply-accumulates (None: no limit)."""
    max_flops: int | None = None
    """Paths are drawn among subnets of at most so many; SPOS on MobileNet was released with 300M to 330M."""

    def __post_init__(self) -> None:
        check_choices(self)
        decays = self.schedule in ("calr", "shuffled")
        for field, used, needs in (
            ("gamma", decays, "--schedule calr or shuffled"),
            ("g", decays, "--schedule calr or shuffled"),
            ("power", self.schedule == "power", "--schedule power"),
            ("complexity", decays or self.sampling == "proportional", "--schedule calr or --sampling proportional"),
        ):
            if not used and getattr(self, field) != type(self).__dataclass_fields__[field].default:
                raise UserError(f"{field} {getattr(self, field)} has no effect without {needs}")
        check_positive(power=self.power)
        try:
            check_decay((1, 2), 1 if self.gamma is None else self.gamma, self.g)
        except ValueError as error:
            raise UserError(str(error)) from None

    @classmethod
    def of(cls, **options: Any) -> "Options":
        """These options; raises UserError for one that the strategy does not have."""
        known = [f.name for f in fields(cls)]
        for key in options:
            if key not in known:
                raise UserError(f"unknown option {key!r}: choose of {', '.join(known)}")
        return cls(**options)


class Strategy(ABC):
    """An N-shot method on one space for one length of training.

    Args:
        space: where paths are drawn.
        total_steps: T of eq. 3.
        seed: all draws depend on (seed, step) alone.
        options: CaLR, MS, sampling and controls.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options
    defaults: ClassVar[dict[str, Any]] = {}
    """What a preset's training has otherwise for this method: values of the run's configuration."""

    @classmethod
    def parts(cls, space: Space, options: Options, seed: int) -> list[Space]:
        """The spaces that get a supernet each: a partition of ``space``; of a part, the part itself."""
        return [space]

    def __init__(self, space: Space, *, total_steps: int, seed: int = 0, options: Options | None = None) -> None:
        check_whole(1, total_steps=total_steps)
        check_whole(0, seed=seed)
        self.space = space
        self.total_steps = total_steps
        self.seed = seed
        self.options = options or self.options_type()
        self.gamma = space.gamma if self.options.gamma is None else self.options.gamma
        self.cost, self.cost_range = space.complexity(self.options.complexity)
        if self.options.schedule in ("calr", "shuffled"):
            try:
                check_decay(self.cost_range, self.gamma, self.options.g)
            except ValueError as error:
                raise UserError(f"schedule {self.options.schedule!r} on space {space.name}: {error}") from None
        self.ms_decision = self._ms_decision()
        self._check_window()

    @abstractmethod
    def plan(self, step: int) -> Plan:
        """What step ``step`` (from 0) trains."""

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
        """A path, uniformly or in proportion to its complexity, within the window of FLOPs.

        By rejection, so no table of subnets is needed.
        """
        path = self.space.sample(rng)
        while not self._accepts(path, rng):
            path = self.space.sample(rng)
        return path

    def _accepts(self, path: Subnet, rng: np.random.Generator) -> bool:
        if self.options.sampling == "proportional" and rng.random() * self.cost_range[1] > self.cost(path):
            return False
        return self._within(path)

    def _within(self, path: Subnet) -> bool:
        """Whether the path keeps to the window of FLOPs."""
        low, high = self.options.min_flops, self.options.max_flops
        if low is None and high is None:
            return True
        flops = self.space.flops(path)
        return (low is None or flops >= low) and (high is None or flops <= high)

    def _check_window(self) -> None:
        """Raises UserError for a window that draws practically never hit: rejection would not end."""
        rng = generator(self.seed, "window")
        if not any(self._within(self.space.sample(rng)) for _ in range(WINDOW_TRIES)):
            low, high = self.space.flops_range
            window = f"min_flops {self.options.min_flops}, max_flops {self.options.max_flops}"
            raise UserError(
                f"{window}: none of {WINDOW_TRIES} random subnets is inside; "
                f"space {self.space.name} of these sizes has {low:,} to {high:,} FLOPs"
            )

    def lr(self, step: int, path: Subnet) -> float:
        """The schedule's learning rate for that path, as a multiple of lr0."""
        schedule = self.options.schedule
        if schedule == "constant":
            return 1.0
        if schedule == "cosine":
            return self.cosine(step)
        return learning_rate(1.0, step, self.total_steps, self.decay(path))

    def cosine(self, step: int) -> float:
        """A cosine from 1 to 0."""
        return (1 + math.cos(math.pi * step / self.total_steps)) / 2

    def decay(self, path: Subnet) -> float:
        """γ(α) of eq. 4, or what a control puts in its place."""
        if self.options.schedule == "power":
            return self.options.power
        if self.options.schedule == "shuffled":  # γ of a subnet drawn anew for each path, the same at every step
            path = self.space.sample(generator(self.seed, f"shuffled {path}"))
        return decay_ratio(self.cost(path), self.cost_range, self.gamma, self.options.g)

    def _ms_decision(self) -> int | None:
        ms = self.options.ms
        open_decisions = [i for i, d in enumerate(self.space.decisions) if len(d.allowed) > 1]
        if ms is None:
            return None
        if ms in ("first", "last", "random", "shuffled") and not open_decisions:
            raise UserError(f"ms {ms!r}: the space has no decision left to cluster by")
        if ms in ("first", "shuffled"):
            return open_decisions[0]
        if ms == "last":
            return open_decisions[-1]
        if ms == "random":
            return open_decisions[generator(self.seed, "ms").integers(len(open_decisions))]
        index = self.space.decision_index(ms)
        if index not in open_decisions:
            raise UserError(f"ms {ms!r}: the decision has one option left, choose one with more")
        return index


strategies: Registry[type[Strategy]] = Registry("strategy", "nshot.strategies")
