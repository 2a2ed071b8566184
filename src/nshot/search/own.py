"""The answer of a training method: what its training ended with, or what its own search finds."""

import json
from pathlib import Path

from nshot.spaces import Subnet
from nshot.strategies import strategies
from nshot.strategies.memory import Judge
from nshot.supernets.config import TrainConfig
from nshot.supernets.load import ANSWER


def own_subnet(run: Path, config: TrainConfig, judge: Judge) -> Subnet | None:
    """The subnet that a finished run's method gives, if it has one; ``judge`` scores what it chooses among."""
    if (run / ANSWER).exists():
        return config.space.check(tuple(json.loads((run / ANSWER).read_text())["subnet"]))
    method = strategies[config.strategy](config.space, total_steps=1, seed=config.seed, options=config.options)
    return method.choose(judge)
