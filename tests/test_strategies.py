"""Strategies: plans are pure functions of the step; SPOS's paths, schedules, controls and clusters."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import nshot
from helpers import SMALL
from nshot import UserError
from nshot.dynamic.calr import G
from nshot.flags import parse
from nshot.spaces import Space, Subnet
from nshot.strategies import Options, Plan, Strategy
from nshot.strategies.memory import Facts

STEPS = 400
C_MIN, C_MAX = 72_752, 1_524_272
SETTINGS: list[dict[str, Any]] = [
    {},
    {"schedule": "calr"},
    {"schedule": "calr", "gamma": 3, "g": "linear", "complexity": "flops"},
    {"schedule": "power", "power": 2.18},
    {"schedule": "power", "power": "mean"},
    {"schedule": "centred", "complexity_of": "own"},
    {"schedule": "shuffled"},
    {"schedule": "constant", "ms": "first"},
    {"schedule": "calr", "ms": "random"},
]

WITHOUT_MS = ("nsas", "pinas")  # a step's paths are of several clusters: refused

MIXTURES = ("darts", "gdas")  # a step trains no path: tests of their own

every_strategy = pytest.mark.parametrize("name", sorted({*nshot.list_strategies()} - {*MIXTURES}))
every_setting = pytest.mark.parametrize("options", SETTINGS, ids=lambda o: "-".join(map(str, o.values())) or "default")


@pytest.fixture(scope="module")
def space() -> Space:
    return nshot.space("nasbench201")


@pytest.fixture(scope="module")
def tiny() -> Space:
    """Twelve subnets, of three options on one edge, two on another, two on a third."""
    space = nshot.space("nasbench201").restrict("1<-0", "none", "nor_conv_1x1", "nor_conv_3x3")
    space = space.restrict("2<-0", "skip_connect", "nor_conv_3x3").restrict("3<-1", "avg_pool_3x3", "nor_conv_1x1")
    for decision in ("2<-1", "3<-0", "3<-2"):
        space = space.restrict(decision, "skip_connect")
    return space


def make(name: str, space: Space, *, total_steps: int = STEPS, seed: int = 0, **options: Any) -> Strategy:
    return nshot.strategy(name, space, total_steps=total_steps, seed=seed, **options)


def planner(name: str, space: Space, **options: Any) -> tuple[Strategy, Callable[[int], Plan]]:
    """A method and its plans, by a memory that nothing has changed yet."""
    strategy = make(name, space, **options)
    memory = strategy.memory(nshot.space("nasbench201", channels=1, cells=1).supernet(), Facts(640, 10, 64, 0.025))
    return strategy, lambda step: strategy.plan(step, memory)


def refused(name: str, options: dict[str, Any], space: Space) -> bool:
    """Whether the method has no MS and was asked for it; it must say so."""
    if name not in WITHOUT_MS or "ms" not in options:
        return False
    with pytest.raises(UserError, match="several clusters, leave --ms out"):
        make(name, space, **options)
    return True


@pytest.mark.parametrize("name", MIXTURES)
@every_setting
def test_methods_without_paths_refuse_what_is_of_a_path(name: str, options: dict[str, Any], space: Space) -> None:
    if not options:
        make(name, space)
        return
    with pytest.raises(UserError, match="a step trains a mixture of all options, which is no path"):
        make(name, space, **options)


def params(subnet: Subnet) -> int:
    return C_MIN + 26_880 * subnet.count(2) + 241_920 * subnet.count(3)


def gamma_eq_4(complexity: float, low: float = C_MIN, high: float = C_MAX, gamma: float = 4) -> float:
    omega = -(gamma - 1 / gamma) / (math.log(high) - math.log(low))
    return omega * math.log(complexity) + 1 / gamma - omega * math.log(high)


def gamma_of(plan: Plan, step: int) -> float:
    """The decay ratio that a plan's learning rate reveals."""
    return math.log(plan.lr) / math.log(1 - step / STEPS)


# What every strategy keeps


