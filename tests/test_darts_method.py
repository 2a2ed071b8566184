"""DARTS and what it shares with GDAS, against loops written by hand in plain torch, in float64."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nshot
from by_hand import BATCH, IMAGES, LR, SPACE, batches, distance, new_supernet, trained, validation, whole_rate
from helpers import nshot_, refuse
from nshot.runs.log import read_log
from nshot.seeding import torch_generator
from nshot.strategies.memory import Facts
from nshot.supernets.load import load_run
from test_mixed import by_hand

RECIPE = {"momentum": 0.9, "weight_decay": 0.01}
CLIP, SHORT = 0.5, 5  # rounding grows tenfold a step: what batch norms of few images do
Weights = dict[str, Tensor]


def first_alpha(edges: int = 6, options: int = 5) -> Tensor:
    return 1e-3 * torch.randn(edges, options, generator=torch_generator(1, "alpha"), dtype=torch.float64)


def loss_of(p: Weights, alpha: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(by_hand(p, data[0], alpha.softmax(1)), data[1])


def second_order(p: Weights, alpha: Tensor, sgd: torch.optim.SGD, rate: float, step: int) -> Tensor:
    """α's gradient as the paper has it, by copies of the weights."""
    names, train = list(p), batches(step)
    grads = torch.autograd.grad(loss_of(p, alpha, train), list(p.values()), materialize_grads=True, allow_unused=True)
    m = {name: sgd.state[w]["momentum_buffer"] if sgd.state[w] else torch.zeros_like(w) for name, w in p.items()}
    ahead = {}
    for name, g in zip(names, grads, strict=True):
        ahead[name] = (p[name] - rate * (0.9 * m[name] + g + 0.01 * p[name])).detach().requires_grad_()
    loss = loss_of(ahead, alpha, validation(step))
    *v, own = torch.autograd.grad(loss, [*ahead.values(), alpha], materialize_grads=True, allow_unused=True)
    radius = 0.01 / torch.cat([g.flatten() for g in v]).norm()
    ends = []
    for sign in (1, -1):
        there = {name: (p[name] + sign * radius * g).detach() for name, g in zip(names, v, strict=True)}
        ends.append(torch.autograd.grad(loss_of(there, alpha, train), alpha)[0])
    return own - rate * (ends[0] - ends[1]) / (2 * radius)


def darts_by_hand(order: int, released: bool, steps: int) -> tuple[nn.Module, Tensor, torch.optim.Adam]:
    model = new_supernet()
    p: Weights = dict(model.named_parameters())
    alpha = first_alpha().requires_grad_()
    sgd = torch.optim.SGD(p.values(), 1.0, **RECIPE)
    adam = torch.optim.Adam([alpha], 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)

    def learn(step: int) -> None:
        adam.zero_grad()
        if order == 2:
            alpha.grad = second_order(p, alpha, sgd, LR * whole_rate(step, 0.04), step)
        else:
            alpha.grad = torch.autograd.grad(loss_of(p, alpha, validation(step)), alpha)[0]
        adam.step()

    for step in range(steps):
        if order == 2 or not released:
            learn(step)
        sgd.zero_grad()
        if not released:
            adam.zero_grad()
        loss_of(p, alpha, batches(step)).backward()
        nn.utils.clip_grad_norm_([*p.values(), *([alpha] if released else [])], CLIP)
        sgd.param_groups[0]["lr"] = LR * whole_rate(step, 0.04)
        sgd.step()
        if order == 1 and released:
            learn(step)
    return model, alpha, adam


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("variant", ["published", "released"])
def test_darts_is_its_loop(order: int, variant: str) -> None:
    result = trained("darts", clip=CLIP, recipe=RECIPE, order=order, variant=variant, steps=SHORT)
    model, alpha, adam = darts_by_hand(order, variant == "released", SHORT)
    assert distance(result.model, model) < 1e-9
    torch.testing.assert_close(result.memory.alpha.detach(), alpha.detach(), rtol=0, atol=1e-9)
    (ours,), (theirs,) = result.memory.optimizer.state.values(), adam.state.values()
    for key in ("step", "exp_avg", "exp_avg_sq"):
        assert float((ours[key] - theirs[key]).abs().max()) < 1e-9 * float(theirs[key].abs().max())
    assert float((alpha.detach() - first_alpha()).abs().max()) > 1e-3  # it learnt


