"""The training loop against loops written by hand in plain torch."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nshot
from nshot import SeparatedMomentum
from nshot.spaces import Subnet, Supernet
from nshot.strategies import Plan
from nshot.training.loop import smoothed, train_steps
from nshot.training.optimizers import Idle, adamw
from nshot.training.optimizers import sgd as nshot_sgd

STEPS, LR, CLIP = 12, 0.1, 0.5
SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)


def new_supernet() -> Supernet:
    torch.manual_seed(0)
    return SPACE.supernet()


RECIPE = {"lr": 123.0, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **RECIPE)


def separated(
    model: nn.Module, clusters: int, idle: Idle, clip: float | None = None, fast: bool = False
) -> SeparatedMomentum:
    return SeparatedMomentum(nshot_sgd(model.parameters(), idle=idle, clip=clip, fast=fast, **RECIPE), clusters)


def batches(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(8, 3, 8, 8, generator=generator), torch.randint(10, (8,), generator=generator)


def spos(ms: str | None = None) -> Callable[[int], Plan]:
    return nshot.strategy("spos", SPACE, total_steps=STEPS, seed=1, schedule="calr", ms=ms).plan


def fairnas(schedule: str = "calr", ms: str | None = "2<-0") -> Callable[[int], Plan]:
    return nshot.strategy("fairnas", SPACE, total_steps=STEPS, seed=1, schedule=schedule, ms=ms).plan


def two_paths(step: int) -> Plan:
    paths = (spos()(step).paths[0], spos()(step + 1).paths[0])
    return Plan(paths=paths, weights=(0.3, 0.7), lr=1 - step / STEPS, cluster=0)


def train(
    plan: Callable[[int], Plan],
    idle: Idle,
    clusters: int = 1,
    clip: float | None = CLIP,
    fast: bool = False,
    one: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Supernet:
    """``one``: all plans in one cluster."""
    model = new_supernet().to(dtype)
    optimizer = separated(model, clusters, idle, clip, fast)
    if one:
        separate = plan
        plan = lambda step: dataclasses.replace(separate(step), cluster=0)  # noqa: E731
    given = lambda step: (batches(step)[0].to(dtype), batches(step)[1])  # noqa: E731
    for _ in train_steps(model, optimizer, plan, given, start=0, total_steps=STEPS, lr=LR):
        pass
    return model


def by_hand(
    plan: Callable[[int], Plan],
    idle: Idle,
    clusters: int = 1,
    clip: float | None = CLIP,
    dtype: torch.dtype = torch.float32,
) -> Supernet:
    """One torch SGD a cluster, all over the same weights."""
    model = new_supernet().to(dtype)
    optimizers = [sgd(model) for _ in range(clusters)]
    if idle == "drift":
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    for step in range(STEPS):
        todo = plan(step)
        x, y = batches(step)[0].to(dtype), batches(step)[1]
        loss = sum(w * F.cross_entropy(model(x, path), y) for w, path in zip(todo.weights, todo.paths, strict=True))
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer = optimizers[todo.cluster]
        optimizer.param_groups[0]["lr"] = LR * todo.lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=idle == "rest")
    return model


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("idle", ["drift", "rest"])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_equals_a_loop_by_hand(idle: Idle, clip: float | None) -> None:
    by_torch = by_hand(spos(), idle, clip=clip)
    assert largest_difference(train(spos(), idle, clip=clip), by_torch) == 0
    assert largest_difference(train(spos(), idle, clip=clip, fast=True), by_torch) < 1e-6


@pytest.mark.parametrize("idle", ["drift", "rest"])
def test_ms_equals_one_sgd_a_cluster(idle: Idle) -> None:
    plan = spos(ms="2<-0")
    assert len({plan(step).cluster for step in range(STEPS)}) > 2
    trained = train(plan, idle, clusters=5)
    assert largest_difference(trained, by_hand(plan, idle, clusters=5)) == 0
    assert largest_difference(train(plan, idle, clusters=5, fast=True), trained) < 1e-6
    assert largest_difference(trained, train(spos(), idle)) > 1e-4  # and MS does something


def test_options_do_something() -> None:
    """Clipping and the idle mode change the weights, so the equalities above test them."""
    drift = train(spos(), "drift")
    assert largest_difference(drift, train(spos(), "rest")) > 1e-4
    assert largest_difference(drift, train(spos(), "drift", clip=None)) > 1e-4
    assert largest_difference(drift, new_supernet()) > 1e-3


@pytest.mark.parametrize("idle", ["drift", "rest"])
def test_two_paths_sum_their_weighted_gradients(idle: Idle) -> None:
    assert all(len(set(two_paths(step).paths)) == 2 for step in range(STEPS))
    assert largest_difference(train(two_paths, idle), by_hand(two_paths, idle)) < 1e-6


@pytest.mark.parametrize("idle", ["drift", "rest"])
def test_fairnas_is_alg_2(idle: Idle) -> None:
    """The sum of five weighted gradients, one momentum a cluster."""
    plan = fairnas()
    assert len({plan(step).cluster for step in range(STEPS)}) > 2
    assert len({weight for step in range(1, STEPS) for weight in plan(step).weights}) > STEPS
    # In float64, for one backward of the weighted sum rounds otherwise than five do, and steps this large amplify it.
    trained = by_hand(plan, idle, clusters=5, clip=None, dtype=torch.float64)
    assert largest_difference(train(plan, idle, clusters=5, clip=None, dtype=torch.float64), trained) < 1e-12
    assert largest_difference(train(plan, idle, clusters=1, clip=None, one=True, dtype=torch.float64), trained) > 1e-4


def test_fairnas_of_one_path_is_spos() -> None:
    """In a space of one subnet there is one path, of weight 1."""
    one = SPACE
    for decision in SPACE.decisions:
        one = one.restrict(decision.name, "nor_conv_3x3")
    plans = [nshot.strategy(name, one, total_steps=STEPS, seed=1).plan for name in ("fairnas", "spos")]
    assert plans[0](3).weights == (1.0,)
    assert largest_difference(*(train(plan, "drift") for plan in plans)) == 0


def moved_by_one_later_step(idle: Idle, fast: bool) -> tuple[set[str], set[str]]:
    """Convolutions on edges that two steps move: the first trains all-3x3, the second all-1x1."""
    paths: list[Subnet] = [(3,) * 6, (2,) * 6]
    model = new_supernet()
    optimizer = separated(model, 1, idle, fast=fast)
    moved: list[set[str]] = []
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in train_steps(
        model,
        optimizer,
        lambda step: Plan(paths=(paths[step],), weights=(1.0,), lr=1.0, cluster=0),
        batches,
        start=0,
        total_steps=2,
        lr=LR,
    ):
        now = {name: p.detach().clone() for name, p in model.named_parameters()}
        moved.append({name.split(".")[5] for name in now if ".edges." in name and not now[name].equal(before[name])})
        before = now
    return moved[0], moved[1]


@pytest.mark.parametrize("fast", [False, True])
def test_rest_moves_the_path_alone(fast: bool) -> None:
    assert moved_by_one_later_step("rest", fast) == ({"nor_conv_3x3"}, {"nor_conv_1x1"})


@pytest.mark.parametrize("fast", [False, True])
def test_drift_moves_all_weights(fast: bool) -> None:
    both = {"nor_conv_1x1", "nor_conv_3x3"}
    assert moved_by_one_later_step("drift", fast) == (both, both)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("idle", ["drift", "rest"])
def test_a_later_start_continues_the_same_sequence(idle: Idle, fast: bool) -> None:
    plan, middle = spos(ms="2<-0"), 5
    whole = train(plan, idle, clusters=5, fast=fast)
    model = new_supernet()
    optimizer = separated(model, 5, idle, CLIP, fast)
    loop = train_steps(model, optimizer, plan, batches, start=0, total_steps=STEPS, lr=LR)
    for step, _ in loop:
        if step == middle - 1:
            break
    weights, state = model.state_dict(), optimizer.state_dict()

    resumed = SPACE.supernet()
    resumed.load_state_dict(weights)
    optimizer = separated(resumed, 5, idle, CLIP, fast)
    optimizer.load_state_dict(state)
    loop = train_steps(resumed, optimizer, plan, batches, start=middle, total_steps=STEPS, lr=LR)
    assert [step for step, _ in loop] == list(range(middle, STEPS))
    assert largest_difference(resumed, whole) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("plan", [spos(), two_paths])
def test_yields_the_loss_of_the_batch(plan: Callable[[int], Plan], smoothing: float) -> None:
    model = new_supernet()
    optimizer = SeparatedMomentum(sgd(model), clusters=1)
    loop = train_steps(
        model, optimizer, plan, batches, start=0, total_steps=STEPS, lr=LR, criterion=smoothed(smoothing)
    )
    for step in range(STEPS):
        x, y = batches(step)
        with torch.no_grad():  # before the step: the generator has not been asked yet
            probabilities = [model(x, path).log_softmax(1) for path in plan(step).paths]
        target = F.one_hot(y, 10) * (1 - smoothing) + smoothing / 10
        expected = sum(-(target * p).sum(1).mean() for p in probabilities) / len(probabilities)
        done, loss = next(loop)
        assert done == step
        assert not loss.requires_grad
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert next(loop, None) is None


def test_backward_is_the_callers() -> None:
    """A wrapper's backward sees each path's weighted loss; here it doubles the gradient."""
    model, seen = new_supernet(), []

    def backward(loss: Tensor) -> None:
        seen.append(loss.item())
        (2 * loss).backward()

    optimizer = SeparatedMomentum(torch.optim.SGD(model.parameters(), lr=1.0), clusters=1)
    before = model.classifier.weight.detach().clone()
    _, loss = next(train_steps(model, optimizer, two_paths, batches, start=0, total_steps=1, lr=LR, backward=backward))
    fresh, (x, y) = new_supernet(), batches(0)
    losses = [F.cross_entropy(fresh(x, path), y) for path in two_paths(0).paths]
    (0.3 * losses[0] + 0.7 * losses[1]).backward()
    assert seen == pytest.approx([0.3 * losses[0].item(), 0.7 * losses[1].item()])
    assert loss.item() == pytest.approx((losses[0].item() + losses[1].item()) / 2)
    step = before - model.classifier.weight.detach()
    assert torch.allclose(step, LR * 2 * fresh.classifier.weight.grad, atol=1e-6)


@pytest.mark.parametrize("idle", ["drift", "rest"])
def test_adamw_separates_both_moments(idle: Idle) -> None:
    """One AdamW a cluster over the same weights, bit for bit; clipped, and with idle weights as told."""
    plan = spos(ms="2<-0")
    recipe = {"lr": 0.01, "weight_decay": 0.05}
    model, twin = new_supernet(), new_supernet()
    optimizer = SeparatedMomentum(adamw(model, idle=idle, clip=CLIP, decayed="all", **recipe), 5)
    for _ in train_steps(model, optimizer, plan, batches, start=0, total_steps=STEPS, lr=LR):
        pass
    optimizers = [torch.optim.AdamW(twin.parameters(), **recipe) for _ in range(5)]
    for step in range(STEPS):
        todo = plan(step)
        x, y = batches(step)
        for parameter in twin.parameters():
            parameter.grad = torch.zeros_like(parameter) if idle == "drift" else None
        F.cross_entropy(twin(x, todo.paths[0]), y).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), CLIP)
        optimizers[todo.cluster].param_groups[0]["lr"] = LR * todo.lr
        optimizers[todo.cluster].step()
    assert largest_difference(model, twin) == 0
    assert largest_difference(model, new_supernet()) > 1e-3


def test_a_group_keeps_its_share_of_the_rate() -> None:
    """A head that learns ten times as fast, against one torch SGD with two groups."""
    model, twin = new_supernet(), new_supernet()

    def groups(supernet: Supernet) -> list[dict]:
        head = list(supernet.classifier.parameters())
        rest = [p for p in supernet.parameters() if all(p is not q for q in head)]
        return [{"params": rest}, {"params": head, "lr_scale": 10.0}]

    ours = SeparatedMomentum(torch.optim.SGD(groups(model), **RECIPE), 1)
    for _ in train_steps(model, ours, spos(), batches, start=0, total_steps=STEPS, lr=LR):
        pass
    theirs = torch.optim.SGD(groups(twin), **RECIPE)
    for step in range(STEPS):
        todo, (x, y) = spos()(step), batches(step)
        F.cross_entropy(twin(x, todo.paths[0]), y).backward()
        for group, scale in zip(theirs.param_groups, (1, 10), strict=True):
            group["lr"] = LR * todo.lr * scale
        theirs.step()
        theirs.zero_grad()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, twin.get_parameter(name), rtol=1e-5, atol=1e-6)
    assert not model.classifier.weight.equal(new_supernet().classifier.weight)