@every_strategy
@every_setting
def test_plan_is_a_pure_function_of_the_step(name: str, options: dict[str, Any], space: Space) -> None:
    if refused(name, options, space):
        return
    _, plan = planner(name, space, **options)
    steps = range(0, STEPS, 20)
    plans = {step: plan(step) for step in steps}
    np.random.seed(7)
    torch.manual_seed(7)
    _, again = planner(name, nshot.space("nasbench201"), **options)
    np.random.seed(7)
    torch.manual_seed(7)
    assert {step: again(step) for step in reversed(steps)} == plans
    assert {step: plan(step) for step in reversed(steps)} == plans
    state = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    plan(5)
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]


@every_strategy
@every_setting
def test_seeds_and_steps_differ(name: str, options: dict[str, Any], space: Space) -> None:
    if refused(name, options, space):
        return
    planners = [planner(name, space, seed=seed, **options)[1] for seed in range(5)]
    plans = [plan(step).paths for plan in planners for step in range(20)]
    assert len(set(plans)) > 90


@every_strategy
@every_setting
def test_plans_are_well_formed(name: str, options: dict[str, Any], space: Space) -> None:
    restricted = space.restrict("3<-2", "nor_conv_3x3", "none").restrict("1<-0", "nor_conv_1x1")
    if refused(name, options, space):
        return
    for where in (space, restricted):
        strategy, planned = planner(name, where, **options)
        for step in range(STEPS):
            plan = planned(step)
            assert len(plan.paths) == len(plan.weights) >= 1
            for path in plan.paths:
                assert all(option in d.allowed for option, d in zip(path, where.decisions, strict=True))
                assert all(type(option) is int for option in path)
            assert all(weight > 0 for weight in plan.weights)
            assert 0 <= plan.lr <= 1
            assert 0 <= plan.cluster < strategy.clusters


@every_strategy
@pytest.mark.parametrize("ms", ["first", "last", "random", "2<-1"])
def test_cluster_is_the_option_of_the_ms_decision(name: str, ms: str, space: Space) -> None:
    if refused(name, {"ms": ms}, space):
        return
    strategy, plan = planner(name, space, ms=ms)
    index = {"first": 0, "last": 5, "2<-1": 2}.get(ms, strategy.ms_decision)
    plans = [plan(step) for step in range(100)]
    assert all({path[index] for path in plan.paths} == {plan.cluster} for plan in plans)
    assert {plan.cluster for plan in plans} == set(range(5))
    assert strategy.clusters == 5


@every_strategy
def test_one_cluster_without_ms(name: str, space: Space) -> None:
    strategy, plan = planner(name, space)
    assert strategy.clusters == 1
    assert {plan(step).cluster for step in range(50)} == {0}


@every_strategy
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 3.0}, "gamma 3.0 has no effect"),
        ({"schedule": "power", "power": 2.0, "gamma": 3.0}, "gamma 3.0 has no effect"),
        ({"schedule": "power", "power": 2.0, "complexity_of": "own"}, "complexity_of own has no effect"),
        ({"complexity_of": "paper"}, "complexity_of paper has no effect"),
        ({"schedule": "calr", "complexity_of": "papers"}, "complexity_of 'papers': choose one of paper, own"),
        ({"schedule": "power", "power": "median"}, "power 'median': choose one of mean"),
        ({"g": "exp"}, "g exp has no effect"),
        ({"power": 2.0}, "power 2.0 has no effect"),
        ({"schedule": "calr", "power": 2.0}, "power 2.0 has no effect"),
        ({"complexity": "flops"}, "complexity flops has no effect"),
        ({"schedule": "power", "power": 0}, "power 0"),
        ({"schedule": "power", "power": math.nan}, "power nan"),
        ({"schedule": "calr", "gamma": 0.25}, "gamma 0.25.*did you mean 4"),
        ({"schedule": "calr", "g": "sqrt"}, "unknown g 'sqrt'"),
        ({"ms": "9<-8"}, "unknown decision '9<-8'.*1<-0"),
        ({"gama": 4}, "unknown option 'gama'.*gamma"),
        ({"schedule": "clar"}, "clar.*calr"),
        ({"sampling": "proportionate"}, "proportionate.*proportional"),
        ({"schedule": "calr", "complexity": "latency"}, "latency.*flops"),
    ],
)
def test_options_without_effect_or_meaning(name: str, options: dict[str, Any], message: str, space: Space) -> None:
    if refused(name, options, space):
        return
    with pytest.raises(UserError, match=message):
        make(name, space, **options)


