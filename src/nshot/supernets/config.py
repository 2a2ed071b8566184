"""The configuration of a supernet run: frozen dataclasses, the paper's defaults, JSON there and back; presets."""

import dataclasses
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nshot.data.augment import Augment
from nshot.errors import UserError, check_choices, check_kinds, check_positive, check_share, check_whole
from nshot.fields import Hidden
from nshot.spaces import Space, space, space_from_dict, spaces
from nshot.strategies import Options, strategies
from nshot.training.optimizers import Decayed, Idle, OptimizerName, as_stored, check_optimizer


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a run. Defaults: section A of the supplement, SPOS on NAS-Bench-201 and CIFAR-10."""

    strategy: Hidden[str] = "spos"
    space: Space = field(default_factory=lambda: space("nasbench201"))
    options: Options = field(default_factory=Options)

    dataset: str = "cifar10"
    """digits, cifar10, cifar100, imagenet, or images of your own: imagefolder:FOLDER or parquet:FOLDER."""
    split: str = "half"
    """Search split: half, or a JSON file under the data root with lists train and valid."""
    epochs: int = 250
    batch_size: int = 64
    optimizer: OptimizerName = "sgd"
    lr: float = 0.025
    """Base learning rate lr0."""
    warmup: int = 0
    """Epochs in which the learning rate rises linearly, on top of its schedule."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decayed: Decayed = "matrices"
    """What AdamW decays: matrices and kernels, not norms, biases, class token and positions, or all. SGD decays all."""
    nesterov: bool = True
    drop_path: float = 0.0
    """Rate of drop-path in training, for spaces whose supernet has it."""
    clip: float | Literal["method"] | None = "method"
    """Largest norm of the gradient; None does not clip; method: 5, as released, but FairNAS, SUMNAS and Pi-NAS none."""
    bias: bool = True
    """Whether the classifier of a supernet whose C(α) counts none has a bias, as released."""
    idle: Idle = "drift"
    """Weights off the path: drift (zero gradient, momentum and weight decay still move them, as released) or rest."""
    fast: Literal["on", "off"] = "on"
    """Use fused kernels where they can run (CPU): the same mathematics, to rounding."""
    graphs: Literal["off", "on"] = "off"
    """Replay CUDA graphs in training (NAS-Bench-201 on a GPU); off by default, for no GPU has run it yet."""
    diverging: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite: stop the run, or skip the step, which leaves all as it was."""
    skips: int = 10
    """Most steps that are skipped; one more stops the run."""
    sync_bn: Literal["off", "on"] = "off"
    """Of several processes, batch norms by the statistics of all, not of each one's share; needs --fast off."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    label_smoothing: float = 0.0
    augment: Augment = field(default_factory=Augment)
    init: Path | None = None
    """Weights this training begins with: pretrained, those of timm's network (spaces timm and autoformer); a file of
    such (safetensors, or a checkpoint); or a finished run's folder, its supernet's, as few-shot NAS does; None: new."""
    backbone_lr: float = 1.0
    """With --init: learning rate of all weights but the classifier's, as a multiple of lr."""
    frozen: int = 0
    """With --init: epochs at the beginning in which the classifier alone learns."""
    seed: int = 0
    log_every: int = 50
    """Steps between lines of the log."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    rules: Hidden[int] = 2
    """By which a configuration trains; they rise where the same one comes to other weights (`resumable`)."""

    def __post_init__(self) -> None:
        wanted = strategies[self.strategy].options_type
        if not isinstance(self.options, wanted):
            raise UserError(f"options {type(self.options).__name__}: strategy {self.strategy} takes {wanted.__name__}")
        check_choices(self)
        check_whole(1, epochs=self.epochs, batch_size=self.batch_size)
        check_whole(1, log_every=self.log_every, checkpoint_every=self.checkpoint_every)
        check_whole(0, seed=self.seed)
        check_share(momentum=self.momentum, weight_decay=self.weight_decay)
        check_share(label_smoothing=self.label_smoothing, drop_path=self.drop_path)
        check_positive(lr=self.lr)
        if self.clipping is not None:
            check_positive(clip=self.clipping)
        check_whole(0, warmup=self.warmup, frozen=self.frozen)
        check_positive(backbone_lr=self.backbone_lr)
        if self.frozen >= self.epochs:
            raise UserError(f"frozen {self.frozen}: must be below the {self.epochs} epochs; 0 freezes nothing")
        for name, value in (("backbone_lr", self.backbone_lr), ("frozen", self.frozen)):
            if self.init is None and value != getattr(TrainConfig, name):
                raise UserError(f"{name} {value} has no effect without --init")
        if self.warmup > self.epochs:
            raise UserError(f"warmup {self.warmup}: must not exceed the {self.epochs} epochs")
        check_optimizer(self.optimizer, self.momentum, self.nesterov, self.decayed)
        check_whole(1, skips=self.skips)
        if self.diverging == "stop" and self.skips != type(self).skips:
            raise UserError(f"skips {self.skips} has no effect without --diverging skip")
        if self.sync_bn == "on" and (self.fast == "on" or self.graphs == "on"):
            raise UserError(
                "sync_bn on: kernels and graphs know one process's batch alone, add --fast off --graphs off"
            )
        if not self.bias and "bias" not in self.space.earlier:
            raise UserError(f"bias False: the classifier of space {self.space.name} has one, which C(α) counts")

    @property
    def clipping(self) -> float | None:
        """The norm to which gradients are clipped."""
        return strategies[self.strategy].clip if self.clip == "method" else self.clip

    def resolved(self) -> "TrainConfig":
        """The same, saying what it left to the method or to the space: as a run folder keeps it."""
        return dataclasses.replace(self, options=self.options.resolved(self.space), clip=self.clipping)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration, resolved, as JSON-able values; the space goes by its name and sizes."""
    config = config.resolved()
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    values["space"] = config.space.to_dict()
    values["options"] = dataclasses.asdict(config.options)
    values["augment"] = dataclasses.asdict(config.augment)
    values["init"] = None if config.init is None else str(config.init)
    return values


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`, resolved. What an entry of an earlier version lacks is what that version did.

    Raises:
        UserError: for a name that this version does not know, and for what is no configuration.
    """
    try:
        return _from_dict(values)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"configuration is broken ({type(error).__name__}: {error}): train in a new --out") from None


def _from_dict(values: dict[str, Any]) -> TrainConfig:
    known = {f.name for f in fields(TrainConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"configuration has unknown entries {', '.join(unknown)}: another version of nshot wrote it")
    method, space = strategies[values["strategy"]], space_from_dict(values["space"])
    options = method.options_type.of(**_completed_options(values["options"]))
    read = {
        **{name: value for name, value in space.earlier.items() if name not in values},
        "space": space,
        "options": options,
        "init": None if values.get("init") is None else Path(values["init"]),
        "augment": Augment(**values.get("augment", {})),
    }
    config = TrainConfig(**{**as_stored(values), **read})
    for part in (config, config.options, config.augment):
        check_kinds(part)
    return config


def _completed_options(values: dict[str, Any]) -> dict[str, Any]:
    """Those of an earlier version, which counted C(α) of a run's own networks, matched controls by a fixed power, and
    took options without effect."""
    own = {"per_epoch"} if values["schedule"] == "constant" else set()
    own |= {"archive", "candidates", "recent", "neighbours"} if values.get("variant") == "released" else set()
    values = {key: value for key, value in values.items() if key not in own}
    if "complexity_of" in values:
        return values
    rest = {key: value for key, value in values.items() if key != "power"}
    power = {"power": values.get("power", 2.18)} if values["schedule"] == "power" else {}
    counts = values["schedule"] in ("calr", "shuffled") or values["sampling"] == "proportional"
    return {**rest, **power, **({"complexity_of": "own"} if counts else {})}


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """What `to_dict` wrote in an earlier version, with what has become an option since, as that version did it."""
    return to_dict(from_dict(stored))


SEVERAL = ("fairnas", "nsas", "pinas", "sandwich", "sumnas")  # methods of ours whose steps have several paths


def resumable(stored: dict[str, Any]) -> dict[str, Any]:
    """As `completed`, of a run that goes on.

    Raises:
        UserError: for one that an earlier version began by rules that are no more: where AdamW went on as fast as it
            began though several paths' rates fell, where channels rested that one of several paths used whole, and
            where bf16 rounded images.
    """
    config = from_dict(stored)
    several, idle = config.strategy in SEVERAL, config.idle == "rest" and config.space.name == "timm"
    rates = config.optimizer == "adamw" and config.options.weighs
    if "rules" not in stored and (config.precision != "32-true" or (several and (idle or rates))):
        raise UserError(
            "an earlier version of nshot began this training, by rules that are no more (of AdamW's rate, of what "
            "rests, of bf16): train in a new --out; one that is finished can be ranked and searched as it is"
        )
    return to_dict(config)


PRESETS = ("paper", "deep", "long", "proxy", "smoke")


def preset(name: str, strategy: str = "spos", space_name: str = "nasbench201") -> TrainConfig:
    """A named starting point: ``paper`` (section A), ``proxy`` (CIFAR-10 in minutes), ``smoke`` (digits, seconds); on
    NAS-Bench-201 also ``long``, proxy at the paper's number of steps, and ``deep``, at the paper's depth. Methods whose
    epochs a space does not say have SPOS's.

    Raises:
        UserError: for an unknown preset, strategy or space, or a preset that the space does not have.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    method, known = strategies[strategy], spaces[space_name].presets
    if name != "paper" and name not in known:
        raise UserError(f"space {space_name} has no preset {name!r}: choose of {', '.join(known) or 'paper'}")
    given = known.get(name, {})
    base = TrainConfig(
        strategy=strategy, space=space(space_name, **given.get("sizes", {})), options=method.options_type()
    )
    numbers = {"spos": base.epochs, **given.get("epochs", {})}
    epochs = numbers.get(strategy, numbers["spos"])
    augment = Augment(**given.get("augment", {}))
    own = {**method.recipe, **given.get("methods", {}).get(strategy, {})}
    return dataclasses.replace(base, **{"epochs": epochs, "augment": augment, **given.get("config", {}), **own})
