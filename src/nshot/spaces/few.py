"""Several supernets as one, each of its part of a space: few-shot NAS."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

from nshot.errors import UserError

from .base import Space, Subnet
from .supernet import Supernet


class FewShot(Supernet):
    """A subnet of ``space`` is run by the supernet that owns it."""

    def __init__(self, space: Space, parts: Sequence[Supernet]) -> None:
        super().__init__()
        self.space = space
        self.parts = nn.ModuleList(parts)

    def owner(self, subnet: Subnet) -> Supernet:
        """The part's supernet; raises UserError where no part has the subnet."""
        for part in self.parts:
            assert isinstance(part, Supernet)
            if subnet in part.space:
                return part
        raise UserError(f"subnet {tuple(subnet)} is in no part of the space")

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        return self.owner(subnet)(x, subnet)

    def forward_many(self, x: Tensor, subnets: Iterable[Subnet]) -> Iterator[Tensor]:
        each, places = list(subnets), defaultdict[Supernet, list[int]](list)
        for i, subnet in enumerate(each):
            places[self.owner(subnet)].append(i)
        found: dict[int, Tensor] = {}
        for part, own in places.items():  # at once, for its subnets share work
            found |= zip(own, part.forward_many(x, (each[i] for i in own)), strict=True)
        return (found[i] for i in range(len(each)))

    def canonical(self, subnet: Subnet) -> Subnet:
        """The leanest equal of the part that owns the subnet: other parts have other weights."""
        return self.owner(subnet).canonical(subnet)

    def extract(self, subnet: Subnet) -> nn.Module:
        return self.owner(subnet).extract(subnet)
