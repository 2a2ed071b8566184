"""Synchronised batch norms: two processes' shares are normalised as one batch; here each process is a thread."""

import dataclasses
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
from nshot.nn.sliced import SlicedNorm
from nshot.nn.synced import by_shares, synchronise
from nshot.supernets.checks import check_supernet, goes_by_shares
from nshot.supernets.config import preset

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


def test_statistics_are_float32_where_images_are_not(together: Any) -> None:
    """As torch's own under autocast: of values far from 0, whose mean bf16 would tell to one in 256."""
    torch.manual_seed(0)
    x = (100 + torch.randn(SIZE * 4, 5, 3, 2)).bfloat16()
    whole = nn.BatchNorm2d(5)
    expected = whole(x)
    norms = [nn.Sequential(nn.BatchNorm2d(5)) for _ in range(SIZE)]
    assert [synchronise(norm) for norm in norms] == [1] * SIZE
    found = torch.cat(together(lambda rank: norms[rank][0](x.chunk(SIZE)[rank])))
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
    for norm in norms:
        torch.testing.assert_close(norm[0].running_mean, whole.running_mean)
        torch.testing.assert_close(norm[0].running_var, whole.running_var)


@pytest.mark.parametrize("some", [False, True])
def test_sliced_norms_too(together: Any, some: bool) -> None:
    """Some of a norm's channels, by all processes: as torch's norm of these on the whole batch."""
    torch.manual_seed(0)
    chosen = torch.tensor([0, 2, 3]) if some else None
    one = SlicedNorm(5, 1e-5, 0.1, nn.ReLU6()).double()
    nn.init.normal_(one.weight)
    nn.init.normal_(one.running_mean)
    many = [nn.Sequential(deepcopy(one)) for _ in range(SIZE)]
    x = 3 + 2 * torch.randn(SIZE * 4, 3 if some else 5, 3, 2, dtype=torch.float64)
    whole = nn.BatchNorm2d(x.shape[1]).double()
    for key, value in whole.state_dict().items():
        own = one.state_dict()[key]
        value.copy_(own if chosen is None or own.dim() == 0 else own[chosen])
    expected = nn.functional.relu6(whole(x))

    def share(rank: int) -> Tensor:
        assert synchronise(many[rank]) == 1
        return many[rank][0](x.chunk(SIZE)[rank], chosen)

    torch.testing.assert_close(torch.cat(together(share)), expected)
    for network in many:
        for key in ("running_mean", "running_var"):
            own, right = getattr(network[0], key), getattr(one, key).clone()
            right[torch.arange(5) if chosen is None else chosen] = getattr(whole, key)
            torch.testing.assert_close(own, right)


@pytest.mark.parametrize("name", nshot.list_spaces())
def test_which_runs_another_number_of_processes_may_not_continue(name: str) -> None:
    """Those whose norms see a process's share: of timm's networks too, whose norms are a kind of their own."""
    config = dataclasses.replace(preset("smoke", "spos", name), fast="off")
    assert goes_by_shares(config) == (name != "autoformer")
    if name != "autoformer":
        synced = dataclasses.replace(config, sync_bn="on")
        assert not goes_by_shares(synced)
        check_supernet(synced, torch.device("cpu"))


@pytest.mark.parametrize("name", nshot.list_spaces())
def test_a_synchronised_supernet_is_the_same_network(name: str) -> None:
    space = nshot.space(name, **SMALL[name])
    supernet = space.supernet()
    supernet.fast = False
    x, subnet = torch.randn(4, 3, space.resolution, space.resolution), tuple(d.allowed[-1] for d in space.decisions)
    before, expected = dict(supernet.named_parameters()), supernet(x, subnet)
    norms = [key for key, module in supernet.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert by_shares(supernet) == norms
    assert synchronise(supernet) == len(norms)
    assert by_shares(supernet) == []
    assert bool(norms) == (name != "autoformer")
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
