"""SPOS, single path one-shot (Guo et al., ECCV 2020), and with CaLR and MS Alg. 1 of the supplement."""

from typing import Any

from nshot.seeding import generator
from nshot.spaces import Subnet

from .base import Plan, Strategy, strategies


@strategies.register("spos")
class SPOS(Strategy):
    """Each step trains one path, drawn anew."""

    name = "spos"

    def plan(self, step: int, memory: Any = None) -> Plan:
        path = self._path(step)
        return Plan(paths=(path,), weights=(1.0,), lr=self.lr(step, path), cluster=self.cluster(path))

    def _path(self, step: int) -> Subnet:
        return self.draw(generator(self.seed, "path", step))
