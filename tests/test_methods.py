"""Random search, NSAS and SUMNAS against loops written by hand in plain torch, in float64."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nshot
from by_hand import EPOCH, LR, SPACE, STEPS, batches, distance, new_supernet, step_of, trained, whole_rate
from nshot import UserError
from nshot.seeding import generator
from nshot.spaces import Subnet
from nshot.strategies import Strategy

# random search with weight sharing


def test_random_is_spos_with_its_rate() -> None:
    result = trained("random")
    spos = nshot.strategy("spos", SPACE, total_steps=3 * EPOCH, seed=1)
    model = new_supernet()
    optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9)
    for step in range(STEPS):
        x, y = batches(step)
        step_of(model, optimizer, F.cross_entropy(model(x, spos.plan(step).paths[0]), y), whole_rate(step, 0.04))
    assert distance(result.model, model) < 1e-12
    paper = nshot.strategy("random", SPACE, total_steps=250, seed=1)
    for epoch in range(0, 250, 7):  # 0.001 + 0.012 (1 + cos(π e / E))
        assert 0.025 * paper.plan(epoch).lr == pytest.approx(0.001 + 0.012 * (1 + math.cos(math.pi * epoch / 250)))


class Judged:
    """Says an accuracy that depends on the subnet alone, and remembers what it was asked."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.asked: list[tuple[Subnet, list[int]]] = []

    def accuracy(self, subnet: Subnet, positions: Any = None) -> float:
        self.asked.append((subnet, list(range(self.images) if positions is None else positions)))
        return float(sum((i + 1) * option for i, option in enumerate(subnet)) % 17)


def test_random_tries_a_hundred_on_the_next_batches() -> None:
    judge = Judged(1200)
    best = nshot.strategy("random", SPACE, total_steps=1, seed=3).choose(judge)
    assert len(judge.asked) == 100
    values = [Judged(1).accuracy(subnet) for subnet, _ in judge.asked]
    assert best == judge.asked[values.index(max(values))][0]  # of equals the first
    assert all(len(set(images)) == len(images) == 512 for _, images in judge.asked)  # 176 would judge otherwise
    for first in range(0, 100, 2):  # a round through the images takes none twice
        one, other = (set(images) for _, images in judge.asked[first : first + 2])
        assert not one & other
    assert judge.asked[0][1] != judge.asked[2][1]


# NSAS


def novelty(path: Subnet, members: list[Subnet], neighbours: int) -> float:
    shares = np.sort([np.mean(np.array(path) != np.array(member)) for member in members])
    return float(shares[:neighbours].mean())


class ByHandNSAS:
    """The archive as the paper has it, by means of shares."""

    def __init__(self, strategy: Strategy, size: int, recent: int, neighbours: int) -> None:
        self.strategy, self.size, self.kept, self.neighbours = strategy, size, recent, neighbours
        self.members: list[Subnet] = []
        self.recent = [strategy.draw(generator(1, "archive"))]

    def next(self, step: int) -> list[Subnet]:
        path = self.strategy.draw(generator(1, "path", step))
        self.recent = [*self.recent, path][-self.kept :]
        if len(self.members) < self.size:
            rng = generator(1, "novel", step)
            drawn = [self.strategy.draw(rng) for _ in range(11)]
            values = [novelty(p, self.members, self.neighbours) for p in drawn[1:]] if self.members else [0]
            chosen = drawn[1 + int(np.argmax(values))] if max(values) > 0 else drawn[0]
            self.members = [*self.members, chosen]
        else:
            gaps = [np.mean(np.array(member) != np.array(path)) for member in self.members]
            nearest = int(np.argmin(gaps))
            others = [m for i, m in enumerate(self.members) if i != nearest]
            candidates = [self.members[nearest], *self.recent]
            values = [round(novelty(c, others, self.neighbours), 9) for c in candidates]
            self.members = [*self.members]
            self.members[nearest] = candidates[int(np.argmax(values))]  # the first of equals, itself before all
        return [path, *self.members]


def test_nsas_is_its_loss_and_its_archive() -> None:
    result = trained("nsas", archive=3, recent=2, neighbours=2, epsilon=0.3)
    hand, model = ByHandNSAS(result.strategy, 3, 2, 2), new_supernet()
    optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9)
    for step in range(STEPS):
        (path, *members), (x, y) = hand.next(step), batches(step)
        archived = torch.stack([F.cross_entropy(model(x, member), y) for member in members]).mean()
        loss = 0.7 * F.cross_entropy(model(x, path), y) + 0.3 * archived
        step_of(model, optimizer, loss, whole_rate(step, 0.04))
    assert distance(result.model, model) < 1e-9
    assert result.memory.members() == hand.members
    assert result.memory.trained() == hand.recent


