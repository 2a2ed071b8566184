"""Gradients of depthwise convolutions against torch's own in double precision, and when they are torch's to compute."""

import copy

import pytest
import torch
from torch import Tensor, nn

import nshot
from needs import needs_kernels
from nshot.nn import depthwise, kernels
from nshot.nn.depthwise import DepthwiseConv


def gradients(conv: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Of the input and of the weight."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(conv(x), (x, conv.weight), g)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


def make(
    c: int, kernel: int, stride: int, dilation: int, side: tuple[int, int]
) -> tuple[DepthwiseConv, Tensor, Tensor]:
    """A convolution, an input and a gradient of its output."""
    torch.manual_seed(c + kernel)
    conv = DepthwiseConv(c, kernel, stride, dilation).to(memory_format=torch.channels_last)
    x = torch.randn(3, c, *side).to(memory_format=torch.channels_last)
    return conv, x, torch.randn_like(conv(x))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are run."""
    found: list[str] = []
    run = kernels.run

    def recorded(name: str, *args: object) -> None:
        found.append(name)
        run(name, *args)

    monkeypatch.setattr(depthwise, "run", recorded)
    return found


@needs_kernels
@pytest.mark.parametrize("side", [(1, 1), (2, 9), (7, 4), (12, 12)])
@pytest.mark.parametrize("c", [1, 8, 13, 20])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 2), (3, 2, 2), (5, 1, 1), (5, 2, 2), (7, 2, 1)])
def test_gradients_are_torchs(
    kernel: int, stride: int, dilation: int, c: int, side: tuple[int, int], calls: list[str]
) -> None:
    """Widths that fill no vector, sides that are odd, that fill no tile and that the kernel is larger than."""
    conv, x, g = make(c, kernel, stride, dilation, side)
    plain = nn.Conv2d(c, c, kernel, stride, dilation * (kernel // 2), dilation, groups=c, bias=False).double()
    plain.load_state_dict(conv.state_dict())
    ours, torchs = gradients(conv, x, g), gradients(plain, x.double(), g.double())
    assert calls == ["depthwise_backward"]
    assert [relative(a, b) < 1e-6 for a, b in zip(ours, torchs, strict=True)] == [True, True]


@needs_kernels
def test_outputs_are_torchs_and_gradients_do_not_depend_on_the_memory_format(calls: list[str]) -> None:
    conv, x, g = make(12, 5, 1, 2, (6, 6))
    assert conv(x.requires_grad_()).equal(nn.Conv2d.forward(conv, x))
    expected = gradients(conv, x, g)
    turned = gradients(conv, x.contiguous(), g.contiguous())
    assert all(a.equal(b) for a, b in zip(expected, turned, strict=True))
    assert len(calls) == 2


@needs_kernels
def test_threads_change_nothing() -> None:
    conv, x, g = make(24, 5, 1, 1, (9, 9))
    before, threads = gradients(conv, x, g), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        after = gradients(conv, x, g)
    finally:
        torch.set_num_threads(threads)
    assert all(a.equal(b) for a, b in zip(before, after, strict=True))


def test_torch_computes_what_it_is_fast_at_or_asked_for(calls: list[str]) -> None:
    conv, x, g = make(8, 5, 1, 1, (6, 6))
    conv.fast = False
    gradients(conv, x, g)
    conv.fast = True
    gradients(copy.deepcopy(conv).double(), x.double(), g.double())
    with torch.autocast("cpu", torch.bfloat16):
        gradients(conv, x, g.bfloat16())
    gradients(DepthwiseConv(8, 3), x, g)
    gradients(DepthwiseConv(8, 9), x, g)
    gradients(DepthwiseConv(8, 1, dilation=2), x, g)
    conv(x)
    assert not calls


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_it_can_be_traced() -> None:
    conv, x, _ = make(8, 5, 1, 1, (6, 6))
    x.requires_grad_()
    for traced in (
        torch.fx.symbolic_trace(conv),
        torch.jit.trace(conv, (x,)),
        torch.export.export(conv, (x,)).module(),
    ):
        assert traced(x).equal(conv(x))


@needs_kernels
def test_gradients_of_gradients_are_had_by_the_plain_path() -> None:
    conv, x, _ = make(8, 5, 1, 1, (6, 6))
    with pytest.raises(RuntimeError, match="once_differentiable"):
        twice(conv, x)
    conv.fast = False
    assert twice(conv, x).shape == x.shape


def twice(conv: DepthwiseConv, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    first.sum().backward()
    assert x.grad is not None
    return x.grad


@needs_kernels
@pytest.mark.parametrize("name", ["darts", "mobilenet"])
def test_supernets_of_depthwise_spaces_run_it_unless_told_not_to(name: str, calls: list[str]) -> None:
    sizes = {"resolution": 32} | ({"channels": 4, "cells": 3} if name == "darts" else {"width": 0.25})
    space = nshot.space(name, **sizes)
    supernet = space.supernet()
    subnet = tuple(decision.allowed[-2] for decision in space.decisions)  # the largest kernels
    supernet(torch.randn(2, 3, 32, 32), subnet).sum().backward()
    assert set(calls) == {"depthwise_backward"}
    calls.clear()
    supernet.fast = False
    supernet(torch.randn(2, 3, 32, 32), subnet).sum().backward()
    assert not calls
