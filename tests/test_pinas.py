"""Pi-NAS against a loop written by hand in plain torch, in float64; its classifier; views of images."""

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nshot
from by_hand import distance
from forked import together
from helpers import nshot_, refuse
from nshot import UserError
from nshot.data.augment import Augment
from nshot.data.batches import TrainBatches
from nshot.data.sources import load
from nshot.nn.cells import OPS
from nshot.runs.checkpoint import load_newest
from nshot.spaces import Subnet, Supernet
from nshot.strategies.memory import Facts
from nshot.strategies.pinas import Contrast
from nshot.training.distributed import digest
from one_run import BATCH, EPOCH, IMAGES, LR, SPACE, OneRun, new_supernet

STEPS = 3 * EPOCH
QUICK: dict[str, Any] = {"follow": 0.8, "head_lr": 0.5, "queue": 17}


def features(model: Supernet, x: Tensor, path: Subnet) -> Tensor:
    """What reaches the classifier."""
    seen = []
    hook = model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x, path)
    hook.remove()
    return seen[0]


class ByHand:
    """The two phases, with lists of keys and weights chosen by name."""

    def __init__(self, memory: Contrast) -> None:
        self.model, self.projection = new_supernet(), copy.deepcopy(memory.projection)
        self.copies = copy.deepcopy(self.model), copy.deepcopy(self.projection)
        self.queue = [row.clone() for row in memory.queue]  # the oldest first
        rest = [p for name, p in self.model.named_parameters() if not name.startswith("classifier")]
        self.optimizer = torch.optim.SGD(rest, 1.0, 0.9)
        self.projecting = torch.optim.SGD(self.projection.parameters(), 1.0, 0.9, weight_decay=1e-4)
        self.head = torch.optim.SGD(self.model.classifier.parameters(), 1.0, 0.9)

    def follow(self, path: Subnet) -> None:
        taken = [f"edges.{e}.{OPS[o]}." for e, o in enumerate(path)]
        named = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, p in self.copies[0].named_parameters():
                if name.startswith(("stem", "reductions")) or any(part in name for part in taken):
                    p.copy_(0.8 * p + 0.2 * named[name])
            for p, new in zip(self.copies[1].parameters(), self.projection.parameters(), strict=True):
                p.copy_(0.8 * p + 0.2 * new)

    def contrast(self, x: Tensor, paths: tuple[Subnet, ...], shares: tuple[float, ...], rate: float) -> None:
        keys = []
        for path, view in zip(paths, x.chunk(4)[2:], strict=True):
            self.follow(path)
            with torch.no_grad():
                key = self.copies[1](features(self.copies[0], view, path))
            keys.append(key / key.norm(dim=1, keepdim=True))
        for optimizer in (self.optimizer, self.projecting):
            optimizer.zero_grad()
        for path, view, key, share in zip(paths, x.chunk(4)[:2], reversed(keys), shares, strict=True):
            query = self.projection(features(self.model, view, path))
            query = query / query.norm(dim=1, keepdim=True)
            for q, k in zip(query, key, strict=True):  # -log of the share that the right key has of all
                mine, others = (q @ k / 0.2).exp(), torch.stack([(q @ other / 0.2).exp() for other in self.queue])
                (-share * (mine / (mine + others.sum())).log() / len(query)).backward(retain_graph=True)
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], 0.5)
        for optimizer in (self.optimizer, self.projecting):
            optimizer.param_groups[0]["lr"] = LR * rate
            optimizer.step()
        self.queue = [*self.queue[BATCH:], *((keys[0] + keys[1]) / 2)]

    def train_head(self, x: Tensor, y: Tensor, path: Subnet, done: float) -> None:
        self.head.zero_grad()
        logits = self.model.classifier(features(self.model, x.chunk(4)[0], path).detach())
        F.cross_entropy(logits, y[:BATCH]).backward()
        nn.utils.clip_grad_norm_(self.model.classifier.parameters(), 0.5)
        self.head.param_groups[0]["lr"] = 0.5 if done < 0.6 else 0.05 if done < 0.8 else 0.005
        self.head.step()


