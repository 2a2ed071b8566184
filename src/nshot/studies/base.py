"""What a study is: rows of runs, the paper's figures beside them, and at which scale they are run."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nshot.errors import UserError
from nshot.registry import Registry
from nshot.strategies import strategies
from nshot.supernets.config import TrainConfig, preset

AGAIN = "delete it and run the study again"  # what to do about a result that is damaged


@dataclass(frozen=True)
class Scale:
    """A preset as studies use it: training, and what its supernets are ranked against."""

    preset: str
    benchmark: str
    subnets: Path | None = None
    """List of the subnets that are ranked, under the data root, with the order of its numbers before it."""
    sample: int | None = None
    """Without a list: so many random subnets of the benchmark."""
    images: int | None = None
    """How many validation images rank; None: all."""
    also: tuple[int, int] | None = None
    """A second ranking: of so many random subnets of the benchmark, on so many images."""
    whole: int = 2048
    """On how many validation images (at most those there are) every subnet of the benchmark is scored, where it is."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Values of the configuration at this scale."""
    candidates: int = 1000
    """Random subnets among which a search picks (section B.2: 1,000)."""
    retrain_epochs: int = 200
    """Epochs for which a search's winner is trained alone."""


RANK_LIST, SPLIT = Path("released:nasbench201/rank-list.json"), "nasbench201/cifar10-split.json"
CIFAR = {"split": SPLIT}
SMOKE = {"epochs": 1, "batch_size": 64}
SCALES = {
    "paper": Scale("paper", "nasbench201", RANK_LIST, overrides=CIFAR),
    **{
        name: Scale(
            name,
            "nasbench201",
            RANK_LIST,
            None,
            10_000,
            (1000, 4096),
            overrides=CIFAR,
            candidates=100,
            retrain_epochs=10,
        )
        for name in ("deep", "long", "proxy")
    },
    "smoke": Scale("smoke", "digits", None, 40, 256, (60, 128), 64, SMOKE, candidates=4, retrain_epochs=1),
}


def scale(name: str) -> Scale:
    """The scale of that name; raises UserError for another."""
    if name not in SCALES:
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(SCALES)}")
    return SCALES[name]


@dataclass(frozen=True)
class Setting:
    """How a row's supernet is trained, whatever the scale and the seed.

    ``options`` are the strategy's (CaLR, MS, ...), ``config`` the run's (momentum, idle weights, ...).
    """

    strategy: str
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    space: str = "nasbench201"

    def at(self, scale: Scale, seed: int) -> TrainConfig:
        """The run's configuration."""
        base = preset(scale.preset, self.strategy, self.space)
        options = strategies[self.strategy].options_type.of(**self.options)
        given = {**scale.overrides, **self.config}
        if given.get("dataset", base.dataset) != "cifar10":
            given.pop("split", None)  # which the scale says is that of CIFAR-10
        return replace(base, **{**given, "options": options, "seed": seed})


@dataclass(frozen=True)
class Measured(Setting):
    """A row whose figures are no ranking's but those that ``function`` measures.

    ``function(config, data, run, folder, scale, **arguments)`` gives figures by column. It trains the supernet, if it
    needs one, in the run folder that all rows of that supernet share, and keeps what else it does in ``folder``; a
    module's own, so that another process finds it.
    """

    function: Callable[..., dict[str, Any]] = field(kw_only=True)
    arguments: dict[str, Any] = field(default_factory=dict)
    benchmark: bool = False
    """Whether the function takes the scale's benchmark too, as ``benchmark``."""


@dataclass(frozen=True)
class Row:
    """One line of a table: its label, how it is trained, and the paper's figures by column (mean, or mean and std)."""

    label: str
    setting: Setting
    paper: tuple[float, ...] = ()
    """Empty where the paper has no such row: a control of ours."""
    against: tuple[str, ...] = ()
    """Labels of the rows whose difference from this one is told."""


@dataclass(frozen=True)
class Study:
    """A table of the paper, made from runs.

    ``measure`` says what its columns are: ``tau`` (Kendall's tau by accuracy and by loss), ``bias`` (CB and C³ for
    each data set of the benchmark), ``own`` (what its rows' functions measured), or ``whole`` (what searches of
    all the benchmark's subnets answer). ``axes`` names two columns: the picture then shows one by the other.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    measure: str = "tau"
    note: str = ""
    axes: tuple[str, str] | None = None


studies: Registry[Study] = Registry("study", "nshot.studies")


def ours(**options: Any) -> dict[str, Any]:
    """Options of CaLR and MS with the defaults of this project: MS on the first decision."""
    return {"schedule": "calr", "ms": "first", **options}
