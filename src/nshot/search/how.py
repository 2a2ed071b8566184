"""How a search proposes subnets, and what it says of how it came about."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from nshot.errors import UserError, check_choices, check_whole
from nshot.fields import names
from nshot.spaces import Subnet

from .pareto import OBJECTIVES, Objective, check_objectives

Method = Literal["random", "exhaustive", "evolution", "nsga2", "own"]


Objectives = Annotated[tuple[Objective, ...], names(OBJECTIVES)]


OWN = {  # which methods take an entry of How
    "sample": ("random",),
    "population": ("evolution", "nsga2"),
    "generations": ("evolution", "nsga2"),
    "objectives": ("nsga2",),
}


@dataclasses.dataclass(frozen=True)
class How:
    """How subnets are proposed."""

    method: Method = "random"
    """random; exhaustive, every subnet of a small space; evolution, the paper's; nsga2, with several objectives; own,
    the answer of the run's training method, or what its own search finds by the run's seed."""
    sample: int = 1000
    """Of random: how many subnets, all within the limits."""
    population: int = 50
    """Of evolution and nsga2: subnets of a generation."""
    generations: int = 20
    """Of evolution and nsga2."""
    objectives: Objectives = ("accuracy", "params")
    """Of nsga2: two or more of accuracy, loss, params, flops, latency; separated by commas or spaces."""
    seed: int = 0

    @property
    def most(self) -> float:
        """Subnets that are scored at most."""
        if self.method == "own":
            return 1
        if self.method in ("evolution", "nsga2"):
            return self.population * self.generations
        return self.sample if self.method == "random" else math.inf

    def record(self) -> dict[str, Any]:
        """What of it counts for its method, JSON-able."""
        own = {name: getattr(self, name) for name, methods in OWN.items() if self.method in methods}
        seed = {} if self.method in ("exhaustive", "own") else {"seed": self.seed}
        return {"method": self.method, **seed, **own}

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole(1, sample=self.sample, generations=self.generations)
        check_whole(2, population=self.population)
        check_whole(0, seed=self.seed)
        check_objectives(self.objectives)
        for name, methods in OWN.items():
            if self.method not in methods and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(f"{name} {getattr(self, name)} has no effect without --method {' or '.join(methods)}")


def list_record(path: Path, subnets: Sequence[Subnet]) -> dict[str, Any]:
    """Where a list takes the place of a method; the digest is of the subnets."""
    digest = hashlib.sha256(json.dumps(subnets).encode()).hexdigest()[:16]
    return {"method": "list", "list": str(path), "digest": digest}
