"""Where fine-tuning begins: the weights that a supernet has for a subnet, or slices of pretrained ones."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nshot.errors import UserError
from nshot.networks.retrain import Begin, RetrainConfig
from nshot.runs.folder import differences
from nshot.spaces import Space, Subnet, Supernet, extract
from nshot.spaces.additive import largest
from nshot.spaces.pretrained import WORD
from nshot.supernets.load import load_run


def begin_with(init: Path | None, space: Space) -> Begin | None:
    """Of a subnet, the weights its network begins with: those of ``init``; None where that is None.

    Args:
        init: a finished run's folder, ``pretrained`` or a file of weights.
        space: of the network, with the classes of its data set.

    Raises:
        UserError: for a run of other networks, or weights that cannot be had.
    """
    if init is None:
        return None
    if str(init) == WORD or not init.is_dir():
        given = space.pretrained(str(init))
        supernet = space.supernet()
        supernet.load_state_dict(given, strict=False)
        new = supernet.state_dict().keys() - given.keys()
    else:
        supernet, new = _of_run(init, space), set()

    def begin(subnet: Subnet) -> dict[str, Tensor]:
        with torch.no_grad():
            weights = extract(supernet, subnet).state_dict()
        return {name: value for name, value in weights.items() if name not in new}

    return begin


def _of_run(init: Path, space: Space) -> Supernet:
    config, supernet = load_run(init)
    if config.space != space:  # also where the run's own networks are retrained at other sizes, as DARTS's
        own, wanted = ({"space": of.name, **of.sizes()} for of in (config.space, space))
        others = "; ".join(differences(own, wanted))
        raise UserError(
            f"init {init}: its networks are of other sizes or classes than those that are trained here ({others}): "
            "say its sizes, or leave out --init"
        )
    return supernet


LARGEST = "largest"  # in place of a subnet's notation


def begun_with(init: str | None, default: RetrainConfig, choice: str, named: str | None) -> RetrainConfig:
    """The default configuration; for the word ``largest`` with ``--init RUN``, with that run's space and data set.

    Raises:
        UserError: where another space is ``named`` than the run's.
    """
    if choice != LARGEST or init is None or not (Path(init) / "config.json").exists():
        return default
    config = load_run(init)[0]
    if named not in (None, config.space.name):
        raise UserError(f"space {named!r}: {init} is of the space {config.space.name}, leave out --space")
    return replace(default, space=config.space, dataset=config.dataset)


def subnets_of(space: Space, archs: list[str]) -> list[Subnet]:
    """The subnets of these notations, of which ``largest`` is that of the most parameters."""
    ends = [largest(space) for arch in archs if arch == LARGEST]
    return ends or [space.parse(arch) for arch in archs]
