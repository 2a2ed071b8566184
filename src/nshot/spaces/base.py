"""What every search space is: decisions, what its subnets cost, and the networks that they describe."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nshot.errors import UserError
from nshot.fields import Hidden
from nshot.registry import Registry

from .additive import extremes
from .decisions import Choices, Subnet
from .drawing import Block, Chain, Drawing
from .supernet import Supernet

S = TypeVar("S", bound="Space")
Complexity = Literal["params", "flops"]
ComplexityOf = Literal["paper", "own"]


@dataclass(frozen=True)
class Space(Choices):
    """A search space: decisions, costs, notation; no weights. Its dataclass fields are its sizes.

    A space needs its decisions, ``params`` and ``supernet``; what else there is has a default that is right for any
    space, which one overrides to be faster, smaller or to write the field's notation.
    """

    gamma: ClassVar[float] = 4.0
    """γ' of eq. 4 where it is not said otherwise."""
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """By preset: ``sizes`` of the space, ``epochs`` by method, ``augment``, and ``config``: other values of a run's
    configuration."""
    paper_sizes: ClassVar[tuple[str, ...]] = ()
    """Sizes that change no decision. Where a preset makes them small, its networks stand for the paper's, of the
    fields' defaults, and take C(α) from there: γ(α) belongs to the space that is studied."""
    earlier: ClassVar[dict[str, Any]] = {}
    """Entries of a run's configuration that runs of earlier versions lack, and what those versions did."""
    supernet_sizes: ClassVar[tuple[str, ...]] = ()
    """Sizes of the supernet alone, which stand-alone networks do not depend on."""

    resolution: int = 32
    """Height and width of the images."""
    # Not sizes: the data set says the one, `restrict` the other. Hidden from the command line for that reason.
    num_classes: Hidden[int] = 10
    kept: Hidden[tuple[tuple[int, tuple[int, ...]], ...]] = ()

    @classmethod
    def of(cls, **sizes: Any) -> "Space":
        """A space of these sizes; raises UserError for a size that the space does not have."""
        known = [f.name for f in fields(cls) if f.name != "kept"]
        for key in sizes:
            if key not in known:
                raise UserError(f"unknown size {key!r} of space {cls.name}: choose of {', '.join(known)}")
        for key, value in sizes.items():
            # JSON's lists have no hash, and numpy's numbers no place in JSON.
            value = value.item() if isinstance(value, np.generic) else value
            sizes[key] = tuple(value) if isinstance(value, list) else value
        try:
            return cls(**sizes)
        except TypeError as error:
            said = ", ".join(f"{key} {value!r}" for key, value in sizes.items())
            raise UserError(f"space {cls.name} cannot have the sizes {said}: {error}") from None

    @abstractmethod
    def params(self, subnet: Subnet) -> int:
        """Parameters of the subnet at search time: its complexity C(α)."""

    def flops(self, subnet: Subnet) -> int:
        """Multiply-accumulates of one image, which the field calls FLOPs (torch's counter gives twice as many).

        By default counted by torch in a forward pass without values, once: milliseconds, where a table takes less. It
        is of two images, for batch norms that train refuse a single value a channel.
        """
        supernet, known = self._weightless
        if (subnet := self.check(subnet)) not in known:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                supernet(torch.empty(2, 3, self.resolution, self.resolution, device="meta"), subnet)
            known[subnet] = counter.get_total_flops() // 4
        return known[subnet]

    @cached_property
    def _weightless(self) -> tuple[Supernet, dict[Subnet, int]]:
        with torch.device("meta"):
            return self.supernet(), {}

    def network_params(self, subnet: Subnet) -> int:
        """Parameters of the stand-alone network, which may have more (affine batch norms, biases) than C(α) counts."""
        return self.params(subnet)

    @abstractmethod
    def supernet(self, num_classes: int | None = None) -> Supernet:
        """A module that holds the weights of all subnets, newly initialised by torch's global generator."""

    def network(self, subnet: Subnet, num_classes: int | None = None) -> nn.Module:
        """The stand-alone network, newly initialised: ``network(x)``, x of shape (N, 3, resolution, resolution)."""
        return self.supernet(num_classes).extract(self.check(subnet))

    def pretrained(self, source: str) -> dict[str, Tensor]:
        """Weights for the space's supernet that were trained elsewhere, by name; without those of its classifier where
        they are of another number of classes.

        Args:
            source: ``pretrained``, for those that the space knows where to get, or a file.

        Raises:
            UserError: where the space takes none, or they cannot be had.
        """
        raise UserError(
            f"init {source}: space {self.name} takes no weights from elsewhere: name a finished run's folder"
        )

    @property
    def normalised(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Mean and standard deviation of each channel, of pixels from 0 to 255, by which networks want images
        normalised; None: by those of the training images."""
        return None

    def drawing(self, subnet: Subnet) -> Drawing:
        """How the subnet is drawn; where a space does not say: a chain of its decisions."""
        options = [d.options[option] for d, option in zip(self.decisions, self.check(subnet), strict=True)]
        return (Chain("", tuple(Block((d.name, o)) for d, o in zip(self.decisions, options, strict=True)), ()),)

    def with_auxiliary(self, network: nn.Module) -> nn.Module:
        """One of the space's stand-alone networks with an auxiliary head, newly initialised, for training.

        Its ``network`` is the network that was given, whose names and outputs stay as they are. In training mode it
        gives (logits, auxiliary logits), otherwise logits.

        Raises:
            UserError: where the space has no auxiliary head.
        """
        raise UserError(f"space {self.name} has no auxiliary head: leave the auxiliary weight 0")

    def restrict(self, decision: str, *options: str) -> "Space":
        """A smaller space of the same kind, in which ``decision`` has only these options. Subnets keep their indices.

        Raises:
            UserError: for an unknown decision, or an option that it does not have.
        """
        index = self.decision_index(decision)
        chosen = self.decisions[index]
        for option in options:
            if option not in [chosen.options[i] for i in chosen.allowed]:
                raise UserError(
                    f"option {option!r} of decision {decision!r}: choose of "
                    f"{', '.join(chosen.options[i] for i in chosen.allowed)}"
                )
        if not options:
            raise UserError(f"decision {decision!r} restricted to no option: name at least one")
        allowed = tuple(sorted({chosen.options.index(option) for option in options}))
        return replace(self, kept=tuple(sorted({**dict(self.kept), index: allowed}.items())))

    @cached_property
    def at_paper_sizes(self) -> "Space":
        """The same decisions, restricted alike, at the paper's sizes; resolution and classes stay."""
        sizes: dict[str, Any] = {size: getattr(type(self), size) for size in self.paper_sizes}
        return replace(self, **sizes)

    @cached_property
    def stands_for_paper(self) -> bool:
        """Whether the sizes that change no decision are those of a preset."""
        own = [getattr(self, size) for size in self.paper_sizes]
        named = (preset.get("sizes", {}) for preset in self.presets.values())
        return bool(own) and any(
            own == [sizes.get(size, getattr(type(self), size)) for size in self.paper_sizes] for sizes in named
        )

    @property
    def complexity_of(self) -> ComplexityOf:
        """Whose C(α) counts where nobody says it: that of the space that this one stands for (`represented`)."""
        return "paper" if self.stands_for_paper else "own"

    @property
    def represented(self) -> "Space":
        """The space that this one stands for: itself, or where its sizes are a preset's, that at the paper's."""
        return self.counted(self.complexity_of)

    @property
    def retrained(self: S) -> S:
        """The space of the networks that are retrained and handed over, whose costs are limited and printed: by
        default the space itself."""
        return self

    def counted(self, of: ComplexityOf) -> "Space":
        """The space whose subnets' costs are C(α): ``own`` this one, ``paper`` the same at the paper's sizes.

        Raises:
            UserError: for ``paper`` where small networks have other decisions than the paper's.
        """
        if of == "own":
            return self
        if not self.paper_sizes:
            other = f"small networks of space {self.name} have other decisions than the paper's"
            raise UserError(f"complexity_of 'paper': {other}, so there is no such subnet: use own")
        return self.at_paper_sizes

    def complexity(self, measure: Complexity) -> tuple[Callable[[Subnet], int], tuple[int, int]]:
        """C(α) by that measure, and its range (Cmin, Cmax)."""
        return (self.params, self.params_range) if measure == "params" else (self.flops, self.flops_range)

    @cached_property
    def params_range(self) -> tuple[int, int]:
        """(Cmin, Cmax) of all subnets' ``params``."""
        return extremes(self, self.params)

    @cached_property
    def flops_range(self) -> tuple[int, int]:
        """(Cmin, Cmax) of all subnets' ``flops``."""
        return extremes(self, self.flops)

    def with_classes(self: S, num_classes: int | None) -> S:
        """The space for as many classes; for None the space itself."""
        return self if num_classes is None else replace(self, num_classes=num_classes)

    def sizes(self) -> dict[str, Any]:
        """All fields, what it was restricted to included: JSON-able, for a run's configuration."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """Its name and sizes, as `nshot.spaces.space_from_dict` reads them."""
        return {"name": self.name, **self.sizes()}


spaces: Registry[type[Space]] = Registry("space", "nshot.spaces")
