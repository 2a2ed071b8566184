"""Inverted residual networks of timm's shapes and names, in plain torch, whose blocks run on some of their channels.

A block has an order of its expanded channels, the most important first: of a share of them the first in that order run.
All of a block runs as timm's own does, the same operations in the same order.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .regions import Region
from .sliced import SlicedConv, SlicedNorm, SlicedSqueeze


class Choice(NamedTuple):
    """How a block runs."""

    kept: bool = True
    """False: the block's input is its output."""
    hidden: int | None = None
    """Expanded channels; None: all."""
    squeeze: int | None = None
    """Channels of the squeeze layer; None: all."""
    kernel: int | None = None
    """Side of the depthwise kernel's centre; None: the whole kernel."""


WHOLE = Choice()


class SlicedBlock(nn.Module, ABC):
    """A block of timm's: what all kinds have in common.

    Attributes:
        residual: whether the input is added to the output.
        hidden: expanded channels, 0 where the block has no expansion.
        order: of the expanded channels the most important first; None: as they come.
        inner: likewise, of the squeeze layer.
    """

    order: Tensor | None
    inner: Tensor | None

    def __init__(self, residual: bool, hidden: int = 0) -> None:
        super().__init__()
        self.residual, self.hidden = residual, hidden
        self.register_buffer("order", None)
        self.register_buffer("inner", None)

    def forward(self, x: Tensor, choice: Choice = WHOLE) -> Tensor:
        out = self.body(x, choice)
        return out + x if self.residual else out

    @abstractmethod
    def body(self, x: Tensor, choice: Choice) -> Tensor:
        """The block without its residual."""

    def live(self, choice: Choice) -> dict[str, Region]:
        """Which region of each weight runs, by name; what is not named here runs whole."""
        return {}

    @abstractmethod
    def sliced(self, choice: Choice) -> "SlicedBlock":
        """A new block of the chosen sizes, its weights not initialised."""

    @property
    def squeeze(self) -> SlicedSqueeze | None:
        se = getattr(self, "se", None)
        return se if isinstance(se, SlicedSqueeze) else None

    def rank_channels(self) -> None:
        """Gives the block an order of its channels, for now as they come."""

    def order_by_importance(self) -> None:
        """Orders the channels by the weights as they are: see `SlicedResidual`."""


class SlicedConvBlock(SlicedBlock):
    """A convolution, as timm's ConvBnAct."""

    def __init__(self, conv: SlicedConv, bn1: SlicedNorm, residual: bool) -> None:
        super().__init__(residual)
        self.conv, self.bn1 = conv, bn1

    def body(self, x: Tensor, choice: Choice) -> Tensor:
        return self.bn1(self.conv(x))

    def sliced(self, choice: Choice) -> "SlicedConvBlock":
        conv = self.conv.resized(self.conv.in_channels, self.conv.out_channels, self.conv.kernel_size[0])
        return SlicedConvBlock(conv, self.bn1.resized(conv.out_channels), self.residual)


class SlicedSeparable(SlicedBlock):
    """A depthwise and a pointwise convolution, as timm's DepthwiseSeparableConv: only its kernel is elastic."""

    def __init__(
        self, conv_dw: SlicedConv, bn1: SlicedNorm, se: nn.Module, conv_pw: SlicedConv, bn2: SlicedNorm, residual: bool
    ) -> None:
        super().__init__(residual)
        self.conv_dw, self.bn1, self.se, self.conv_pw, self.bn2 = conv_dw, bn1, se, conv_pw, bn2

    def body(self, x: Tensor, choice: Choice) -> Tensor:
        x = self.bn1(self.conv_dw(x, None, None, choice.kernel))
        return self.bn2(self.conv_pw(self.se(x)))

    def live(self, choice: Choice) -> dict[str, Region]:
        return {} if choice.kernel is None else {"conv_dw.weight": _centre(self.conv_dw, choice.kernel)}

    def sliced(self, choice: Choice) -> "SlicedSeparable":
        c, out = self.conv_dw.out_channels, self.conv_pw.out_channels
        dw = self.conv_dw.resized(c, c, choice.kernel or self.conv_dw.kernel_size[0])
        se = _resized_squeeze(self.se, c, None)
        pw = self.conv_pw.resized(c, out, 1)
        return SlicedSeparable(dw, self.bn1.resized(c), se, pw, self.bn2.resized(out), self.residual)


