"""Mixtures of options against sums written out in plain torch: outputs, gradients of weights and of the mixture."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nshot
from needs import needs_kernels
from nshot.nn import fused
from nshot.spaces import Mixture, Space, Supernet
from nshot.spaces.darts import DARTS

CELL = {"channels": 4, "cells": 2, "resolution": 8}
SIZES = {"nasbench201": CELL, "darts": {"channels": 4, "cells": 3, "resolution": 8}}
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
EDGES = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]  # target, source


def made(name: str, **sizes: Any) -> tuple[Supernet, Tensor, Tensor]:
    """A supernet in double precision, images and labels."""
    torch.manual_seed(0)
    supernet = nshot.space(name, **{**SIZES[name], **sizes}).supernet().double()
    side = supernet.space.resolution
    return supernet, torch.randn(6, 3, side, side, dtype=torch.float64), torch.arange(6) % 10


def rows(space: Space) -> tuple[int, int]:
    return len(space.edges), len(space.edges[0].options)


def norm(x: Tensor) -> Tensor:
    return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()


def pool(x: Tensor) -> Tensor:
    ones = F.pad(torch.ones_like(x), (1, 1, 1, 1))
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) / F.avg_pool2d(ones, 3, 1)


def option(p: dict[str, Tensor], cell: str, e: int, op: str, x: Tensor) -> Tensor:
    if op in KERNELS:
        weight = p[f"{cell}.edges.{e}.{op}.conv.weight"]
        return norm(F.conv2d(x.relu(), weight, padding=weight.shape[-1] // 2))
    return {"none": torch.zeros_like(x), "skip_connect": x, "avg_pool_3x3": pool(x)}[op]


def by_hand(p: dict[str, Tensor], x: Tensor, weights: Tensor, taken: Any = None) -> Tensor:
    """NAS-Bench-201's network by a mixture, from its weights by name."""
    ops = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    cells = len({name.split(".")[2] for name in p if name.startswith("stages.0.")})
    x = norm(F.conv2d(x, p["stem.conv.weight"], padding=1))
    for stage in range(3):
        if stage:
            inner = norm(F.conv2d(x.relu(), p[f"reductions.{stage - 1}.conv_a.conv.weight"], stride=2, padding=1))
            residual = norm(F.conv2d(inner.relu(), p[f"reductions.{stage - 1}.conv_b.conv.weight"], padding=1))
            x = residual + F.conv2d(F.avg_pool2d(x, 2), p[f"reductions.{stage - 1}.shortcut.weight"])
        for j in range(cells):
            nodes = [x, *[torch.zeros_like(x)] * 3]
            for e, (target, source) in enumerate(EDGES):
                for o, op in enumerate(ops):
                    if taken is None or taken[e] == o:
                        out = weights[e, o] * option(p, f"stages.{stage}.{j}", e, op, nodes[source])
                    else:
                        out = weights[e, o] * torch.ones_like(x)
                    nodes[target] = nodes[target] + out
            x = nodes[3]
    return F.linear(norm(x).relu().mean((2, 3)), p["classifier.weight"], p["classifier.bias"])


def gradients(supernet: Supernet, logits: Tensor, labels: Tensor, alpha: Tensor) -> tuple[Tensor, list[Tensor]]:
    named = dict(supernet.named_parameters())
    loss = F.cross_entropy(logits, labels)
    found = torch.autograd.grad(loss, [*named.values(), alpha], allow_unused=True, materialize_grads=True)
    return loss.detach(), list(found)


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    return max(
        float((x.double() - y.double()).abs().max() / y.abs().max().clamp_min(1e-3)) for x, y in zip(a, b, strict=True)
    )


def one_hot(picks: list[int], options: int) -> Tensor:
    return F.one_hot(torch.tensor(picks), options).double()