def test_orders_and_variants_differ() -> None:
    found = [
        trained("darts", clip=CLIP, recipe=RECIPE, order=order, variant=variant).memory.alpha.detach()
        for order in (1, 2)
        for variant in ("published", "released")
    ]
    for i, a in enumerate(found):
        assert all(float((a - b).abs().max()) > 1e-6 for b in found[:i])


def test_the_answer_and_what_the_log_says_are_the_argmax() -> None:
    result = trained("darts")
    with torch.no_grad():
        result.memory.alpha.zero_()
        for edge, option in enumerate([1, 0, 3, 1, 4, 2]):
            result.memory.alpha[edge, option] = 1.0
    assert result.strategy.answer(result.memory) == (1, 0, 3, 1, 4, 2)
    assert result.strategy.figures(result.memory) == {"answer": [1, 0, 3, 1, 4, 2], "skips": 2}


@pytest.mark.parametrize("name", ["darts", "gdas"])
def test_options_that_a_space_lacks_get_nothing(name: str) -> None:
    small = SPACE.restrict("2<-1", "skip_connect", "nor_conv_1x1")
    strategy = nshot.strategy(name, small, total_steps=6, seed=3)
    torch.manual_seed(0)
    supernet = small.supernet().double()
    memory = strategy.memory(supernet, Facts(IMAGES, 10, BATCH, LR))
    for step in range(6):
        mixture = strategy.mixture(step, "alpha", memory)
        assert mixture.weights[2, [0, 3, 4]].abs().max() == 0
        F.cross_entropy(supernet(batches(step)[0], mixture), batches(step)[1]).backward()
    assert memory.alpha.grad.isfinite().all()
    assert memory.alpha.grad[2, [0, 3, 4]].abs().max() == 0 < memory.alpha.grad[2, [1, 2]].abs().max()
    assert strategy.answer(memory)[2] in (1, 2)


def test_the_second_order_looks_ahead_to_sgds_step_alone(tmp_path: Path) -> None:
    run = ("train", "darts", "--preset", "smoke", "--optimizer", "adamw", "--order", "2", "--out", tmp_path / "run")
    assert "order 2: the step that DARTS looks ahead to is SGD's, not adamw's" in refuse(*run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["darts", "gdas"])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--schedule", "calr"], "schedule 'calr': a step trains a mixture"),
        (["--schedule", "power", "--power", "2"], "schedule 'power': a step trains a mixture"),
        (["--ms", "first"], "ms 'first': a step trains a mixture"),
        (["--sampling", "proportional"], "sampling 'proportional'"),
        (["--max-flops", "30M"], "max_flops 30000000"),
        (["--space", "mobilenet"], "the supernet of space mobilenet runs no mixtures"),
        (["--space", "autoformer"], "the supernet of space autoformer runs no mixtures"),
        (["--graphs", "on"], "trains mixtures, which have no CUDA graphs"),
    ],
)
def test_what_mixtures_have_no_use_for_is_refused_in_a_line(
    name: str, flags: list[str], said: str, tmp_path: Path
) -> None:
    assert said in refuse("train", name, "--preset", "smoke", *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["darts", "gdas"])
def test_a_run_logs_its_answer_and_search_gives_it(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    status, _, err = nshot_("train", name, "--preset", "smoke", "--epochs", "1", "--out", run)
    assert status == 0, err
    lines = read_log(run / "log.jsonl")
    answer = json.loads((run / "answer.json").read_text())
    assert lines[-1]["answer"] == answer["subnet"]
    assert lines[-1]["skips"] == answer["subnet"].count(1)
    status, _, err = nshot_("search", run, "--method", "own")
    assert status == 0, err
    found = json.loads((run / "search.json").read_text())["best"]["subnet"]
    assert found == list(load_run(run)[1].canonical(tuple(answer["subnet"])))
