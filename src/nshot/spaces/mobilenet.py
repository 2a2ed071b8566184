"""The MobileNet space of ProxylessNAS (Cai et al., ICLR 2019): 21 layers, kernels 3, 5, 7, expansions 3 and 6, skip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

from torch import Tensor, nn

from nshot.errors import UserError, check_choices, check_positive, check_whole
from nshot.nn.cells import Norm, batch_norm, batch_norm_of_batch
from nshot.nn.inverted import ConvNormAct, InvertedResidual, block_costs, global_pool

from .base import Space, Subnet, spaces
from .drawing import Block, Chain, Drawing
from .supernet import Supernet

WIDTHS = (24, 40, 80, 96, 192, 320)
REPEATS = (4, 4, 4, 4, 4, 1)  # searchable layers of each stage
STRIDES = (2, 2, 2, 2, 1, 2, 1)  # of the stem and of each stage
BLOCKS = ((3, 3), (3, 6), (5, 3), (5, 6), (7, 3), (7, 6))  # (kernel, expansion)
SKIP = len(BLOCKS)
OPTIONS = (*(f"MB{expansion}_{kernel}x{kernel}" for kernel, expansion in BLOCKS), "skip")
STEM, FIRST, HEAD = 32, 16, 1280
NORMS = {"batch": batch_norm_of_batch, "running": batch_norm}


@dataclass(frozen=True)
class Place:
    """Where a searchable layer stands: channels in and out, stride, and the side of its input."""

    c_in: int
    c: int
    stride: int
    side: int


@spaces.register("mobilenet")
@dataclass(frozen=True)
class MobileNet(Space):
    """21 layers, unless ``repeats`` says otherwise, of six inverted residual blocks, or skipped.

    The first layer of a stage changes the shape of its input and has no skip. No two subnets compute the same with one
    supernet's weights; which of a stage's other layers are skipped makes no difference to a network trained alone, and
    is not seen (`twin`).
    """

    name: ClassVar[str] = "mobilenet"
    supernet_sizes: ClassVar[tuple[str, ...]] = ("norm",)
    gamma: ClassVar[float] = 3.0
    # Section A of the supplement. At proxy scale CIFAR-10 at 16 px, on one core in minutes: a quarter of the widths,
    # half the layers, and strides that leave pixels to the last stages.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "sizes": {"num_classes": 1000},
            "epochs": {"spos": 150, "fairnas": 75, "fsnas": 100, "random": 150, "nsas": 150, "sumnas": 75, "pada": 150},
            "config": {"dataset": "imagenet", "batch_size": 512, "lr": 0.045, "weight_decay": 4e-5},
            "augment": {"crop": "resized"},
        },
        "proxy": {
            "sizes": {
                "resolution": 16,
                "strides": (2, 1, 2, 1, 1, 2, 1),
                "repeats": (2, 2, 2, 2, 2, 1),
                "width": 0.25,
                "num_classes": 10,
            },
            "epochs": {"spos": 30, "fairnas": 4, "fsnas": 5, "random": 30, "nsas": 3, "sumnas": 3, "pada": 30},
            # SGD does not train that many blocks in this few steps (docs/results.md).
            "config": {"batch_size": 64, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 4e-5},
        },
        "smoke": {
            "sizes": {"resolution": 32, "width": 0.25, "num_classes": 10},
            "epochs": {"spos": 1, "fairnas": 1, "fsnas": 1, "random": 1, "nsas": 1, "sumnas": 1, "pada": 1},
            "config": {"dataset": "digits", "batch_size": 64, "lr": 0.045, "log_every": 5},
        },
    }

    resolution: int = 224
    """Height and width of the images, at least the product of the strides."""
    strides: tuple[int, ...] = STRIDES
    """Strides, 1 or 2, of the stem and of the six stages; small images want fewer 2s."""
    repeats: tuple[int, ...] = REPEATS
    """Searchable layers of each of the six stages; short trainings want fewer."""
    width: float = 1.0
    """Factor of all widths, rounded to multiples of 8."""
    norm: Literal["batch", "running"] = "batch"
    """Batch norms of the supernet: batch, always the batch's statistics and no affine parameters, as released; running,
    affine with running statistics, which scoring computes afresh for each subnet."""
    num_classes: int = 1000

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(width=self.width)
        check_whole(2, num_classes=self.num_classes)
        if len(self.strides) != len(STRIDES) or not set(self.strides) <= {1, 2}:
            raise UserError(f"strides {self.strides}: must be {len(STRIDES)} numbers, each 1 or 2, of stem and stages")
        if len(self.repeats) != len(REPEATS) or min(self.repeats) < 1:
            raise UserError(f"repeats {self.repeats}: must be {len(REPEATS)} numbers, each at least 1, of the stages")
        if self.resolution < (least := math.prod(self.strides)):
            halvings = self.strides.count(2)
            raise UserError(f"resolution {self.resolution}: the space halves it {halvings} times, use at least {least}")

    def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        names = [(stage, layer) for stage, repeats in enumerate(self.repeats) for layer in range(repeats)]
        return tuple(
            (f"stage{stage}.layer{layer}", OPTIONS[:SKIP] if layer == 0 else OPTIONS) for stage, layer in names
        )

    # costs

    def channels(self, base: int) -> int:
        """A width, scaled and rounded to a multiple of 8."""
        return base if self.width == 1 else max(8, round(base * self.width / 8) * 8)

    @property
    def _side(self) -> int:
        """Of the stem's output."""
        return -(-self.resolution // self.strides[0])

    @cached_property
    def places(self) -> list[Place]:
        """Of the searchable layers, in order."""
        found, c_in, side = [], self.channels(FIRST), self._side
        for base, repeats, stride in zip(WIDTHS, self.repeats, self.strides[1:], strict=True):
            for layer in range(repeats):
                own = stride if layer == 0 else 1
                found.append(Place(c_in, self.channels(base), own, side))
                c_in, side = self.channels(base), -(-side // own)
        return found

    @cached_property
    def _fixed(self) -> tuple[int, int, int]:
        """Parameters, multiply-accumulates and normed channels of stem, first block, head and classifier."""
        stem, first, head = self.channels(STEM), self.channels(FIRST), self.channels(HEAD)
        side, last = self._side, self.places[-1]
        block = block_costs(stem, first, 3, 1, 1, side)
        weights, pixels = last.c * head, (-(-last.side // last.stride)) ** 2
        classifier = head * self.num_classes
        params = 27 * stem + block[0] + weights + classifier + self.num_classes
        flops = 27 * stem * side * side + block[1] + weights * pixels + classifier
        return params, flops, stem + block[2] + head

    @cached_property
    def _table(self) -> list[tuple[tuple[int, int, int], ...]]:
        """Costs of every option of every layer."""
        return [
            (*(block_costs(at.c_in, at.c, k, e, at.stride, at.side) for k, e in BLOCKS), (0, 0, 0))
            for at in self.places
        ]

    def _cost(self, subnet: Subnet, which: int) -> int:
        return self._fixed[which] + sum([row[option][which] for row, option in zip(self._table, subnet, strict=True)])

    def params(self, subnet: Subnet) -> int:
        """Weights of convolutions and classifier; 2,145,384 to 5,054,664 for 1,000 classes."""
        return self._cost(subnet, 0)

    def flops(self, subnet: Subnet) -> int:
        return self._cost(subnet, 1)

    def network_params(self, subnet: Subnet) -> int:
        return self._cost(subnet, 0) + 2 * self._cost(subnet, 2)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Each layer alone."""
        return tuple((i,) for i in range(len(self.decisions)))

    # notation

    def format(self, subnet: Subnet) -> str:
        """``MB3_3x3,MB6_5x5,skip,...|...``: layers separated by commas, stages by bars."""
        layers = iter(OPTIONS[option] for option in self.check(subnet))
        return "|".join(",".join(next(layers) for _ in range(repeats)) for repeats in self.repeats)

    def parse(self, text: str) -> Subnet:
        stages = [stage.split(",") for stage in text.strip().split("|")]
        if [len(stage) for stage in stages] != list(self.repeats):
            shape = "|".join(",".join(["op"] * repeats) for repeats in self.repeats)
            raise UserError(f"{text!r} is no mobilenet subnet: expected {shape}")
        names = [name.strip() for stage in stages for name in stage]
        for name in names:
            if name not in OPTIONS:
                raise UserError(f"unknown block {name!r} in {text!r}: choose of {', '.join(OPTIONS)}")
        return self.check(tuple(OPTIONS.index(name) for name in names))

    def drawing(self, subnet: Subnet) -> Drawing:
        """The chain of layers."""

        def block(kernel: int, expansion: int, c: int) -> Block:
            return Block((f"{kernel}×{kernel}", f"×{expansion}"), f"{kernel}×{kernel}", expansion / 6, str(c))

        stem, first, head = (self.channels(c) for c in (STEM, FIRST, HEAD))
        layers = [
            Block(("skip",), height=0, group=str(at.c)) if option == SKIP else block(*BLOCKS[option], at.c)
            for option, at in zip(self.check(subnet), self.places, strict=True)
        ]
        fixed = Block(("3×3",), group=str(stem)), block(3, 1, first)
        kinds = tuple(f"{kernel}×{kernel}" for kernel in sorted({kernel for kernel, _ in BLOCKS}))
        note = "× and height: expansion; below: channels"
        return (Chain("", (*fixed, *layers, Block(("1×1",), group=str(head))), kinds, note),)

    # networks

    def supernet(self, num_classes: int | None = None) -> "MobileNetSupernet":
        return MobileNetSupernet(self.with_classes(num_classes))

    def network(self, subnet: Subnet, num_classes: int | None = None) -> "MobileNetNetwork":
        return MobileNetNetwork(self.with_classes(num_classes), self.check(subnet))


class Backbone(nn.Module):
    """Stem, first block, ``options[i]`` at layer i, head, classifier."""

    def __init__(self, space: MobileNet, options: Sequence[Sequence[int]], norm: Norm) -> None:
        super().__init__()
        stem, first, head = (space.channels(c) for c in (STEM, FIRST, HEAD))
        self.stem = ConvNormAct(3, stem, 3, norm, stride=space.strides[0])
        self.first = InvertedResidual(stem, first, 3, 1, 1, norm)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {OPTIONS[i]: InvertedResidual(at.c_in, at.c, *BLOCKS[i], at.stride, norm) for i in allowed if i != SKIP}
            )
            for at, allowed in zip(space.places, options, strict=True)
        )
        self.head = ConvNormAct(space.places[-1].c, head, 1, norm)
        self.classifier = nn.Linear(head, space.num_classes)

    def run(self, x: Tensor, subnet: Subnet) -> Tensor:
        return self.classifier(global_pool(self.unpooled(x, subnet)))

    def unpooled(self, x: Tensor, subnet: Subnet) -> Tensor:
        """The last features (N, C, H, W)."""
        x = self.first(self.stem(x))
        for layer, option in zip(self.layers, subnet, strict=True):
            if option != SKIP:
                x = cast(nn.ModuleDict, layer)[OPTIONS[option]](x)
        return self.head(x)


class MobileNetSupernet(Backbone, Supernet):
    """All blocks of all layers, each with weights of its own; batch norms as the space says."""

    def __init__(self, space: MobileNet) -> None:
        super().__init__(space, [d.allowed for d in space.decisions], NORMS[space.norm])
        self.space: MobileNet = space

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        return self.run(x, tuple(subnet))

    def own_weights(self, subnet: Subnet) -> list[list[nn.Parameter]]:
        blocks = zip(self.layers, subnet, strict=True)
        return [[] if o == SKIP else list(cast(nn.ModuleDict, layer)[OPTIONS[o]].parameters()) for layer, o in blocks]

    def extract(self, subnet: Subnet) -> "MobileNetNetwork":
        return self.hand_weights(MobileNetNetwork(self.space, subnet, norm=NORMS[self.space.norm]))


class MobileNetNetwork(Backbone):
    """One subnet: ``network(x)``."""

    def __init__(self, space: MobileNet, subnet: Subnet, *, norm: Norm = batch_norm) -> None:
        super().__init__(space, [(option,) for option in subnet], norm)
        self.subnet = subnet

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.subnet)

    def feature_map(self, x: Tensor) -> Tensor:
        """(N, C, H, W), before pooling."""
        return self.unpooled(x, self.subnet)
