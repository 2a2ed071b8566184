"""Methods with a memory against loops written by hand in plain torch, in float64; and what must hold of them."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor, nn

import nshot
from nshot import SeparatedMomentum, UserError
from nshot.seeding import generator
from nshot.spaces import Subnet, Supernet
from nshot.strategies import Strategy
from nshot.strategies.memory import Facts
from nshot.training.loop import train_steps
from nshot.training.optimizers import Idle, sgd
from nshot.training.tools import RunTools, StrategyHooks

SPACE = nshot.space("nasbench201", channels=2, cells=1, resolution=4)
IMAGES, BATCH, EPOCH, LR = 13, 4, 3, 0.1
STEPS = 8  # the third epoch is not finished
X = torch.randn(IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
Y = torch.randint(10, (IMAGES,), generator=torch.Generator().manual_seed(6))


def batches(step: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    at = torch.arange(step, step + BATCH) % IMAGES if positions is None else positions[0]
    return X[at], Y[at]


def new_supernet() -> Supernet:
    torch.manual_seed(0)
    return SPACE.supernet().double()


@dataclass
class Result:
    model: Supernet
    strategy: Strategy
    memory: Any


def trained(
    name: str, *, idle: Idle = "rest", clip: float | None = 0.5, recipe: dict[str, Any] | None = None, **options: Any
) -> Result:
    """What the loop trains."""
    made = nshot.strategies.strategies[name]
    known: dict[str, Any] = {"total_steps": 3 * EPOCH, "seed": 1, "steps_per_epoch": EPOCH}
    strategy = made(SPACE, options=made.options_type.of(**options), **known)
    model, facts = new_supernet(), Facts(IMAGES, 10, BATCH, LR)
    base = sgd(model.parameters(), idle=idle, clip=clip, fast=False, lr=9.0, **(recipe or {"momentum": 0.9}))
    optimizer = SeparatedMomentum(base, strategy.clusters)
    memory = strategy.memory(model, facts)
    hooks = StrategyHooks(strategy, memory, RunTools(facts, model, optimizer, model, F.cross_entropy))
    for _ in train_steps(model, optimizer, hooks.plan, batches, start=0, total_steps=STEPS, lr=LR, hooks=hooks):
        pass
    return Result(model, strategy, memory)


def distance(a: nn.Module, b: nn.Module) -> float:
    return max(float((p - q).abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def whole_rate(step: int, floor: float = 0.0) -> float:
    return floor + (1 - floor) / 2 * (1 + math.cos(math.pi * (step // EPOCH) / 3))


def step_of(model: nn.Module, optimizer: torch.optim.SGD, loss: Tensor, rate: float, clip: float = 0.5) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.param_groups[0]["lr"] = LR * rate
    optimizer.step()


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
    assert [len(images) for _, images in judge.asked[:4]] == [512, 512, 176, 512]
    for first in range(0, 99, 3):  # each round through the images takes each once
        assert sorted(i for _, images in judge.asked[first : first + 3] for i in images) == list(range(1200))
    assert judge.asked[0][1] != judge.asked[3][1]


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
        self.recent = (self.recent + [path])[-self.kept :]
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
    result = trained("nsas", archive=3, recent=2, neighbours=2)
    hand, model = ByHandNSAS(result.strategy, 3, 2, 2), new_supernet()
    optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9)
    for step in range(STEPS):
        (path, *members), (x, y) = hand.next(step), batches(step)
        archived = torch.stack([F.cross_entropy(model(x, member), y) for member in members]).mean()
        loss = 0.5 * F.cross_entropy(model(x, path), y) + 0.5 * archived
        step_of(model, optimizer, loss, whole_rate(step, 0.04))
    assert distance(result.model, model) < 1e-9
    assert result.memory.members() == hand.members
    assert result.memory.trained() == hand.recent


def test_nsas_released_trains_the_path_alone_at_half_the_gradient() -> None:
    plain = nshot.strategy("random", SPACE, total_steps=9, seed=1, per_epoch=False)
    released = nshot.strategy("nsas", SPACE, total_steps=9, seed=1, per_epoch=False, variant="released")
    for step in range(9):
        plan = released.plan(step, None)
        assert (plan.paths, plan.weights, plan.lr) == (plain.plan(step).paths, (0.5,), plain.plan(step).lr)


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
    result = trained("nsas", schedule="calr", archive=2)
    plan = result.strategy.plan(STEPS, result.memory)
    rates = [
        0.5 * result.strategy.lr(STEPS, plan.paths[0]),
        *(0.25 * result.strategy.lr(STEPS, p) for p in plan.paths[1:]),
    ]
    assert plan.rates == pytest.approx(rates)
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


# PA&DA


def convolutions(model: Supernet, path: Subnet, option: int) -> list[Tensor]:
    """Gradients of an option's weights on the edges that took it, in all cells."""
    op = {2: "nor_conv_1x1", 3: "nor_conv_3x3"}[option]
    edges = [e for e, o in enumerate(path) if o == option]
    named = dict(model.named_parameters())
    return [
        p.grad for name, p in named.items() if p.grad is not None and any(f"edges.{e}.{op}." in name for e in edges)
    ]


