"""Running statistics computed afresh for a subnet: by hand and by torch, for each subnet alone, through scoring."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import nshot
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.data.sources import load
from nshot.ranking.calibrate import calibrate, keeps_statistics
from nshot.ranking.evaluate import evaluate
from nshot.spaces import Space
from nshot.supernets.config import preset
from nshot.supernets.load import load_run
from nshot.supernets.score import scored
from nshot.supernets.train import train

IMAGES = torch.randn(2, 16, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def space() -> Space:
    return nshot.space("mobilenet", **SMALL["mobilenet"], norm="running")


@pytest.fixture
def supernet(space: Space) -> nn.Module:
    """After a few forward passes of several subnets, whose statistics it mixes; affine weights that are not one."""
    torch.manual_seed(0)
    supernet = space.supernet()
    for name, weight in supernet.named_parameters():
        if "norm" in name:
            nn.init.uniform_(weight, 0.5, 1.5)
    rng = np.random.default_rng(0)
    for _ in range(3):
        supernet(torch.randn(8, 3, 64, 64), space.sample(rng))
    return supernet


def subnets_of(space: Space, count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(5)
    return [space.sample(rng) for _ in range(count)]


def norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}


def test_the_default_has_neither_affine_parameters_nor_running_statistics() -> None:
    supernet = nshot.space("mobilenet", **SMALL["mobilenet"]).supernet()
    assert not keeps_statistics(supernet)
    assert not any("norm" in name for name in supernet.state_dict())


def test_statistics_of_one_batch_make_the_outputs_of_that_batch(space: Space, supernet: nn.Module) -> None:
    """But that a running variance is unbiased, which is undone here; the expectation is torch's norm of the batch."""
    subnet, x = subnets_of(space, 1)[0], IMAGES[0]
    network = nshot.extract(supernet, subnet)
    of_batch = copy.deepcopy(network)
    for norm in norms(of_batch).values():
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    sizes: dict[str, int] = {}
    for name, norm in norms(network).items():
        norm.register_forward_pre_hook(lambda _, x, name=name: sizes.__setitem__(name, x[0].numel() // x[0].shape[1]))
    calibrate(network, [x])
    for name, norm in norms(network).items():
        norm.running_var *= (sizes[name] - 1) / sizes[name]
    torch.testing.assert_close(network.eval()(x), of_batch(x), rtol=1e-4, atol=1e-4)


def test_several_batches_count_the_same_as_torch_averages_them(space: Space, supernet: nn.Module) -> None:
    subnet = subnets_of(space, 1)[0]
    network = nshot.extract(supernet, subnet)
    update_bn(list(IMAGES), network)
    supernet.train()
    calibrate(supernet, list(IMAGES), subnet)
    assert supernet.training
    assert all(norm.momentum == 0.1 for norm in norms(supernet).values())
    own = supernet.state_dict()
    assert all(own[name].equal(value) for name, value in network.state_dict().items())
    expected = network.eval()(IMAGES[0])
    assert supernet.eval()(IMAGES[0], subnet).equal(expected)


def test_dropout_is_off_while_statistics_are_computed() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    x = torch.randn(50, 3)
    calibrate(network, [x])
    torch.testing.assert_close(network[1].running_mean, x.mean(0))
    torch.testing.assert_close(network[1].running_var, x.var(0))
    assert network[0].training
    assert network[1].training


def test_a_subnets_scores_do_not_depend_on_the_others(space: Space, supernet: nn.Module) -> None:
    subnets, calibration = subnets_of(space, 4), list(IMAGES)
    batches = [(x, torch.arange(16) % 10) for x in torch.randn(2, 16, 3, 64, 64)]
    together = evaluate(supernet, subnets, batches, calibration=calibration)
    backwards = evaluate(supernet, subnets[::-1], batches, calibration=calibration)
    assert np.array_equal(together.loss, backwards.loss[::-1])
    for row, subnet in enumerate(subnets):
        network = nshot.extract(supernet, subnet)
        update_bn(calibration, network)
        with torch.no_grad():
            losses = [nn.functional.cross_entropy(network.eval()(x), y, reduction="none") for x, y in batches]
        np.testing.assert_allclose(together.loss[row], torch.cat(losses).numpy(), rtol=1e-4, atol=1e-5)
    other = evaluate(supernet, subnets, batches, calibration=calibration[:1])
    assert not np.array_equal(other.loss, together.loss)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = preset("smoke", "spos", "mobilenet")
    space = dataclasses.replace(config.space, norm="running")
    config = dataclasses.replace(config, space=space, batch_size=256)
    out = tmp_path_factory.mktemp("run") / "run"
    return train(config, load("digits", resolution=32), out, device="cpu", say=lambda line: None)


def scores_of(run: Path, count: int | None) -> tuple[np.ndarray, Tensor]:
    config, supernet = load_run(run)
    subnets = subnets_of(config.space, 3)
    how = {"images": 50, "calibration": count, "device": "cpu"}
    with scored(run, config, supernet, subnets, **how) as (scores, described):
        assert described["calibration"] == (2 if count is None else count)
        return scores.loss, supernet


def test_scores_of_a_run(run: Path) -> None:
    """599 training digits make two batches: that is all there is, and what is taken where nothing is said."""
    losses, supernet = scores_of(run, None)
    assert keeps_statistics(supernet)
    assert np.array_equal(losses, scores_of(run, 2)[0])
    assert not np.array_equal(losses, scores_of(run, 1)[0])
    with pytest.raises(UserError, match="calibration 3: must be from 1 to the 2 batches of 256 training images"):
        scores_of(run, 3)


def test_from_the_command_line(run: Path, tmp_path: Path) -> None:
    search = ("search", run, "--sample", "3", "--images", "50", "--device", "cpu")
    status, _, _ = nshot_(*search, "--calibration", "1")
    assert status == 0
    assert "calibration 9" in refuse(*search, "--calibration", "9")
    assert "invalid choice 'instance' for argument '--norm'" in refuse(
        "train", "--space", "mobilenet", "--norm", "instance", "--out", tmp_path
    )


def test_calibration_without_running_statistics_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(preset("smoke", "spos", "nasbench201"), epochs=1)
    run = train(config, load("digits", resolution=8), tmp_path / "run", device="cpu", say=lambda line: None)
    message = refuse("search", run, "--sample", "3", "--images", "50", "--device", "cpu", "--calibration", "1")
    assert "calibration 1 has no effect: this supernet has no running statistics" in message


class Dropping(nn.Module):
    """Drops half of what it is given, in training; with batch norms of running statistics or without."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.drop, self.norm, self.head = nn.Dropout(0.5), norm, nn.Linear(3, 10)
        self.norm.eval()  # a mode of its own, which stays

    def forward(self, x: Tensor, subnet: tuple[int, ...]) -> Tensor:
        return self.head(self.norm(self.drop(x)).mean((2, 3)))


@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(1, 3), nn.BatchNorm2d(3)])
def test_nothing_is_dropped_where_subnets_are_scored(norm: nn.Module) -> None:
    """In evaluation mode, whatever the supernet's norms are; after it each module is in its own mode."""
    supernet, images = Dropping(norm), [(batch, torch.arange(len(batch)) % 10) for batch in IMAGES]
    calibration = [IMAGES[0]] if isinstance(norm, nn.BatchNorm2d) else []
    modes = [module.training for module in supernet.modules()]
    found = [evaluate(supernet, [(0,)], images, calibration=calibration) for _ in range(3)]
    assert all((one.loss == found[0].loss).all() for one in found)
    assert [module.training for module in supernet.modules()] == modes
    still = copy.deepcopy(supernet).eval()
    with torch.no_grad():
        expected = torch.cat([nn.functional.cross_entropy(still(x, ()), y, reduction="none") for x, y in images])
    np.testing.assert_allclose(found[0].loss[0], expected, rtol=1e-6)


def test_a_calibration_that_is_interrupted_leaves_modes_and_momenta(supernet: nn.Module, space: Space) -> None:
    def images():
        yield IMAGES[0]
        raise KeyboardInterrupt

    before = [(module.training, getattr(module, "momentum", None)) for module in supernet.modules()]
    with pytest.raises(KeyboardInterrupt):
        calibrate(supernet, images(), subnets_of(space, 1)[0])
    assert [(module.training, getattr(module, "momentum", None)) for module in supernet.modules()] == before
