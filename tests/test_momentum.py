"""MS: SeparatedMomentum against torch's own optimizers, bit for bit."""

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer

from nshot import SeparatedMomentum

Make = Callable[[list[nn.Parameter]], Optimizer]
MAKERS: dict[str, Make] = {
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.05),
}
STEPS = 50


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (7,), (2, 2, 2))]


def gradients(seed: int, steps: int = STEPS) -> Iterator[tuple[int, list[Tensor | None]]]:
    """(cluster, a gradient or None for each parameter) of each step, the same for the same seed."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    for _ in range(steps):
        grads = [torch.randn(weight.shape, generator=generator) for weight in parameters()]
        yield rng.randrange(5), [grad if rng.random() < 0.7 else None for grad in grads]


def put(weights: list[nn.Parameter], grads: list[Tensor | None], idle: str) -> None:
    """What a backward leaves: drift keeps zeros where there is no gradient, rest keeps nothing."""
    for weight, grad in zip(weights, grads, strict=True):
        if grad is None:
            weight.grad = torch.zeros_like(weight) if idle == "drift" else None
        else:
            weight.grad = grad.clone()


def assert_same(a: list[nn.Parameter], b: list[nn.Parameter]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("idle", ["drift", "rest"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_one_cluster_is_the_wrapped_optimizer(make: Make, idle: str) -> None:
    theirs, ours = parameters(), parameters()
    plain, separated = make(theirs), SeparatedMomentum(make(ours), clusters=1)
    for _, grads in gradients(seed=2):
        for weights, optimizer in ((theirs, plain), (ours, separated)):
            put(weights, grads, idle)
            optimizer.step()
            optimizer.zero_grad(set_to_none=idle == "rest")
        assert_same(theirs, ours)
    assert not torch.equal(ours[0], parameters()[0])


@pytest.mark.parametrize("idle", ["drift", "rest"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_five_clusters_are_five_optimizers(make: Make, idle: str) -> None:
    theirs, ours = parameters(), parameters()
    five, separated = [make(theirs) for _ in range(5)], SeparatedMomentum(make(ours), clusters=5)
    joint = parameters()
    one = make(joint)
    for cluster, grads in gradients(seed=3):
        for weights in (theirs, ours, joint):
            put(weights, grads, idle)
        five[cluster].step()
        separated.step(cluster=cluster)
        one.step()
        assert_same(theirs, ours)
    assert not torch.equal(ours[0], joint[0])  # the momenta really are separate


def test_zero_grad_leaves_what_the_two_modes_need() -> None:
    """drift: with set_to_none=False a weight off the path goes on moving; rest: with True it keeps still."""
    moved = {}
    for idle in ("drift", "rest"):
        weights = parameters()
        optimizer = SeparatedMomentum(MAKERS["momentum"](weights), clusters=2)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step(cluster=1)
        optimizer.zero_grad(set_to_none=idle == "rest")
        before = weights[0].detach().clone()
        optimizer.step(cluster=1)
        moved[idle] = before - weights[0].detach()
    assert torch.allclose(moved["drift"], torch.full((4, 3), 0.1 * 0.9))
    assert torch.equal(moved["rest"], torch.zeros(4, 3))


def test_eq_8_by_hand() -> None:
    """μ_i ← β μ_i + g; W ← W - lr μ_i."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = SeparatedMomentum(SGD([weight], lr=0.5, momentum=0.9), clusters=3)
    mu, w = [0.0, 0.0, 0.0], 1.0
    for i, g in [(0, 1.0), (1, 2.0), (0, -3.0), (2, 0.5), (1, 0.0), (0, 4.0), (2, 1.0)]:
        weight.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step(cluster=i)
        mu[i] = 0.9 * mu[i] + g
        w -= 0.5 * mu[i]
        assert weight.item() == pytest.approx(w, rel=1e-12)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_state_is_allocated_when_a_cluster_is_first_used(make: Make) -> None:
    weights = parameters()
    optimizer = SeparatedMomentum(make(weights), clusters=1000)
    assert optimizer.state_dict()["state"] == {}
    used = []
    for cluster in (7, 3, 7):
        put(weights, [torch.ones_like(w) for w in weights], "rest")
        optimizer.step(cluster=cluster)
        used.append(cluster)
        assert all(set(optimizer.state[w]) == set(used) for w in weights)


