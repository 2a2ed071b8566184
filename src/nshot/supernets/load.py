"""A finished run's supernet, and the weights that a training begins with."""

from pathlib import Path

import torch
from torch import Tensor

from nshot.errors import UserError, first_line
from nshot.runs.checkpoint import load_weights
from nshot.runs.folder import read_config
from nshot.runs.naming import parts_in
from nshot.spaces import FewShot, Supernet
from nshot.spaces.pretrained import WORD
from nshot.strategies import strategies

from .config import TrainConfig, from_dict

WEIGHTS = "supernet.safetensors"

ANSWER = "answer.json"  # the subnet that training ended with, of methods that have one

PARTS = "parts"  # the kind of a run that is made of runs


def bare_supernet(config: TrainConfig) -> Supernet:
    """The supernet of a configuration, newly initialised by torch's global generator."""
    supernet = config.space.supernet()
    if not config.bias:
        supernet.drop_bias()
    supernet.fast = config.fast == "on"
    return supernet


def how_many(config: TrainConfig) -> int:
    """Supernets that a run of this configuration has."""
    return len(strategies[config.strategy].parts(config.space, config.options, config.seed))


def part_folders(folder: Path) -> list[Path]:
    """The runs that a run of several supernets is made of; raises UserError where there are not all of them yet."""
    found = parts_in(folder)
    if len(found) < how_many(from_dict(read_config(folder)["config"])):
        raise UserError(f"run {folder} is not finished: continue it with the same nshot train command")
    return found


def load_run(folder: str | Path) -> tuple[TrainConfig, Supernet]:
    """A finished run's configuration and its trained supernet, on the CPU.

    Raises:
        UserError: for a folder that is no run, or one that is not finished.
    """
    folder = Path(folder)
    stored = read_config(folder)
    if stored.get("kind") == PARTS:
        config = from_dict(stored["config"])
        return config, FewShot(config.space, [load_run(part)[1] for part in part_folders(folder)])
    if stored.get("kind") != "supernet":
        raise UserError(f"{folder} holds a {stored.get('kind')} run: name a folder that nshot train made")
    config = from_dict(stored["config"])
    if not (folder / WEIGHTS).exists():
        raise UserError(f"run {folder} is not finished: continue it with the same nshot train command")
    supernet = bare_supernet(config)
    try:
        supernet.load_state_dict(load_weights(folder / WEIGHTS))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({first_line(error)}): train the run again") from None
    return config, supernet.to(memory_format=torch.channels_last)


def initial_weights(config: TrainConfig) -> dict[str, Tensor] | None:
    """The weights that ``config.init`` names, as many as the supernet has of them; None for new ones.

    Raises:
        UserError: for a run that is not finished, or whose supernet lacks some; for weights that cannot be had.
    """
    if config.init is None:
        return None
    if str(config.init) == WORD or not config.init.is_dir():
        return config.space.pretrained(str(config.init))
    given = load_run(config.init)[1].state_dict()
    with torch.device("meta"):  # shapes alone
        own = bare_supernet(config).state_dict()
    if missing := [name for name in own if name not in given or given[name].shape != own[name].shape]:
        raise UserError(
            f"init {config.init}: its supernet has no {missing[0]} of this shape: name a run of the same sizes"
        )
    return {name: given[name] for name in own}
