"""Drop-path and the auxiliary head: what they compute, that they change nothing where they are off, exact resuming."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import nshot
import nshot.supernets.train as train_module
from helpers import SMALL, refuse
from nshot import SeparatedMomentum, UserError
from nshot.data.sources import load
from nshot.nn.auxiliary import AuxiliaryHead
from nshot.nn.cells import batch_norm
from nshot.nn.drop import DropPath, draws, set_drop_path
from nshot.runs.log import read_log
from nshot.spaces.darts import OPS, choices
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.train import train
from nshot.training.loop import train_steps

WITH_DROP_PATH = ("autoformer", "darts")


def random_subnet(space: nshot.spaces.Space, seed: int = 0) -> tuple[int, ...]:
    return space.sample(np.random.default_rng(seed))


def images(space: nshot.spaces.Space, count: int = 4) -> Tensor:
    return torch.randn(count, 3, space.resolution, space.resolution, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(4000, 3), (4000, 2, 3, 3)])
def test_samples_are_dropped_whole_and_the_others_scaled(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    drop = DropPath()
    drop.p = 0.25
    x = torch.rand(shape) + 1
    out = drop(x)
    dropped = (out == 0).flatten(1).all(1)
    assert dropped.float().mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    torch.testing.assert_close(out[~dropped], x[~dropped] / 0.75)
    assert drop.eval()(x) is x
    drop.p = 0.0
    assert drop.train()(x) is x


@pytest.mark.parametrize("name", WITH_DROP_PATH)
def test_a_rate_of_zero_draws_nothing_and_changes_nothing(name: str) -> None:
    space = nshot.space(name, **SMALL[name])
    network = space.network(random_subnet(space))
    assert draws(network)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    plain = network(images(space))
    assert torch.get_rng_state().equal(before)
    set_drop_path(network, 0.5)
    assert not network(images(space)).equal(plain)
    set_drop_path(network, 0.0)
    assert network(images(space)).equal(plain)


def test_spaces_without_it_refuse_a_rate(tmp_path: Path) -> None:
    for name in set(nshot.list_spaces()) - set(WITH_DROP_PATH):
        space = nshot.space(name, **SMALL[name])
        network = space.network(random_subnet(space))
        set_drop_path(network, 0.0)
        assert not draws(network)
        with pytest.raises(UserError, match=r"drop_path 0.2 has no effect"):
            set_drop_path(network, 0.2)
    for strategy in ("spos", "fsnas"):
        out = tmp_path / strategy
        smoke = ("train", strategy, "--preset", "smoke", "--out", out, "--device", "cpu")
        assert "drop_path 0.2 has no effect" in refuse(*smoke, "--drop-path", "0.2")
        assert "drop_path 1.0: must be from 0 to below 1" in refuse(*smoke, "--drop-path", "1")
        assert not out.exists()


def test_autoformers_rates_rise_with_depth_as_the_paper_has_them() -> None:
    space = nshot.space("autoformer", **{**SMALL["autoformer"], "depths": (4, 5)})
    supernet = space.supernet()
    set_drop_path(supernet, 0.1)
    assert [layer.drop.p for layer in supernet.layers] == pytest.approx(torch.linspace(0, 0.1, 5).tolist())
    assert preset("paper", "spos", "autoformer").drop_path == 0.1
    assert preset("proxy", "spos", "autoformer").drop_path == 0


def test_a_dropped_block_is_skipped() -> None:
    space = nshot.space("autoformer", **SMALL["autoformer"])
    block = space.supernet().layers[1]
    x = torch.randn(64, 5, 24)
    block.drop.p = 0.5
    torch.manual_seed(0)
    out = block(x, 3, 48)
    same = torch.tensor([a.equal(b) for a, b in zip(out, x, strict=True)])
    assert 0 < same.sum() < 40  # both branches dropped: a quarter


def test_identities_are_never_dropped() -> None:
    """With only identities in a cell that does not reduce, nothing is drawn; with another operation there is."""
    space = nshot.space("darts", **SMALL["darts"])
    subnet = tuple(OPS.index("skip_connect") if ".op" in d.name else 0 for d in space.decisions)
    cell = space.network(subnet).cells[0]
    set_drop_path(cell, 0.5)
    kept = [((0, OPS.index("skip_connect")), (1, OPS.index("skip_connect")))] * 4
    x = torch.randn(4, 12, 8, 8)
    assert torch.equal(cell(x, x, kept), cell(x, x, kept))
    pooled = tuple(OPS.index("avg_pool_3x3") if ".op" in d.name else 0 for d in space.decisions)
    cell = space.network(pooled).cells[0]
    set_drop_path(cell, 0.999)
    kept = [((0, OPS.index("avg_pool_3x3")), (1, OPS.index("avg_pool_3x3")))] * 4
    assert not cell(x, x, kept).any()


@pytest.mark.parametrize(("side", "window", "stride"), [(8, 5, 3), (7, 5, 2), (2, 1, 1), (4, 3, 1), (56, 35, 21)])
def test_auxiliary_head_sees_the_original_windows(side: int, window: int, stride: int) -> None:
    """5 and 3 at CIFAR-10's 8x8, 5 and 2 at ImageNet's 7x7; everywhere a 2x2 that the next kernel takes whole."""
    head = AuxiliaryHead(6, side, 10, batch_norm)
    assert (head.window, head.stride) == (window, stride)
    assert head(torch.randn(3, 6, side, side)).shape == (3, 10)


def test_auxiliary_head_in_training_only() -> None:
    space = nshot.space("darts", channels=36, cells=20)
    plain = space.network(random_subnet(space))
    names = set(plain.state_dict())
    both = space.with_auxiliary(plain)
    assert both.network is plain
    assert set(plain.state_dict()) == names
    head = sum(p.numel() for p in both.head.parameters())
    c = 4 * 4 * 36  # of the cells after the second reduction: 144 x 4
    assert head == 128 * c + 256 + 768 * 128 * 4 + 1536 + 768 * 10 + 10
    x = images(space, 2)
    logits, auxiliary = both(x)
    assert logits.equal(plain(x))
    before = after = plain.stem(x)
    for kind, cell in zip(plain.kinds[:14], plain.cells[:14], strict=True):  # the last of them is at two thirds of 20
        before, after = after, cell(before, after, choices(plain.subnet, kind))
    assert after.shape == (2, c, 8, 8)
    assert auxiliary.equal(both.head(after))
    assert not any(module._forward_hooks for module in plain.modules())
    (F.cross_entropy(logits, torch.arange(2)) + 0.4 * F.cross_entropy(auxiliary, torch.arange(2))).backward()
    assert all(p.grad is not None for p in both.parameters())
    assert both.eval()(x).equal(plain(x))


def test_spaces_without_auxiliary_head_say_so() -> None:
    for name in set(nshot.list_spaces()) - {"darts"}:
        space = nshot.space(name, **SMALL[name])
        with pytest.raises(UserError, match=f"space {name} has no auxiliary head"):
            space.with_auxiliary(nn.Identity())


def dropping(name: str, strategy: str, rate: float = 0.3) -> TrainConfig:
    config = preset("smoke", strategy, name)
    return dataclasses.replace(config, epochs=1, warmup=0, drop_path=rate, log_every=1, checkpoint_every=5)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(("name", "strategy"), [("autoformer", "spos"), ("autoformer", "fairnas"), ("darts", "spos")])
def test_a_resumed_run_is_bit_identical(name: str, strategy: str, tmp_path: Path, monkeypatch) -> None:
    """With another state of the global generator, in which nothing of the run may lie."""
    config, steps = dropping(name, strategy), train_module.train_steps
    data = load("digits", resolution=config.space.resolution)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(config, data, whole, device="cpu", say=lambda line: None)

    def stopping(*args, **kwargs):
        for step, loss in steps(*args, **kwargs):
            if step == 7:
                raise StoppedError
            yield step, loss

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "train_steps", stopping)
        with pytest.raises(StoppedError):
            train(config, data, resumed, device="cpu", say=lambda line: None)
    torch.manual_seed(12345)
    said: list[str] = []
    train(config, data, resumed, device="cpu", say=said.append)
    assert "at step 5 of" in said[0]
    losses = [[(line["step"], line["loss"]) for line in read_log(run / "log.jsonl")] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    weights = [load_file(run / "supernet.safetensors") for run in (whole, resumed)]
    assert all(weights[0][key].equal(weights[1][key]) for key in weights[0])
    plain = tmp_path / "plain"
    train(dropping(name, strategy, 0.0), data, plain, device="cpu", say=lambda line: None)
    assert not all(weights[0][key].equal(value) for key, value in load_file(plain / "supernet.safetensors").items())


class Own(nn.Module):
    """A module of a user's, which may call torch's functions."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    "module",
    [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.RReLU(), nn.MultiheadAttention(4, 2, dropout=0.1), Own()],
)
def test_every_module_that_may_draw_is_seeded(module: nn.Module) -> None:
    assert draws(nn.Sequential(nn.Conv2d(3, 4, 1), module))
    assert not draws(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))


def test_a_training_follows_from_its_seed_whatever_draws() -> None:
    """Channels dropped whole, as by torch's Dropout2d: the same weights, and the user's generator is left alone."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    x, y = images(space, 8), torch.arange(8)
    found = []
    for start in (0, 99):
        torch.manual_seed(5)
        net = space.supernet()
        net.stem = nn.Sequential(net.stem, nn.Dropout2d(0.5))
        net.fast = False
        optimizer = SeparatedMomentum(torch.optim.SGD(net.parameters(), lr=0.1), 1)
        plan = nshot.strategy("spos", space, total_steps=3).plan
        torch.manual_seed(start)
        before = torch.get_rng_state()
        for _ in train_steps(net, optimizer, plan, lambda step: (x, y), start=0, total_steps=3, lr=0.1, seed=2):
            pass
        assert torch.get_rng_state().equal(before)
        found.append(torch.cat([weight.detach().flatten() for weight in net.parameters()]))
    assert found[0].equal(found[1])