@pytest.mark.parametrize("idle", ["drift", "rest"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_checkpoint_midway_continues_bit_for_bit(make: Make, idle: str, tmp_path: Path) -> None:
    whole, weights = parameters(), parameters()
    uninterrupted, optimizer = SeparatedMomentum(make(whole), 5), SeparatedMomentum(make(weights), 5)
    for step, (cluster, grads) in enumerate(gradients(seed=4)):
        if step == STEPS // 2:
            torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
            saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
            weights = [nn.Parameter(w.detach().clone()) for w in saved["weights"]]
            optimizer = SeparatedMomentum(make(weights), 5)
            optimizer.load_state_dict(saved["optimizer"])
        put(whole, grads, idle)
        put(weights, grads, idle)
        uninterrupted.step(cluster=cluster)
        optimizer.step(cluster=cluster)
        assert_same(whole, weights)


# Wrappers that call a bare step()


def bare(optimizer: SeparatedMomentum) -> Callable[[int], None]:
    def step(cluster: int) -> None:
        optimizer.cluster = cluster
        optimizer.step()

    return step


def grad_scaler(enabled: bool) -> Callable[[SeparatedMomentum], Callable[[int], None]]:
    def wrap(optimizer: SeparatedMomentum) -> Callable[[int], None]:
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)

        def step(cluster: int) -> None:
            scaler.scale(torch.zeros(()))  # a scaler is initialised by its first loss
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad *= scaler.get_scale()  # powers of two: unscaled without rounding
            optimizer.cluster = cluster
            scaler.step(optimizer)
            scaler.update()

        return step

    return wrap


def fabric_inner(optimizer: SeparatedMomentum) -> Callable[[int], None]:
    from lightning_fabric import Fabric

    wrapped = Fabric(accelerator="cpu", devices=1).setup_optimizers(optimizer)

    def step(cluster: int) -> None:
        optimizer.cluster = cluster
        wrapped.step()

    return step


def fabric(optimizer: SeparatedMomentum) -> Callable[[int], None]:
    """The wrapper alone, which is all that a user keeps after ``optimizer = fabric.setup_optimizers(optimizer)``."""
    from lightning_fabric import Fabric

    return bare(Fabric(accelerator="cpu", devices=1).setup_optimizers(optimizer))


WRAPPERS = {
    "bare": bare,
    "disabled_scaler": grad_scaler(False),
    "enabled_scaler": grad_scaler(True),
    "fabric": fabric,
    "fabric_inner": fabric_inner,
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_cluster_set_before_a_bare_step(wrapper: Callable[[SeparatedMomentum], Callable[[int], None]]) -> None:
    theirs, ours = parameters(), parameters()
    five = [MAKERS["nesterov"](theirs) for _ in range(5)]
    step = wrapper(SeparatedMomentum(MAKERS["nesterov"](ours), clusters=5))
    for cluster, grads in gradients(seed=5, steps=20):
        put(theirs, grads, "rest")
        put(ours, grads, "rest")
        five[cluster].step()
        step(cluster)
        assert_same(theirs, ours)


# Shared parameter groups


@pytest.mark.parametrize("holds_wrapped", [True, False])
def test_scheduler_may_hold_either_optimizer(holds_wrapped: bool) -> None:
    theirs, ours = parameters(), parameters()
    plain, wrapped = SGD(theirs, lr=0.1, momentum=0.9), SGD(ours, lr=0.1, momentum=0.9)
    separated = SeparatedMomentum(wrapped, clusters=1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    schedules = [cosine(plain, 10), cosine(wrapped if holds_wrapped else separated, 10)]
    for _, grads in gradients(seed=6, steps=10):
        for weights, optimizer, schedule in zip((theirs, ours), (plain, separated), schedules, strict=True):
            put(weights, grads, "drift")
            optimizer.step()
            schedule.step()
        assert_same(theirs, ours)
    assert separated.param_groups[0]["lr"] == wrapped.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("holds_wrapped", [True, False])
def test_groups_are_still_shared_after_loading(holds_wrapped: bool) -> None:
    weights = parameters()
    wrapped = SGD(weights, lr=0.1)
    separated = SeparatedMomentum(wrapped, clusters=2)
    separated.load_state_dict(SeparatedMomentum(SGD(parameters(), lr=0.7), clusters=2).state_dict())
    assert [optimizer.param_groups[0]["lr"] for optimizer in (wrapped, separated)] == [0.7, 0.7]
    (wrapped if holds_wrapped else separated).param_groups[0]["lr"] = 0.25
    before = weights[0].detach().clone()
    put(weights, [torch.ones_like(w) for w in weights], "rest")
    separated.step(cluster=1)
    assert torch.allclose(before - weights[0].detach(), torch.tensor(0.25))


def test_added_group_is_trained() -> None:
    separated = SeparatedMomentum(SGD(parameters(), lr=0.1), clusters=2)
    late = nn.Parameter(torch.zeros(2))
    separated.add_param_group({"params": [late], "lr": 0.5})
    late.grad = torch.ones(2)
    separated.step(cluster=0)
    assert torch.equal(late.detach(), torch.full((2,), -0.5))


def test_closure_gives_the_loss() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    separated = SeparatedMomentum(SGD([weight], lr=0.1), clusters=2)

    def closure() -> Tensor:
        weight.grad = None
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert separated.step(closure, cluster=1).item() == 4
    assert weight.item() == pytest.approx(2 - 0.1 * 4)


# Errors


@pytest.mark.parametrize("clusters", [0, -1])
def test_no_clusters(clusters: int) -> None:
    with pytest.raises(ValueError, match=f"clusters {clusters}"):
        SeparatedMomentum(SGD(parameters(), lr=0.1), clusters=clusters)


@pytest.mark.parametrize("cluster", [5, -1])
def test_cluster_out_of_range(cluster: int) -> None:
    with pytest.raises(ValueError, match=f"cluster {cluster}.*0 to 4"):
        SeparatedMomentum(SGD(parameters(), lr=0.1), clusters=5).step(cluster=cluster)


@pytest.mark.parametrize("clusters", [2, 5])
def test_no_cluster_said(clusters: int) -> None:
    with pytest.raises(ValueError, match=r"step\(cluster=i\)"):
        SeparatedMomentum(SGD(parameters(), lr=0.1), clusters=clusters).step()


def test_clusters_begin_with_the_state_that_the_optimizer_had() -> None:
    """Of an optimizer stepped before, and of Adagrad, which fills its state when it is made."""
    makers: list[Make] = [lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: Adagrad(p, initial_accumulator_value=0.5)]
    for make in makers:
        theirs, ours = parameters(), parameters()
        twins, wrapped = [make(theirs) for _ in range(5)], make(ours)
        first = next(gradients(seed=6))[1]
        put(ours, first, "drift")
        wrapped.step()
        for twin in twins:  # the same first step for each, from the same weights
            with torch.no_grad():
                for weight, start in zip(theirs, parameters(), strict=True):
                    weight.copy_(start)
            put(theirs, first, "drift")
            twin.step()
        separated = SeparatedMomentum(wrapped, clusters=5)
        for cluster, grads in gradients(seed=7, steps=20):
            put(theirs, grads, "drift")
            put(ours, grads, "drift")
            twins[cluster].step()
            separated.step(cluster=cluster)
            assert_same(theirs, ours)


def test_a_copy_goes_its_own_way() -> None:
    weights = parameters()
    optimizer = SeparatedMomentum(SGD(weights, lr=0.1, momentum=0.9), clusters=2)
    put(weights, [torch.ones_like(w) for w in weights], "rest")
    optimizer.step(cluster=1)
    both = copy.deepcopy({"weights": weights, "optimizer": optimizer})
    for group, separated in ((weights, optimizer), (both["weights"], both["optimizer"])):
        put(group, [torch.ones_like(w) for w in group], "rest")
        separated.step(cluster=1)
    assert_same(weights, both["weights"])
    both["optimizer"].step(cluster=1)
    assert not torch.equal(weights[0], both["weights"][0])
    assert set(both["optimizer"].state[both["weights"][0]]) == {1}


@pytest.mark.parametrize("clusters", [3, 4])
def test_state_with_more_clusters_is_refused(clusters: int) -> None:
    weights = parameters()
    five = SeparatedMomentum(SGD(weights, lr=0.1, momentum=0.9), clusters=5)
    put(weights, [torch.ones_like(w) for w in weights], "rest")
    five.step(cluster=4)
    fewer = SeparatedMomentum(SGD(parameters(), lr=0.1, momentum=0.9), clusters=clusters)
    state = five.state_dict()
    with pytest.raises(ValueError, match=rf"clusters \[4\], this optimizer has {clusters}"):
        fewer.load_state_dict(state)
    next(iter(state["state"].values()))["momentum_buffer"] = None
    with pytest.raises(ValueError, match=rf"clusters \[4, 'momentum_buffer'\], this optimizer has {clusters}"):
        fewer.load_state_dict(state)


def test_state_of_a_plain_optimizer_is_refused() -> None:
    weights = parameters()
    plain = SGD(weights, lr=0.1, momentum=0.9)
    put(weights, [torch.ones_like(w) for w in weights], "rest")
    plain.step()
    with pytest.raises(ValueError, match="momentum_buffer"):
        SeparatedMomentum(SGD(parameters(), lr=0.1, momentum=0.9), clusters=3).load_state_dict(plain.state_dict())


def test_the_state_it_was_wrapped_with_is_in_the_checkpoint() -> None:
    """Of clusters too that were not stepped before it was taken."""
    runs = []
    for stopped in (False, True):
        weights = parameters()
        optimizer = SGD(weights, lr=0.1, momentum=0.9)
        put(weights, [torch.ones_like(w) for w in weights], "drift")
        optimizer.step()
        separated = SeparatedMomentum(optimizer, clusters=2)
        separated.step(cluster=0)
        if stopped:
            state = copy.deepcopy(separated.state_dict())
            separated = SeparatedMomentum(SGD(weights, lr=0.1, momentum=0.9), clusters=2)
            separated.load_state_dict(state)
        separated.step(cluster=1)
        runs.append(weights)
    assert_same(*runs)
