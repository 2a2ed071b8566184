"""Networks of timm's EfficientNet builder, shrunk: blocks, their channels, kernels and the images' side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nshot.errors import UserError, check_whole
from nshot.nn.sliced_blocks import Choice, SlicedResidual, initialise

from .base import Space, Subnet, spaces
from .drawing import Block, Chain, Drawing
from .pretrained import WORD, fitted, read_weights
from .timm_blocks import ALL, At, original, places, published, squeezed
from .timm_nets import TimmNetwork, TimmSupernet, weights_of

SIDES = (Fraction(1, 2), Fraction(3, 4))  # of the resolution, besides all
SKIP, SIDE = "skip", "side"
TUNED = {"idle": "rest", "optimizer": "adamw", "weight_decay": 0.01}


def rounded(resolution: int, shares: Iterable[Fraction]) -> tuple[int, ...]:
    """These shares of a resolution as sides: rising, in multiples of 8 but none below its half, and itself."""
    least = -(-resolution // 2)
    return tuple(sorted({*(max(least, 8 * round(share * resolution / 8)) for share in shares), resolution}))


@spaces.register("timm")
@dataclass(frozen=True)
class Timm(Space):
    """Blocks of a network that is pretrained elsewhere: whether each residual one is kept, the share of its expanded
    channels, its kernel; and the side to which the network itself resizes its images.

    The largest subnet is timm's network. Of a share the most important channels run (`nshot.nn.sliced`).
    """

    name: ClassVar[str] = "timm"
    gamma: ClassVar[float] = 3.0
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "proxy": {
            "sizes": {"resolution": 96, "num_classes": 10},
            "epochs": {"spos": 20},
            "config": {**TUNED, "batch_size": 32, "lr": 4e-3},
        },
        "smoke": {
            "sizes": {"model": "mobilenetv3_small_050", "resolution": 32, "num_classes": 10},
            "epochs": {"spos": 1},
            "config": {**TUNED, "dataset": "digits", "batch_size": 64, "lr": 1e-3, "log_every": 5},
        },
    }

    model: str = "tf_efficientnet_lite0"
    """timm's name of a network of inverted residuals: efficientnet_b0, mobilenetv2_100, mobilenetv3_large_100, ..."""
    resolution: int = 224
    """Height and width that images are decoded to; the network resizes them to its own side."""
    sides: tuple[int, ...] = ()
    """Options of the network's own side, rising up to the resolution, none below half of it; none named: a half, three
    quarters and all, in multiples of 8."""
    num_classes: int = 1000

    def __post_init__(self) -> None:
        check_whole(8, resolution=self.resolution)
        check_whole(2, num_classes=self.num_classes)
        object.__setattr__(self, "sides", tuple(map(int, self.sides)))
        sides, high = self.sides, self.resolution
        if sides and (list(sides) != sorted(set(sides)) or sides[-1] != high or 2 * sides[0] < high):
            raise UserError(f"sides {sides}: must be rising numbers from {-(-high // 2)} to the resolution {high}")
        original(self.model)

    @property
    def normalised(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """As the pretrained weights want it."""
        return original(self.model)[1:]

    def pretrained(self, source: str) -> dict[str, Tensor]:
        """timm's own weights, or a file's; blocks get the order of their channels' importance."""
        given = published(self.model) if source == WORD else read_weights(Path(source))
        return weights_of(self, fitted(given, original(self.model).net.state_dict(), "classifier", source))

    @cached_property
    def all_sides(self) -> tuple[int, ...]:
        """Options of the network's side, rising."""
        return self.sides or rounded(self.resolution, SIDES)

    @property
    def places(self) -> tuple[At, ...]:
        """All blocks of timm's network."""
        return places(self.model)

    @cached_property
    def _options(self) -> tuple[tuple[int | None, int | None], ...]:
        """Of each block the numbers of its decisions, of share and of kernel; None where there is nothing to decide."""
        found, count = [], 0
        for at in self.places:
            share = count if at.block.residual or len(at.hidden) > 1 else None
            count += share is not None
            kernel = count if len(at.kernels) > 1 else None
            count += kernel is not None
            found.append((share, kernel))
        return tuple(found)

    def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        found: list[tuple[str, tuple[str, ...]]] = []
        for at, (share, kernel) in zip(self.places, self._options, strict=True):
            if share is not None:
                found.append((f"block{at.name}.share", (*([SKIP] if at.block.residual else []), *at.hidden)))
            if kernel is not None:
                found.append((f"block{at.name}.kernel", tuple(f"{k}x{k}" for k in at.kernels)))
        if len(self.all_sides) > 1:
            found.append((SIDE, tuple(map(str, self.all_sides))))
        return tuple(found)

    def side(self, subnet: Subnet) -> int:
        """Of the images as the network sees them."""
        return self.all_sides[subnet[-1]] if len(self.all_sides) > 1 else self.resolution

    def choices(self, subnet: Subnet) -> tuple[Choice, ...]:
        """How each block runs."""
        return tuple(
            self._choice(at, None if s is None else subnet[s], None if k is None else subnet[k])
            for at, (s, k) in zip(self.places, self._options, strict=True)
        )

    def _choice(self, at: At, share: int | None, kernel: int | None) -> Choice:
        side = None if kernel is None or at.kernels[kernel] == at.kernels[-1] else at.kernels[kernel]
        if share is None:
            return Choice(kernel=side)
        if at.block.residual and share == 0:
            return Choice(kept=False)
        hidden = list(at.hidden.values())[share - at.block.residual]
        if hidden == at.block.hidden:
            return Choice(kernel=side)
        return Choice(hidden=hidden, squeeze=squeezed(original(self.model).net, at.block, hidden), kernel=side)

    @cached_property
    def held(self) -> tuple[Choice, ...]:
        """Of each block what the supernet holds: the largest of what is allowed."""
        return self.choices(tuple(d.allowed[-1] for d in self.decisions))

    # costs

    @cached_property
    def _fixed(self) -> tuple[int, list[int]]:
        """Parameters of stem, head and classifier, and by side their multiply-accumulates."""
        net = original(self.model).net
        head = [m for name in net.head for m in net.get_submodule(name).modules() if isinstance(m, nn.Conv2d)]
        outside = [net.conv_stem, net.bn1, *(net.get_submodule(name) for name in net.head)]
        params = sum(p.numel() for module in outside for p in module.parameters())
        classifier = net.classifier.in_features * self.num_classes
        last, flops = self.places[-1].shrunk * self.places[-1].stride, []
        for side in self.all_sides:
            pixels = 1 if net.pooled_head else (-(-side // last)) ** 2
            stem = net.conv_stem.weight.numel() * (-(-side // net.conv_stem.stride[0])) ** 2
            flops.append(stem + sum(conv.weight.numel() for conv in head) * pixels + classifier)
        return params + classifier + self.num_classes, flops

    @cached_property
    def _tables(self) -> list[list[list[tuple[int, ...]]]]:
        """Of each block [share][kernel]: parameters, and by side multiply-accumulates."""
        found = []
        for at, (share, kernel) in zip(self.places, self._options, strict=True):
            shares: Sequence[int | None] = [None] if share is None else range(at.block.residual + len(at.hidden))
            kernels: Sequence[int | None] = [None] if kernel is None else range(len(at.kernels))
            found.append([[self._block_costs(at, self._choice(at, s, k)) for k in kernels] for s in shares])
        return found

    def _block_costs(self, at: At, choice: Choice) -> tuple[int, ...]:
        if not choice.kept:
            return (0,) * (1 + len(self.all_sides))
        with torch.device("meta"):
            block = at.block.sliced(choice)
        weights = {name.removesuffix(".weight"): p.numel() for name, p in block.named_parameters() if p.dim() == 4}
        flops = []
        for side in self.all_sides:
            before = (-(-side // at.shrunk)) ** 2
            after = (-(-side // (at.shrunk * at.stride))) ** 2
            expands = isinstance(block, SlicedResidual)
            pixels = {name: 1 if name.startswith("se.") else after for name in weights}
            pixels |= {"conv_pw": before} if expands else {}
            flops.append(sum(count * pixels[name] for name, count in weights.items()))
        return sum(p.numel() for p in block.parameters()), *flops

    def _cost(self, subnet: Subnet, which: int) -> int:
        total = 0
        for table, (share, kernel) in zip(self._tables, self._options, strict=True):
            total += table[0 if share is None else subnet[share]][0 if kernel is None else subnet[kernel]][which]
        return total

    def params(self, subnet: Subnet) -> int:
        """All of the network's, norms and biases included."""
        return self._fixed[0] + self._cost(subnet, 0)

    def flops(self, subnet: Subnet) -> int:
        """At the subnet's own side; the resizing of the images is not counted."""
        side = subnet[-1] if len(self.all_sides) > 1 else 0
        return self._fixed[1][side] + self._cost(subnet, 1 + side)

    @property
    def couples(self) -> tuple[int, ...]:  # type: ignore[override]
        """The side."""
        return (len(self.decisions) - 1,) if len(self.all_sides) > 1 else ()

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Share and kernel of each block."""
        pairs = (tuple(i for i in pair if i is not None) for pair in self._options)
        return tuple(pair for pair in pairs if pair)

    def canonical(self, subnet: Subnet) -> Subnet:
        """The kernel of a block that is not run makes no difference."""
        found = list(subnet)
        for at, (share, kernel) in zip(self.places, self._options, strict=True):
            if kernel is not None and share is not None and at.block.residual and subnet[share] == 0:
                found[kernel] = self.decisions[kernel].allowed[0]
        return tuple(found)

    # notation

    def format(self, subnet: Subnet) -> str:
        """``96px|1|2/3k5,skip|...``: the side; by stages the blocks' shares, with kernels where there is a choice."""
        subnet = self.check(subnet)
        stages: dict[str, list[str]] = {}
        for at, pair in zip(self.places, self._options, strict=True):
            share, kernel = (None if i is None else self.decisions[i].options[subnet[i]] for i in pair)
            text = (share or ALL) + (f"k{kernel.partition('x')[0]}" if kernel else "")
            stages.setdefault(at.name.partition(".")[0], []).append(text)
        return "|".join([f"{self.side(subnet)}px", *(",".join(stage) for stage in stages.values())])

    def parse(self, text: str) -> Subnet:
        side, *stages = text.strip().split("|")
        words = [word.strip() for stage in stages for word in stage.split(",")]
        stage_of = [at.name.partition(".")[0] for at in self.places]
        shape = [stage_of.count(stage) for stage in dict.fromkeys(stage_of)]
        if [len(stage.split(",")) for stage in stages] != shape or not side.endswith("px"):
            largest = self.format(tuple(d.allowed[-1] for d in self.decisions))
            raise UserError(f"{text!r} is no subnet of {self.model}: expected the side and blocks, such as {largest}")
        subnet: list[int] = []
        for word, (share, kernel) in zip(words, self._options, strict=True):
            name, _, size = word.partition("k") if kernel is not None and word != SKIP else (word, "", "")
            if name.startswith("s") and kernel is not None:  # "skip" has a k of its own
                first = self.decisions[kernel].options[self.decisions[kernel].allowed[0]].partition("x")[0]
                name, size = SKIP, word.removeprefix(SKIP).removeprefix("k") or first
            subnet += self._named(text, share, name, (ALL,)) + self._named(text, kernel, f"{size}x{size}", ("x",))
        if len(self.all_sides) > 1:
            return self.check((*subnet, *self._named(text, len(self.decisions) - 1, side.removesuffix("px"), ())))
        if side != f"{self.resolution}px":
            raise UserError(f"{side!r} in {text!r}: the only side is {self.resolution}px")
        return self.check(tuple(subnet))

    def _named(self, text: str, decision: int | None, option: str, else_: tuple[str, ...]) -> list[int]:
        """The option's number; nothing where there is no decision, and the text says what there is."""
        options = else_ if decision is None else self.decisions[decision].options
        if option not in options:
            raise UserError(f"unknown option {option!r} in {text!r}: choose of {', '.join(options)}")
        return [] if decision is None else [options.index(option)]

    def drawing(self, subnet: Subnet) -> Drawing:
        """The chain of blocks."""
        kinds = tuple(f"{k}×{k}" for k in sorted({k for at in self.places for k in at.kernels}))
        blocks = []
        for at, choice in zip(self.places, self.choices(self.check(subnet)), strict=True):
            weight = [p for p in at.block.parameters() if p.dim() == 4][-1]
            group = str(weight.shape[0])
            if not choice.kept:
                blocks.append(Block((SKIP,), height=0, group=group))
                continue
            hidden = choice.hidden or at.block.hidden
            kernel = choice.kernel or (at.kernels[-1] if at.kernels else 0)
            kind = f"{kernel}×{kernel}" if kernel else ""
            lines = (*([kind] if kind else []), *([str(hidden)] if hidden else []))
            blocks.append(Block(lines or ("conv",), kind, hidden / at.block.hidden if hidden else 0.5, group))
        net = original(self.model).net
        stem = Block(("stem",), group=str(net.conv_stem.out_channels))
        last = Block(("head",), group=str(net.classifier.in_features))
        note = "height: expansion; below: channels"
        return (Chain(f"{self.side(subnet)} pixels", (stem, *blocks, last), kinds, note),)

    # networks

    def supernet(self, num_classes: int | None = None) -> "TimmSupernet":
        return TimmSupernet(self.with_classes(num_classes))

    def network(self, subnet: Subnet, num_classes: int | None = None) -> "TimmNetwork":
        network = TimmNetwork(self.with_classes(num_classes), self.check(subnet))
        initialise(network)
        return network