TAKEN = [  # nodes that the input does not reach, or that do not reach the output, among them
    [3, 1, 4, 2, 3, 1],
    [0, 3, 1, 0, 4, 2],
    [2, 0, 1, 0, 1, 0],
    [0, 0, 0, 1, 3, 4],
    [0, 0, 0, 0, 0, 0],
    [3, 3, 3, 0, 0, 0],
]


def mixtures(space: Space) -> list[tuple[Tensor, Any]]:
    draw = torch.Generator().manual_seed(3)
    count = rows(space)
    soft = [torch.randn(count, generator=draw, dtype=torch.float64).softmax(1) for _ in range(3)]
    hard = [(one_hot(picks, 5), tuple(picks)) for picks in TAKEN] if space.name == "nasbench201" else []
    return [*((weights, None) for weights in soft), *hard]


def test_nasbench201_is_the_sum_written_out() -> None:
    supernet, x, y = made("nasbench201")
    for weights, taken in mixtures(supernet.space):
        alpha = weights.requires_grad_()
        loss, ours = gradients(supernet, supernet(x, Mixture(alpha, taken)), y, alpha)
        truth, theirs = gradients(supernet, by_hand(dict(supernet.named_parameters()), x, alpha, taken), y, alpha)
        assert abs(loss - truth) < 1e-11
        assert apart(ours, theirs) < 1e-9


def test_one_hot_weights_are_the_subnet() -> None:
    supernet, x, _ = made("nasbench201")
    for picks in TAKEN:
        expected = supernet(x, tuple(picks))
        for mixture in (Mixture(one_hot(picks, 5)), Mixture(one_hot(picks, 5), tuple(picks))):
            torch.testing.assert_close(supernet(x, mixture), expected, rtol=0, atol=1e-12)


# the DARTS space


def darts_by_hand(supernet: Any, x: Tensor, weights: Tensor, taken: Any = None) -> Tensor:
    """Every node of every cell: all operations of all edges into it, and none, whose output is zero."""
    ops = supernet.space.edges[0].options
    before = x = supernet.stem(x)
    for i, cell in enumerate(supernet.cells):
        values = [cell.input0(before), cell.input1(x)]
        e = 14 * int(i in (1, 2))  # three cells: the last two reduce
        for node in range(4):
            total = torch.zeros(())
            for source in range(2 + node):
                for o, op in enumerate(ops):
                    if taken is not None and taken[e] != o:
                        total = total + weights[e, o]
                    elif op != "none":
                        total = total + weights[e, o] * cell.edges[f"{source}-{node}"][op](values[source])
                e += 1
            values.append(total)
        before, x = x, torch.cat(values[2:], 1)
    return supernet.classifier(x.mean((2, 3)))


@pytest.mark.parametrize("hard", [False, True])
def test_darts_is_the_sum_written_out(hard: bool) -> None:
    supernet, x, y = made("darts")
    draw = torch.Generator().manual_seed(1)
    alpha = torch.randn(rows(supernet.space), generator=draw, dtype=torch.float64).softmax(1)
    taken = None
    if hard:
        picks = torch.randint(1, 8, (28,), generator=draw).tolist()
        picks[3] = picks[20] = 0  # not all edges of a node: a value of no shape, written out as above
        alpha, taken = one_hot(picks, 8), tuple(picks)
    alpha.requires_grad_()
    loss, ours = gradients(supernet, supernet(x, Mixture(alpha, taken)), y, alpha)
    truth, theirs = gradients(supernet, darts_by_hand(supernet, x, alpha, taken), y, alpha)
    assert abs(loss - truth) < 1e-11
    assert apart(ours, theirs) < 1e-9


def test_edges_of_none_are_zero() -> None:
    supernet, x, _ = made("darts")
    assert supernet(x, Mixture(one_hot([0] * 28, 8))).equal(supernet.classifier.bias.expand(6, 10))


