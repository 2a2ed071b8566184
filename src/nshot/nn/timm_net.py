"""A network of timm's EfficientNet builder as one of sliced blocks, with timm's names; imports nothing of timm."""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.errors import UserError

from .sliced import Gate, SlicedConv, SlicedNorm, SlicedSqueeze
from .sliced_blocks import WHOLE, Choice, SlicedBlock, SlicedConvBlock, SlicedResidual, SlicedSeparable

ACTIVATIONS = ("Identity", "ReLU", "ReLU6", "SiLU", "Hardswish", "Sigmoid", "Hardsigmoid")
CALLED = {"Swish": "SiLU", "HardSwish": "Hardswish", "HardSigmoid": "Hardsigmoid"}  # by timm


class SlicedNet(nn.Module):
    """Stem, stages of blocks, head, classifier.

    ``blocks`` are stages by number, each its blocks by number; ``pooled_head``: whether the head's convolution comes
    after the pooling, as in MobileNetV3; ``mean``: whether that is timm's fast one, the same to rounding.
    """

    def __init__(
        self, conv_stem: SlicedConv, bn1: SlicedNorm, blocks: Sequence[Sequence[SlicedBlock]], head: nn.ModuleDict,
        pooled_head: bool, mean: bool, classifier: nn.Linear,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv_stem, self.bn1 = conv_stem, bn1
        self.blocks = nn.ModuleList(nn.ModuleDict({str(i): block for i, block in enumerate(stage)}) for stage in blocks)
        for name, module in head.items():
            self.add_module(name, module)
        self.head = tuple(head)
        self.pooled_head, self.mean = pooled_head, mean
        self.classifier = classifier

    def named_blocks(self) -> list[tuple[str, SlicedBlock]]:
        """By their names, ``stage.block``, in order."""
        return [(f"{s}.{i}", block) for s, stage in enumerate(self.blocks) for i, block in stage.items()]  # type: ignore[operator,misc,union-attr]

    def unpooled(self, x: Tensor, choices: Sequence[Choice] | None = None) -> Tensor:
        """The last features (N, C, H, W) before pooling."""
        x = self.bn1(self.conv_stem(x))
        for i, (_, block) in enumerate(self.named_blocks()):
            choice = WHOLE if choices is None else choices[i]
            if choice.kept:
                x = block(x, choice)
        return x if self.pooled_head else self._head(x)

    def features(self, x: Tensor, choices: Sequence[Choice] | None = None) -> Tensor:
        """What the classifier reads (N, d)."""
        x = self.unpooled(x, choices)
        x = x.mean((2, 3), keepdim=True) if self.mean else F.adaptive_avg_pool2d(x, 1)
        return (self._head(x) if self.pooled_head else x).flatten(1)

    def forward(self, x: Tensor, choices: Sequence[Choice] | None = None) -> Tensor:
        return self.classifier(self.features(x, choices))

    def _head(self, x: Tensor) -> Tensor:
        for name in self.head:
            x = self.get_submodule(name)(x)
        return x

    def sliced(self, choices: Sequence[Choice], classes: int) -> "SlicedNet":
        """A new network of the chosen sizes on the same device, its weights not initialised."""
        new = deepcopy(self)
        for (name, block), choice in zip(self.named_blocks(), choices, strict=True):
            stage, _, i = name.partition(".")
            held = new.blocks[int(stage)]
            assert isinstance(held, nn.ModuleDict)
            if choice.kept:
                held[i] = block.sliced(choice)
            else:
                del held[i]
        new.classifier = nn.Linear(self.classifier.in_features, classes, device=self.classifier.weight.device)
        return new


def resized(x: Tensor, side: int) -> Tensor:
    """Images at another side, at least half of theirs: bilinear."""
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)


def converted(network: nn.Module, name: str) -> SlicedNet:
    """The network with new weights of the same names, on torch's default device.

    Raises:
        UserError: for a network that has something else than inverted residuals, depthwise separable and plain
            convolutions, batch norms and average pooling.
    """
    try:
        stem, blocks = network.conv_stem, network.blocks
        pooled_head = hasattr(network, "act2")
        head = ("conv_head", "norm_head", "act2") if pooled_head else ("conv_head", "bn2")
        pool = type(network.global_pool.pool).__name__  # type: ignore[union-attr]
        if pool not in ("AdaptiveAvgPool2d", "FastAdaptiveAvgPool"):
            raise _UnknownError(f"it has a pooling {pool}")
        stages = [[_block(block) for block in stage] for stage in blocks]  # type: ignore[union-attr,operator]
        parts = nn.ModuleDict({key: _part(getattr(network, key)) for key in head})
        classifier = network.classifier
        assert isinstance(classifier, nn.Linear)
        own = nn.Linear(classifier.in_features, classifier.out_features)
        return SlicedNet(_conv(stem), _norm(network.bn1), stages, parts, pooled_head, pool[0] == "F", own)
    except (AttributeError, AssertionError, TypeError, _UnknownError) as error:
        why = f" ({error})" if isinstance(error, _UnknownError) else ""
        raise UserError(
            f"model {name!r} is no network of inverted residuals of timm's EfficientNet builder{why}: take one such as "
            "tf_efficientnet_lite0, efficientnet_b0, mobilenetv2_100 or mobilenetv3_large_100"
        ) from None