@every_strategy
def test_no_steps(name: str, space: Space) -> None:
    with pytest.raises(UserError, match="total_steps 0"):
        make(name, space, total_steps=0)


def test_unknown_strategy(space: Space) -> None:
    with pytest.raises(UserError, match=r"unknown strategy 'spso'.*spos"):
        make("spso", space)


# Schedules


def test_calr_is_eqs_3_and_4(space: Space) -> None:
    strategy = make("spos", space, schedule="calr")
    for step in range(STEPS):
        plan = strategy.plan(step)
        assert plan.weights == (1,)
        expected = (1 - step / STEPS) ** gamma_eq_4(params(plan.paths[0]))
        assert plan.lr == pytest.approx(expected, rel=1e-9)


def test_calr_takes_the_range_of_a_restricted_space(tiny: Space) -> None:
    strategy = make("spos", tiny, schedule="calr", gamma=3)
    low, high = C_MIN, C_MIN + 2 * 241_920 + 26_880
    for step in range(STEPS):
        plan = strategy.plan(step)
        expected = (1 - step / STEPS) ** gamma_eq_4(params(plan.paths[0]), low, high, gamma=3)
        assert plan.lr == pytest.approx(expected, rel=1e-9)


def test_calr_by_flops_and_linear_g(tiny: Space) -> None:
    """A straight line between the ends, and FLOPs instead of parameters."""
    strategy = make("spos", tiny, schedule="calr", complexity="flops", g="linear")
    flops = {s: tiny.flops(s) for s in itertools.product(*(d.allowed for d in tiny.decisions))}
    low, high = min(flops.values()), max(flops.values())
    for step in range(1, STEPS, 5):
        plan = strategy.plan(step)
        share = (flops[plan.paths[0]] - low) / (high - low)
        assert gamma_of(plan, step) == pytest.approx(4 + share * (1 / 4 - 4), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "closed_form"),
    [
        ({}, lambda share: math.cos(math.pi * share / 2) ** 2),
        ({"schedule": "constant"}, lambda share: 1),
        ({"schedule": "power", "power": 2.18}, lambda share: (1 - share) ** 2.18),
        ({"schedule": "power", "power": 1}, lambda share: 1 - share),
    ],
)
def test_schedules_blind_to_the_subnet(options: dict[str, Any], closed_form: Any, space: Space) -> None:
    strategy = make("spos", space, **options)
    for step in range(STEPS):
        assert strategy.plan(step).lr == pytest.approx(closed_form(step / STEPS), rel=1e-9, abs=1e-12)


def test_shuffled_gives_each_subnet_one_gamma_of_the_space(tiny: Space) -> None:
    strategy = make("spos", tiny, schedule="shuffled")
    subnets = list(itertools.product(*(d.allowed for d in tiny.decisions)))
    low, high = C_MIN, C_MIN + 2 * 241_920 + 26_880
    possible = [gamma_eq_4(params(subnet), low, high) for subnet in subnets]
    seen: dict[Subnet, float] = {}
    for step in range(1, STEPS):
        plan = strategy.plan(step)
        gamma = gamma_of(plan, step)
        assert gamma == pytest.approx(seen.setdefault(plan.paths[0], gamma), rel=1e-9)
        assert min(abs(gamma - other) for other in possible) < 1e-9
    assert seen.keys() == set(subnets)
    assert any(abs(gamma - gamma_eq_4(params(subnet), low, high)) > 0.1 for subnet, gamma in seen.items())


