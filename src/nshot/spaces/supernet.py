"""What every supernet is: the weights of all subnets of a space, and how one subnet's are handed over."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn

from nshot.errors import UserError
from nshot.nn.depthwise import set_fast
from nshot.nn.graphs import Capture
from nshot.nn.regions import Region

from .decisions import Choices, Subnet

N = TypeVar("N", bound=nn.Module)


class Supernet(nn.Module, ABC):
    """Holds the weights of all subnets of ``space``: ``supernet(x, subnet)``."""

    space: Choices
    mixtures: bool = False
    """Whether ``forward`` takes a `Mixture` where it takes a subnet: weights of what `Choices.edges` lists."""
    _fast: bool = True

    @property
    def fast(self) -> bool:
        """Whether to run kernels of ours where they can run: the same mathematics, to rounding."""
        return self._fast

    @fast.setter
    def fast(self, fast: bool) -> None:
        for module in self.modules():
            if isinstance(module, Supernet):  # itself, and of several supernets each
                module._fast = fast
        set_fast(self, fast)

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Runs torch's own operations alone, inside the block: their gradients have gradients."""
        fast, self.fast = self.fast, False
        try:
            yield
        finally:
            self.fast = fast

    @abstractmethod
    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        """Logits (N, classes) of images x (N, 3, H, W) by that subnet.

        Without gradients several threads may call it at once.
        """

    def forward_many(self, x: Tensor, subnets: Iterable[Subnet]) -> Iterator[Tensor]:
        """Logits of several subnets on the same images, in the order given, equal to ``forward``'s bit for bit.

        A space may share what subnets have in common; it shares most when they are sorted. Without gradients only.
        """
        return (self(x, subnet) for subnet in subnets)

    def features(self, x: Tensor, subnet: Subnet) -> Tensor:
        """What the linear layer ``classifier`` makes the logits of, (N, d).

        Raises:
            UserError: where the space's networks do not end so.
        """
        raise UserError(f"space {self.space.name}: its supernet gives no features before the classifier")

    def use_graphs(self, capture: Capture) -> None:
        """Has training steps replay CUDA graphs; raises UserError where the space has none."""
        raise UserError(f"graphs on: the supernet of space {self.space.name} has no CUDA graphs")

    def drop_bias(self) -> None:
        """Takes the classifier's bias away, for runs of versions that had none."""
        raise UserError(f"bias False: the classifier of space {self.space.name} has one, which C(α) counts")

    def canonical(self, subnet: Subnet) -> Subnet:
        """The leanest of the subnets that compute the same with this supernet's weights, to rounding."""
        return self.space.canonical(subnet)

    def live(self, subnet: Subnet) -> Mapping[str, Region]:
        """Of the weights that some subnets use in part, by name, those that this one uses: what of each of the first
        dimensions, as the size of a leading slice, a slice, or indices; of the other dimensions, all is used. So ``()``
        is a weight that this subnet uses whole; one that it does not use at all is not named.

        Empty where subnets share whole weights, the default.
        """
        return {}

    def own_weights(self, subnet: Subnet) -> list[list[nn.Parameter]]:
        """Of each decision the weights that the subnet's option has for itself, that other options do not use.

        Raises:
            UserError: where options share weights.
        """
        raise UserError(f"space {self.space.name}: its options share their weights, none has weights of its own")

    def extract(self, subnet: Subnet) -> nn.Module:
        """A module ``network(x)`` with a copy of the subnet's weights and bit for bit its outputs.

        By default a copy of the whole supernet that runs this subnet; `nshot export` leaves out what it does not use.
        """
        return OneSubnet(deepcopy(self), subnet)

    def hand_weights(self, network: N) -> N:
        """Gives a subnet's network its weights, those of the same name; of entangled ones the leading slice."""
        weights = self.state_dict()
        # Cloned and assigned, not copied into: a copy would lose the memory format, and with it the very same kernels.
        own = {
            name: weights[name][tuple(slice(size) for size in given.shape)].clone()
            for name, given in network.state_dict().items()
        }
        network.load_state_dict(own, assign=True)
        return network.requires_grad_(True).train(self.training)


class OneSubnet(nn.Module):
    """A supernet as one of its subnets: ``network(x)``."""

    def __init__(self, supernet: Supernet, subnet: Subnet) -> None:
        super().__init__()
        self.supernet = supernet
        self.subnet = subnet

    def forward(self, x: Tensor) -> Tensor:
        return self.supernet(x, self.subnet)


def extract(supernet: Supernet, subnet: Sequence[int]) -> nn.Module:
    """The subnet as a stand-alone module with a copy of the supernet's weights: ``network(x)``.

    Its outputs equal ``supernet(x, subnet)`` bit for bit. It normalises as the supernet does: a supernet without
    running statistics gives a network that uses each batch's own.

    Raises:
        UserError: for a subnet that is not in the supernet's space.

    Example:
        >>> space = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
        >>> supernet, images = space.supernet(num_classes=3), torch.randn(2, 3, 8, 8)
        >>> network = nshot.extract(supernet, (3, 3, 3, 1, 1, 1))
        >>> torch.equal(network(images), supernet(images, (3, 3, 3, 1, 1, 1)))
        True
    """
    return supernet.extract(supernet.space.check(subnet))
