"""Methods at their edges: splits, one epoch, equal answers, few candidates, labels that are shares, rates that fall."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import nshot
from nshot import UserError
from nshot.seeding import generator
from nshot.spaces import Space
from nshot.strategies import strategies
from nshot.strategies.memory import Batch, Facts, Seen
from one_run import BATCH, EPOCH, IMAGES, LR, SPACE, OneRun, batches, new_supernet

FACTS = Facts(IMAGES, 10, BATCH, LR)


def made(name: str, steps: int = 12, per_epoch: int = 4, space: Space = SPACE, **options: Any) -> Any:
    method = strategies[name]
    known: dict[str, Any] = {"steps_per_epoch": per_epoch, "seed": 1, "options": method.options_type.of(**options)}
    return method(space, total_steps=steps, **known)


@pytest.mark.parametrize(("at", "place"), [("first", 0), ("last", 5), ("2<-0", 1), ("3<-2", 5)])
def test_a_split_has_a_part_for_each_option_of_its_decision(at: str, place: int) -> None:
    options = strategies["fsnas"].options_type.of(split_at=at)
    parts = strategies["fsnas"].parts(SPACE, options, 0)
    offered = [[list(d.allowed) for d in part.decisions] for part in parts]
    whole = [list(d.allowed) for d in SPACE.decisions]
    assert offered == [[*whole[:place], [option], *whole[place + 1 :]] for option in range(5)]


def test_a_random_split_is_one_of_all_by_its_seed() -> None:
    options = strategies["fsnas"].options_type.of(split_at="random")
    places = []
    for seed in range(40):
        first = strategies["fsnas"].parts(SPACE, options, seed)[0]
        places.append([len(d.allowed) for d in first.decisions].index(1))
        assert strategies["fsnas"].parts(SPACE, options, seed)[0] == first
    assert set(places) == set(range(6))


@pytest.mark.parametrize(
    ("steps", "expected"), [(4, [10.0]), (8, [10.0, 0.1]), (12, [10.0, 5.05, 0.1]), (14, [10.0, 5.05, 0.1, -4.85])]
)
def test_tau_falls_by_whole_epochs_on_a_line(steps: int, expected: list[float]) -> None:
    """14 steps are three epochs and a rest that no training has: epochs are whole."""
    gdas = made("gdas", steps)
    assert [gdas.tau(step) for step in range(0, steps, 4)] == pytest.approx(expected)
    assert [gdas.tau(step) for step in range(3, steps, 4)] == pytest.approx(expected[: len(range(3, steps, 4))])


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 100.0])
def test_of_equal_random_subnets_the_first_that_was_tried_is_the_answer(accuracy: float) -> None:
    method = made("random")
    rng = generator(1, "random search")
    never = method.draw(rng)
    tried = [method.draw(rng)]
    assert tried[0] != never
    judge = SimpleNamespace(images=1000, accuracy=lambda path, positions: accuracy)
    assert method.choose(judge) == tried[0]


@pytest.mark.parametrize("name", ["archive", "candidates", "recent", "neighbours"])
def test_numbers_of_nsas_are_whole_and_from_one(name: str) -> None:
    assert getattr(made("nsas", **{name: 1}).options, name) == 1
    with pytest.raises(UserError, match=f"{name} 0: must be"):
        made("nsas", **{name: 0})
    with pytest.raises(UserError, match=f"{name} -1: must be"):
        made("nsas", **{name: -1})


def test_a_member_is_the_most_novel_of_exactly_ten_candidates() -> None:
    nsas = made("nsas")
    members = [(0,) * 6, (1,) * 6]
    for step in range(30):
        rng = generator(1, "novel", step)
        _, *drawn = [nsas.draw(rng) for _ in range(11)]
        novelty = [sum(sum(a != b for a, b in zip(path, m, strict=True)) for m in members) for path in drawn]
        best = drawn[novelty.index(max(novelty))]  # the first of the most novel
        assert nsas.renewed(step, members, [(2,) * 6]) == [*members, best]


def test_where_no_candidate_is_novel_the_first_draw_joins() -> None:
    one = SPACE
    for decision in SPACE.decisions:
        one = one.restrict(decision.name, "skip_connect")
    nsas = made("nsas", space=one)
    only = next(iter(one.subnets()))
    assert nsas.renewed(0, [only], [only]) == [only, only]


def test_released_nsas_remembers_nothing() -> None:
    assert OneRun("nsas", variant="released").memory.state_dict() == {}
    assert OneRun("nsas").memory.state_dict()["counts"].dtype == torch.int64


@pytest.mark.parametrize("soft", [False, True])
def test_importance_of_an_image_is_its_distance_from_its_label(soft: bool) -> None:
    """Labels that are shares of classes too (mixup)."""
    pada = made("pada")
    memory = pada.memory(new_supernet(), FACTS)
    output = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 0, 7])
    shares = torch.zeros(3, 10, dtype=torch.float64)
    shares[torch.arange(3), labels] = 0.7 if soft else 1.0
    shares[:, 9] += 0.3 if soft else 0.0
    batch = Batch(torch.zeros(3, 3, 8, 8), shares if soft else labels, torch.tensor([4, 2, 4]))
    seen = Seen(batch, (output,), 1.0)
    pada._weigh_images(seen, memory, SimpleNamespace(gather=lambda values: values))
    lengths = [math.dist(row.softmax(0).tolist(), want.tolist()) for row, want in zip(output, shares, strict=True)]
    expected = torch.zeros(IMAGES, dtype=torch.float64)
    expected[2], expected[4] = lengths[1], (lengths[0] + lengths[2]) / 2
    torch.testing.assert_close(memory.u, expected)


def test_keys_are_made_by_two_layers_and_copies_are_not_trained() -> None:
    """As MoCo v2's projection: a hidden layer as wide as the features."""
    memory = OneRun("pinas", queue=17).memory
    width = new_supernet().classifier.in_features
    for projection in (memory.projection, memory.projection_copy):
        shapes = [(type(layer), getattr(layer, "weight", torch.empty(0)).shape) for layer in projection]
        assert shapes == [(nn.Linear, (width, width)), (nn.ReLU, (0,)), (nn.Linear, (128, width))]
    assert not any(p.requires_grad for p in [*memory.copy.parameters(), *memory.projection_copy.parameters()])
    assert all(p.requires_grad for p in memory.projection.parameters())
    assert memory.keys == []


