"""The contract of methods with a memory: resumed at every step bit for bit, equal in all processes, refused in time."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.optim import SGD

import nshot
from nshot import SeparatedMomentum, UserError
from nshot.data.ahead import Ahead
from nshot.data.sources import Dataset, load
from nshot.nn.kernels import library
from nshot.runs import checkpoint
from nshot.spaces import Mixture
from nshot.strategies import Plan, strategies
from nshot.strategies.memory import Batch, Facts, Seen, Tools, Trained
from nshot.strategies.spos import SPOS
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.train import make_batches, make_second, make_strategy, new_supernet, train
from nshot.training.distributed import digest
from nshot.training.loop import train_steps
from nshot.training.optimizers import sgd
from nshot.training.tools import RunTools, StrategyHooks

STEPS, EPOCH, BATCH = 12, 5, 8
REMEMBERING = ("cream", "darts", "gdas", "nsas", "pada", "pinas")


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def data() -> Dataset:
    found = load("digits", resolution=8)
    return dataclasses.replace(found, train=found.train.subset(np.arange(EPOCH * BATCH + 3)))


def smoke(name: str) -> TrainConfig:
    """12 steps and more, an epoch's end at the fifth and the tenth."""
    base = preset("smoke", name)
    sizes = {"channels": 2, "cells": 1, "resolution": 8}
    space = strategies[name].parts(nshot.space("nasbench201", **sizes), base.options, 0)[0].with_classes(10)
    return dataclasses.replace(base, space=space, batch_size=BATCH, epochs=3, checkpoint_every=1)


