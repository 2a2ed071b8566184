"""The answer of a training method: what its training ended with, or what its own search finds."""

import json
from pathlib import Path

from nshot.errors import UserError
from nshot.spaces import Subnet
from nshot.strategies import strategies
from nshot.strategies.memory import Judge
from nshot.supernets.config import TrainConfig
from nshot.supernets.load import ANSWER


def own_subnet(run: Path, config: TrainConfig, judge: Judge) -> Subnet:
    """The subnet that a finished run's method gives.

    Raises:
        UserError: where the method has none.
    """
    if (run / ANSWER).exists():
        return config.space.check(tuple(json.loads((run / ANSWER).read_text())["subnet"]))
    method = strategies[config.strategy](config.space, total_steps=1, seed=config.seed, options=config.options)
    found = method.choose(judge)
    if found is None:
        others = "random, exhaustive, evolution or nsga2"
        raise UserError(f"method own: {config.strategy} has no answer of its own, choose {others}")
    return found
