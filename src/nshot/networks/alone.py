"""Training of one stand-alone network: the loop's steps with a plan that never changes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nshot.data.batches import Given, TrainBatches, heldout_batches, images_in
from nshot.data.images import Pictures
from nshot.data.sources import Dataset
from nshot.dynamic import SeparatedMomentum
from nshot.errors import UserError, statistics_needed
from nshot.nn.auxiliary import WithAuxiliary
from nshot.nn.drop import set_drop_path
from nshot.seeding import seeded
from nshot.spaces import Space, Subnet
from nshot.strategies.base import Plan
from nshot.strategies.memory import Batch
from nshot.training.loop import Criterion, Hooks, smoothed, train_steps, warmed
from nshot.training.tuning import Frozen, backbone, check_head

from .recipes import Recipe


class Alone(nn.Module):
    """A network as the loop wants it: its one path is the network itself. Where the recipe averages weights, with
    their average; where it has an auxiliary head, with that."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self.average: AveragedModel | None = None
        if recipe.ema > 0:
            self.average = AveragedModel(self.plain, multi_avg_fn=_averaging(recipe.ema), use_buffers=True)

    def forward(self, x: Tensor, path: Subnet) -> Tensor | tuple[Tensor, Tensor]:
        return self.network(x)

    @property
    def plain(self) -> nn.Module:
        """The network without auxiliary head."""
        return self.network.network if isinstance(self.network, WithAuxiliary) else self.network

    @property
    def kept(self) -> nn.Module:
        """The network that training is for."""
        return self.plain if self.average is None else self.average.module


