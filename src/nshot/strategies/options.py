"""The options that every strategy has."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from nshot.dynamic.calr import check_decay
from nshot.errors import UserError, check_choices, check_positive, check_share
from nshot.fields import Quantity
from nshot.spaces import Space
from nshot.spaces.base import ComplexityOf


@dataclass(frozen=True)
class Options:
    """What the paper adds to a strategy (CaLR, MS), and the controls that tell its effects apart."""

    schedule: Literal["cosine", "calr", "centred", "power", "shuffled", "constant"] = "cosine"
    """Learning rate: cosine; calr (eq. 3); centred, CaLR with γ divided by its mean; power, (1 - t/T)^k for all
    subnets; shuffled, CaLR with another subnet's decay ratio; constant."""
    lr_floor: float = 0.0
    """The share of lr0 that the cosine ends at: 0.04, from 0.025 to 0.001."""
    per_epoch: bool = False
    """Whether all steps of an epoch have the learning rate of its first."""
    gamma: float | None = None
    """γ', the largest decay ratio of CaLR (eq. 4); None: the space's own, in the paper 4 on NAS-Bench-201, 3 on
    MobileNet."""
    g: str = "log"
    """g of eq. i: log, linear, exp; or another that `nshot.dynamic.calr` has."""
    complexity: Literal["params", "flops"] = "params"
    """The measure C(α) of CaLR and of sampling in proportion."""
    complexity_of: ComplexityOf | None = None
    """Whose C(α): paper, the same subnet's at the paper's sizes, for which a preset's small network stands; own, that
    of this run's networks; None: paper where the sizes are a preset's and keep the paper's decisions."""
    power: float | Literal["mean"] = "mean"
    """k of --schedule power; mean: the mean γ(α) that CaLR would have over the paths that are drawn."""
    ms: str | None = None
    """Momentum separation: the decision that clusters subnets, by name, or first, last, random; None: off. Control:
    shuffled, as many clusters as the first decision has options, each subnet in one drawn at random."""
    sampling: Literal["uniform", "proportional"] = "uniform"
    """Paths drawn uniformly, or in proportion to their complexity (table G)."""
    min_flops: Quantity = None
    """Paths are drawn among subnets of at least so many multiply-accumulates, such as 300M (None: no limit)."""
    max_flops: Quantity = None
    """Paths are drawn among subnets of at most so many; SPOS on MobileNet was released with 300M to 330M."""

    def __post_init__(self) -> None:
        check_choices(self)
        decays = "--schedule calr, centred or shuffled, or --power mean"
        check_share(lr_floor=self.lr_floor)
        for field, used, needs in (
            ("lr_floor", self.schedule == "cosine", "--schedule cosine"),
            ("per_epoch", self.schedule != "constant", "a --schedule that falls"),
            ("gamma", self.decays, decays),
            ("g", self.decays, decays),
            ("power", self.schedule == "power", "--schedule power"),
            ("complexity", self.counts, f"{decays}, or --sampling proportional"),
            ("complexity_of", self.counts, f"{decays}, or --sampling proportional"),
        ):
            if not used and getattr(self, field) != type(self).__dataclass_fields__[field].default:
                raise UserError(f"{field} {getattr(self, field)} has no effect without {needs}")
        if self.power != "mean":
            check_positive(power=self.power)
        try:
            check_decay((1, 2), 1 if self.gamma is None else self.gamma, self.g)
        except ValueError as error:
            raise UserError(str(error)) from None

    @property
    def decays(self) -> bool:
        """Whether the schedule depends on γ(α)."""
        return self.schedule in ("calr", "centred", "shuffled") or (self.schedule == "power" and self.power == "mean")

    @property
    def weighs(self) -> bool:
        """Whether the schedule depends on the path: where a step has several, it weighs their gradients (Alg. 2)."""
        return self.schedule in ("calr", "centred", "power", "shuffled")

    @property
    def counts(self) -> bool:
        """Whether C(α) plays a part."""
        return self.decays or self.sampling == "proportional"

    def refuse_ms(self, why: str) -> None:
        """For methods to which a cluster means nothing: raises UserError where momentum is separated."""
        if self.ms is not None:
            raise UserError(f"ms {self.ms!r}: {why}, leave --ms out")

    def refuse_draws(self, why: str) -> None:
        """For methods that draw paths in a way of their own, or none: raises UserError for other than plain draws."""
        if self.sampling != "uniform" or self.min_flops is not None or self.max_flops is not None:
            given = f"sampling {self.sampling!r}, min_flops {self.min_flops}, max_flops {self.max_flops}"
            raise UserError(f"{given}: {why}, leave them out")

    def resolved(self, space: Space) -> "Options":
        """The same, saying whose C(α) counts where None leaves it open."""
        if self.complexity_of is not None or not self.counts:
            return self
        return replace(self, complexity_of=space.complexity_of)

    @classmethod
    def of(cls, **options: Any) -> "Options":
        """These options; raises UserError for one that the strategy does not have."""
        known = [f.name for f in fields(cls)]
        for key in options:
            if key not in known:
                raise UserError(f"unknown option {key!r}: choose of {', '.join(known)}")
        return cls(**options)
