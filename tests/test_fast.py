"""The fast path against the plain one in double precision, over every space that has it; what it refuses to do."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nshot
from needs import needs_kernels
from nshot.nn import fused, fused_convs, kernels
from nshot.spaces import Subnet, Supernet

SIZES = {"nasbench201": [{"channels": 16, "cells": 1, "resolution": 8}, {"channels": 5, "cells": 2, "resolution": 12}]}
CASES = [(name, sizes) for name in nshot.list_spaces() if name in SIZES for sizes in SIZES[name]]
SUBNETS = 50


def pair(name: str, sizes: dict) -> tuple[Supernet, Supernet]:
    """A supernet on the fast path, and its plain twin in double precision."""
    torch.manual_seed(0)
    supernet = nshot.space(name, **sizes).supernet().to(memory_format=torch.channels_last)
    twin = copy.deepcopy(supernet).double()
    twin.fast = False
    return supernet, twin


def batch(supernet: Supernet, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    side = supernet.space.resolution
    return torch.randn(count, 3, side, side, generator=generator), torch.arange(count) % 10


def gradients(supernet: Supernet, images: Tensor, labels: Tensor, subnet: Subnet) -> tuple[Tensor, dict[str, Tensor]]:
    supernet.zero_grad()
    loss = F.cross_entropy(supernet(images, subnet), labels)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12))


def subnets(supernet: Supernet) -> list[Subnet]:
    rng = np.random.default_rng(0)
    space = supernet.space
    return [tuple(d.allowed[0] for d in space.decisions), *(space.sample(rng) for _ in range(SUBNETS - 1))]


@needs_kernels
@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_loss_and_every_gradient_equal_the_plain_path(name: str, sizes: dict) -> None:
    supernet, twin = pair(name, sizes)
    images, labels = batch(supernet)
    errors = []
    for subnet in subnets(supernet):
        loss, fast = gradients(supernet, images, labels, subnet)
        truth, plain = gradients(twin, images.double(), labels, subnet)
        assert abs(loss - truth) < 1e-5 * abs(truth)
        assert fast.keys() == plain.keys()
        errors.append(max(relative(fast[key], plain[key]) for key in plain))
    # Rounding may put a value on the other side of a ReLU's zero, for which neither path is the right one.
    assert sorted(errors)[int(0.9 * SUBNETS)] < 1e-5, sorted(errors)


@needs_kernels
@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_bf16_is_no_further_from_the_truth_than_the_plain_path(name: str, sizes: dict) -> None:
    supernet, twin = pair(name, sizes)
    images, labels = batch(supernet, 16)
    errors: dict[bool, list[float]] = {True: [], False: []}
    for subnet in subnets(supernet):
        truth = gradients(twin, images.double(), labels, subnet)
        for fast in errors:
            supernet.fast = fast
            with torch.autocast("cpu", torch.bfloat16):
                loss, grads = gradients(supernet, images, labels, subnet)
            assert abs(loss - truth[0]) < 2e-2 * abs(truth[0])
            errors[fast].append(relative(*(torch.cat([g[key].flatten() for key in g]) for g in (grads, truth[1]))))
    assert np.median(errors[True]) < 1.05 * np.median(errors[False])


@needs_kernels
@pytest.mark.parametrize(("c_in", "c"), [(16, 16), (16, 32), (64, 64), (48, 16), (8, 16), (16, 5)])
@pytest.mark.parametrize("side", [1, 14])
def test_pointwise_convolutions_and_halving_are_torchs(c_in: int, c: int, side: int) -> None:
    """In double precision; rows that fill no tile, several partial sums, and widths that are torch's to do."""
    generator = torch.Generator().manual_seed(c)
    x = torch.randn(5, c_in, 2 * side, 2 * side, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(c, c_in, 1, 1, generator=generator).requires_grad_()
    twins = [x.double().requires_grad_(), weight.detach().double().requires_grad_()]
    expected = F.conv2d(F.avg_pool2d(twins[0], 2), twins[1])
    grad = torch.randn(expected.shape, generator=generator).to(memory_format=torch.channels_last)
    expected.backward(grad.double())

    tape = fused.Tape(train=True)
    source = fused.Signal(x)
    out = tape.conv(tape.half(source), weight, norm=False)
    torch.testing.assert_close(out.tensor.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    (gradient,) = tape.backward(out, grad)
    assert relative(gradient, twins[1].grad) < 1e-6
    assert relative(source.grads[0], twins[0].grad) < 1e-6
    half = F.avg_pool2d(x, 2).contiguous(memory_format=torch.channels_last)
    gradients = fused_convs.pointwise(half, weight.detach())[1]
    gx, gw = gradients(grad, False, True)
    assert gx is None
    assert gw is not None
    assert relative(gw, twins[1].grad) < 1e-6
    gx, gw = gradients(grad, True, False)
    assert gw is None
    assert gx is not None


@needs_kernels
def test_the_fast_path_is_the_default_and_another() -> None:
    supernet, _ = pair("nasbench201", SIZES["nasbench201"][0])
    images, _ = batch(supernet)
    fast = supernet(images, (3,) * 6)
    supernet.fast = False
    plain = supernet(images, (3,) * 6)
    assert not fast.equal(plain)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_gradients_of_images_are_had_by_the_plain_path() -> None:
    supernet, twin = pair("nasbench201", SIZES["nasbench201"][0])
    images, _ = batch(supernet)
    asked = [images.clone().requires_grad_(), images.double().requires_grad_()]
    for net, x in zip((supernet, twin), asked, strict=True):
        net(x, (3, 1, 2, 4, 3, 1)).square().sum().backward()
    assert relative(asked[0].grad, asked[1].grad) < 1e-4


@needs_kernels
def test_a_second_backward_is_refused() -> None:
    supernet, _ = pair("nasbench201", SIZES["nasbench201"][0])
    images, _ = batch(supernet)
    out = supernet(images, (3,) * 6).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run forward again"):
        out.backward()


def test_without_a_compiler_the_plain_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    supernet, twin = pair("nasbench201", SIZES["nasbench201"][0])
    images, _ = batch(supernet)
    monkeypatch.setenv("CXX", "/no/such/compiler")
    kernels.library.cache_clear()
    try:
        with pytest.warns(UserWarning, match="fast path is off"):
            out = supernet(images, (3,) * 6)
        supernet.fast = False
        assert out.equal(supernet(images, (3,) * 6))
    finally:
        monkeypatch.undo()
        kernels.library.cache_clear()
    assert relative(out.detach(), twin(images.double(), (3,) * 6).detach()) < 1e-4
