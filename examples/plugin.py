"""A plug-in: a space, a method and a data set of one's own on the whole command line.

    nshot train fewest --plugin examples/plugin.py --space blocks --preset smoke --out runs/blocks
    nshot search runs/blocks --plugin examples/plugin.py --max-params 12k
    nshot retrain runs/blocks/search.json --plugin examples/plugin.py --out runs/best

An installed package has the same without ``--plugin``: ``[project.entry-points."nshot.plugins"]``, a name, its module.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nshot.data.images import Images
from nshot.data.sources import Source, sources
from nshot.seeding import generator, torch_generator
from nshot.spaces import Space, Subnet, Supernet, spaces
from nshot.strategies import Plan, strategies
from nshot.strategies.spos import SPOS

KERNELS = {"skip": 0, "conv1": 1, "conv3": 3, "conv5": 5}


@spaces.register("blocks")
@dataclass(frozen=True)
class Blocks(Space):
    """Three blocks, each a convolution of one of three sizes, or none."""

    name: ClassVar[str] = "blocks"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"epochs": {"spos": 40}, "config": {"dataset": "stripes", "batch_size": 32}}
    }
    resolution: int = 8
    width: int = 8

    def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return tuple((f"block{i}", tuple(KERNELS)) for i in range(3))

    def params(self, subnet: Subnet) -> int:
        sizes = [list(KERNELS.values())[option] for option in subnet]
        blocks = sum(self.width**2 * k * k + 3 * self.width for k in sizes if k > 0)  # weights, biases and norms
        return (27 + 1) * self.width + blocks + (self.width + 1) * self.num_classes

    def supernet(self, num_classes: int | None = None) -> Supernet:
        return BlocksSupernet(self.with_classes(num_classes))


class BlocksSupernet(Supernet):
    def __init__(self, space: Blocks) -> None:
        super().__init__()
        self.space, c = space, space.width
        self.stem, self.classifier = nn.Conv2d(3, c, 3, padding=1), nn.Linear(c, space.num_classes)
        self.blocks = nn.ModuleList(nn.ModuleList(_block(c, k) for k in KERNELS.values()) for _ in space.decisions)

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        x = self.stem(x)
        for options, option in zip(self.blocks, subnet, strict=True):
            x = options[option](x)
        return self.classifier(x.amax((2, 3)))


def _block(c: int, k: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(c, c, k, padding=k // 2), nn.GroupNorm(2, c), nn.ReLU()) if k > 0 else nn.Identity()


@strategies.register("fewest")
class Fewest(SPOS):
    """Of two paths, drawn at random, each step trains the one of fewer parameters."""

    name = "fewest"

    def plan(self, step: int, memory: Any = None) -> Plan:
        rng = generator(self.seed, "path", step)  # draws depend on (seed, purpose, step) alone
        path = min(self.draw(rng), self.draw(rng), key=self.space.params)
        return Plan((path,), (1.0,), self.lr(step, path), self.cluster(path))


@sources.register("stripes")
def stripes(root: Any, download: bool, say: Any) -> Source:
    """256 images to learn from and 128 to test on: stripes along one of the two axes, in noise."""
    rng = torch_generator(0, "stripes")
    images = torch.randint(0, 128, (384, 8, 8, 3), generator=rng, dtype=torch.uint8)
    labels = torch.randint(0, 2, (384,), generator=rng)
    images[labels == 0, ::2] += 64
    images[labels == 1, :, ::2] += 64
    return Source(2, Images(images[:256], labels[:256]), Images(images[256:], labels[256:]), mirrors=True)
