"""What `nshot auto` chooses for a data set, and why."""

from dataclasses import dataclass, replace
from importlib.util import find_spec

from nshot.data.augment import Augment
from nshot.networks.recipes import OWN, RECIPES, Recipe, fitting
from nshot.search.limits import Limits
from nshot.spaces import Space, space
from nshot.spaces.additive import extremes
from nshot.strategies import strategies
from nshot.supernets.config import TrainConfig, preset

from . import pretrained
from .look import Look, epochs_for, resolution_for

SIDES = (8, 16, 24, 32, 48, 64)  # resolutions that are chosen; larger ones are for those who ask for them
STEPS = (4_000, 20_000)  # least and most steps of a supernet
EPOCHS = 40  # of a supernet, where they lie between
ALONE_STEPS, ALONE_EPOCHS = (4_000, 40_000), 100  # the same of a retraining
SMALL = 5_000  # images below which strong augmentation pays
NASBENCH = "nasbench201"


@dataclass(frozen=True)
class Plan:
    """The choices: how the supernet is trained and the network retrained, and a line of reason for each."""

    train: TrainConfig
    recipe: Recipe
    reasons: tuple[str, ...]


def plan(look: Look, limits: Limits, space_name: str, side: int) -> Plan:
    """Choices for a data set, from sizes and counts alone: the same data give the same plan on every machine, but for
    the augmentation of few images, which needs timm.

    Args:
        look: what the data are.
        limits: of the network; a limit of parameters decides how deep the NAS-Bench-201 space is.
        space_name: the search space.
        side: the resolution.
    """
    chosen = side == resolution_for(look.side, SIDES)
    why = f"the largest of {', '.join(map(str, SIDES))} that the images have" if chosen else "asked for"
    reasons = [f"resolution {side}: {why}"]
    base = preset("proxy", "spos", space_name)
    sized, why = _sized(replace(base.space, resolution=side).with_classes(look.classes), limits)
    reasons.append(why)
    batch = batch_size(look.train)
    epochs = epochs_for(look.train, batch, STEPS, EPOCHS)
    policy = Augment()
    if look.train + look.valid < SMALL:
        if find_spec("timm") is None:
            reasons.append(
                "so few images want RandAugment, which needs timm (pip install 'nshot[timm]'): cropped alone"
            )
        else:
            policy = Augment(policy="randaugment")
    train = replace(
        base,
        space=sized,
        dataset=look.name,
        split="half",
        epochs=epochs,
        batch_size=batch,
        options=strategies["spos"].options_type(schedule="calr", ms="first"),
    )
    recipe = fitting(retraining(look, policy, space_name), side)
    return Plan(train, recipe, tuple(reasons))


def pretrained_plan(look: Look, weights: pretrained.Weights, model: str, side: int, stored: int) -> Plan:
    """Choices for a data set where a pretrained network is shrunk.

    Args:
        look: what the data are.
        weights: which.
        model: the network, by timm's name.
        side: the resolution.
        stored: that of the images.
    """
    train = pretrained.training(look, weights.init, model, side)
    small = look.train + look.valid < SMALL
    recipe = pretrained.tuning(look, Augment(policy="randaugment") if small else Augment())
    enlarged = f", to which images of {stored} pixels are enlarged" if stored < side else ""
    reasons = [
        f"space timm: a pretrained network is shrunk, by weights {weights.told}; from scratch instead: "
        f"--space {NASBENCH}",
        f"resolution {side}{enlarged}: of {model} the blocks, their channels, kernels and its own side are searched",
    ]
    return Plan(train, recipe, tuple(reasons))


def retraining(look: Look, augment: Augment, space_name: str) -> Recipe:
    """How the network that is found is trained: the space's recipe, for as many steps as the data ask for."""
    base = RECIPES[OWN.get(space_name, "cifar")]
    count = look.train + look.valid
    batch = batch_size(count)
    epochs = epochs_for(count, batch, ALONE_STEPS, ALONE_EPOCHS)
    # The recipes' rates are for their own batches; of smaller ones a step should go less far.
    lr = base.lr if base.lr_batch else base.lr * min(1.0, batch / base.batch_size) ** 0.5
    return replace(
        base,
        epochs=epochs,
        batch_size=batch,
        lr=round(lr, 4),
        warmup=min(base.warmup, epochs),
        label_smoothing=0.1,
        augment=base.augment if base.augment.policy != "none" else replace(base.augment, policy=augment.policy),
    )


def steps_line(look: Look, train: TrainConfig, recipe: Recipe) -> str:
    """How long both trainings are, after what was overridden."""
    steps = train.epochs * (look.train // train.batch_size)
    alone = recipe.epochs * ((look.train + look.valid) // recipe.batch_size)
    policy = "" if recipe.augment.policy == "none" else f" with {recipe.augment.policy}"
    return (
        f"supernet: {train.epochs:,} epochs in batches of {train.batch_size}, {steps:,} steps; network: "
        f"{recipe.epochs:,} epochs in batches of {recipe.batch_size}, {alone:,} steps{policy}"
    )


def batch_size(count: int) -> int:
    """64; of few images so many that an epoch has about eight batches, but at least 16 or all there are."""
    wanted = 64
    while wanted > 16 and count < 8 * wanted:
        wanted //= 2
    return min(wanted, count)


def _sized(sized: Space, limits: Limits) -> tuple[Space, str]:
    """The space at the size that fits the limit of parameters, with the reason."""
    if sized.name != NASBENCH:
        return sized, f"space {sized.name}: asked for, at the sizes of its preset proxy"
    resolution, classes = sized.resolution, sized.num_classes
    sizes = [
        space(NASBENCH, channels=channels, cells=cells, resolution=resolution).with_classes(classes)
        for channels, cells in ((8, 1), (16, 1), (16, 2), (16, 3), (16, 4), (16, 5))
    ]
    most = limits.max_params
    if most is None:
        chosen = sizes[1]
        return chosen, f"space {NASBENCH}: {_told(chosen)}; without --max-params, its smaller half is enough here"
    fitting = [s for s in sizes if extremes(s, s.network_params)[1] >= most]
    chosen = fitting[0] if fitting else sizes[-1]
    return chosen, f"space {NASBENCH}: {_told(chosen)}, the smallest size that reaches {most:,} parameters"


def _told(sized: Space) -> str:
    low, high = extremes(sized, sized.network_params)
    return f"{sized.size:,} networks of {low:,} to {high:,} parameters"
