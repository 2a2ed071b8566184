"""Synchronised batch norms: two processes' shares are normalised as one batch; here each process is a thread."""

import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import nshot
from helpers import SMALL, refuse
from nshot.nn.synced import SyncedBatchNorm2d, synchronise

SIZE = 3


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], Any]], list[Any]]:
    """Calls a function of the rank in so many threads, whose `dist` is that of processes."""
    here, met, given = threading.local(), threading.Barrier(SIZE, timeout=30), [None] * SIZE

    def all_gather(rows: list[Tensor], value: Tensor) -> None:
        given[here.rank] = value.detach().clone()
        met.wait()
        for row, each in zip(rows, given, strict=True):
            row.copy_(each)
        met.wait()

    for name, function in {
        "is_initialized": lambda: True,
        "get_world_size": lambda: SIZE,
        "get_rank": lambda: here.rank,
        "all_gather": all_gather,
    }.items():
        monkeypatch.setattr(dist, name, function)

    def run(work: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * SIZE

        def thread(rank: int) -> None:
            here.rank = rank
            try:
                results[rank] = work(rank)
            except BaseException as error:
                met.abort()
                results[rank] = error

        threads = [threading.Thread(target=thread, args=(rank,)) for rank in range(SIZE)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    return run


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_shares_are_normalised_as_one_batch(together: Any, affine: bool, running: bool, training: bool) -> None:
    """Outputs, gradients, gradients of gradients and running statistics are those of torch's norm on the whole."""
    torch.manual_seed(0)
    whole = nn.BatchNorm2d(5, affine=affine, track_running_stats=running).double()
    if affine:
        nn.init.normal_(whole.weight)
        nn.init.normal_(whole.bias)
    whole.train(training)
    x = (3 + 2 * torch.randn(SIZE * 4, 5, 3, 2, dtype=torch.float64)).requires_grad_()
    weigh = torch.randn_like(x)
    before = [deepcopy(whole) for _ in range(SIZE)]

    def second(x: Tensor, norm: nn.Module, weigh: Tensor) -> list[Tensor]:
        y = norm(x)
        (first,) = torch.autograd.grad((y.sin() * weigh).sum(), x, create_graph=True)
        wanted = [x, *norm.parameters()]
        return [y, first, *torch.autograd.grad((first.square() * weigh).sum(), wanted, allow_unused=True)]

    expected = second(x, whole, weigh)

    def share(rank: int) -> list[Tensor]:
        network = nn.Sequential(before[rank])
        assert synchronise(network) == 1
        part = x.detach().chunk(SIZE)[rank].requires_grad_()
        return second(part, network[0], weigh.chunk(SIZE)[rank])

    found = together(share)
    for i, right in enumerate(expected[:3]):
        torch.testing.assert_close(torch.cat([each[i] for each in found]), right)
    for i, right in enumerate(expected[3:], 3):  # of weights: the processes' sum, where there is one
        if right is not None:
            torch.testing.assert_close(sum(each[i] for each in found), right)
    for norm in before:
        for name, value in whole.named_buffers():
            torch.testing.assert_close(dict(norm.named_buffers())[name], value)


@pytest.mark.parametrize("name", nshot.list_spaces())
def test_a_synchronised_supernet_is_the_same_network(name: str) -> None:
    space = nshot.space(name, **SMALL[name])
    supernet = space.supernet()
    supernet.fast = False
    x, subnet = torch.randn(4, 3, space.resolution, space.resolution), tuple(d.allowed[-1] for d in space.decisions)
    before, expected = dict(supernet.named_parameters()), supernet(x, subnet)
    norms = sum(type(module) is nn.BatchNorm2d for module in supernet.modules())
    assert synchronise(supernet) == norms
    assert sum(isinstance(module, SyncedBatchNorm2d) for module in supernet.modules()) == norms
    after = dict(supernet.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in before)
    assert supernet(x, subnet).equal(expected)  # in one process, bit for bit


def test_what_cannot_be_synchronised_is_refused(tmp_path: Any) -> None:
    run = ("train", "spos", "--preset", "smoke", "--sync-bn", "on", "--out", tmp_path / "run")
    assert "sync_bn on: kernels and graphs know one process's batch alone, add --fast off" in refuse(*run)
    small = ("--space", "autoformer", "--fast", "off")
    assert "the supernet of space autoformer has no batch norms, leave it out" in refuse(*run, *small)
    assert not (tmp_path / "run").exists()
