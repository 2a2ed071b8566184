"""How a stand-alone network is trained: recipes by name, and their learning rate and optimizer."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from torch import nn

from nshot.data.augment import Augment
from nshot.dynamic import SeparatedMomentum
from nshot.dynamic.calr import decay_ratio, learning_rate
from nshot.errors import UserError, check_choices, check_positive, check_share, check_whole
from nshot.spaces import Space, Subnet, space_from_dict
from nshot.spaces.base import ComplexityOf
from nshot.strategies.base import cosine
from nshot.training.optimizers import Decayed, OptimizerName, as_stored, check_optimizer, sgd_or_adamw
from nshot.training.tuning import apart, backbone


@dataclass(frozen=True)
class Recipe:
    """How a stand-alone network is trained. Defaults: NAS-Bench-201's (Dong and Yang, ICLR 2020, table 2)."""

    epochs: int = 200
    batch_size: int = 256
    optimizer: OptimizerName = "sgd"
    lr: float = 0.1
    """First learning rate of the schedule, after the warm-up."""
    lr_batch: int = 0
    """Batch size that lr is for: at others it is scaled in proportion; 0: lr is as it is."""
    schedule: Literal["cosine", "calr"] = "cosine"
    """Decay to zero: cosine, or eq. 3's (1 - t/T)^γ with the subnet's own γ (table H)."""
    complexity_of: ComplexityOf | None = None
    """Whose C(α) calr takes: paper, the same subnet's at the paper's sizes, for which a preset's small network stands;
    own, that of the network itself; None: paper where the sizes are a preset's and keep the paper's decisions."""
    warmup: int = 0
    """Epochs in which the learning rate rises linearly, on top of its schedule."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decayed: Decayed = "matrices"
    """What AdamW decays: matrices and kernels, not norms, biases, class token and positions, or all. SGD decays all."""
    nesterov: bool = True
    clip: float | None = None
    """Largest norm of the gradient; None does not clip."""
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    """Rate of drop-path at the end of training, to which it rises; for spaces whose networks have it."""
    auxiliary: float = 0.0
    """Weight of an auxiliary head's loss; 0: no head. For the DARTS space."""
    backbone_lr: float = 1.0
    """Of a network that begins with given weights: the learning rate of all but the classifier, as a multiple of lr."""
    frozen: int = 0
    """Of such a network: epochs at the beginning in which the classifier alone learns."""
    ema: float = 0.0
    """Decay a step of a moving average of the weights, which is then what is kept; 0: the last weights are kept."""
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole(1, epochs=self.epochs, batch_size=self.batch_size)
        check_whole(0, warmup=self.warmup, lr_batch=self.lr_batch, frozen=self.frozen)
        check_positive(backbone_lr=self.backbone_lr)
        if self.frozen >= self.epochs:
            raise UserError(f"frozen {self.frozen}: must be below the {self.epochs} epochs; 0 freezes nothing")
        check_share(momentum=self.momentum, weight_decay=self.weight_decay, label_smoothing=self.label_smoothing)
        check_share(ema=self.ema, drop_path=self.drop_path)
        if not 0 <= self.auxiliary < math.inf:
            raise UserError(f"auxiliary {self.auxiliary}: must be 0 or more")
        check_positive(lr=self.lr)
        if self.clip is not None:
            check_positive(clip=self.clip)
        if self.warmup > self.epochs:
            raise UserError(f"warmup {self.warmup}: must not exceed the {self.epochs} epochs")
        check_optimizer(self.optimizer, self.momentum, self.nesterov, self.decayed)
        if self.complexity_of is not None and self.schedule != "calr":
            raise UserError(f"complexity_of {self.complexity_of} has no effect without --schedule calr")

    @property
    def base_lr(self) -> float:
        """The learning rate that the schedule starts from."""
        return self.lr * self.batch_size / self.lr_batch if self.lr_batch else self.lr

    def decay(self, space: Space, subnet: Subnet) -> float:
        """γ(α) of eq. 4 of a subnet, by parameters and with the space's γ'; 1 where the schedule has no γ.

        Raises:
            UserError: where γ(α) has no meaning: a space of networks all of one size, or ``complexity_of`` paper in a
                space whose small networks have other decisions.
        """
        if self.schedule != "calr":
            return 1.0
        counted = space.counted(self.complexity_of or space.complexity_of)
        try:
            return decay_ratio(counted.params(subnet), counted.params_range, space.gamma)
        except ValueError as error:
            raise UserError(f"schedule 'calr' on space {space.name}: {error}") from None

    def resolved(self, space: Space) -> "Recipe":
        """The same, saying whose C(α) counts where it left that open: as a run folder keeps it."""
        if self.complexity_of is not None or self.schedule != "calr":
            return self
        return replace(self, complexity_of=space.complexity_of)

    def factor(self, step: int, total_steps: int, decay: float) -> float:
        """What the schedule multiplies the learning rate of a step by; ``decay`` is the subnet's γ(α)."""
        if self.schedule == "calr":
            return learning_rate(1.0, step, total_steps, decay)
        return cosine(step, total_steps)

    def make_optimizer(self, network: nn.Module) -> SeparatedMomentum:
        """The recipe's optimizer of a network, with one momentum."""
        base = sgd_or_adamw(
            self.optimizer,
            network,
            idle="rest",
            clip=self.clip,
            fast=True,
            lr=self.base_lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            decayed=self.decayed,
            nesterov=self.nesterov,
        )
        if self.tunes:
            apart(base, backbone(network), self.backbone_lr)
        return SeparatedMomentum(base, clusters=1)

    @property
    def tunes(self) -> bool:
        """Whether the backbone learns otherwise than the classifier."""
        return self.backbone_lr != 1 or self.frozen > 0


