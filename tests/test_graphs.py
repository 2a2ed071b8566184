"""CUDA graphs, without a GPU: what is captured is run again instead of replayed, on the same fixed memory.

What is tested is all but the capture itself: which parts there are, what memory they share, how gradients come out.
``benchmarks/gpu.py`` compares the real thing with the eager path on a GPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nshot
from helpers import refuse
from nshot.nn.cells import OPS
from nshot.nn.graphs import Memory, Part
from nshot.spaces import Subnet, Supernet

captures: list[int] = []


def run_again(pool: Any, forward: Callable[[], None], backward: Callable[[], None]) -> tuple[Any, Any]:
    """As a capture does, runs both; afterwards what was computed in between must not matter."""
    forward()
    backward()
    captures.append(1)
    return forward, backward


@pytest.fixture
def pair() -> tuple[Supernet, Supernet]:
    """Two supernets of the same weights, on the plain path, the second with graphs."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        supernet = nshot.space("nasbench201", channels=4, cells=2, resolution=8).supernet()
        supernet.fast = False
        found.append(supernet)
    found[1].use_graphs(run_again)
    captures.clear()
    return found[0], found[1]


def batch(seed: int, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 10


def subnets(supernet: Supernet, count: int) -> list[Subnet]:
    rng = np.random.default_rng(0)
    skips, none = (OPS.index("skip_connect"),) * 6, (OPS.index("none"),) * 6
    return [skips, none, *(supernet.space.sample(rng) for _ in range(count - 2))]


def step(supernet: Supernet, paths: list[Subnet], data: tuple[Tensor, Tensor]) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of several paths, each forward and backward, and the gradients that they leave in sum."""
    supernet.zero_grad()
    losses = []
    for path in paths:
        loss = F.cross_entropy(supernet(data[0], path), data[1])
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}


def assert_equal(
    a: tuple[list[float], dict[str, Tensor]], b: tuple[list[float], dict[str, Tensor]], tol: float
) -> None:
    assert a[0] == pytest.approx(b[0], rel=tol)
    assert a[1].keys() == b[1].keys()
    for name, grad in a[1].items():
        assert (grad - b[1][name]).norm() <= tol * b[1][name].norm(), name


@pytest.mark.parametrize("paths", [1, 3])
def test_losses_and_gradients_are_those_of_the_plain_path(pair: tuple[Supernet, Supernet], paths: int) -> None:
    """Also where a step has several paths, of which two may have a part in common."""
    plain, graphed = pair
    drawn = subnets(plain, 60)
    for i in range(0, 60, paths):
        chosen = drawn[i : i + paths]
        chosen[-1] = chosen[0]
        assert_equal(step(graphed, chosen, batch(i)), step(plain, chosen, batch(i)), 1e-5)


def test_a_part_is_captured_once(pair: tuple[Supernet, Supernet]) -> None:
    """Of each cell as many as its nodes have sums of different edges, sources and operations."""
    _, graphed = pair
    drawn = subnets(graphed, 40)
    for path in drawn:
        step(graphed, [path], batch(0))
    count = len(captures)
    assert count <= 6 * (4 + 24 * 2 + 124 * 4)  # six cells; a source may be another node's very value
    for path in drawn:
        step(graphed, [path], batch(1))
    assert len(captures) == count
    step(graphed, drawn[:1], batch(0, count=4))  # other sizes have memory of their own
    step(graphed, [(3,) * 6], batch(0, count=4))
    assert len(captures) > count
    assert_equal(step(graphed, drawn[5:6], batch(1)), step(pair[0], drawn[5:6], batch(1)), 1e-5)


def test_autocast_is_what_it_is_without_graphs(pair: tuple[Supernet, Supernet]) -> None:
    for i, path in enumerate(subnets(pair[0], 20)):
        with torch.autocast("cpu", torch.bfloat16):
            results = [step(supernet, [path], batch(i)) for supernet in pair]
        assert_equal(results[1], results[0], 5e-2)  # bf16 has 8 bits, and gradients are added in another order
    assert_equal(step(pair[1], [(3,) * 6], batch(0)), step(pair[0], [(3,) * 6], batch(0)), 1e-5)  # and without it


def test_weights_that_changed_are_read(pair: tuple[Supernet, Supernet]) -> None:
    for seed in range(3):
        for supernet in pair:
            with torch.no_grad():
                for i, weight in enumerate(supernet.parameters()):
                    weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + 9 * i)))
        assert_equal(step(pair[1], [(3, 2, 4, 1, 3, 2)], batch(0)), step(pair[0], [(3, 2, 4, 1, 3, 2)], batch(0)), 1e-5)


def test_a_backward_after_another_forward_is_refused(pair: tuple[Supernet, Supernet]) -> None:
    """By torch, which sees that what it saved has changed, or where a replay hides that, by ours."""
    _, graphed = pair
    images, _ = batch(0)
    first = graphed(images, (3,) * 6).sum()
    graphed(images, (2,) * 6)
    with pytest.raises(RuntimeError, match=r"another forward has used this memory|modified by an inplace operation"):
        first.backward()
    memory = Memory(images, 2)
    y = Part(lambda x: 2 * x, memory, [0], 1, [], run_again)([memory.begin(images.requires_grad_())])
    memory.begin(images)
    with pytest.raises(RuntimeError, match="another forward has used this memory"):
        y.sum().backward()


def test_without_gradients_nothing_is_captured(pair: tuple[Supernet, Supernet]) -> None:
    plain, graphed = pair
    images, _ = batch(0)
    with torch.no_grad():
        assert graphed(images, (3,) * 6).equal(plain(images, (3,) * 6))
        several = list(graphed.forward_many(images, [(3,) * 6, (3, 3, 3, 3, 3, 2)]))
    assert several[0].equal(plain(images, (3,) * 6).detach())
    assert not captures


def test_a_part_by_itself() -> None:
    """Closed form: y = w a b, so that dy/da = w b, dy/db = w a and dy/dw is the sum of g a b."""
    a, b, g = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    w = torch.nn.Parameter(torch.tensor(1.5))
    memory = Memory(a, 3)
    part = Part(lambda x, y: w * x * y, memory, [0, 1], 2, [w], run_again)
    a.requires_grad_()
    first = memory.begin(a)
    memory.values[1].copy_(b)
    second = memory.values[1].detach().requires_grad_()
    y = part([first, second])
    torch.testing.assert_close(y, 1.5 * a.detach() * b)
    y.backward(g)
    torch.testing.assert_close(a.grad, 1.5 * b * g)
    torch.testing.assert_close(second.grad, 1.5 * a.detach() * g)
    torch.testing.assert_close(w.grad, (g * a.detach() * b).sum())


@pytest.mark.parametrize("method", ["spos", "fsnas"])
@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("nasbench201", "graphs on: needs a GPU of NVIDIA's, and this runs on cpu; leave --graphs out"),
        ("darts", "graphs on: the supernet of space darts has no CUDA graphs"),
    ],
)
def test_where_there_are_none_they_are_refused(method: str, space: str, message: str, tmp_path: Path) -> None:
    flags = ("--space", space, "--preset", "smoke", "--device", "cpu", "--graphs", "on", "--out", tmp_path / "run")
    assert message in refuse("train", method, *flags)
    assert not (tmp_path / "run").exists()