def _averaging(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """One step of a moving average, of tensors of one type; whole numbers (tables of indices, counts) are copied."""
    average = get_ema_multi_avg_fn(decay)

    def step(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        if averages[0].is_floating_point():
            average(averages, current, count)
        else:
            for old, new in zip(averages, current, strict=True):
                old.copy_(new)

    return step


def make_alone(
    space: Space, subnet: Subnet, recipe: Recipe, seed: int, begin: Mapping[str, Tensor] | None = None
) -> Alone:
    """The subnet's network before its first step; with those weights that are given, and new ones for the rest.

    Raises UserError where the recipe asks for what the space has not.
    """
    with seeded(seed, "init"):
        network = space.network(subnet)
        if begin is not None:
            network.load_state_dict(begin, strict=False)
        trained = space.with_auxiliary(network) if recipe.auxiliary > 0 else network
    set_drop_path(trained, recipe.drop_path)
    return Alone(trained, recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_batch(alone: Alone, recipe: Recipe, side: int) -> None:
    """Raises UserError for batches that have no statistics: of one image, which the network shrinks to one pixel; and
    for a head that cannot be told from the rest, which is to learn otherwise.

    ``alone`` is one without values, on torch's device ``meta``.
    """
    check_head(alone.network, recipe.frozen, recipe.backbone_lr)
    if recipe.batch_size == 1:
        with torch.device("meta"), torch.no_grad(), statistics_needed():
            alone.train()(torch.empty(1, 3, side, side), ())


def fit_steps(
    alone: Alone,
    optimizer: SeparatedMomentum,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    recipe: Recipe,
    decay: float,
    steps_per_epoch: int,
    *,
    start: int = 0,
    frozen: Frozen | None = None,
    model: nn.Module | None = None,
    taught: bool = False,
    seed: int = 0,
) -> Iterator[tuple[int, Tensor]]:
    """Trains a network by the recipe and yields (step, loss) after each step.

    Args:
        alone: the network.
        optimizer: what ``recipe.make_optimizer`` made of its weights.
        batches: images and labels of a step.
        recipe: how.
        decay: the subnet's γ(α), for the schedule ``calr``.
        steps_per_epoch: how many batches are an epoch.
        start: first step.
        frozen: what `kept_of` made before a checkpoint was restored, whose rates may be of frozen weights; default:
            made here.
        model: ``alone`` as a wrapper like `Running` runs it; default: itself.
        taught: whether labels are smoothed already, as those that a teacher had a say in.
        seed: of what the network draws (drop-path).
    """
    total = recipe.epochs * steps_per_epoch

    def plan(step: int) -> Plan:
        return Plan(paths=((),), weights=(1.0,), lr=recipe.factor(step, total, decay), cluster=0)

    def set_drop(step: int) -> None:  # it rises from none, epoch by epoch, as in the networks that it is from
        if recipe.drop_path > 0:
            set_drop_path(alone.network, recipe.drop_path * (step // steps_per_epoch) / recipe.epochs)

    set_drop(start)
    criterion = _criterion(0.0 if taught else recipe.label_smoothing, recipe.auxiliary)
    kept = frozen or kept_of(alone, optimizer, recipe, steps_per_epoch)
    steps = train_steps(
        model or alone,
        optimizer,
        warmed(plan, recipe.warmup * steps_per_epoch),
        batches,
        start=start,
        total_steps=total,
        lr=recipe.base_lr,
        criterion=criterion,
        seed=seed,
        hooks=_Freezing(model or alone, criterion, kept),
    )
    for step, loss in steps:
        if alone.average is not None:
            alone.average.update_parameters(alone.plain)
        yield step, loss
        if step + 1 < total:
            set_drop(step + 1)


def kept_of(alone: Alone, optimizer: SeparatedMomentum, recipe: Recipe, steps_per_epoch: int) -> Frozen:
    """What keeps the backbone as it is for the recipe's first epochs."""
    return Frozen(optimizer, backbone(alone.network), recipe.frozen * steps_per_epoch)


class _Freezing(Hooks):
    """Tells `Frozen` each step."""

    def __init__(self, model: nn.Module, criterion: Criterion, kept: Frozen) -> None:
        super().__init__(model, criterion)
        self.kept = kept

    def before(self, step: int, batch: Batch) -> None:
        self.kept.at(step)


def _criterion(label_smoothing: float, auxiliary: float) -> Callable[[Any, Tensor], Tensor]:
    """The loss of a network, or of one with an auxiliary head, whose loss is added by that weight."""
    loss = smoothed(label_smoothing)
    if auxiliary == 0:
        return loss

    def both(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        return loss(outputs[0], labels) + auxiliary * loss(outputs[1], labels)

    return both


@torch.inference_mode()
def accuracy(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Percent of images that the network, in evaluation mode, classifies rightly."""
    network.eval()
    hits = sum((network(images).argmax(1) == labels).sum() for images, labels in batches)
    return 100 * float(hits) / images_in(batches)


def make_batches(
    images: Pictures, data: Dataset, recipe: Recipe, seed: int, given: Given | None = None
) -> TrainBatches:
    """Batches of images of a data set by the recipe. Raises UserError as `TrainBatches`."""
    return TrainBatches(
        images, recipe.batch_size, seed, flip=data.mirrors, augment=recipe.augment, classes=data.classes, given=given
    )


def train_alone(space: Space, subnet: Subnet, data: Dataset, recipe: Recipe, seed: int) -> tuple[float, float]:
    """Trains a subnet on the training part from scratch, without a run folder: (valid, test) accuracy in percent.

    Raises:
        UserError: for a training that diverges.
    """
    alone = make_alone(space, subnet, recipe, seed)
    batches = make_batches(data.train, data, recipe, seed, space.normalised)
    optimizer = recipe.make_optimizer(alone.network)
    decay = recipe.decay(space, subnet)
    for _, loss in fit_steps(alone, optimizer, batches, recipe, decay, batches.steps_per_epoch, seed=seed):
        last = loss
    if not all(bool(value.isfinite().all()) for value in (last, *alone.parameters())):
        raise UserError(
            f"the training of {space.format(subnet)} by seed {seed} does not stay finite: lower --lr, or set --clip"
        )
    valid, test = (
        accuracy(alone.kept, heldout_batches(part, min(1000, len(part)), batches.normalise))
        for part in (data.valid, data.test)
    )
    return valid, test
