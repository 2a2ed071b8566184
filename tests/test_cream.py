"""Cream against a loop written by hand in plain torch, in float64, its meta gradient by differences; its board."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nshot
from by_hand import distance
from forked import together
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.runs.checkpoint import load_newest
from nshot.spaces import Subnet, Supernet
from nshot.strategies.board import Board
from nshot.strategies.memory import Batch, Facts
from nshot.training.distributed import digest
from one_run import BATCH, EPOCH, IMAGES, LR, SPACE, OneRun, batches, new_supernet

STEPS = 3 * EPOCH
QUICK: dict[str, Any] = {"meta_every": 2, "meta_lr": 0.2, "board": 3}

OURS = {"schedule": "calr", "ms": "first"}
Entry = tuple[float, float, Subnet, Tensor, Tensor]


class ByHand:
    """Cream as the paper and its code have it, with lists and copies of the network."""

    def __init__(self, meta: nn.Linear, released: bool) -> None:
        self.model, self.meta, self.released = new_supernet(), copy.deepcopy(meta), released
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1.0, 0.9)
        self.meta_optimizer = torch.optim.SGD(self.meta.parameters(), 1.0, 0.9, nesterov=True)
        self.board: list[Entry] = []

    def taught(self, model: Supernet, path: Subnet, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ρ, KD's loss, and the teacher's shares."""
        gaps = [model(images, path).softmax(1) - shares for _, _, _, images, shares in self.board]
        scores = [self.meta.weight.flatten() @ gap.flatten() + self.meta.bias[0] for gap in gaps]
        best = max(range(len(scores)), key=[float(s.detach()) for s in scores].__getitem__)
        shares = model(x, self.board[best][2]).softmax(1).detach()
        kd = -(shares * model(x, path).log_softmax(1)).sum(1).mean()
        return torch.sigmoid(-scores[-1 if self.released else best]), kd, shares

    def validation(self, path: Subnet, x: Tensor, y: Tensor, eta: float) -> Tensor:
        """The loss by θ', for the meta network as it is: first derivatives alone."""
        moved = copy.deepcopy(self.model)
        moved.zero_grad()
        rho, kd, _ = self.taught(moved, path, x[:4])
        (rho * kd).backward()
        with torch.no_grad():
            for p in moved.parameters():
                if p.grad is not None:
                    p -= eta * p.grad
            return F.cross_entropy(moved(x[4:8], path), y[4:8])

    def slope(self, path: Subnet, x: Tensor, upstream: Tensor, eta: float) -> Tensor:
        """What the stem's gradient alone makes of it: ``upstream · (stem - η ∇_stem(ρ KD))``."""
        moved = copy.deepcopy(self.model)
        moved.zero_grad()
        rho, kd, _ = self.taught(moved, path, x[:4])
        return -eta * (torch.autograd.grad(rho * kd, moved.stem.conv.weight)[0] * upstream).sum()

    def by_differences(self, value: Callable[[], Tensor], width: float = 1e-4) -> None:
        """Puts the gradient of ``value()`` into the meta network."""
        slopes = []
        for p in self.meta.parameters():
            slopes.append(torch.zeros_like(p))
            for i in range(p.numel()):
                found = []
                for shift in (width, -width):
                    p.data.view(-1)[i] += shift
                    found.append(float(value()))
                    p.data.view(-1)[i] -= shift
                slopes[-1].view(-1)[i] = (found[0] - found[1]) / (2 * width)
        for p, slope in zip(self.meta.parameters(), slopes, strict=True):
            p.grad = slope

    def update_meta(self, rate: float, clip: float | None = None) -> None:
        if clip is not None:
            nn.utils.clip_grad_norm_(self.meta.parameters(), clip)
        self.meta_optimizer.param_groups[0]["lr"] = QUICK["meta_lr"] * rate
        self.meta_optimizer.step()
        self.meta_optimizer.zero_grad()

    def update_weights(self, rate: float, clip: float) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.param_groups[0]["lr"] = LR * rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def meta_update(self, path: Subnet, x: Tensor, y: Tensor, rate: float) -> None:
        if not self.released:
            self.by_differences(lambda: self.validation(path, x, y, LR * rate))
            return self.update_meta(rate, 1.0)
        before = copy.deepcopy(self.model)
        rho, kd, _ = self.taught(self.model, path, x[:4])
        (rho * kd).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.update_weights(rate, 0.5)
        loss = F.cross_entropy(self.model(x[4:8], path), y[4:8])
        upstream = torch.autograd.grad(loss, self.model.stem.conv.weight)[0]
        after, self.model = self.model, before
        self.by_differences(lambda: self.slope(path, x, upstream, QUICK["meta_lr"] * rate))
        self.model = after
        return self.update_meta(rate, 1.0)

    def step(self, step: int, path: Subnet, rate: float) -> None:
        (x, y), (epoch, place) = batches(step), divmod(step, EPOCH)
        taught = epoch > 0 and bool(self.board)  # three epochs: E0 = 0
        if taught and place == 2:
            self.meta_update(path, x, y, rate)
        logits = self.model(x, path)
        loss, shares = F.cross_entropy(logits, y), logits.softmax(1).detach()
        if taught:
            rho, kd, shares = self.taught(self.model, path, x)
            loss = (rho * kd + (2 - rho) * loss) / 2
        loss.backward()
        self.update_weights(rate, 0.5)
        self.update_meta(rate)
        if epoch > 0:
            top1 = 100 * float((logits.argmax(1) == y).double().mean())
            self.enter((top1, SPACE.flops(path), path, x[:4], shares[:4]))

    def enter(self, entry: Entry) -> None:
        worst = self.board[-1] if self.board else entry
        better = entry[0] > worst[0] + 5 or (entry[0] > worst[0] and entry[1] < worst[1])
        if len(self.board) < QUICK["board"] or better:
            self.board = sorted([*self.board[: QUICK["board"] - 1], entry], key=lambda e: e[:2], reverse=True)