def test_shuffled_gamma_is_unrelated_to_complexity(space: Space) -> None:
    shuffled, calr = (make("spos", space, schedule=schedule) for schedule in ("shuffled", "calr"))
    steps = range(1, STEPS)
    complexity = [math.log(params(shuffled.plan(step).paths[0])) for step in steps]
    gamma = {s.options.schedule: [gamma_of(s.plan(step), step) for step in steps] for s in (shuffled, calr)}
    assert np.corrcoef(complexity, gamma["calr"])[0, 1] == pytest.approx(-1)
    assert abs(np.corrcoef(complexity, gamma["shuffled"])[0, 1]) < 0.15  # three standard deviations
    assert np.mean(gamma["shuffled"]) == pytest.approx(2.18, abs=0.15)  # the same decay on average


def test_shuffled_depends_on_the_seed(space: Space) -> None:
    subnet = (1, 3, 2, 0, 4, 3)
    gammas = {make("spos", space, schedule="shuffled", seed=seed).decay(subnet) for seed in range(20)}
    assert len(gammas) > 5


def test_calr_by_epochs_is_that_of_an_epochs_first_step(space: Space) -> None:
    options = Options(schedule="calr", per_epoch=True)
    strategy = nshot.strategies.strategies["spos"](space, total_steps=60, steps_per_epoch=6, options=options)
    for step in range(60):
        plan = strategy.plan(step)
        expected = (1 - step // 6 / 10) ** gamma_eq_4(params(plan.paths[0]))
        assert plan.lr == pytest.approx(expected, rel=1e-9)


# Sampling


def test_uniform_sampling(tiny: Space) -> None:
    strategy = make("spos", tiny)
    counts = Counter(strategy.plan(step).paths[0] for step in range(6000))
    assert len(counts) == 12
    chi_square = sum((count - 500) ** 2 / 500 for count in counts.values())
    assert chi_square < 31.3  # p = 0.001 with 11 degrees of freedom


@pytest.mark.parametrize("measure", ["params", "flops"])
def test_proportional_sampling(measure: str, tiny: Space) -> None:
    strategy = make("spos", tiny, sampling="proportional", complexity=measure)
    subnets = list(itertools.product(*(d.allowed for d in tiny.decisions)))
    cost = {subnet: getattr(tiny, measure)(subnet) for subnet in subnets}
    counts = Counter(strategy.plan(step).paths[0] for step in range(6000))
    expected = sum(c * c for c in cost.values()) / sum(cost.values())
    uniform = sum(cost.values()) / len(cost)
    mean = sum(cost[subnet] * count for subnet, count in counts.items()) / 6000
    assert mean == pytest.approx(expected, rel=0.02)
    assert abs(uniform / expected - 1) > 0.1  # the two are told apart
    chi_square = sum(
        (counts[subnet] - share) ** 2 / share
        for subnet, share in ((subnet, 6000 * c / sum(cost.values())) for subnet, c in cost.items())
    )
    assert chi_square < 31.3


# Momentum separation


def test_ms_by_place_skips_closed_decisions(tiny: Space) -> None:
    names = [decision.name for decision in tiny.decisions]
    assert names[make("spos", tiny, ms="first").ms_decision] == "1<-0"
    assert names[make("spos", tiny, ms="last").ms_decision] == "3<-1"


def test_ms_random_is_an_open_decision_of_the_seed_alone(tiny: Space) -> None:
    chosen = [make("spos", tiny, ms="random", seed=seed).ms_decision for seed in range(40)]
    assert {tiny.decisions[i].name for i in chosen} == {"1<-0", "2<-0", "3<-1"}
    others = [
        make("spos", tiny, ms="random", seed=seed, total_steps=7, schedule="calr", sampling="proportional").ms_decision
        for seed in range(40)
    ]
    assert others == chosen


def test_ms_does_not_change_the_paths(space: Space) -> None:
    with_ms, without = make("spos", space, ms="random"), make("spos", space)
    assert [with_ms.plan(i).paths for i in range(50)] == [without.plan(i).paths for i in range(50)]


def test_ms_shuffled_gives_each_path_a_cluster_of_chance(space: Space) -> None:
    """The same each time, unrelated to its option of the first decision, and all about equally often."""
    strategy = make("spos", space, ms="shuffled", total_steps=2000)
    assert strategy.clusters == 5
    counts = np.zeros((5, 5), int)
    for step in range(2000):
        plan = strategy.plan(step)
        assert plan.cluster == make("spos", space, ms="shuffled").cluster(plan.paths[0])
        counts[plan.paths[0][0], plan.cluster] += 1
    expected = counts.sum(1, keepdims=True) / 5
    assert ((counts - expected) ** 2 / expected).sum() < 45.3  # p = 0.001 with 20 degrees of freedom


def test_ms_shuffled_depends_on_the_seed(space: Space) -> None:
    subnet = (1, 3, 2, 0, 4, 3)
    assert {make("spos", space, ms="shuffled", seed=seed).cluster(subnet) for seed in range(40)} == set(range(5))


@pytest.mark.parametrize("ms", ["first", "last", "random"])
def test_ms_in_a_space_without_choice(ms: str, space: Space) -> None:
    for decision in space.decisions:
        space = space.restrict(decision.name, "skip_connect")
    with pytest.raises(UserError, match=f"ms '{ms}'.*no decision"):
        make("spos", space, ms=ms)


def test_calr_in_a_space_of_one_complexity(space: Space) -> None:
    for decision in space.decisions:
        space = space.restrict(decision.name, "skip_connect", "avg_pool_3x3")
    with pytest.raises(UserError, match="72752"):
        make("spos", space, schedule="calr")


# FairNAS


@pytest.mark.parametrize("ms", [None, "first", "3<-0"])
def test_fairnas_is_strictly_fair(ms: str | None, space: Space) -> None:
    """Every option of every decision once a step, but of the MS decision, which has one option a step."""
    strategy = make("fairnas", space, total_steps=1000, ms=ms)
    separated = {None: None, "first": 0, "3<-0": 3}[ms]
    seen = set()
    for step in range(1000):
        plan = strategy.plan(step)
        assert len(plan.paths) == 5
        for index, options in enumerate(zip(*plan.paths, strict=True)):
            assert sorted(options) == ([plan.cluster] * 5 if index == separated else [0, 1, 2, 3, 4])
        seen |= set(plan.paths)
    assert len(seen) > 3000  # the permutations are not those of one step


def test_fairnas_fills_up_decisions_of_fewer_options(tiny: Space) -> None:
    strategy = make("fairnas", tiny)
    for step in range(200):
        columns = list(zip(*strategy.plan(step).paths, strict=True))
        assert all(set(column) == set(d.allowed) for column, d in zip(columns, tiny.decisions, strict=True))
        assert all(len(column) == 3 for column in columns)


def test_fairnas_weighs_gradients_by_eq_3(space: Space) -> None:
    """Alg. 2, lines 13 and 15: the learning rate of each path is the weight of its gradient, and the step has none."""
    strategy = make("fairnas", space, schedule="calr", ms="first")
    for step in range(0, STEPS, 7):
        plan = strategy.plan(step)
        expected = [(1 - step / STEPS) ** gamma_eq_4(params(path)) for path in plan.paths]
        assert plan.weights == pytest.approx(expected, rel=1e-9)
        assert plan.lr == 1
    cosine = make("fairnas", space, schedule="calr", outer="cosine").plan(100)
    assert cosine.lr == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_fairnas_baselines(space: Space) -> None:
    """Released: a constant learning rate. Implied by the supplement: a cosine."""
    assert {make("fairnas", space, schedule="constant").plan(step).lr for step in range(STEPS)} == {1.0}
    plan = make("fairnas", space).plan(STEPS // 2)
    assert plan.lr == pytest.approx(0.5)
    assert plan.weights == (1.0,) * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer": "cosine"}, "outer 'cosine' has no effect without"),
        ({"sampling": "proportional"}, "sampling 'proportional'.*only uniform"),
        ({"outer": "linear"}, "unknown outer 'linear'"),
    ],
)
def test_fairnas_refuses(options: dict[str, Any], message: str, space: Space) -> None:
    with pytest.raises(UserError, match=message):
        make("fairnas", space, **options)


