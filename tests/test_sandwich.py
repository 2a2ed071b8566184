"""The sandwich rule against a loop in plain torch, in float64; its ends by brute force; what is refused."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nshot
from by_hand import EPOCH, LR, SPACE, batches, distance, new_supernet, step_of, trained, whole_rate
from helpers import SMALL
from nshot import UserError
from nshot.spaces.additive import extreme_subnets
from test_spaces import few

STEPS = 5
LARGEST, SMALLEST = (3,) * 6, (0,) * 6  # 3x3 convolutions everywhere; none everywhere: of equals the first


@pytest.mark.parametrize("calr", [False, True])
def test_five_steps_in_plain_torch(calr: bool) -> None:
    """One sum of losses and one call of backward, where the loop has several."""
    given = {"schedule": "calr"} if calr else {"per_epoch": True}
    result = trained("sandwich", steps=STEPS, **given)
    model = new_supernet()
    optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9)
    seen = set()
    for step in range(STEPS):
        largest, smallest, *drawn = result.strategy.plan(step).paths
        assert (largest, smallest, len(drawn)) == (LARGEST, SMALLEST, 2)
        seen |= set(drawn)
        x, y = batches(step)
        gamma = [result.strategy.decay(path) for path in (largest, smallest, *drawn)] if calr else []
        weights = [(1 - step / (3 * EPOCH)) ** g for g in gamma] or [1.0] * 4
        logits = model(x, largest)
        shares = torch.exp(logits - logits.logsumexp(1, keepdim=True)).detach()
        loss = -weights[0] * (logits.log_softmax(1)[torch.arange(len(y)), y]).mean()
        for weight, path in zip(weights[1:], (smallest, *drawn), strict=True):
            loss = loss - weight * (shares * model(x, path).log_softmax(1)).sum(1).mean()
        step_of(model, optimizer, loss, 1.0 if calr else whole_rate(step))
    assert distance(result.model, model) < 1e-9
    assert distance(result.model, new_supernet()) > 1e-3
    assert len(seen) > 5


def test_with_ms_a_steps_paths_share_the_option_and_its_momentum() -> None:
    """Against an optimizer for each cluster."""
    result = trained("sandwich", steps=STEPS, ms="2<-1", clip=None, recipe={"momentum": 0.9}, paths=1)
    model, options = new_supernet(), set()
    optimizers = [torch.optim.SGD(model.parameters(), 1.0, 0.9) for _ in range(5)]
    for step in range(STEPS):
        paths = result.strategy.plan(step).paths
        (option,) = {path[2] for path in paths}
        options.add(option)
        assert paths[0] == (3, 3, option, 3, 3, 3)
        assert paths[1] == (0, 0, option, 0, 0, 0)
        x, y = batches(step)
        shares = model(x, paths[0]).softmax(1).detach()
        loss = F.cross_entropy(model(x, paths[0]), y) + sum(F.cross_entropy(model(x, p), shares) for p in paths[1:])
        step_of(model, optimizers[option], loss, float(result.strategy.lr(step, paths[0])), clip=1e9)
    assert distance(result.model, model) < 1e-9
    assert len(options) > 1


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("seed", range(3))
def test_ends_are_those_of_all_subnets(name: str, seed: int) -> None:
    space = few(nshot.space(name, **SMALL[name]), seed)
    least, most = extreme_subnets(space, [space.params, space.flops])
    ranked = sorted(
        (space.params(s), space.flops(s), s) for s in itertools.product(*(d.allowed for d in space.decisions))
    )
    assert (least, most) == (ranked[0][2], ranked[-1][2])


def test_of_timms_networks_the_largest_is_the_whole_at_full_side() -> None:
    space = nshot.space("timm")
    paths = nshot.strategy("sandwich", space, total_steps=9, paths=0).plan(3).paths
    assert paths == (tuple(d.allowed[-1] for d in space.decisions), tuple(d.allowed[0] for d in space.decisions))


def test_random_paths_are_drawn_anew_each_step() -> None:
    strategy = nshot.strategy("sandwich", SPACE, total_steps=400, paths=3)
    drawn = [path for step in range(400) for path in strategy.plan(step).paths[2:]]
    for i in range(6):
        counts = np.bincount([path[i] for path in drawn], minlength=5)
        assert counts.min() > 180
    assert strategy.plan(7).paths == strategy.plan(7).paths
    assert LR > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": -1}, "paths -1: must be at least 0"),
        ({"ms": "shuffled"}, "ms 'shuffled': the paths of a sandwich step must share a cluster"),
        ({"max_flops": 1e6}, "the largest and the smallest subnet are trained"),
        ({"sampling": "proportional"}, "the largest and the smallest subnet are trained"),
    ],
)
def test_what_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        nshot.strategy("sandwich", SPACE, total_steps=9, **options)
