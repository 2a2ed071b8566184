"""Bring your own method, with a memory: paths of the options that were trained least so far.

Run it: python examples/own_method.py RUN. It trains a supernet on digits; killed, it goes on where it was.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nshot.data.sources import load
from nshot.seeding import generator
from nshot.spaces import Supernet, space
from nshot.strategies import Plan, Strategy, strategies
from nshot.strategies.memory import Facts, Seen, Tools
from nshot.supernets.config import TrainConfig
from nshot.supernets.train import train


@strategies.register("balanced")
class Balanced(Strategy):
    """Each step trains one path: of every decision the option that was trained least, ties by chance."""

    name = "balanced"

    def memory(self, supernet: Supernet, facts: Facts) -> nn.Module:
        """How often each option was trained: (decisions, options). A buffer, so it lies in every checkpoint."""
        most = max(len(decision.options) for decision in self.space.decisions)
        memory = nn.Module()
        memory.register_buffer("counts", torch.zeros(len(self.space.decisions), most, dtype=torch.int64))
        return memory

    def plan(self, step: int, memory: Any) -> Plan:  # type: ignore[override]
        rng = generator(self.seed, "path", step)  # draws depend on (seed, purpose, step) alone
        path = []
        for decision, counts in zip(self.space.decisions, memory.counts.numpy(), strict=True):
            own = counts[list(decision.allowed)]
            path.append(decision.allowed[rng.choice(np.flatnonzero(own == own.min()))])
        return Plan((tuple(map(int, path)),), (1.0,), self.lr(step, tuple(path)), self.cluster(tuple(path)))

    def after(self, step: int, plan: Plan, seen: Seen, memory: Any, tools: Tools) -> None:
        for decision, option in enumerate(plan.paths[0]):
            memory.counts[decision, option] += 1


if __name__ == "__main__":
    small = space("nasbench201", channels=4, cells=1, resolution=8)
    options = Balanced.options_type(schedule="calr", ms="first")  # CaLR and MS come with `lr` and `cluster`
    config = TrainConfig("balanced", small, options, dataset="digits", epochs=2, batch_size=32)
    train(config, load("digits", resolution=8), Path(sys.argv[1]), device="cpu")
