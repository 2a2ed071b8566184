"""NSAS, novelty search against forgetting (Zhang et al., CVPR 2020): an archive is trained beside each path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nshot.errors import UserError, check_positive, check_share, check_whole
from nshot.seeding import generator
from nshot.spaces import Subnet, Supernet

from .base import Plan, strategies
from .memory import Batch, Facts, Judge, Tools
from .options import Options
from .spos import SPOS

ROUNDS, TRIED = 5, 10  # of its own search


@dataclass(frozen=True)
class NSASOptions(Options):
    """NSAS: as SPOS without MS (a step's paths are of several clusters); schedules that depend on the path weigh."""

    lr_floor: float = 0.04
    per_epoch: bool = True
    archive: int = 8
    """M, paths in the archive."""
    epsilon: float = 0.5
    """ε, the archive's share of the loss."""
    candidates: int = 10
    """Random paths of which the most novel joins an archive that is not full."""
    recent: int = 50
    """Trained paths of which one may take a member's place."""
    neighbours: int = 10
    """Nearest members to which a path's mean distance is its novelty."""
    variant: Literal["published", "released"] = "published"
    """released: the archive's losses are numbers without gradient, so a step trains the path alone, by 1 - ε."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, archive=self.archive, candidates=self.candidates, recent=self.recent, neighbours=self.neighbours)
        check_positive(epsilon=self.epsilon)
        check_share(epsilon=self.epsilon)
        own = ("archive", "candidates", "recent", "neighbours") if self.variant == "released" else ()
        for name in own:
            if (value := getattr(self, name)) != getattr(NSASOptions, name):
                raise UserError(f"{name} {value} has no effect with --variant released, whose archive has none")
        self.refuse_ms("the paths of an NSAS step are of several clusters")


class Archive(nn.Module):
    """M paths, the earliest first, and the last trained ones, the earliest first; the rest of each is zero."""

    paths: Tensor
    recent: Tensor
    counts: Tensor

    def __init__(self, paths: int, recent: int, decisions: int) -> None:
        super().__init__()
        self.register_buffer("paths", torch.zeros(paths, decisions, dtype=torch.int64))
        self.register_buffer("recent", torch.zeros(recent, decisions, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # how many there are of both

    def members(self) -> list[Subnet]:
        return [tuple(path) for path in self.paths[: int(self.counts[0])].tolist()]

    def trained(self) -> list[Subnet]:
        return [tuple(path) for path in self.recent[: int(self.counts[1])].tolist()]

    def keep(self, members: Sequence[Subnet], trained: Sequence[Subnet]) -> None:
        for rows, paths in ((self.paths, members), (self.recent, trained)):
            rows[: len(paths)] = torch.tensor(paths, dtype=torch.int64).view(len(paths), rows.shape[1])
        self.counts.copy_(torch.tensor([len(members), len(trained)]))


def distance(a: Subnet, b: Subnet) -> int:
    """How many decisions differ: as a measure of novelty, the same as their share."""
    return sum(i != j for i, j in zip(a, b, strict=True))


@strategies.register("nsas")
class NSAS(SPOS):
    """``L = (1 - ε) L(a) + (ε/m) Σ L(a_i)``: path a drawn anew, a_i the archive's m <= M paths, on one batch."""

    name = "nsas"
    options_type = NSASOptions
    options: NSASOptions

    def memory(self, supernet: Supernet, facts: Facts) -> nn.Module:
        if self.options.variant == "released":
            return nn.Module()  # its archive is without effect
        archive = Archive(self.options.archive, self.options.recent, len(self.space.decisions))
        archive.keep([], [self.draw(generator(self.seed, "archive"))])  # so that there is one to take, never trained
        return archive

    def before(self, step: int, batch: Batch, memory: Any, tools: Tools) -> None:
        if self.options.variant == "published":
            trained = [*memory.trained(), self._path(step)][-self.options.recent :]
            memory.keep(self.renewed(step, memory.members(), trained), trained)

    def plan(self, step: int, memory: Any) -> Plan:  # type: ignore[override]
        path, epsilon = self._path(step), self.options.epsilon
        members = memory.members() if self.options.variant == "published" else []
        paths, weights = (path, *members), (1 - epsilon, *[epsilon / len(members) for _ in members])
        if not self.options.weighs:
            return Plan(paths, weights, self.lr(step, path), 0)
        return Plan(paths, weights, 1.0, 0).weighed([self.lr(step, a) for a in paths])

    def renewed(self, step: int, members: list[Subnet], trained: list[Subnet]) -> list[Subnet]:
        """The archive after a step's path, the last of ``trained``, was drawn."""
        if len(members) < self.options.archive:
            rng = generator(self.seed, "novel", step)
            fallback, *drawn = [self.draw(rng) for _ in range(1 + self.options.candidates)]
            return [*members, self.most_novel(fallback, drawn, members) if members else fallback]
        nearest = min(range(len(members)), key=lambda i: distance(members[i], trained[-1]))
        rest = [*members[:nearest], *members[nearest + 1 :]]
        kept = members[nearest]
        best = self.most_novel(kept, trained, rest, least=self.novelty(kept, rest))
        return [best if i == nearest else member for i, member in enumerate(members)]

    def most_novel(self, kept: Subnet, others: Sequence[Subnet], members: Sequence[Subnet], least: int = 0) -> Subnet:
        """The first of the most novel among ``others``; ``kept`` where none is more novel than ``least``."""
        for path in others:
            if (novelty := self.novelty(path, members)) > least:
                kept, least = path, novelty
        return kept

    def novelty(self, path: Subnet, members: Sequence[Subnet]) -> int:
        """The sum of the distances to the nearest members, a multiple of their mean: whole, so ties are exact."""
        return sum(sorted(distance(path, member) for member in members)[: self.options.neighbours])

    def choose(self, judge: Judge) -> Subnet:
        """The best on all validation images of the best of five rounds of ten random paths: of all fifty."""
        rng = generator(self.seed, "random search")
        tried = [self.draw(rng) for _ in range(ROUNDS * TRIED)]
        return max(tried, key=judge.accuracy)
