"""The supernet and the stand-alone networks of timm's networks."""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nshot.nn.regions import Region, part_of
from nshot.nn.sliced import SlicedConv
from nshot.nn.sliced_blocks import Choice, initialise
from nshot.nn.timm_net import SlicedNet, resized, to_empty

from .decisions import Subnet
from .supernet import Supernet
from .timm_blocks import original

if TYPE_CHECKING:
    from .timm import Timm


class TimmSupernet(Supernet):
    """The largest network that the space allows; subnets run some of its channels. Its weights have timm's names."""

    def __init__(self, space: "Timm") -> None:
        super().__init__()
        self.space: Timm = space
        self.net = to_empty(original(space.model).net.sliced(space.held, space.num_classes))
        for _, block in self.net.named_blocks():
            block.rank_channels()
        initialise(self.net)

    def _choices(self, subnet: Subnet) -> list[Choice]:
        """How the blocks that the supernet holds run."""
        space = self.space
        pairs = zip(space.choices(tuple(subnet)), space.held, strict=True)
        return [_within(choice, held) for choice, held in pairs if held.kept]

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        return self.net.classifier(self.features(x, subnet))

    def features(self, x: Tensor, subnet: Subnet) -> Tensor:
        side = self.space.side(tuple(subnet))
        return self.net.features(x if side == x.shape[-1] else resized(x, side), self._choices(subnet))

    def live(self, subnet: Subnet) -> dict[str, Region]:
        found: dict[str, Region] = {}
        for (name, block), choice in zip(self.net.named_blocks(), self._choices(subnet), strict=True):
            if choice.kept:
                regions = {key: () for key, _ in block.named_parameters()} | block.live(choice)
                found |= {f"net.blocks.{name}.{key}": region for key, region in regions.items()}
        return found

    def extract(self, subnet: Subnet) -> "TimmNetwork":
        network = TimmNetwork(self.space, subnet)
        network.net.load_state_dict(self.part(subnet, network.net), assign=True)
        return network.requires_grad_(True).train(self.training)

    def part(self, subnet: Subnet, net: SlicedNet) -> dict[str, Tensor]:
        """What a network of the subnet's sizes has of these weights and statistics."""
        live, own = self.live(subnet), self.net.state_dict()
        regions = {name.removeprefix("net."): region for name, region in live.items()}
        for name, region in list(regions.items()):
            owner, _, key = name.rpartition(".")
            if key == "weight" and f"{owner}.running_mean" in own:
                regions |= dict.fromkeys((f"{owner}.running_mean", f"{owner}.running_var"), region)
        names = [name for name in net.state_dict() if not name.endswith(("order", "inner"))]
        return {name: part_of(own[name], regions.get(name, ())) for name in names}


class TimmNetwork(nn.Module):
    """One subnet: ``network(x)``, x of the space's resolution."""

    def __init__(self, space: "Timm", subnet: Subnet) -> None:
        super().__init__()
        self.net = to_empty(original(space.model).net.sliced(space.choices(subnet), space.num_classes))
        self.side, self.resolution = space.side(subnet), space.resolution
        _tell_sides(self.net, self.side)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self._resized(x))

    def feature_map(self, x: Tensor) -> Tensor:
        """(N, C, H, W), before pooling."""
        return self.net.unpooled(self._resized(x))

    def _resized(self, x: Tensor) -> Tensor:
        return x if self.side == self.resolution else resized(x, self.side)


def weights_of(space: "Timm", weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights and statistics of the space's supernet that are in those of timm's whole network, by name, and the
    order of each block's channels. Of a restricted space: the most important channels."""
    whole = TimmSupernet(replace(space, kept=()))
    known = whole.net.state_dict()
    fitting = {name: value for name, value in weights.items() if value.shape == known[name].shape}
    whole.net.load_state_dict(fitting, strict=False)
    own = TimmSupernet(space)
    for net in (whole.net, own.net):
        for _, block in net.named_blocks():
            block.order_by_importance()
        if net is whole.net:
            own.net.load_state_dict(whole.part(tuple(d.allowed[-1] for d in space.decisions), own.net), strict=False)
    new = {f"classifier.{key}" for key in ("weight", "bias")}.difference(fitting)
    return {f"net.{name}": value for name, value in own.net.state_dict().items() if name not in new}


def _within(choice: Choice, held: Choice) -> Choice:
    """The same for a block that holds no more than ``held``: what is all of it is None."""
    return Choice(choice.kept, *(None if a == b else a for a, b in zip(choice[1:], held[1:], strict=True)))


def _tell_sides(net: SlicedNet, side: int) -> None:
    """Tells each convolution that pads by it the side of its input, which tracing does not know."""
    net.conv_stem.side = side
    side = -(-side // net.conv_stem.stride[0])
    for _, block in net.named_blocks():
        for module in block.children():
            if isinstance(module, SlicedConv):
                module.side = side
                side = -(-side // module.stride[0])