RECIPES = {
    "cifar": Recipe(),
    # Section A retrains as ZiCo and Zen-NAS do; how often they erase is not said: timm's usual quarter.
    "imagenet": Recipe(
        epochs=480,
        lr_batch=256,
        warmup=5,
        weight_decay=4e-5,
        label_smoothing=0.1,
        augment=Augment(crop="resized", policy="autoaugment", erasing=0.25, mixup=0.2),
    ),
    # Liu et al. (ICLR 2019), for the 200 epochs of section B.2.
    "darts": Recipe(
        batch_size=96,
        lr=0.025,
        weight_decay=3e-4,
        nesterov=False,
        clip=5.0,
        drop_path=0.2,
        auxiliary=0.4,
        augment=Augment(cutout=16),
    ),
    # Chen et al. (ICCV 2021): how their supernet is trained, which is how the networks it is made of are (DeiT's).
    "autoformer": Recipe(
        epochs=500,
        optimizer="adamw",
        lr=5e-4,
        lr_batch=512,
        warmup=20,
        weight_decay=0.05,
        label_smoothing=0.1,
        drop_path=0.1,
        augment=Augment(crop="resized", policy="randaugment", erasing=0.25, mixup=0.8, cutmix=1.0),
    ),
}


TUNE = "tune"  # the recipe of networks that begin with given weights
RECIPES[TUNE] = Recipe(
    epochs=20,
    batch_size=32,
    optimizer="adamw",
    lr=4e-3,
    backbone_lr=0.5,
    frozen=1,
    warmup=1,
    weight_decay=0.01,
    label_smoothing=0.1,
)

OWN = {"darts": "darts", "autoformer": "autoformer"}  # spaces whose networks ask for a recipe of their own


def recipe_name(space: Space, dataset: str) -> str:
    """The recipe that belongs to a space: that of its paper, for ImageNet's networks section A's, else ``cifar``."""
    return OWN.get(space.name, "imagenet" if (space.name, dataset) == ("mobilenet", "imagenet") else "cifar")


def fitting(recipe: Recipe, side: int) -> Recipe:
    """The recipe on images of this side: a cutout larger than half of it, as DARTS's of 32 pixels is, becomes that."""
    cutout = min(recipe.augment.cutout, side // 2)
    return replace(recipe, augment=replace(recipe.augment, cutout=cutout))


def recipe(name: str) -> Recipe:
    """A recipe by name: ``cifar`` (NAS-Bench-201's), ``imagenet`` (section A's retraining), ``darts``, ``autoformer``,
    or ``tune``, for networks that begin with given weights.

    Raises:
        UserError: for another name.
    """
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with a recipe and a space that an earlier version wrote, with what has become an option of
    them since, as that version did it: CaLR took the network's own C(α)."""
    values = as_stored(stored.get("recipe", {}))
    if values.get("schedule") == "calr":
        values = {"complexity_of": "own", **values}
    augment = asdict(Augment()) | values.get("augment", {})
    space = space_from_dict(stored["space"])
    return {
        **stored,
        "space": space.to_dict(),
        "recipe": asdict(Recipe()) | values | {"augment": augment},
    }
