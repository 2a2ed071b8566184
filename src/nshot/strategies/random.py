"""Random search with weight sharing (Li and Talwalkar, UAI 2019), as NAS-Bench-201 trains it and takes its answer."""

from dataclasses import dataclass

from nshot.errors import check_whole
from nshot.seeding import generator
from nshot.spaces import Subnet

from .base import strategies
from .memory import Judge
from .options import Options
from .spos import SPOS


@dataclass(frozen=True)
class RandomOptions(Options):
    """Random search with weight sharing: as SPOS, but for the cosine, which ends at 0.001 and falls by epochs."""

    lr_floor: float = 0.04
    per_epoch: bool = True
    tried: int = 100
    """How many random subnets its own search tries."""
    tried_on: int = 512
    """On how many validation images each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, tried=self.tried, tried_on=self.tried_on)


@strategies.register("random")
class RandomSearch(SPOS):
    """Each step trains one path, drawn uniformly. The answer is the best of 100 random subnets, which may repeat, each
    by its accuracy on the next 512 validation images of a shuffled order, begun anew where fewer are left."""

    name = "random"
    options_type = RandomOptions
    options: RandomOptions

    def choose(self, judge: Judge) -> Subnet:
        rng = generator(self.seed, "random search")
        size = min(self.options.tried_on, judge.images)
        best, record, order = self.draw(rng), -1.0, rng.permutation(0)
        for _ in range(self.options.tried):
            path = self.draw(rng)
            if len(order) < size:  # a few images would judge with a larger error than the others
                order = rng.permutation(judge.images)
            batch, order = order[:size], order[size:]
            accuracy = judge.accuracy(path, batch.tolist())
            if accuracy > record:
                best, record = path, accuracy
        return best
