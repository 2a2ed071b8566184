"""What there is to choose in a space: decisions with options, and subnets, which take one of each."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from nshot.errors import UserError

Subnet = tuple[int, ...]
"""One option index for each decision."""


@dataclass(frozen=True)
class Decision:
    """One choice to make. ``options`` keep their order and index in restricted spaces; ``allowed`` are those left."""

    name: str
    options: tuple[str, ...]
    allowed: tuple[int, ...]


class Choices(ABC):
    """The decisions of a space, its subnets and how they are written."""

    name: ClassVar[str]
    couples: ClassVar[tuple[int, ...]] = ()
    """Decisions on whose options it depends what the others cost."""
    kept: tuple[tuple[int, tuple[int, ...]], ...]
    """Of restricted decisions, by number, the options that are left."""

    @abstractmethod
    def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(name, options) of every decision of the unrestricted space."""

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        kept = dict(self.kept)
        return tuple(
            Decision(name, options, kept.get(i, tuple(range(len(options)))))
            for i, (name, options) in enumerate(self.all_decisions())
        )

    @property
    def groups(self) -> tuple[tuple[int, ...], ...] | None:
        """Decisions whose options cost something together: with `couples` given, each cost of a subnet and of its
        canonical form is a sum of a term a group, so that ranges and draws within limits are exact. None: not known."""
        return None

    @property
    def edges(self) -> tuple[Decision, ...]:
        """What a mixture weighs: options of which a supernet can run all at once. By default the decisions."""
        return self.decisions

    def strongest(self, weights: Sequence[Sequence[float]]) -> Subnet:
        """The subnet that is left of a mixture: of each edge the option of the largest weight, the first of equals.

        Args:
            weights: of each of the options of `edges`.
        """
        return tuple(max(d.allowed, key=row.__getitem__) for d, row in zip(self.edges, weights, strict=True))

    @cached_property
    def size(self) -> int:
        """How many subnets there are."""
        return int(np.prod([len(d.allowed) for d in self.decisions], dtype=object))

    def subnets(self) -> Iterator[Subnet]:
        """Every subnet, the last decision changing fastest."""
        return itertools.product(*(d.allowed for d in self.decisions))

    def sample(self, rng: np.random.Generator) -> Subnet:
        """A subnet drawn uniformly."""
        return tuple(d.allowed[i] for d, i in zip(self.decisions, rng.integers(self._counts).tolist(), strict=True))

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.array([len(d.allowed) for d in self.decisions])

    def check(self, subnet: Sequence[int]) -> Subnet:
        """The subnet as a tuple of int; raises UserError where it is none of this space's."""
        if len(subnet) != len(self.decisions):
            raise UserError(f"subnet {tuple(subnet)}: {self.name} has {len(self.decisions)} decisions")
        for option, decision in zip(subnet, self.decisions, strict=True):
            if isinstance(option, bool) or option not in decision.allowed:
                raise UserError(
                    f"subnet {tuple(subnet)}: option {option} of decision {decision.name!r} is none of "
                    f"{', '.join(map(str, decision.allowed))}"
                )
        return tuple(map(int, subnet))

    def __contains__(self, subnet: Sequence[int]) -> bool:
        return len(subnet) == len(self.decisions) and all(
            option in decision.allowed for option, decision in zip(subnet, self.decisions, strict=True)
        )

    def decision_index(self, name: str) -> int:
        """Position of the decision of that name; raises UserError where there is none."""
        names = [d.name for d in self.decisions]
        if name not in names:
            raise UserError(f"unknown decision {name!r} of space {self.name}: choose one of {', '.join(names)}")
        return names.index(name)

    def format(self, subnet: Subnet) -> str:
        """The field's own notation; by default the options' indices, ``0-2-1``."""
        return "-".join(map(str, self.check(subnet)))

    def parse(self, text: str) -> Subnet:
        """The inverse of ``format``. Raises UserError for anything else, and for a subnet outside the space."""
        options = text.strip().split("-")
        if not all(option.isdecimal() for option in options):
            example = self.format(next(self.subnets()))
            raise UserError(
                f"{text!r} is no {self.name} subnet: expected an option's index a decision, such as {example}"
            )
        return self.check(tuple(map(int, options)))

    def canonical(self, subnet: Subnet) -> Subnet:
        """The leanest subnet of this space that computes the same with the same supernet's weights.

        Fewest parameters of the stand-alone network, then fewest FLOPs, then the first in order: what is scored once
        for all that are equal is also what is handed over. Outputs agree to rounding. By default the subnet itself,
        which is right where no two subnets are equal.
        """
        return tuple(subnet)

    def twin(self, subnet: Subnet) -> Subnet:
        """The leanest subnet of this space whose network is the same as this one's when each is trained alone.

        Twins differ in which of a supernet's weights they use, not in what their networks can become. By default
        `canonical`: a space that says no more may have more twins.
        """
        return self.canonical(subnet)