class SlicedResidual(SlicedBlock):
    """Expands channels, filters each, squeezes and excites them and projects, as timm's InvertedResidual.

    A channel's importance is ``|γ_c| Σ_o |w_oc|``, γ of the norm after the depthwise convolution and w the projection:
    about how much it moves the output. A squeezed channel's is the sum over what it excites, ``Σ_c |w_cj|``.
    """

    def __init__(
        self,
        conv_pw: SlicedConv,
        bn1: SlicedNorm,
        conv_dw: SlicedConv,
        bn2: SlicedNorm,
        se: nn.Module,
        conv_pwl: SlicedConv,
        bn3: SlicedNorm,
        residual: bool,
    ) -> None:
        super().__init__(residual, conv_pw.out_channels)
        self.conv_pw, self.bn1, self.conv_dw, self.bn2, self.se = conv_pw, bn1, conv_dw, bn2, se
        self.conv_pwl, self.bn3 = conv_pwl, bn3

    def body(self, x: Tensor, choice: Choice) -> Tensor:
        some, inner = self.channels(choice)
        x = self.bn1(self.conv_pw(x, some), some)
        x = self.bn2(self.conv_dw(x, some, None, choice.kernel), some)
        x = self.se(x) if self.squeeze is None else self.se(x, some, inner)
        return self.bn3(self.conv_pwl(x, None, some))

    def channels(self, choice: Choice) -> tuple[Tensor | None, Tensor | None]:
        """Which expanded and which squeezed channels run, rising; None: all."""
        return _first(self.order, choice.hidden), _first(self.inner, choice.squeeze)

    def live(self, choice: Choice) -> dict[str, Region]:
        some, inner = self.channels(choice)
        kernel = () if choice.kernel is None else _centre(self.conv_dw, choice.kernel)[1:]
        found: dict[str, Region] = {"conv_dw.weight": (slice(None), *kernel)} if kernel else {}
        every = slice(None)
        if some is not None:
            found |= {f"{norm}.{key}": (some,) for norm in ("bn1", "bn2") for key in ("weight", "bias")}
            found |= {"conv_pw.weight": (some,), "conv_pwl.weight": (every, some), "conv_dw.weight": (some, *kernel)}
        if self.squeeze is not None and (some is not None or inner is not None):
            a, b = (every if some is None else some), (every if inner is None else inner)
            found |= {"se.conv_reduce.weight": (b, a), "se.conv_expand.weight": (a, b)}
            found |= {"se.conv_reduce.bias": (b,), "se.conv_expand.bias": (a,)}
        return found

    def sliced(self, choice: Choice) -> "SlicedResidual":
        hidden = choice.hidden or self.hidden
        pw = self.conv_pw.resized(self.conv_pw.in_channels, hidden, 1)
        dw = self.conv_dw.resized(hidden, hidden, choice.kernel or self.conv_dw.kernel_size[0])
        pwl = self.conv_pwl.resized(hidden, self.conv_pwl.out_channels, 1)
        norms = self.bn1.resized(hidden), self.bn2.resized(hidden), self.bn3.resized(pwl.out_channels)
        se = _resized_squeeze(self.se, hidden, choice.squeeze)
        return SlicedResidual(pw, norms[0], dw, norms[1], se, pwl, norms[2], self.residual)

    def rank_channels(self) -> None:
        self.order = torch.arange(self.hidden)
        if self.squeeze is not None:
            self.inner = torch.arange(self.squeeze.conv_reduce.out_channels)

    @torch.no_grad()
    def order_by_importance(self) -> None:
        importance = self.bn2.weight.abs() * self.conv_pwl.weight.abs().sum((0, 2, 3))
        assert self.order is not None
        self.order.copy_(importance.argsort(descending=True, stable=True))
        if self.squeeze is not None and self.inner is not None:
            excites = self.squeeze.conv_expand.weight.abs().sum((0, 2, 3))
            self.inner.copy_(excites.argsort(descending=True, stable=True))


def initialise(network: nn.Module) -> None:
    """As timm does: weights by the number of outputs, norms one, biases zero. But the classifier by its inputs, as
    torch does: by ten outputs its first logits would be so large that a pretrained network forgets meanwhile."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            outputs = module.kernel_size[0] ** 2 * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, math.sqrt(2 / outputs))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SlicedBlock):
            for name in ("order", "inner"):
                if (order := getattr(module, name)) is not None:
                    order.copy_(torch.arange(len(order)))


def _first(order: Tensor | None, count: int | None) -> Tensor | None:
    if count is None or order is None or count == len(order):
        return None
    return order[:count].sort().values


def _centre(conv: SlicedConv, kernel: int) -> Region:
    skip = (conv.kernel_size[0] - kernel) // 2
    inside = slice(skip, skip + kernel)
    return slice(None), slice(None), inside, inside


def _resized_squeeze(se: nn.Module, c: int, squeeze: int | None) -> nn.Module:
    return se.resized(c, squeeze) if isinstance(se, SlicedSqueeze) else se