def test_the_classifiers_rate_falls_at_six_and_at_eight_tenths() -> None:
    run = OneRun("pinas", queue=17, head=20 / 30)
    pinas = made("pinas", 30, 10, head=20 / 30, head_lr=0.5)
    assert (pinas.total_steps, pinas.head_steps) == (10, 20)
    tools = SimpleNamespace(facts=FACTS, gather=lambda values: values)
    rates = []
    for step in range(10, 30):
        x, y = batches(step)
        run.memory.keys = []
        pinas.after(step, pinas.plan(step), Seen(Batch(x, y, None), (None,), 1.0), run.memory, tools)
        rates.append(run.memory.optimizer.param_groups[1]["lr"])
    assert rates == pytest.approx([0.5] * 12 + [0.05] * 4 + [0.005] * 4)


def test_the_classifiers_gradient_is_clipped_with_all() -> None:
    """A step from rest moves it by rate x clip x gradient."""
    run = OneRun("pinas", queue=17)
    head = list(run.model.classifier.parameters())
    before = [p.detach().clone() for p in head]
    for p in head:
        p.grad = torch.full_like(p, 2.0)
    step = run.strategy.total_steps
    x, y = batches(step)
    tools = SimpleNamespace(facts=FACTS, gather=lambda values: values)
    run.strategy.after(step, run.strategy.plan(step), Seen(Batch(x, y, None), (None,), 0.25), run.memory, tools)
    for p, was in zip(head, before, strict=True):
        torch.testing.assert_close(was - p, torch.full_like(p, 0.3 * 0.25 * 2.0))


def test_the_classifier_is_trained_on_a_path_anew_each_step() -> None:
    pinas = made("pinas", 60, 20)
    paths = [pinas.plan(step).paths for step in range(30, 60)]
    assert len(set(paths)) > 25
    assert all(pinas.plan(step).lr == 0.0 for step in range(30, 60))


def test_a_queue_of_one_batch_is_enough() -> None:
    made("pinas", queue=BATCH).check_facts(FACTS)
    with pytest.raises(UserError, match=f"queue {BATCH - 1}: must hold a batch of {BATCH}"):
        made("pinas", queue=BATCH - 1).check_facts(FACTS)


def test_pinas_says_where_it_runs() -> None:
    with pytest.raises(UserError, match=r"strategy pinas: .*; choose --space nasbench201"):
        strategies["pinas"].check(nshot.space("mobilenet", width=0.1, resolution=32).supernet())


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_what_all_paths_share_follows_where_decisions_have_few_options(kept: int) -> None:
    """By names: stem and reductions, and of the edges none, whichever options are left."""
    from nshot.strategies.pinas import _shared

    few = SPACE.restrict("1<-0", "nor_conv_3x3").restrict("2<-1", *SPACE.decisions[2].options[:kept])
    supernet = few.supernet()
    names = {id(p): name for name, p in supernet.named_parameters()}
    found = {names[id(p)] for p in _shared(supernet)}
    used = {name for name in names.values() if not name.startswith("classifier") and ".edges." not in name}
    assert found >= used
    assert not any(name.startswith("classifier") for name in found)
    for path in few.subnets():
        own = {names[id(p)] for group in supernet.own_weights(path) for p in group}
        assert not own & found
    assert EPOCH == 4