# FSNAS


def parts(space: Space, seed: int = 0, **options: Any) -> list[Space]:
    strategy = make("fsnas", space, **options)
    return type(strategy).parts(space, strategy.options, seed)


@pytest.mark.parametrize("split_at", ["first", "last", "random", "2<-1"])
def test_fsnas_parts_partition_the_space(split_at: str, tiny: Space, space: Space) -> None:
    found = parts(tiny, split_at=split_at)
    owned = [subnet for part in found for subnet in part.subnets()]
    assert len(owned) == len(set(owned))
    assert set(owned) == set(tiny.subnets())
    whole = parts(space, split_at=split_at)
    assert len(whole) == 5
    assert sum(part.size for part in whole) == space.size == 15_625
    rng = np.random.default_rng(0)
    assert all(sum(subnet in part for part in whole) == 1 for subnet in (space.sample(rng) for _ in range(200)))


@pytest.mark.parametrize("split_at", ["first", "last", "random"])
def test_fsnas_splits_a_part_no_further(split_at: str, space: Space) -> None:
    for part in parts(space, split_at=split_at):
        assert parts(part, split_at=split_at) == [part]


def test_fsnas_trains_a_part_like_spos(space: Space) -> None:
    """With C's range and the MS decision of the part (Alg. 3)."""
    part = parts(space)[3]
    options = {"schedule": "calr", "ms": "first"}
    few, spos = make("fsnas", part, **options), make("spos", part, **options)
    assert [few.plan(step) for step in range(50)] == [spos.plan(step) for step in range(50)]
    assert few.ms_decision == 1
    assert few.cost_range == (C_MIN + 241_920, C_MAX)


