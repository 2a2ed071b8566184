"""Bring your own supernet: a small one on digits, trained by SPOS + CaLR + MS, ranked, and its best subnet found."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import nshot
from nshot.data.batches import TrainBatches, heldout_batches
from nshot.data.mixture import mixture
from nshot.data.sources import load
from nshot.networks.alone import Recipe, train_alone
from nshot.ranking.evaluate import evaluate
from nshot.spaces import Space, Subnet, Supernet
from nshot.training.loop import train_steps

KERNELS = {"skip": 0, "conv1": 1, "conv3": 3, "conv5": 5}


@dataclass(frozen=True)
class Blocks(Space):
    """The first contract, decisions: four blocks, each a convolution of one of three sizes, or none."""

    name = "blocks"
    resolution: int = 8
    width: int = 12

    def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return tuple((f"block{i}", tuple(KERNELS)) for i in range(4))

    def params(self, subnet: Subnet) -> int:
        sizes = [list(KERNELS.values())[option] for option in subnet]
        convs = sum(self.width**2 * k * k + 3 * self.width for k in sizes if k > 0)  # weights, biases and norms
        return (27 + 1) * self.width + convs + (16 * self.width + 1) * self.num_classes

    def supernet(self, num_classes: int | None = None) -> Supernet:
        return BlocksSupernet(self.with_classes(num_classes))


class BlocksSupernet(Supernet):
    """The second contract: ``forward(x, subnet)``."""

    def __init__(self, space: Blocks) -> None:
        super().__init__()
        self.space, c = space, space.width
        self.stem, self.classifier = nn.Conv2d(3, c, 3, padding=1), nn.Linear(16 * c, space.num_classes)
        self.blocks = nn.ModuleList(nn.ModuleList(block(c, k) for k in KERNELS.values()) for _ in space.decisions)

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        x = self.stem(x)
        for options, option in zip(self.blocks, subnet, strict=True):
            x = options[option](x)
        return self.classifier(nn.functional.avg_pool2d(x, 2).flatten(1))


def block(c: int, k: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(c, c, k, padding=k // 2), nn.GroupNorm(2, c), nn.ReLU()) if k > 0 else nn.Identity()


if __name__ == "__main__":
    torch.manual_seed(0)
    space, data = Blocks(), load("digits")
    supernet, batches = space.supernet(data.classes), TrainBatches(data.train, 32, seed=0, flip=data.mirrors)
    steps = 60 * batches.steps_per_epoch
    strategy = nshot.strategy("spos", space, total_steps=steps, schedule="calr", ms="first")
    sgd = torch.optim.SGD(supernet.parameters(), lr=0.03, momentum=0.9)
    optimizer = nshot.SeparatedMomentum(sgd, clusters=strategy.clusters)
    for step, loss in train_steps(supernet, optimizer, strategy.plan, batches, start=0, total_steps=steps, lr=0.03):
        if step % 200 == 0:
            print(f"step {step} of {steps}: loss {loss:.3f}")
    subnets = list(space.subnets())
    scores = evaluate(supernet, subnets, heldout_batches(mixture(data.valid), 256, batches.normalise)).accuracy
    ranking = [subnets[i] for i in scores.argsort()[::-1]]
    print(f"{len(ranking)} subnets ranked, from {max(scores):.1f} % to {min(scores):.1f} %; first {ranking[0]}")
    best = next(subnet for subnet in ranking if space.params(subnet) <= 6000)
    print(f"best of at most 6,000 parameters: {space.format(best)} with {space.params(best):,}")
    recipe = Recipe(epochs=15, batch_size=32, lr=0.05)
    print(f"trained alone, test accuracy: {train_alone(space, best, data, recipe, seed=0)[1]:.1f} %")
