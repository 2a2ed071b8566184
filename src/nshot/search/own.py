"""The answer of a training method: what its training ended with, or what its own search finds."""

from pathlib import Path

from nshot.files import needed, read_json
from nshot.spaces import Subnet
from nshot.strategies import strategies
from nshot.strategies.memory import Judge
from nshot.supernets.config import TrainConfig
from nshot.supernets.load import ANSWER


def own_subnet(run: Path, config: TrainConfig, judge: Judge) -> Subnet | None:
    """The subnet that a finished run's method gives, if it has one; ``judge`` scores what it chooses among."""
    if (run / ANSWER).exists():
        return config.space.check(tuple(needed(read_json, run / ANSWER, "train the run again")["subnet"]))
    method = strategies[config.strategy](config.space, total_steps=1, seed=config.seed, options=config.options)
    return method.choose(judge)
