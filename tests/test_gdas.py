"""GDAS against a loop written by hand in plain torch, in float64; what it draws by; DARTS and GDAS as runs."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy.stats import chisquare
from torch import Tensor, nn

import nshot
from by_hand import BATCH, EPOCH, IMAGES, LR, SPACE, batches, distance, new_supernet, trained, validation, whole_rate
from forked import together
from helpers import refuse
from nshot.data.sources import load
from nshot.runs.checkpoint import load_newest
from nshot.seeding import torch_generator
from nshot.strategies.memory import Facts
from nshot.supernets.config import preset
from nshot.supernets.train import train
from nshot.training.distributed import digest
from test_darts_method import CLIP, RECIPE, SHORT, first_alpha
from test_mixed import by_hand


def drawn(alpha: Tensor, tau: float, purpose: str, step: int) -> tuple[Tensor, list[int]]:
    """h and the options taken, by the noise that the step is known to draw."""
    uniform = torch_generator(1, f"gumbel {purpose}", step)
    noise = -torch.empty(6, 5, dtype=torch.float64).exponential_(generator=uniform).log()
    p = ((F.log_softmax(alpha, 1) + noise) / tau).softmax(1)
    picks = p.argmax(1)
    return F.one_hot(picks, 5) - p.detach() + p, picks.tolist()


def gdas_by_hand(released: bool, steps: int) -> tuple[nn.Module, Tensor, torch.optim.Adam]:
    model = new_supernet()
    p = dict(model.named_parameters())
    alpha = first_alpha().requires_grad_()
    sgd = torch.optim.SGD(p.values(), 1.0, **RECIPE)
    adam = torch.optim.Adam([alpha], 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    for step in range(steps):
        tau = 10 - 9.9 * (step // EPOCH) / 2  # of three epochs
        sgd.zero_grad()
        if not released:
            adam.zero_grad()
        x, y = batches(step)
        F.cross_entropy(by_hand(p, x, *drawn(alpha, tau, "weights", step)), y).backward()
        nn.utils.clip_grad_norm_([*p.values(), *([alpha] if released else [])], CLIP)
        sgd.param_groups[0]["lr"] = LR * whole_rate(step, 0.04)
        for w in p.values():  # those off the path rest
            w.grad = None if w.grad is not None and not w.grad.any() else w.grad
        sgd.step()
        x, y = validation(step)
        alpha.grad = torch.autograd.grad(F.cross_entropy(by_hand(p, x, *drawn(alpha, tau, "alpha", step)), y), alpha)[0]
        adam.step()
    return model, alpha, adam


@pytest.mark.parametrize("variant", ["published", "released"])
def test_gdas_is_its_loop(variant: str) -> None:
    result = trained("gdas", clip=CLIP, recipe=RECIPE, variant=variant, steps=SHORT)
    model, alpha, adam = gdas_by_hand(variant == "released", SHORT)
    assert distance(result.model, model) < 1e-9
    torch.testing.assert_close(result.memory.alpha.detach(), alpha.detach(), rtol=0, atol=1e-9)
    (ours,), (theirs,) = result.memory.optimizer.state.values(), adam.state.values()
    for key in ("step", "exp_avg", "exp_avg_sq"):
        assert float((ours[key] - theirs[key]).abs().max()) < 1e-9 * float(theirs[key].abs().max())
    assert float((alpha.detach() - first_alpha()).abs().max()) > 5e-4  # it learnt


def test_variants_differ() -> None:
    published, released = (trained("gdas", clip=0.1, recipe=RECIPE, variant=v) for v in ("published", "released"))
    assert distance(published.model, released.model) > 1e-6


EPOCHS = 250


@pytest.mark.parametrize("epoch", [0, 125, EPOCHS - 1])
def test_picks_follow_softmax_alpha_at_every_tau(epoch: int) -> None:
    count = 4000
    strategy = nshot.strategies.strategies["gdas"](
        SPACE, total_steps=EPOCHS * count, steps_per_epoch=count, seed=2, options=None
    )
    memory = strategy.memory(new_supernet(), Facts(IMAGES, 10, BATCH, LR))
    with torch.no_grad():
        memory.alpha.copy_(torch.tensor([0.0, 0.5, 1.0, 1.5, -1.0]).repeat(6, 1))
    steps = range(epoch * count, (epoch + 1) * count)
    picks = np.array([strategy.mixture(step, "alpha", memory).taken for step in steps])
    expected = count * np.array(memory.alpha[0].detach().softmax(0))
    for edge in range(6):
        assert chisquare(np.bincount(picks[:, edge], minlength=5), expected / expected.sum() * count).pvalue > 1e-3
    assert [strategy.mixture(s, "weights", memory).taken for s in steps[:50]] != [tuple(p) for p in picks[:50].tolist()]
    assert strategy.tau(steps[0]) == strategy.tau(steps[-1]) == pytest.approx(10 - 9.9 * epoch / (EPOCHS - 1))


def test_probabilities_tend_to_one_hot_as_tau_falls() -> None:
    strategy = nshot.strategies.strategies["gdas"](SPACE, total_steps=EPOCHS, seed=2, options=None)
    memory = strategy.memory(new_supernet(), Facts(IMAGES, 10, BATCH, LR))
    sharpness = []
    for step in (0, 200, 240, EPOCHS - 1):
        noise = -torch.empty(6, 5, dtype=torch.float64).exponential_(generator=torch_generator(9, "noise")).log()
        p = ((memory.logs() + noise) / strategy.tau(step)).softmax(1).detach()
        sharpness.append(float(p.max(1).values.mean()))
        h = strategy.mixture(step, "alpha", memory).weights
        assert h.detach().sum(1).allclose(torch.ones(6, dtype=torch.float64))
        (slope,) = torch.autograd.grad(h[0, 0], memory.alpha)
        assert slope[1:].abs().max() == 0 != slope[0].abs().max()
    assert sharpness == sorted(sharpness)
    assert sharpness[0] < 0.35
    assert sharpness[-1] > 0.85


def test_one_epoch_has_the_first_tau() -> None:
    assert nshot.strategy("gdas", SPACE, total_steps=5).tau(4) == pytest.approx(0.1)
    one = nshot.strategies.strategies["gdas"](SPACE, total_steps=5, steps_per_epoch=5, options=None)
    assert [one.tau(step) for step in range(5)] == [10.0] * 5
    assert math.isfinite(
        float(one.mixture(4, "alpha", one.memory(new_supernet(), Facts(1, 10, 1, LR))).weights.sum().detach())
    )


# runs

CASES = [("darts", {}), ("darts", {"variant": "released"}), ("darts", {"order": 2}), ("gdas", {"variant": "released"})]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_stopped_run_goes_on_bit_for_bit(name: str, options: dict, tmp_path: Path) -> None:
    config, data = preset("smoke", name), load("digits", resolution=8)
    known = {"epochs": 1, "checkpoint_every": 7, "log_every": 7, "batch_size": 64}
    config = replace(config, options=type(config.options).of(**options), **known)
    whole = train(config, data, tmp_path / "whole", say=lambda line: None)
    states = {}
    for path in sorted((whole / "").glob("step-*.pt")):
        states[path.name] = path.read_bytes()
    kept = sorted(states)[0]  # the older of the two: steps after it are done again
    again = tmp_path / "again"
    again.mkdir()
    for file in whole.iterdir():
        if file.name in ("config.json", "log.jsonl", kept):
            (again / file.name).write_bytes(file.read_bytes())
    train(config, data, again, say=lambda line: None)
    ours, theirs = (load_file(run / "supernet.safetensors") for run in (again, whole))
    assert all(ours[key].equal(theirs[key]) for key in theirs)
    newest = [load_newest(run)[1] for run in (again, whole)]
    assert len({digest(state["memory"]) for state in newest if state is not None}) == 1
    assert (again / "answer.json").read_text() == (whole / "answer.json").read_text()


@pytest.mark.parametrize(("name", "flags"), [("darts", ["--order", "2"]), ("gdas", ["--variant", "released"])])
def test_two_processes_have_equal_memory(name: str, flags: list[str], tmp_path: Path) -> None:
    """A digest of the memory is compared at each checkpoint, or the run stops."""
    run = tmp_path / "run"
    more = ["--epochs", "1", "--checkpoint-every", "4", "--batch-size", "64", "--out", str(run)]
    done = together("train", name, "--preset", "smoke", *flags, *more)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "answer.json").read_text())["arch"]


def test_an_alpha_that_is_no_number_draws_no_longer() -> None:
    """A training that diverges: the loss then says so; no noise would make it finite."""
    strategy = nshot.strategies.strategies["gdas"](SPACE, total_steps=EPOCHS, seed=2, options=None)
    memory = strategy.memory(new_supernet(), Facts(IMAGES, 10, BATCH, LR))
    with torch.no_grad():
        memory.alpha[2, 3] = math.nan
    assert strategy.mixture(4, "weights", memory).weights.isnan().any()


@pytest.mark.parametrize(("name", "lr"), [("gdas", "1e5"), ("pada", "1e30"), ("darts", "1e30")])
def test_a_training_that_diverges_says_so(name: str, lr: str, tmp_path: Path) -> None:
    args = ["--preset", "smoke", "--epochs", "3", "--lr", lr, "--out", tmp_path / "run", "--device", "cpu"]
    said = refuse("train", name, *args)
    assert re.search(r"(the loss is (nan|inf) at|weights are not finite after) step \d+.*: lower --lr", said), said