def test_what_is_left_of_a_mixture() -> None:
    cell = nshot.space("nasbench201")
    weights = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    assert cell.strongest(weights.tolist()) == tuple(weights.argmax(1).tolist())
    smaller = cell.restrict("1<-0", "nor_conv_1x1", "avg_pool_3x3")
    assert smaller.strongest([[0.9, 0.1, 0.2, 0.5, 0.3]] * 6) == (4, 0, 0, 0, 0, 0)
    space = DARTS()
    names = [d.name for d in space.edges]
    table = {name: [0.9, *[0.01] * 7] for name in names}  # none everywhere, yet it is never kept
    for name, op, weight in [
        ("normal.node0<-0", 3, 0.3),
        ("normal.node0<-1", 2, 0.2),
        ("normal.node1<-2", 4, 0.4),
        ("normal.node1<-0", 5, 0.02),
        ("normal.node2<-3", 6, 0.02),
        ("normal.node2<-1", 0, 0.03),
        ("normal.node3<-4", 1, 0.5),
        ("normal.node3<-3", 2, 0.6),
    ]:
        table[name][1 + op] = weight
    text = space.format(space.strongest([table[name] for name in names]))
    kept = "('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_3x3', 0), ('sep_conv_5x5', 2), "
    kept += "('max_pool_3x3', 1), ('dil_conv_5x5', 3), ('skip_connect', 3), ('avg_pool_3x3', 4)"
    assert text.startswith(f"Genotype(normal=[{kept}]")
    assert text.count("('max_pool_3x3', 0), ('max_pool_3x3', 1)") == 4  # the reduction cell: all equal, the first


def test_parts_of_a_space_and_other_spaces_run_none() -> None:
    part = nshot.space("darts").restrict("normal.node0.op0", "skip_connect")
    with torch.device("meta"):
        assert not part.supernet().mixtures
        assert [name for name in nshot.list_spaces() if nshot.space(name).supernet().mixtures] == [
            "darts",
            "nasbench201",
        ]


# the fast path


@needs_kernels
@pytest.mark.parametrize("sizes", [{"channels": 16, "cells": 1}, {"channels": 5, "cells": 2, "resolution": 12}])
def test_the_fast_path_is_the_sum_to_rounding(sizes: dict[str, Any]) -> None:
    twin, x, y = made("nasbench201", **sizes)
    fast = copy.deepcopy(twin).float().to(memory_format=torch.channels_last)
    errors = []
    for weights, taken in mixtures(twin.space):
        alpha = weights.requires_grad_()
        truth, theirs = gradients(twin, by_hand(dict(twin.named_parameters()), x, alpha, taken), y, alpha)
        single = weights.detach().float().requires_grad_()
        logits = fast(x.float(), Mixture(single, taken))
        assert logits.grad_fn is not None
        loss, ours = gradients(fast, logits, y, single)
        assert abs(loss - truth) < 1e-5 * abs(truth)
        errors.append(apart(ours, theirs))
    # Rounding may put a value on the other side of a ReLU's zero, for which neither path is the right one.
    assert sorted(errors)[len(errors) - 3] < 1e-4, errors


@needs_kernels
def test_the_fast_path_runs_and_gives_alpha_alone_its_gradient() -> None:
    twin, x, y = made("nasbench201", channels=16)
    fast = copy.deepcopy(twin).float().to(memory_format=torch.channels_last)
    for weights, taken in mixtures(twin.space):
        alpha = weights.detach().float().requires_grad_()
        with patched() as calls:
            _, (*_, whole) = gradients(fast, fast(x.float(), Mixture(alpha, taken)), y, alpha)
            fast.requires_grad_(False)
            loss = F.cross_entropy(fast(x.float(), Mixture(alpha, taken)), y)
            (alone,) = torch.autograd.grad(loss, alpha)
            fast.requires_grad_(True)
        assert calls == [2]
        assert alone.equal(whole)


@contextlib.contextmanager
def patched() -> Iterator[list[int]]:
    """How often the fast path ran."""
    calls, run = [0], fused.pooled

    def counted(program: Any) -> Tensor:
        calls[0] += 1
        return run(program)

    fused.pooled = counted
    try:
        yield calls
    finally:
        fused.pooled = run
