"""The AutoFormer space, supernet-tiny (Chen et al., ICCV 2021): a vision transformer of entangled weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nshot.errors import UserError, check_whole
from nshot.nn.elastic import ElasticBlock, ElasticLinear, ElasticNorm, initialise

from .base import Space, Subnet, spaces
from .deit import IMAGENET, deit_weights
from .drawing import Block, Chain, Drawing
from .presets import AUTOFORMER
from .supernet import Supernet

FARTHEST = 14  # relative positions beyond it count as this far


@dataclass(frozen=True)
class Shape:
    """Sizes of a network: width, and (heads, hidden units of the MLP) of each layer."""

    width: int
    layers: tuple[tuple[int, int], ...]


@spaces.register("autoformer")
@dataclass(frozen=True)
class AutoFormer(Space):
    """Width and depth of the whole network; heads and MLP ratio of each layer.

    Layers beyond the depth are not run, so subnets that differ only there are one (`canonical`).
    """

    name: ClassVar[str] = "autoformer"
    couples: ClassVar[tuple[int, ...]] = (0, 1)  # width and depth
    presets: ClassVar[dict[str, dict[str, Any]]] = AUTOFORMER

    resolution: int = 224
    """Height and width of the images, a multiple of the patch."""
    patch: int = 16
    """Height and width of a patch."""
    widths: tuple[int, ...] = (192, 216, 240)
    """Options of the embedding's dimension."""
    depths: tuple[int, ...] = (12, 13, 14)
    """Options of the number of layers."""
    heads: tuple[int, ...] = (3, 4)
    """Options of each layer's attention heads."""
    ratios: tuple[float, ...] = (3.5, 4.0)
    """Options of each layer's hidden units, times the width."""
    head_dim: int = 64
    """Dimension of a head's queries, keys and values."""
    relative: bool = True
    """Whether attention knows relative positions."""
    deit: bool = False
    """Networks as DeiT's, for its weights (--init): the class token is classified, images are normalised as
    ImageNet's; without relative positions."""

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "heads", "ratios"):
            options = tuple(float(o) if name == "ratios" else o for o in getattr(self, name))  # 3 is 3.0 in notation
            object.__setattr__(self, name, options)  # a list, from a run's JSON, becomes a tuple
            if not options or list(options) != sorted(set(options)) or not options[0] > 0:
                raise UserError(f"{name} {options}: must be rising numbers above 0")
        check_whole(1, patch=self.patch, head_dim=self.head_dim)
        check_whole(2, num_classes=self.num_classes)
        check_whole(1, resolution=self.resolution)
        if self.deit and self.relative:
            raise UserError("deit True: DeiT's networks know no relative positions, say --no-relative too")
        if self.resolution % self.patch:
            fits = -(-self.resolution // self.patch) * self.patch
            raise UserError(
                f"resolution {self.resolution}: must be a multiple of the patch {self.patch}, such as {fits}"
            )

    def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        found = [("width", self.widths), ("depth", self.depths)]
        for layer in range(self.depths[-1]):
            found += [(f"layer{layer}.heads", self.heads), (f"layer{layer}.ratio", self.ratios)]  # type: ignore[list-item]
        return tuple((name, tuple(map(str, options))) for name, options in found)

    def shape(self, subnet: Subnet) -> Shape:
        """The sizes that the subnet's options stand for."""
        width, depth = self.widths[subnet[0]], self.depths[subnet[1]]
        layers = zip(subnet[2 : 2 + 2 * depth : 2], subnet[3 : 2 + 2 * depth : 2], strict=True)
        return Shape(width, tuple((self.heads[h], int(width * self.ratios[r])) for h, r in layers))

    @property
    def largest(self) -> Shape:
        """The sizes that hold every subnet."""
        return self.shape(tuple(d.allowed[-1] for d in self.decisions))

    @property
    def normalised(self) -> tuple[Sequence[float], Sequence[float]] | None:
        return IMAGENET if self.deit else None

    def pretrained(self, source: str) -> dict[str, Tensor]:
        """DeiT's weights; each subnet is then a leading slice of them, as they are."""
        if not self.deit:
            raise UserError(
                f"init {source}: only networks as DeiT's take weights from elsewhere: add --deit --no-relative"
            )
        return deit_weights(source, replace(self, kept=()).supernet(), self.supernet(), self.head_dim)

    # costs

    @property
    def tokens(self) -> int:
        """Patches, and the class token."""
        return (self.resolution // self.patch) ** 2 + 1

    def _outside(self, width: int) -> tuple[int, int]:
        """Parameters and multiply-accumulates of embedding, last norm and classifier."""
        embedding, classifier = 3 * self.patch**2 * width, width * self.num_classes
        params = embedding + width + (1 + self.tokens) * width + 2 * width + classifier + self.num_classes
        return params, embedding * (self.tokens - 1) + classifier

    def _layer(self, width: int, heads: int, ratio: float) -> tuple[int, int]:
        inner, hidden, tokens = heads * self.head_dim, int(width * ratio), self.tokens
        weights = 4 * width * inner + 2 * width * hidden
        params = weights + 3 * inner + width + hidden + width + 4 * width
        positions = 4 * (2 * FARTHEST + 2) * self.head_dim if self.relative else 0
        attention = (4 if self.relative else 2) * tokens * tokens * inner
        return params + positions, weights * tokens + attention

    @cached_property
    def _tables(self) -> tuple[list[tuple[int, int]], list[list[list[tuple[int, int]]]]]:
        """Costs outside the layers [width], and of a layer [width][heads][ratio]."""
        layers = [[[self._layer(w, h, r) for r in self.ratios] for h in self.heads] for w in self.widths]
        return [self._outside(w) for w in self.widths], layers

    def _cost(self, subnet: Subnet, which: int) -> int:
        outside, layers = self._tables
        width, end = subnet[0], 2 + 2 * self.depths[subnet[1]]
        table = layers[width]
        return outside[width][which] + sum([table[subnet[i]][subnet[i + 1]][which] for i in range(2, end, 2)])

    def params(self, subnet: Subnet) -> int:
        return self._cost(subnet, 0)

    def flops(self, subnet: Subnet) -> int:
        return self._cost(subnet, 1)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Heads and ratio of each layer."""
        return tuple((i, i + 1) for i in range(2, len(self.decisions), 2))

    # notation

    def format(self, subnet: Subnet) -> str:
        """``width=192 depth=13 heads=3,3,... ratio=3.5,4.0,...``: a number a layer, also of those beyond the depth."""
        options = [d.options[option] for d, option in zip(self.decisions, self.check(subnet), strict=True)]
        return f"width={options[0]} depth={options[1]} heads={','.join(options[2::2])} ratio={','.join(options[3::2])}"

    def parse(self, text: str) -> Subnet:
        """As `format` writes; layers beyond the depth may be left out."""
        words = dict(word.partition("=")[::2] for word in text.split())
        if set(words) != {"width", "depth", "heads", "ratio"}:
            raise UserError(f"{text!r} is no autoformer subnet: expected width=W depth=D heads=H,H,... ratio=R,R,...")
        ratios = [f"{ratio}.0" if ratio.isdigit() else ratio for ratio in words["ratio"].split(",")]  # 4 is 4.0
        layers = [words["heads"].split(","), ratios]
        most = self.depths[-1]
        least = int(words["depth"]) if words["depth"] in map(str, self.depths) else most
        if len(layers[0]) != len(layers[1]) or not least <= len(layers[0]) <= most:
            raise UserError(f"{text!r}: heads and ratio must have {least} to {most} entries, one a layer")
        values = [words["width"], words["depth"], *(value for pair in zip(*layers, strict=True) for value in pair)]
        subnet = []
        for value, decision in zip(values, self.decisions, strict=False):
            if value not in decision.options:
                raise UserError(
                    f"unknown {decision.name} {value!r} in {text!r}: choose of {', '.join(decision.options)}"
                )
            subnet.append(decision.options.index(value))
        return self.check((*subnet, *(d.allowed[0] for d in self.decisions[len(subnet) :])))

    def canonical(self, subnet: Subnet) -> Subnet:
        """The first option that the space has left for all layers beyond the depth.

        Ratios so close that they give a layer as many hidden units are not seen: they cost the same.
        """
        end = 2 + 2 * self.depths[subnet[1]]
        return (*subnet[:end], *(decision.allowed[0] for decision in self.decisions[end:]))

    def drawing(self, subnet: Subnet) -> Drawing:
        """The chain of transformer layers that are run."""
        subnet = self.check(subnet)
        width, end = str(self.widths[subnet[0]]), 2 + 2 * self.depths[subnet[1]]
        kinds = tuple(f"{heads} heads" for heads in self.heads)
        layers = [
            Block((f"{self.heads[h]}h", f"×{self.ratios[r]:g}"), kinds[h], self.ratios[r] / self.ratios[-1], width)
            for h, r in zip(subnet[2:end:2], subnet[3:end:2], strict=True)
        ]
        patch = f"{self.patch}×{self.patch}"
        note = "× and height: MLP ratio; below: width"
        return (Chain("", (Block(("patch", patch), group=width), *layers, Block(("class",))), kinds, note),)

    # networks

    def supernet(self, num_classes: int | None = None) -> "AutoFormerSupernet":
        return AutoFormerSupernet(self.with_classes(num_classes))

    def network(self, subnet: Subnet, num_classes: int | None = None) -> "AutoFormerNetwork":
        space = self.with_classes(num_classes)
        return AutoFormerNetwork(space, space.shape(self.check(subnet)))


class Backbone(nn.Module):
    """A transformer of this shape, which runs any that is no larger."""

    def __init__(self, space: AutoFormer, shape: Shape) -> None:
        super().__init__()
        side = space.resolution // space.patch
        self.embedding = nn.Conv2d(3, shape.width, space.patch, space.patch)
        self.token = nn.Parameter(torch.empty(1, 1, shape.width))
        self.position = nn.Parameter(torch.empty(1, space.tokens, shape.width))
        last = max(len(shape.layers) - 1, 1)  # drop-path rises from none in the first layer to all in the last
        self.layers = nn.ModuleList(
            ElasticBlock(shape.width, heads, space.head_dim, hidden, side, space.relative, share=i / last)
            for i, (heads, hidden) in enumerate(shape.layers)
        )
        self.norm = ElasticNorm(shape.width)
        self.classifier = ElasticLinear(shape.width, space.num_classes)
        self.deit = space.deit
        if self.deit:
            for module in self.modules():
                if isinstance(module, ElasticNorm):
                    module.eps = 1e-6
        initialise(self)

    def no_weight_decay(self) -> set[str]:
        """What AdamW does not decay besides norms and biases, as Chen et al. name it: class token and positions."""
        return {n for n, _ in self.named_parameters() if n.endswith(("token", "position", "vertical", "horizontal"))}

    def run(self, x: Tensor, shape: Shape) -> Tensor:
        w, conv = shape.width, self.embedding
        assert conv.bias is not None
        x = torch.nn.functional.conv2d(x, conv.weight[:w], conv.bias[:w], conv.stride).flatten(2).transpose(1, 2)
        x = torch.cat([self.token[..., :w].expand(x.shape[0], -1, -1), x], dim=1) + self.position[..., :w]
        for layer, (heads, hidden) in zip(self.layers, shape.layers, strict=False):
            x = layer(x, heads, hidden)
        x = self.norm(x)
        return self.classifier(x[:, 0] if self.deit else x[:, 1:].mean(1), self.classifier.out_features)


class AutoFormerSupernet(Backbone, Supernet):
    """The largest transformer; subnets are leading slices of its weights."""

    def __init__(self, space: AutoFormer) -> None:
        super().__init__(space, space.largest)
        self.space: AutoFormer = space

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        return self.run(x, self.space.shape(tuple(subnet)))

    def live(self, subnet: Subnet) -> dict[str, tuple[int, ...]]:
        shape = self.space.shape(tuple(subnet))
        w, tokens = shape.width, self.space.tokens
        found: dict[str, tuple[int, ...]] = {"token": (1, 1, w), "position": (1, tokens, w)}
        found |= {"classifier.weight": (self.classifier.out_features, w)}
        found |= dict.fromkeys(("embedding.weight", "embedding.bias", "norm.weight", "norm.bias"), (w,))
        for i, (heads, hidden) in enumerate(shape.layers):
            layer = self.layers[i]
            assert isinstance(layer, ElasticBlock)
            found |= {f"layers.{i}.{name}": sizes for name, sizes in layer.live(w, heads, hidden).items()}
        return found

    def extract(self, subnet: Subnet) -> "AutoFormerNetwork":
        return self.hand_weights(AutoFormerNetwork(self.space, self.space.shape(subnet)))


class AutoFormerNetwork(Backbone):
    """One subnet: ``network(x)``."""

    def __init__(self, space: AutoFormer, shape: Shape) -> None:
        super().__init__(space, shape)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.shape)