def by_hand_pada(model: Supernet, clip: float, steps: int) -> tuple[dict[str, Any], list[Subnet]]:
    optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9)
    s, p, paths = [0.0] * 5, [0.2] * 5, []
    u: dict[int, float] = {}
    draw = torch.Generator().manual_seed(int(generator(1, "order", 0).integers(2**63)))
    order = torch.randperm(IMAGES, generator=draw).tolist()
    for step in range(steps):
        epoch, place = divmod(step, EPOCH)
        rng = generator(1, "path", step)
        path = tuple(int(rng.choice(5, p=p)) for _ in range(6))
        paths.append(path)
        at = order[place * BATCH : (place + 1) * BATCH]
        logits = model(X[at], path)
        far = (logits.softmax(1) - torch.eye(10, dtype=torch.float64)[Y[at]]).square().sum(1).sqrt().tolist()
        step_of(model, optimizer, F.cross_entropy(logits, Y[at]), whole_rate(step), clip)
        for option in {o for o in path if o in (2, 3)}:
            n = sum(float(grad.norm()) for grad in convolutions(model, path, option)) / path.count(option)
            s[option] = (s[option] + n) / 2 if n else s[option]
        for image, value in zip(at, far, strict=True):
            u[image] = (u[image] + value) / 2 if image in u else value
        if place == EPOCH - 1:
            tau = epoch / 3
            p = [tau * value / sum(s) + (1 - tau) / 5 if sum(s) else 0.2 for value in s]
            q = np.array([tau * u.get(i, 0.0) / sum(u.values()) + (1 - tau) / IMAGES for i in range(IMAGES)])
            order = generator(1, "images", epoch + 1).choice(IMAGES, IMAGES, p=q / q.sum()).tolist()
            s, u = [0.0] * 5, {}
    return {"s": s, "p": p, "u": u, "order": order}, paths


@pytest.mark.parametrize("clip", [0.5, 1e9])
def test_pada_over_its_epochs_ends(clip: float) -> None:
    result, model = trained("pada", clip=clip), new_supernet()
    state, paths = by_hand_pada(model, clip, STEPS)
    assert any(o in (2, 3) for path in paths for o in path)
    assert distance(result.model, model) < 1e-9
    memory = result.memory
    assert memory.order.tolist() == state["order"]
    torch.testing.assert_close(memory.p[0], torch.tensor(state["p"], dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(memory.s[0], torch.tensor(state["s"], dtype=torch.float64), rtol=0, atol=1e-9)
    for i in range(IMAGES):
        assert memory.u[i] == pytest.approx(state["u"].get(i, 0.0), abs=1e-9)
        assert bool(memory.drawn[i]) == (i in state["u"])


def test_pada_draws_paths_and_images_by_its_probabilities() -> None:
    known: dict[str, Any] = {"total_steps": 40, "seed": 2, "steps_per_epoch": 10}
    made = nshot.strategies.strategies["pada"]
    strategy = made(SPACE, options=made.options_type(), **known)
    memory = strategy.memory(new_supernet(), Facts(20_000, 10, 2000, LR))
    memory.s[0] = torch.tensor([0.0, 0.0, 1.0, 3.0, 0.0])
    memory.u[:] = torch.arange(20_000) % 4
    strategy._renew_paths(memory, 0.5)
    strategy._renew_images(memory, 0.5, 3)
    p = memory.p[0].tolist()
    assert p == pytest.approx([0.1, 0.1, 0.225, 0.475, 0.1])
    drawn = np.array([strategy.plan(step, memory).paths[0] for step in range(3000)])
    for edge in range(6):
        assert chisquare(np.bincount(drawn[:, edge], minlength=5), 3000 * np.array(p)).pvalue > 1e-3
    groups = np.bincount(memory.order.numpy() % 4, minlength=4)
    expected = 0.5 * np.arange(4) / 6 + 0.5 / 4
    assert expected.sum() == pytest.approx(1)
    assert chisquare(groups, 20_000 * expected).pvalue > 1e-3
    assert len(set(memory.order.tolist())) < 15_000  # with replacement
    rows = [strategy.images(10 + place, memory) for place in range(10)]
    assert [len(row) for row in rows] == list(range(10, 0, -1))  # to the epoch's end, no further
    assert torch.cat([row[0] for row in rows]).equal(memory.order)


@pytest.mark.parametrize("flag", [{"sampling": "proportional"}, {"min_flops": 10.0}, {"max_flops": 1e9}])
def test_pada_refuses_other_draws(flag: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="PA&DA draws paths by their importance"):
        nshot.strategy("pada", SPACE, total_steps=9, **flag)


def test_memories_do_something() -> None:
    """The equalities above test them: other options, other weights."""
    spos = trained("random").model
    for name, more in (("nsas", {}), ("pada", {}), ("sumnas", {"clip": None})):
        assert distance(trained(name, **more).model, spos) > 1e-4
    check: Callable[[Supernet], None] = nshot.strategies.strategies["pada"].check
    with pytest.raises(UserError, match="space autoformer: its options share"):
        check(nshot.space("autoformer", patch=4, resolution=8, widths=(16,), depths=(2,), head_dim=8).supernet())