class _UnknownError(Exception):
    """Something that no sliced module is of."""


def _block(block: nn.Module) -> SlicedBlock:
    kind = type(block).__name__
    if kind == "ConvBnAct":
        _plain(block, "aa")
        return SlicedConvBlock(_conv(block.conv), _norm(block.bn1), bool(block.has_skip))
    if kind not in ("DepthwiseSeparableConv", "InvertedResidual"):
        raise _UnknownError(f"it has a block {kind}")
    _plain(block, "aa", "conv_s2d", "drop_path")
    se, skip = _squeeze(block.se), bool(block.has_skip)
    dw, pw = _conv(block.conv_dw, depthwise=True), _conv(block.conv_pw, pointwise=True)
    if kind == "DepthwiseSeparableConv":
        return SlicedSeparable(dw, _norm(block.bn1), se, pw, _norm(block.bn2), skip)
    pwl = _conv(block.conv_pwl, pointwise=True)
    return SlicedResidual(pw, _norm(block.bn1), dw, _norm(block.bn2), se, pwl, _norm(block.bn3), skip)


def _plain(block: nn.Module, *names: str) -> None:
    for name in names:
        part = getattr(block, name, None)
        if part is not None and not isinstance(part, nn.Identity):
            raise _UnknownError(f"a block has a {type(part).__name__}")


def _part(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return _conv(module)
    return _norm(module) if isinstance(module, nn.BatchNorm2d) else _act(module)


def _conv(conv: object, *, depthwise: bool = False, pointwise: bool = False) -> SlicedConv:
    kind = type(conv).__name__
    if not isinstance(conv, nn.Conv2d) or kind not in ("Conv2d", "Conv2dSame"):
        raise _UnknownError(f"it has a {kind}")
    kernel, same = conv.kernel_size[0], kind == "Conv2dSame"
    usual = conv.dilation == (1, 1) and kernel % 2 == 1 and conv.kernel_size == (kernel, kernel)
    usual = usual and (same or conv.padding == (kernel // 2, kernel // 2)) and conv.stride[0] == conv.stride[1]
    groups = conv.out_channels if depthwise else 1
    if not usual or conv.groups != groups or (pointwise and kernel != 1) or (depthwise and conv.bias is not None):
        raise _UnknownError(f"it has a {conv}")
    return SlicedConv(conv.in_channels, conv.out_channels, kernel, conv.stride[0], groups, conv.bias is not None, same)


def _norm(norm: object) -> SlicedNorm:
    if type(norm).__name__ != "BatchNormAct2d" or not isinstance(norm, nn.BatchNorm2d):
        raise _UnknownError(f"it has a {type(norm).__name__}")
    _plain(norm, "drop")
    return SlicedNorm(norm.num_features, norm.eps, norm.momentum, _act(norm.act))


def _squeeze(se: object) -> nn.Module:
    if isinstance(se, nn.Identity):
        return nn.Identity()
    if type(se).__name__ != "SqueezeExcite" or not isinstance(se, nn.Module):
        raise _UnknownError(f"it has a {type(se).__name__}")
    reduce = _conv(se.conv_reduce, pointwise=True)
    return SlicedSqueeze(reduce.in_channels, reduce.out_channels, _act(se.act1), _act(se.gate))


def _act(act: object) -> nn.Module:
    """torch's own activation of that name."""
    name = CALLED.get(type(act).__name__, type(act).__name__)
    if name not in ACTIVATIONS:
        raise _UnknownError(f"it has an activation {name}")
    kind = Gate if name == "Hardsigmoid" else getattr(nn, name)
    return kind() if name in ("Identity", "Sigmoid") else kind(inplace=True)


def to_empty(network: SlicedNet) -> SlicedNet:
    """The network of the meta device on torch's default one, without values."""
    return network.to_empty(device=torch.get_default_device())