def test_fsnas_split_is_named(space: Space) -> None:
    with pytest.raises(UserError, match=r"unknown decision 'middle'.*1<-0"):
        parts(space, split_at="middle")


def test_other_methods_have_one_supernet(space: Space) -> None:
    for name in ("spos", "fairnas"):
        strategy = make(name, space)
        assert type(strategy).parts(space, strategy.options, 0) == [space]


# A window of FLOPs


def test_paths_keep_to_the_window(tiny: Space) -> None:
    """And are uniform inside it."""
    costs = sorted({tiny.flops(subnet) for subnet in tiny.subnets()})
    low, high = costs[1], costs[-2]
    inside = {subnet for subnet in tiny.subnets() if low <= tiny.flops(subnet) <= high}
    assert 1 < len(inside) < tiny.size
    strategy = make("spos", tiny, total_steps=6000, min_flops=low, max_flops=high)
    counts = Counter(strategy.plan(step).paths[0] for step in range(6000))
    assert set(counts) == inside
    expected = 6000 / len(inside)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 3 * len(inside)


def test_one_bound_alone(tiny: Space) -> None:
    limit = sorted(tiny.flops(subnet) for subnet in tiny.subnets())[5]
    paths = [make("fsnas", tiny, max_flops=limit).plan(step).paths[0] for step in range(300)]
    assert max(tiny.flops(path) for path in paths) == limit


def test_a_window_that_no_subnet_keeps_to(space: Space) -> None:
    with pytest.raises(UserError, match=r"max_flops 1000: no subnet is inside; .* comes nearest with [\d,]+ FLOPs"):
        make("spos", space, max_flops=1000)
    with pytest.raises(UserError, match="a window would not be fair"):
        make("fairnas", space, max_flops=10**9)


@pytest.mark.parametrize(("text", "value"), [("150k", 150_000), ("0.2M", 200_000), ("150000", 150_000), ("None", None)])
def test_a_window_is_said_as_limits_of_a_search_are(text: str, value: int | None) -> None:
    for flag in ("--max-flops", "--min-flops"):
        found = parse(Options, [flag, text], "train", "")
        assert getattr(found, flag[2:].replace("-", "_")) == value