@pytest.mark.parametrize("schedule", ["cosine", "calr"])
def test_pinas_is_its_contrast_and_its_classifier(schedule: str) -> None:
    run = OneRun("pinas", **QUICK, schedule=schedule)
    hand = ByHand(run.memory)
    spos = nshot.strategy("spos", SPACE, total_steps=STEPS // 2, seed=1, schedule=schedule)
    assert len(run.memory.queue) == 16
    for step in range(STEPS):
        paths, (x, y) = run.strategy.plan(step).paths, run.batches(step)
        if step < STEPS // 2:
            assert all(a != b for a, b in zip(*paths, strict=True))
            rates = tuple(spos.lr(step, path) for path in paths)
            hand.contrast(x, paths, *((rates, 1.0) if schedule == "calr" else ((1.0, 1.0), rates[0])))
        else:
            (path,) = paths
            hand.train_head(x, y, path, (step - STEPS // 2) / (STEPS // 2))
        run.steps(step, step + 1)
        assert distance(run.model, hand.model) < 1e-9, step
        memory = run.memory
        for own, other in ((memory.projection, hand.projection), (memory.copy, hand.copies[0])):
            assert distance(own, other) < 1e-9, step
        assert distance(memory.projection_copy, hand.copies[1]) < 1e-9
    kept = 8 * (STEPS // 2) % 16
    torch.testing.assert_close(memory.queue.roll(-kept, 0), torch.stack(hand.queue), rtol=0, atol=1e-9)
    assert distance(run.model, new_supernet()) > 1e-3
    assert distance(run.model.classifier, new_supernet().classifier) > 1e-3


@pytest.mark.parametrize("idle", ["rest", "drift"])
def test_the_backbone_rests_while_the_classifier_is_trained(idle: Any) -> None:
    run = OneRun("pinas", **QUICK, idle=idle, clip=None)
    run.steps(0, STEPS // 2)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.steps(STEPS // 2, STEPS)
    moved = {name for name, p in run.model.named_parameters() if not p.equal(before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_stopped_at_every_step_pinas_goes_on_the_same() -> None:
    whole, states = OneRun("pinas", **QUICK), []
    for step in range(STEPS):
        states.append(whole.state())
        whole.steps(step, step + 1)
    for step, state in enumerate(states):
        again = OneRun("pinas", **QUICK)
        again.load(state)
        again.steps(step, STEPS)
        for part, expected in zip(again.parts, whole.parts, strict=True):
            assert digest(part.state_dict()) == digest(expected.state_dict()), step


def test_views_are_of_the_same_images_augmented_anew() -> None:
    data = load("digits", resolution=8)
    one, four = (TrainBatches(data.train, 64, 3, flip=False, views=views) for views in (1, 4))
    for step in (0, 7):
        x, y = four(step)
        assert y.equal(one(step)[1].repeat(4))
        views = x.chunk(4)
        for i, view in enumerate(views):
            assert all(not view.equal(other) for other in views[:i])
            assert one._permuted(step).equal(four._permuted(step))
        # Crops move by a pixel at most: each of 9 is as likely, so a ninth of the images is the same in two views.
        same = [float((a == b).flatten(1).all(1).float().mean()) for a, b in pairwise(views)]
        assert all(0 < share < 0.4 for share in same)
    with pytest.raises(UserError, match=r"mixup 0\.2, cutmix 0\.0: the method compares views of one image"):
        TrainBatches(data.train, 64, 3, flip=False, views=4, augment=Augment(mixup=0.2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ms": "first"}, "ms 'first': the paths of a Pi-NAS step are of several clusters"),
        ({"sampling": "proportional"}, "sampling 'proportional', .* leave them out"),
        ({"queue": 7}, "queue 7: must hold a batch of 8 at least"),
        ({"head": 0.0}, "head 0.0: must be above 0"),
    ],
)
def test_what_pinas_refuses(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        nshot.strategy("pinas", SPACE, total_steps=9, **options).check_facts(Facts(IMAGES, 10, BATCH, LR))


def test_one_option_left_is_both_paths() -> None:
    space = SPACE.restrict(SPACE.decisions[2].name, SPACE.decisions[2].options[3])
    strategy = nshot.strategy("pinas", space, total_steps=40)
    for step in range(20):
        a, b = strategy.plan(step).paths
        assert [i for i in range(6) if a[i] == b[i]] == [2]


def test_from_training_to_a_ranking(tmp_path: Path) -> None:
    quick, run = ("--preset", "smoke", "--epochs", "4"), tmp_path / "run"
    for space in ("mobilenet", "darts", "autoformer"):
        said = refuse("train", "pinas", "--preset", "smoke", "--space", space, "--out", tmp_path / space)
        assert f"strategy pinas: space {space}: " in said
        assert not (tmp_path / space).exists()
    assert nshot_("train", "pinas", *quick, "--out", run)[0] == 0
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 2.4  # of a classifier, by chance 2.3; of the contrast, 6
    status, out, err = nshot_("rank", run, "--benchmark", "digits", "--images", "100")
    assert status == 0, out + err
    assert "method own: pinas has no answer of its own" in refuse("search", run, "--method", "own")


def test_two_processes_have_equal_memories(tmp_path: Path) -> None:
    quick = ("--preset", "smoke", "--epochs", "2", "--batch-size", "58", "--checkpoint-every", "5")
    done = together("train", "pinas", *quick, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    state = load_newest(tmp_path / "run")[1]
    assert state is not None
    assert state["memory"]["queue"].shape[0] % 58 == 0