@pytest.mark.parametrize(
    ("variant", "more"),
    [
        ("published", {}),
        ("released", {}),
        ("published", {"schedule": "calr", "ms": "first"}),
        ("released", {"schedule": "calr", "ms": "first"}),
    ],
)
def test_cream_is_its_losses_its_meta_updates_and_its_board(variant: str, more: dict[str, Any]) -> None:
    run = OneRun("cream", variant=variant, **QUICK, **more)
    hand = ByHand(run.memory.meta, variant == "released")
    began = hand.meta.weight.detach().clone()
    spos = nshot.strategy("spos", SPACE, total_steps=STEPS, seed=1, **more)
    momenta = [torch.optim.SGD(hand.model.parameters(), 1.0, 0.9) for _ in range(spos.clusters)]
    for step in range(STEPS):
        plan = spos.plan(step)
        (path,) = plan.paths
        hand.optimizer = momenta[plan.cluster]
        hand.step(step, path, plan.lr)
        run.steps(step, step + 1)
        assert distance(run.model, hand.model) < 1e-9, step
        assert distance(run.memory.meta, hand.meta) < 1e-9, step
    board, count = run.memory, len(hand.board)
    assert board.members() == [entry[2] for entry in hand.board]
    assert board.marks[:count].tolist() == [pytest.approx(list(entry[:2])) for entry in hand.board]
    for i, (*_, images, shares) in enumerate(hand.board):
        assert board.images[i].equal(images)
        torch.testing.assert_close(board.shares[i], shares, rtol=0, atol=1e-9)
    kept = [entry["momentum_buffer"] for entry in board.optimizer.state.values()]
    for momentum, entry in zip(kept, hand.meta_optimizer.state.values(), strict=True):
        torch.testing.assert_close(momentum, entry["momentum_buffer"], rtol=0, atol=1e-9)
    assert float((hand.meta.weight.detach() - began).abs().max()) > 1e-4
    assert run.strategy.answer(board) == hand.board[0][2]


