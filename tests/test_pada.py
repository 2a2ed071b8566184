"""PA&DA against a loop written by hand in plain torch, in float64; what it draws by."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor

import nshot
from by_hand import BATCH, EPOCH, IMAGES, LR, SPACE, STEPS, X, Y, distance, new_supernet, step_of, trained, whole_rate
from nshot import UserError
from nshot.seeding import generator
from nshot.spaces import Subnet, Supernet
from nshot.strategies.memory import Facts


def convolutions(model: Supernet, path: Subnet, option: int) -> list[Tensor]:
    """Gradients of an option's weights on the edges that took it, in all cells."""
    op = {2: "nor_conv_1x1", 3: "nor_conv_3x3"}[option]
    edges = [e for e, o in enumerate(path) if o == option]
    named = dict(model.named_parameters())
    return [
        p.grad for name, p in named.items() if p.grad is not None and any(f"edges.{e}.{op}." in name for e in edges)
    ]


def by_hand_pada(model: Supernet, clip: float, steps: int) -> tuple[dict[str, Any], list[Subnet]]:
    optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9)
    s, p, paths = [0.0] * 5, [0.2] * 5, []
    u: dict[int, float] = {}
    draw = torch.Generator().manual_seed(int(generator(1, "order", 0).integers(2**63)))
    order = torch.randperm(IMAGES, generator=draw).tolist()
    for step in range(steps):
        epoch, place = divmod(step, EPOCH)
        rng = generator(1, "path", step)
        path = tuple(int(rng.choice(5, p=p)) for _ in range(6))
        paths.append(path)
        at = order[place * BATCH : (place + 1) * BATCH]
        logits = model(X[at], path)
        far = (logits.softmax(1) - torch.eye(10, dtype=torch.float64)[Y[at]]).square().sum(1).sqrt().tolist()
        step_of(model, optimizer, F.cross_entropy(logits, Y[at]), whole_rate(step), clip)
        for option in {o for o in path if o in (2, 3)}:
            n = sum(float(grad.norm()) for grad in convolutions(model, path, option)) / path.count(option)
            s[option] = (s[option] + n) / 2 if n else s[option]
        for image, value in zip(at, far, strict=True):
            u[image] = (u[image] + value) / 2 if image in u else value
        if place == EPOCH - 1:
            tau = epoch / 3
            p = [tau * value / sum(s) + (1 - tau) / 5 if sum(s) else 0.2 for value in s]
            q = np.array([tau * u.get(i, 0.0) / sum(u.values()) + (1 - tau) / IMAGES for i in range(IMAGES)])
            order = generator(1, "images", epoch + 1).choice(IMAGES, IMAGES, p=q / q.sum()).tolist()
            s, u = [0.0] * 5, {}
    return {"s": s, "p": p, "u": u, "order": order}, paths


@pytest.mark.parametrize("clip", [0.5, 1e9])
def test_pada_over_its_epochs_ends(clip: float) -> None:
    result, model = trained("pada", clip=clip), new_supernet()
    state, paths = by_hand_pada(model, clip, STEPS)
    assert any(o in (2, 3) for path in paths for o in path)
    assert distance(result.model, model) < 1e-9
    memory = result.memory
    assert memory.order.tolist() == state["order"]
    torch.testing.assert_close(memory.p[0], torch.tensor(state["p"], dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(memory.s[0], torch.tensor(state["s"], dtype=torch.float64), rtol=0, atol=1e-9)
    for i in range(IMAGES):
        assert memory.u[i] == pytest.approx(state["u"].get(i, 0.0), abs=1e-9)
        assert bool(memory.drawn[i]) == (i in state["u"])


def test_pada_draws_paths_and_images_by_its_probabilities() -> None:
    known: dict[str, Any] = {"total_steps": 40, "seed": 2, "steps_per_epoch": 10}
    made = nshot.strategies.strategies["pada"]
    strategy = made(SPACE, options=made.options_type(), **known)
    memory = strategy.memory(new_supernet(), Facts(20_000, 10, 2000, LR))
    memory.s[0] = torch.tensor([0.0, 0.0, 1.0, 3.0, 0.0])
    memory.u[:] = torch.arange(20_000) % 4
    strategy._renew_paths(memory, 0.5)
    strategy._renew_images(memory, 0.5, 3)
    p = memory.p[0].tolist()
    assert p == pytest.approx([0.1, 0.1, 0.225, 0.475, 0.1])
    drawn = np.array([strategy.plan(step, memory).paths[0] for step in range(3000)])
    for edge in range(6):
        assert chisquare(np.bincount(drawn[:, edge], minlength=5), 3000 * np.array(p)).pvalue > 1e-3
    groups = np.bincount(memory.order.numpy() % 4, minlength=4)
    expected = 0.5 * np.arange(4) / 6 + 0.5 / 4
    assert expected.sum() == pytest.approx(1)
    assert chisquare(groups, 20_000 * expected).pvalue > 1e-3
    assert len(set(memory.order.tolist())) < 15_000  # with replacement
    rows = [strategy.images(10 + place, memory) for place in range(10)]
    assert [len(row) for row in rows] == list(range(10, 0, -1))  # to the epoch's end, no further
    assert torch.cat([row[0] for row in rows]).equal(memory.order)


@pytest.mark.parametrize("flag", [{"sampling": "proportional"}, {"min_flops": 10.0}, {"max_flops": 1e9}])
def test_pada_refuses_other_draws(flag: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="PA&DA draws paths by their importance"):
        nshot.strategy("pada", SPACE, total_steps=9, **flag)


def test_memories_do_something() -> None:
    """The equalities above test them: other options, other weights."""
    spos = trained("random").model
    for name, more in (("nsas", {}), ("pada", {}), ("sumnas", {"clip": None})):
        assert distance(trained(name, **more).model, spos) > 1e-4
    check: Callable[[Supernet], None] = nshot.strategies.strategies["pada"].check
    with pytest.raises(UserError, match="space autoformer: its options share"):
        check(nshot.space("autoformer", patch=4, resolution=8, widths=(16,), depths=(2,), head_dim=8).supernet())
