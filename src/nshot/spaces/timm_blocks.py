"""What timm says of a network of its EfficientNet builder: its blocks, their options and sizes."""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nshot.errors import UserError, extra, first_line
from nshot.nn.sliced import SlicedConv
from nshot.nn.sliced_blocks import SlicedBlock, SlicedConvBlock, SlicedResidual
from nshot.nn.timm_net import SlicedNet, converted

SHARES = (Fraction(1, 3), Fraction(1, 2), Fraction(2, 3))  # of a block's expanded channels, besides all
ALL = "1"


class Original(NamedTuple):
    """A network of timm's: without values, and how its images are normalised (of pixels from 0 to 255)."""

    net: SlicedNet
    mean: tuple[float, ...]
    std: tuple[float, ...]


class At(NamedTuple):
    """A block: its name, itself without values, where it stands, and its options."""

    name: str
    block: SlicedBlock
    shrunk: int
    """By how much the blocks before it shrink the image's side."""
    stride: int
    hidden: dict[str, int]
    """Expanded channels by the share's name."""
    kernels: tuple[int, ...]
    """Sides of its depthwise kernel, rising."""


@lru_cache
def original(model: str) -> Original:
    """Reads timm's description of a network. Raises UserError without timm, and for what is none of its networks."""
    timm = extra("timm", "timm", f"space timm, model {model!r},")
    if not timm.is_model(model):
        similar = ", ".join(timm.list_models(f"*{model}*")[:5])
        raise UserError(f"model {model!r}: timm has none of this name{f' (similar: {similar})' if similar else ''}")
    with torch.device("meta"):
        try:
            network = timm.create_model(model)
        except Exception as error:  # a model's own: whatever it is, it is not to be had
            raise UserError(
                f"model {model!r}: timm cannot make it ({type(error).__name__}: {first_line(error)})"
            ) from None
        net = converted(network, model)
    mean, std = (tuple(255 * value for value in network.pretrained_cfg[key]) for key in ("mean", "std"))
    return Original(net, mean, std)


def _shares(hidden: int) -> dict[str, int]:
    """Channels by the name of their share, in multiples of 8 and at least 8, each number once."""
    found: dict[int, str] = {hidden: ALL}
    for share in SHARES[::-1] if hidden else ():
        found.setdefault(min(hidden, max(8, 8 * round(share * hidden / 8))), str(share))
    return {name: count for count, name in sorted(found.items())}


def squeezed(net: SlicedNet, block: SlicedBlock, hidden: int) -> int | None:
    """Channels of the squeeze layer of a block of so many expanded ones, by timm's rule: a share of the block's input,
    or, where the network's are shares of the expanded channels, of these."""
    if block.squeeze is None:
        return None
    own = block.squeeze.conv_reduce.out_channels
    rule = squeeze_rule(net)
    return own if rule is None else min(own, rule(hidden))


@lru_cache
def squeeze_rule(net: SlicedNet) -> Callable[[int], int] | None:
    """How the network's squeeze layers follow from expanded channels; None where they follow from a block's input."""
    found = [b for _, b in net.named_blocks() if isinstance(b, SlicedResidual) and b.squeeze is not None]
    sizes = [(b.conv_pw.in_channels, b.hidden, b.squeeze.conv_reduce.out_channels) for b in found if b.squeeze]
    if all(abs(c - c_in * sizes[-1][2] / sizes[-1][0]) < 1 for c_in, _, c in sizes):
        return None
    rules: list[Callable[[int], int]] = [lambda h: divisible(h / 4), lambda h: round(h / 4)]
    return next((rule for rule in rules if all(rule(hidden) == c for _, hidden, c in sizes)), None)


def divisible(channels: float) -> int:
    """timm's rounding to multiples of 8: at least 8, and at least nine tenths."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def published(model: str) -> dict[str, Tensor]:
    """timm's pretrained weights, from the hub's cache or fetched. Raises UserError where they cannot be had."""
    timm = extra("timm", "timm", f"init pretrained, model {model!r},")
    try:
        return timm.create_model(model, pretrained=True).state_dict()
    except Exception as error:  # a hub's, a network's: whatever it is, they are not to be had
        message = first_line(error) or type(error).__name__
        raise UserError(
            f"init pretrained: timm's weights of {model} are not in the cache of the hub and cannot be fetched "
            f"({message}): on a machine with a network torch.save(timm.create_model({model!r}, pretrained=True)."
            "state_dict(), FILE), and bring that: --init FILE"
        ) from None


@lru_cache
def places(model: str) -> tuple[At, ...]:
    """All blocks of a network of timm's, in order. Raises UserError as `original`."""
    net = original(model).net
    found, shrunk = [], net.conv_stem.stride[0]
    for name, block in net.named_blocks():
        spatial = block.conv if isinstance(block, SlicedConvBlock) else block.conv_dw
        assert isinstance(spatial, SlicedConv)
        stride, largest = spatial.stride[0], 0 if isinstance(block, SlicedConvBlock) else spatial.kernel_size[0]
        found.append(At(name, block, shrunk, stride, _shares(block.hidden), tuple(range(3, largest + 1, 2))))
        shrunk *= stride
    return tuple(found)
