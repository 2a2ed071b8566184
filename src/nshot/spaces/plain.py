"""A space of your own: what every space must have, with the plainest answer where there is one."""

from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, nn

from nshot.errors import UserError

from .base import Space, Subnet, Supernet


@dataclass(frozen=True)
class PlainSpace(Space):
    """Leaves you ``all_decisions``, ``params``, ``flops`` and ``supernet`` to write.

    Its notation is the option indices, ``2-0-1``; no two subnets compute the same; a stand-alone network is the
    supernet that runs one subnet, with all its weights.
    """

    def network_params(self, subnet: Subnet) -> int:
        return self.params(subnet)

    def canonical(self, subnet: Subnet) -> Subnet:
        return tuple(subnet)

    def format(self, subnet: Subnet) -> str:
        return "-".join(map(str, self.check(subnet)))

    def parse(self, text: str) -> Subnet:
        try:
            return self.check(tuple(int(option) for option in text.strip().split("-")))
        except ValueError:
            raise UserError(f"{text!r} is no {self.name} subnet: write its options' indices, such as 0-2-1") from None

    def network(self, subnet: Subnet, num_classes: int | None = None) -> nn.Module:
        return Fixed(self.with_classes(num_classes).supernet(), self.check(subnet))


class Fixed(nn.Module):
    """A supernet that runs one subnet: ``network(x)``."""

    def __init__(self, supernet: Supernet, subnet: Subnet) -> None:
        super().__init__()
        self.supernet = supernet
        self.subnet = subnet

    def forward(self, x: Tensor) -> Tensor:
        return self.supernet(x, self.subnet)


class PlainSupernet(Supernet):
    """Leaves you ``forward(x, subnet)`` to write, and the attribute ``space``."""

    def extract(self, subnet: Subnet) -> nn.Module:
        return Fixed(deepcopy(self), tuple(subnet))