def test_parts_of_cream_have_an_effect() -> None:
    """The equalities above test them."""
    runs = [OneRun("cream", **QUICK, **more) for more in ({}, {"variant": "released"}, {"teach_after": 1})]
    runs += [OneRun("cream", **{**QUICK, "meta_every": 99}), OneRun("spos")]
    for run in runs:
        run.steps(0, STEPS)
    for i, run in enumerate(runs):
        for other in runs[:i]:
            assert distance(run.model, other.model) > 1e-9


def test_the_board_is_sorted_and_bounded_over_a_long_time() -> None:
    rng, board = np.random.default_rng(0), Board(10, 6, torch.zeros(()), 2, 4, 3)
    hand: list[tuple[float, float, Subnet]] = []
    taken = 0
    for i in range(600):
        path = SPACE.sample(rng)
        top1, flops = float(rng.integers(1 + i // 6)), float(rng.integers(5))
        worst = hand[-1] if len(hand) == 10 else (-9.0, 0.0, ())
        welcome = top1 > worst[0] + 5 or (top1 > worst[0] and flops < worst[1])
        assert board.welcomes(top1, flops) == welcome
        if welcome:
            taken += 1
            hand = sorted([*hand[:9], (top1, flops, path)], key=lambda e: e[:2], reverse=True)
            board.insert(path, top1, flops, torch.full((2, 3, 4, 4), float(i)), torch.full((2, 3), float(i)))
        assert board.members() == [entry[2] for entry in hand]
        marks = board.marks[: int(board.count)]
        assert marks.tolist() == [list(entry[:2]) for entry in hand] == sorted(marks.tolist(), reverse=True)
        assert board.images[:, 0, 0, 0, 0].equal(board.shares[:, 0, 0])  # rows stay together
    assert 50 < taken < 500


def test_marks_are_what_they_are() -> None:
    """An equal is not welcome, whatever float32 makes of its accuracy and its FLOPs."""
    board = Board(1, 2, torch.zeros(1), 1, 8, 10)
    top1, flops = 100 / 3, 1_300_000_001.0
    board.insert((0, 1), top1, flops, torch.zeros(1, 3, 8, 8), torch.zeros(1, 10))
    assert board.marks[0].tolist() == [top1, flops]
    assert not board.welcomes(top1, flops)
    assert not board.welcomes(top1, flops - 1)  # no better
    assert not board.welcomes(top1 + 1e-9, flops)  # no cheaper
    assert board.welcomes(top1 + 1e-9, flops - 1)


def test_the_real_weights_of_the_released_variant_move_by_all_processes_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mean over processes of which the others have no gradient: as a step by half of it."""
    moved = []
    for others in (1.0, 0.5):
        run = OneRun("cream", variant="released", **QUICK, clip=None)
        before = [p.detach().clone() for p in run.model.parameters()]
        monkeypatch.setattr("nshot.strategies.cream.META_CLIP", 1e9)
        run.hooks.tools.mean = lambda value, share=others: value * share  # type: ignore[method-assign]
        path = run.strategy.plan(9).paths[0]
        loss = F.cross_entropy(run.model(batches(9)[0], path), batches(9)[1])
        names = [name for name, _ in run.model.named_parameters()]
        grads = torch.autograd.grad(loss, list(run.model.parameters()), allow_unused=True)
        g = {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}
        run.strategy._update_really(9, path, g, run.hooks.tools)
        moved.append([q - p for p, q in zip(before, [p.detach() for p in run.model.parameters()], strict=True)])
    for whole, half in zip(*moved, strict=True):
        torch.testing.assert_close(whole, 2 * half)
    assert any(bool(step.any()) for step in moved[0])


def test_stopped_at_every_step_cream_goes_on_the_same() -> None:
    whole = OneRun("cream", **QUICK)
    states = []
    for step in range(STEPS):
        states.append(whole.state())
        whole.steps(step, step + 1)
    for step, state in enumerate(states):
        again = OneRun("cream", **QUICK)
        again.load(state)
        again.steps(step, STEPS)
        for part, expected in zip(again.parts, whole.parts, strict=True):
            assert digest(part.state_dict()) == digest(expected.state_dict()), step


@pytest.mark.parametrize("space_name", nshot.list_spaces())
@pytest.mark.parametrize("variant", ["published", "released"])
def test_meta_updates_in_every_space(space_name: str, variant: str) -> None:
    """Where the fast path runs, whose kernels have no second derivatives, the update is that of the plain path."""
    space, found = nshot.space(space_name, **SMALL[space_name]), []
    x, y = torch.randn(BATCH, 3, space.resolution, space.resolution), torch.arange(BATCH) % 10
    for fast in (False, True):
        quick = {"variant": variant, "meta_every": 1, "meta_lr": 0.5}
        run = OneRun("cream", space=space, data=(x, y), fast=fast, **quick)
        run.memory.insert(space.sample(np.random.default_rng(1)), 9.0, 1.0, x[4:], torch.full((4, 10), 0.1))
        before = run.memory.meta.weight.detach().clone()
        run.hooks.before(EPOCH + 1, Batch(x, y))
        assert run.model.fast == fast
        found.append(run.memory.meta.weight.detach() - before)
        assert all(p.grad is None for p in run.model.parameters())
    assert found[0].abs().max() > 1e-7
    torch.testing.assert_close(*found, rtol=1e-2, atol=float(found[0].abs().max()) * 1e-2)


def test_cuda_graphs_rest_in_meta_updates_and_come_back() -> None:
    run = OneRun("cream", **QUICK)
    run.model.use_graphs(lambda *_: pytest.fail("nothing is captured here"))
    graphs = [cell.graphed for cell in run.model.cells]
    with run.model.differentiable():
        assert all(cell.graphed is None for cell in run.model.cells)
    assert [cell.graphed for cell in run.model.cells] == graphs
    assert None not in graphs


@pytest.mark.parametrize(("epochs", "last"), [(250, 42), (120, 20), (40, 7), (10, 2), (2, 0), (1, -1)])
def test_a_sixth_of_the_epochs_passes_before_anything_is_taught(epochs: int, last: int) -> None:
    strategy = nshot.strategy("cream", SPACE, total_steps=epochs)
    assert strategy._teach_after == last
    strategy.check_facts(Facts(IMAGES, 10, 2, LR))


@pytest.mark.parametrize(
    ("options", "batch", "said"),
    [
        ({"teach_after": 8}, 8, "teach_after 8: of 9 epochs none would be taught"),
        ({"board": 0}, 8, "board 0: must be at least 1"),
        ({"meta_lr": 0.0}, 8, "meta_lr 0.0: must be above 0"),
        ({}, 1, "batch_size 1: Cream's meta update takes two images at least"),
    ],
)
def test_what_cream_refuses(options: dict[str, Any], batch: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        nshot.strategy("cream", SPACE, total_steps=9, **options).check_facts(Facts(IMAGES, 10, batch, LR))


def test_from_training_to_the_answer(tmp_path: Path) -> None:
    quick = ("--preset", "smoke", "--epochs", "3", "--meta-every", "5")
    assert "teach_after 2: of 3 epochs" in refuse(
        "train", "cream", *quick, "--teach-after", "2", "--out", tmp_path / "r"
    )
    assert not (tmp_path / "r").exists()
    assert nshot_("train", "cream", *quick, "--out", tmp_path / "run")[0] == 0
    answer = json.loads((tmp_path / "run" / "answer.json").read_text())
    status, _, err = nshot_("search", tmp_path / "run", "--method", "own")
    assert status == 0, err
    found = json.loads((tmp_path / "run" / "search.json").read_text())
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
    assert space.canonical(tuple(found["best"]["subnet"])) == space.canonical(tuple(answer["subnet"]))


def test_two_processes_have_equal_boards(tmp_path: Path) -> None:
    """Compared every five steps, with meta updates, which is an error otherwise; its entries are of both shares."""
    quick = ("--preset", "smoke", "--epochs", "2", "--batch-size", "58", "--checkpoint-every", "5", "--meta-every", "3")
    done = together("train", "cream", *quick, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    state = load_newest(tmp_path / "run")[1]
    assert state is not None
    assert int(state["memory"]["count"]) > 0
