"""Training of one stand-alone network: the recipe, and the loop's steps with a plan that never changes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nshot.data.batches import TrainBatches, heldout_batches
from nshot.data.sources import Dataset
from nshot.dynamic import SeparatedMomentum
from nshot.errors import UserError, check_positive, check_share, check_whole
from nshot.seeding import seeded
from nshot.spaces import Space, Subnet
from nshot.strategies.base import Plan

from .optimizers import sgd
from .supernet import train_steps


@dataclass(frozen=True)
class Recipe:
    """How a stand-alone network is trained. Defaults: NAS-Bench-201's (Dong and Yang, ICLR 2020, table 2)."""

    epochs: int = 200
    batch_size: int = 256
    lr: float = 0.1
    """First learning rate of a cosine to zero."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_whole(1, epochs=self.epochs, batch_size=self.batch_size)
        check_share(momentum=self.momentum, weight_decay=self.weight_decay, label_smoothing=self.label_smoothing)
        check_positive(lr=self.lr)
        if self.nesterov and self.momentum == 0:
            raise UserError("momentum 0 with nesterov: add --no-nesterov")


class _Alone(nn.Module):
    """A network as the loop wants it: the one path is the network itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, path: Subnet) -> Tensor:
        return self.network(x)


def optimizer_of(network: nn.Module, recipe: Recipe) -> SeparatedMomentum:
    """The recipe's optimizer, with one momentum."""
    base = sgd(
        network.parameters(),
        idle="rest",
        clip=None,
        fast=True,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    return SeparatedMomentum(base, clusters=1)


def fit_steps(
    network: nn.Module, optimizer: SeparatedMomentum, batches: TrainBatches, recipe: Recipe, *, start: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Trains a network by the recipe and yields (step, loss) after each step."""
    total = recipe.epochs * batches.steps_per_epoch

    def plan(step: int) -> Plan:
        return Plan(paths=((),), weights=(1.0,), lr=(1 + math.cos(math.pi * step / total)) / 2, cluster=0)

    return train_steps(
        _Alone(network),
        optimizer,
        plan,
        batches,
        start=start,
        total_steps=total,
        lr=recipe.lr,
        label_smoothing=recipe.label_smoothing,
    )


@torch.inference_mode()
def accuracy(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Percent of images that the network, in evaluation mode, classifies rightly."""
    network.eval()
    hits = sum((network(images).argmax(1) == labels).sum() for images, labels in batches)
    return 100 * float(hits) / sum(len(labels) for _, labels in batches)


def train_alone(space: Space, subnet: Subnet, data: Dataset, recipe: Recipe, seed: int) -> tuple[float, float]:
    """Trains a subnet on the training part from scratch, without a run folder: (valid, test) accuracy in percent."""
    with seeded(seed, "init"):
        network = space.network(subnet).to(memory_format=torch.channels_last)
    batches = TrainBatches(data.train, recipe.batch_size, seed, flip=data.mirrors)
    for _ in fit_steps(network, optimizer_of(network, recipe), batches, recipe):
        pass
    valid, test = (
        accuracy(network, heldout_batches(part, min(1000, len(part)), batches.normalise))
        for part in (data.valid, data.test)
    )
    return valid, test