@pytest.mark.parametrize(("epsilon", "share"), [({}, 0.5), ({"epsilon": 0.3}, 0.7)])
def test_nsas_released_trains_the_path_alone_at_a_share_of_the_gradient(
    epsilon: dict[str, float], share: float
) -> None:
    plain = nshot.strategy("random", SPACE, total_steps=9, seed=1, per_epoch=False)
    released = nshot.strategy("nsas", SPACE, total_steps=9, seed=1, per_epoch=False, variant="released", **epsilon)
    for step in range(9):
        plan = released.plan(step, None)
        assert (plan.paths, plan.lr) == (plain.plan(step).paths, plain.plan(step).lr)
        assert plan.weights == pytest.approx((share,))


def test_nsas_answers_the_best_of_fifty_on_all_images() -> None:
    judge, strategy = Judged(70), nshot.strategy("nsas", SPACE, total_steps=9, seed=3)
    best = strategy.choose(judge)
    rng = generator(3, "random search")
    assert [subnet for subnet, _ in judge.asked] == [SPACE.sample(rng) for _ in range(50)]
    assert all(images == list(range(70)) for _, images in judge.asked)
    values = [Judged(70).accuracy(subnet) for subnet, _ in judge.asked]
    assert min(values) < max(values)
    assert best == judge.asked[values.index(max(values))][0]  # of equals the first


@pytest.mark.parametrize("name", ["archive", "candidates", "recent", "neighbours"])
def test_the_released_archive_has_no_options(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} 3 has no effect with --variant released"):
        nshot.strategy("nsas", SPACE, total_steps=9, variant="released", **{name: 3})


def test_a_constant_rate_does_not_fall_by_epochs() -> None:
    with pytest.raises(UserError, match="per_epoch True has no effect without a --schedule that falls"):
        nshot.strategy("spos", SPACE, total_steps=9, schedule="constant", per_epoch=True)
    nshot.strategy("random", SPACE, total_steps=9, schedule="constant")  # as it is by default


def test_the_slot_that_changed_holds_the_best_of_its_candidates() -> None:
    strategy = nshot.strategy("nsas", SPACE, total_steps=9)
    rng, changes = np.random.default_rng(0), 0
    for _ in range(300):
        members, recent = ([SPACE.sample(rng) for _ in range(count)] for count in (8, 50))
        now = strategy.renewed(0, members, recent)
        slots = [i for i in range(8) if now[i] != members[i]]
        assert len(slots) <= 1
        for slot in slots:
            gaps = [sum(map(lambda a, b: a != b, member, recent[-1])) for member in members]
            assert gaps[slot] == min(gaps)
            rest = [member for i, member in enumerate(members) if i != slot]
            values = [novelty(path, rest, 7) for path in [members[slot], *recent]]
            assert novelty(now[slot], rest, 7) == pytest.approx(max(values))
            changes += 1
    assert changes > 100


def test_calr_weighs_nsas_and_ms_is_refused() -> None:
    result = trained("nsas", schedule="calr", archive=2, epsilon=0.3)
    plan = result.strategy.plan(STEPS, result.memory)
    rates = [result.strategy.lr(STEPS, path) for path in plan.paths]
    assert plan.rates == pytest.approx([0.7 * rates[0], 0.15 * rates[1], 0.15 * rates[2]])
    with pytest.raises(UserError, match="several clusters"):
        nshot.strategy("nsas", SPACE, total_steps=9, ms="first")


# SUMNAS


@pytest.mark.parametrize("schedule", ["cosine", "calr"])
def test_sumnas_is_the_mean_displacement_of_two_steps(schedule: str) -> None:
    recipe = {"momentum": 0.0, "weight_decay": 0.01}
    result = trained("sumnas", clip=None, recipe=recipe, schedule=schedule, inner_clip=0.4)
    fair = nshot.strategy("fairnas", SPACE, total_steps=3 * EPOCH, seed=1)
    model = new_supernet()
    for step in range(STEPS):
        x, y = batches(step)
        start = dict(model.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in start.items()}
        used = set()
        for path in fair.plan(step).paths:
            alone = copy.deepcopy(model)
            inner = torch.optim.SGD(alone.parameters(), 0.05, 0.9)
            for _ in range(2):
                inner.zero_grad()
                F.cross_entropy(alone(x, path), y).backward()
                nn.utils.clip_grad_norm_(alone.parameters(), 0.4)
                inner.step()
            weight = result.strategy.lr(step, path) if schedule == "calr" else whole_rate(step)
            for name, p in alone.named_parameters():
                total[name] += weight / 5 * (start[name] - p).detach()
                used |= {name} if p.grad is not None else set()
        with torch.no_grad():
            for name, p in start.items():
                if name in used:
                    rate = LR if schedule == "calr" else LR * whole_rate(step)
                    p -= LR * total[name] + rate * 0.01 * p
    assert distance(result.model, model) < 1e-9
    assert distance(result.model, new_supernet()) > 1e-3