def trained(
    config: TrainConfig, data: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> dict[int, dict[str, Any]]:
    """What the checkpoints of a training hold until that step, where it is stopped."""
    save, found = checkpoint.save, {}

    def saved(folder: Path, step: int, state: dict[str, Any]) -> Path:
        path = save(folder, step, state)
        found[step] = checkpoint.load_newest(folder)[1]
        if step == last:
            raise StoppedError
        return path

    monkeypatch.setattr(checkpoint, "save", saved)
    with pytest.raises(StoppedError):
        train(config, data, folder, say=lambda line: None)
    monkeypatch.setattr(checkpoint, "save", save)
    return found


def next_plans(config: TrainConfig, data: Dataset, step: int, state: dict[str, Any]) -> list[Any]:
    """The next three plans, and the images of the steps that are decided."""
    strategy = make_strategy(config, EPOCH)
    memory = strategy.memory(new_supernet(config), Facts(len(data.train), 10, BATCH, config.lr))
    memory.load_state_dict(state.get("memory", {}))
    images = strategy.images(step, memory)
    plans = [dataclasses.asdict(strategy.plan(step + i, memory)) for i in range(3)]
    for plan in plans:  # a mixture is what its weights are
        plan["paths"] = [digest(path.weights) if isinstance(path, Mixture) else path for path in plan["paths"]]
    return [*plans, None if images is None else images.tolist()]


@pytest.mark.parametrize("name", nshot.list_strategies())
def test_stopped_at_every_step(name: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = smoke(name)
    whole = trained(config, data, tmp_path / "whole", monkeypatch, STEPS)
    assert sorted(whole) == list(range(1, STEPS + 1))
    for step in range(1, STEPS + 1):  # a step at a time, each from the checkpoint of the last
        alone = trained(config, data, tmp_path / "stopped", monkeypatch, step)
        assert sorted(alone) == [step]
        for key in {*whole[step], *alone[step]} - {"seconds", "losses"}:
            assert digest(alone[step][key]) == digest(whole[step][key]), (step, key)
        plans = next_plans(config, data, step, whole[step])
        assert next_plans(config, data, step, alone[step]) == plans
    assert ("memory" in whole[STEPS]) == (name in REMEMBERING)


class Watching(SPOS):
    """SPOS, which notes what it is told."""

    validates = True

    def __init__(self, *args: Any, **known: Any) -> None:
        super().__init__(*args, **known)
        self.told: list[tuple[Any, ...]] = []

    def before(self, step: int, batch: Batch, memory: Any, tools: Tools) -> None:
        self.told.append(("before", step, batch.labels, stem(tools).clone(), tools.second(step).images))

    def plan(self, step: int, memory: Any = None) -> Plan:
        self.told.append(("plan", step))
        return super().plan(step)

    def after(self, step: int, plan: Plan, seen: Seen, memory: Any, tools: Tools) -> None:
        grad = stem(tools).grad
        assert grad is not None
        self.told.append(("after", step, seen, stem(tools).clone(), grad * seen.clip))


def stem(tools: Tools) -> Tensor:
    return tools.supernet.stem.conv.weight  # type: ignore[union-attr, return-value]


@pytest.mark.parametrize("fast", [False, True])
def test_hooks_see_what_the_step_was(fast: bool) -> None:
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
    strategy, supernet = Watching(space, total_steps=4, seed=0), space.supernet()
    optimizer = SeparatedMomentum(sgd(supernet.parameters(), idle="drift", clip=0.1, fast=fast, lr=1.0), 1)
    x, y = torch.randn(4, 8, 3, 8, 8), torch.randint(10, (4, 8))
    tools = RunTools(Facts(32, 10, 8, 0.5), supernet, optimizer, supernet, F.cross_entropy, lambda s: (x[-s], y[-s]))
    hooks = StrategyHooks(strategy, nn.Module(), tools)
    given: dict[str, Any] = {"start": 0, "total_steps": 4, "lr": 0.5, "hooks": hooks}
    losses = [loss for _, loss in train_steps(supernet, optimizer, hooks.plan, lambda s: (x[s], y[s]), **given)]
    assert [entry[:2] for entry in strategy.told] == [
        (what, step) for step in range(4) for what in ("before", "plan", "after")
    ]
    for step, (loss, before, _, after) in enumerate(zip(losses, *(strategy.told[i::3] for i in range(3)), strict=True)):
        seen, rate = after[2], 0.5 * strategy.lr(step, ())
        assert before[2] is seen.batch.labels
        assert before[4].equal(x[-step])
        torch.testing.assert_close(after[3], before[3] - rate * after[4])  # SGD, by the clipped gradient
        assert not seen.outputs[0].requires_grad
        torch.testing.assert_close(F.cross_entropy(seen.outputs[0], y[step]), loss)
    assert any(entry[2].clip < 1 for entry in strategy.told[2::3]) == (fast and library() is not None)


def test_gradients_of_a_path_leave_those_of_the_step_alone() -> None:
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
    supernet = space.supernet()
    tools = RunTools(Facts(8, 10, 8, 0.1), supernet, SGD(supernet.parameters()), supernet, F.cross_entropy)
    x, y, weights = torch.randn(8, 3, 8, 8), torch.arange(8), list(supernet.parameters())
    found = tools.gradients(tools.loss(tools.output(x, (3,) * 6), y), weights)
    assert all(weight.grad is None for weight in weights)
    F.cross_entropy(supernet(x, (3,) * 6), y).backward()
    for weight, grad in zip(weights, found, strict=True):
        torch.testing.assert_close(grad, torch.zeros_like(weight) if weight.grad is None else weight.grad)
    with pytest.raises(RuntimeError, match="validates = True"):
        tools.second(0)


def test_a_trained_memory_keeps_its_optimizer(tmp_path: Path) -> None:
    def made() -> Trained:
        memory = Trained()
        memory.alpha = nn.Parameter(torch.ones(6, 5))
        memory.optimizer = torch.optim.Adam(memory.parameters(), lr=3e-4, betas=(0.5, 0.999))
        return memory

    def step(memory: Trained, times: int) -> None:
        for i in range(times):
            memory.optimizer.zero_grad()
            (memory.alpha.sin() * (i + 1)).sum().backward()
            memory.optimizer.step()

    memory, resumed = made(), made()
    step(memory, 3)
    checkpoint.save(tmp_path, 3, {"memory": memory.state_dict()})
    state = checkpoint.load_newest(tmp_path)[1]
    assert state is not None
    resumed.load_state_dict(state["memory"])
    step(memory, 2)
    step(resumed, 2)
    assert digest(resumed.state_dict()) == digest(memory.state_dict())
    assert digest(made().state_dict()) != digest(memory.state_dict())


def test_batches_ahead_stop_where_images_are_not_decided(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config, asked = smoke("pada"), []
    here, ahead = make_batches(config, data), Ahead(make_batches(config, data), 1, 15, torch.device("cpu"))
    loader = nshot.data.ahead.DataLoader
    monkeypatch.setattr(nshot.data.ahead, "DataLoader", lambda s, **o: asked.append(len(s)) or loader(s, **o))
    rows = torch.randint(len(data.train), (2 * EPOCH, BATCH), generator=torch.Generator().manual_seed(0))
    for step in range(2, 2 * EPOCH):  # the first epoch from its third step on
        decided = rows[step : EPOCH * (1 + step // EPOCH)]
        for one, other in zip(ahead(step, decided), here(step, decided), strict=True):
            assert one.equal(other)
        assert here(step, decided)[1].equal(data.train.labels[rows[step]])
    assert asked == [EPOCH - 2, EPOCH]


def test_the_second_batch_is_of_validation_images_with_replacement(data: Dataset) -> None:
    config = smoke("spos")
    few = dataclasses.replace(data, valid=data.valid.subset(np.arange(20)))
    first = make_batches(config, few)
    second = make_second(config, few, first)
    labels = [second(step)[1] for step in range(300)]
    counts = torch.bincount(torch.cat(labels), minlength=10).numpy()
    expected = np.bincount(few.valid.labels, minlength=10) * 300 * BATCH / 20
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3
    again = make_second(config, few, first)
    assert all(a.equal(b) for a, b in zip(second(7), again(7), strict=True))
    assert not second(8)[0].equal(second(7)[0])
    assert second.normalise is first.normalise


def test_a_second_batch_on_a_device_leaves_the_first_where_it_is(data: Dataset) -> None:
    """Worker processes make the first on the CPU, while the second lies where the supernet is."""
    config = smoke("darts")
    first, alone = make_batches(config, data), make_batches(config, data)
    second = make_second(config, data, first).to("meta")
    assert second(0)[0].device.type == "meta"
    assert first(0)[0].equal(alone(0)[0])


def test_what_has_no_effect_is_refused() -> None:
    space = nshot.space("nasbench201", channels=2, cells=1, resolution=8)
    with pytest.raises(UserError, match=r"lr_floor 0.1 has no effect without --schedule cosine"):
        nshot.strategy("spos", space, total_steps=4, schedule="calr", lr_floor=0.1)
    nshot.strategy("random", space, total_steps=4, schedule="calr")  # its own floor is the cosine's
    assert preset("paper", "sumnas").lr == 1.0
    assert preset("paper", "pada").batch_size == 256
    assert preset("proxy", "pada").batch_size == 64