@pytest.mark.parametrize("text", ["many", "0", "-1M", "1,5M", ""])
def test_a_window_that_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"quantity '{text}'"):
        parse(Options, [f"--max-flops={text}"], "train", "")


def test_a_method_by_epochs_is_told_how_long_they_are() -> None:
    space = nshot.space("nasbench201")
    by_epoch = nshot.strategy("random", space, total_steps=20, steps_per_epoch=5)
    rates = [by_epoch.plan(step).lr for step in range(20)]
    assert [len(set(rates[start : start + 5])) for start in range(0, 20, 5)] == [1] * 4
    assert sorted(set(rates), reverse=True) == [rates[start] for start in range(0, 20, 5)]
    with pytest.raises(UserError, match="steps_per_epoch 0: must be at least 1"):
        nshot.strategy("random", space, total_steps=20, steps_per_epoch=0)


def test_another_g_is_an_entry_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    space = nshot.space("nasbench201")
    monkeypatch.setitem(G, "root", lambda c, c_max: c**0.5)
    mine = nshot.strategy("spos", space, total_steps=9, schedule="calr", g="root")
    low, high = (math.sqrt(end) for end in space.params_range)
    middle = (1, 2, 3, 1, 2, 3)
    tau = 4 - (4 - 1 / 4) * (math.sqrt(space.params(middle)) - low) / (high - low)
    assert mine.decay(middle) == pytest.approx(tau)
    with pytest.raises(UserError, match="unknown g 'cube': choose one of log, linear, exp, root"):
        nshot.strategy("spos", space, total_steps=9, schedule="calr", g="cube")
    monkeypatch.setitem(G, "falls", lambda c, c_max: -c)
    with pytest.raises(UserError, match="too narrow for g 'falls', which must rise"):
        nshot.strategy("spos", space, total_steps=9, schedule="calr", g="falls")


def test_the_mean_decay_in_a_rare_window_takes_no_search_for_each_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one plain draw in hundreds is inside; the mean is that of plain draws which are, within their noise."""
    space = nshot.space("mobilenet", **SMALL["mobilenet"])
    rng, sample = np.random.default_rng(0), type(space).sample
    drawn = [space.sample(rng) for _ in range(40_000)]
    flops = np.array([space.flops(path) for path in drawn])
    most = int(np.quantile(flops, 0.005))
    spos = nshot.strategy("spos", space, total_steps=9, schedule="calr", max_flops=most)
    assert spos._window.often
    calls: list[int] = []
    monkeypatch.setattr(type(space), "sample", lambda self, rng: calls.append(1) or sample(self, rng))
    mean = spos.mean_decay
    assert len(calls) < 20_000
    inside = [spos._decay_ratio(path) for path, cost in zip(drawn, flops, strict=True) if cost <= most]
    assert mean == pytest.approx(np.mean(inside), abs=4 * np.std(inside) / len(inside) ** 0.5)


def test_the_mean_decay_in_a_window_is_that_of_plain_draws_where_costs_are_not_known_to_add_up() -> None:
    """Repaired draws lie at the window's edge; and no seed changes the mean."""

    known = nshot.space("mobilenet", **SMALL["mobilenet"])

    class Unknown(type(known)):
        groups, params_range, flops_range = None, known.params_range, known.flops_range

    space = Unknown(**SMALL["mobilenet"])
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(4000)]
    most = int(np.quantile([space.flops(path) for path in drawn], 0.2))
    found = {
        nshot.strategies.strategies["spos"](
            space, total_steps=9, seed=seed, options=Options(schedule="calr", max_flops=most)
        ).mean_decay
        for seed in range(3)
    }
    spos = nshot.strategy("spos", space, total_steps=9, schedule="calr", max_flops=most)
    inside = [spos._decay_ratio(path) for path in drawn if space.flops(path) <= most]
    assert len(found) == 1
    assert found.pop() == pytest.approx(np.mean(inside), abs=4 * np.std(inside) / len(inside) ** 0.5)
