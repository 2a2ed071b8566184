"""γ(α) belongs to the space that a small network stands for: whose C(α) counts, its mean, matched controls."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import pytest

import nshot
from helpers import SMALL
from nshot import UserError
from nshot.networks.recipes import Recipe, completed
from nshot.spaces import Space, Subnet
from nshot.strategies import Options, strategies
from nshot.supernets.config import TrainConfig, from_dict, preset, to_dict
from nshot.supernets.facts import decay_facts, told

C_MIN, C_MAX = 72_752, 1_524_272
SPACE = nshot.space("nasbench201")
PRESETS = ("paper", "deep", "long", "proxy", "smoke")


def full_size(subnet: Subnet) -> int:
    """C(α) of the paper's network, by the golden figures."""
    return C_MIN + 26_880 * subnet.count(2) + 241_920 * subnet.count(3)


def gamma(complexity: float, low: float, high: float, gamma: float = 4.0) -> float:
    """Eq. 4: the straight line in log C from γ' to 1/γ'."""
    share = (math.log(complexity) - math.log(low)) / (math.log(high) - math.log(low))
    return gamma + share * (1 / gamma - gamma)


def strategy(space: Space, name: str = "spos", **options: Any) -> nshot.strategies.Strategy:
    return nshot.strategy(name, space, total_steps=100, **options)


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


@pytest.mark.parametrize("name", PRESETS)
def test_mean_gamma_of_every_preset_is_the_papers(name: str) -> None:
    space = preset(name).space
    calr = strategy(space, schedule="calr")
    decays = [calr.decay(subnet) for subnet in space.subnets()]
    assert mean(decays) == pytest.approx(2.18, abs=0.01)
    assert decays == pytest.approx([gamma(full_size(s), C_MIN, C_MAX) for s in space.subnets()], rel=1e-9)
    assert calr.mean_decay == pytest.approx(mean(decays))


def test_a_proxys_own_complexity_is_another_method() -> None:
    """As was measured before: the rate of every subnet falls faster than the paper's."""
    space = preset("proxy").space
    own = strategy(space, schedule="calr", complexity_of="own")
    assert own.cost_range == (72_752, 363_056)
    assert own.mean_decay == pytest.approx(2.65, abs=0.01)


def test_sizes_of_ones_own_count_themselves() -> None:
    """Whatever door they come by; the paper's remain to be had by name."""
    for space in (nshot.space("nasbench201", channels=8, cells=2), preset("proxy").space.of(channels=8, cells=1)):
        assert strategy(space, schedule="calr").cost_range == space.params_range
        assert space.represented == space
        assert strategy(space, schedule="calr", complexity_of="paper").cost_range == (C_MIN, C_MAX)


def test_resolution_classes_and_restriction_are_the_runs() -> None:
    proxy = dataclasses.replace(preset("proxy").space, num_classes=100).restrict("1<-0", "nor_conv_3x3", "none")
    assert proxy.represented.sizes() == {**proxy.sizes(), "cells": 5}
    whole = nshot.space("nasbench201", num_classes=100, resolution=16)
    subnet = (3, 1, 2, 0, 4, 3)
    by_flops = strategy(proxy, schedule="calr", complexity="flops")
    assert by_flops.cost(subnet) == whole.flops(subnet)
    assert strategy(proxy, schedule="calr").cost(subnet) == whole.params(subnet)


def test_printed_and_limited_costs_stay_the_networks_own() -> None:
    space, subnet = preset("proxy").space, (3, 3, 3, 3, 3, 3)
    assert space.params(subnet) == 363_056
    low, high = space.flops_range
    window = strategy(space, schedule="calr", max_flops=(low + high) // 2)
    assert max(space.flops(window.plan(step).paths[0]) for step in range(100)) <= (low + high) // 2


@pytest.mark.parametrize("name", ["mobilenet", "autoformer"])
def test_a_space_of_other_decisions_counts_its_own(name: str) -> None:
    """And says what the mean is at the paper's sizes."""
    space = preset("proxy", "spos", name).space
    calr = strategy(space, schedule="calr")
    assert calr.cost_range == space.params_range
    facts = decay_facts(calr)
    rng = np.random.default_rng(3)
    for measured, of in (("mean_decay", space), ("paper_mean_decay", preset("paper", "spos", name).space)):
        low, high = of.params_range
        drawn = [gamma(of.params(of.sample(rng)), low, high, of.gamma) for _ in range(5000)]
        assert facts[measured] == pytest.approx(mean(drawn), abs=5 * np.std(drawn) / math.sqrt(5000))
    assert f"{facts['mean_decay']:.2f} over the paths, {facts['paper_mean_decay']:.2f} at the paper's" in told(facts)
    with pytest.raises(UserError, match=r"complexity_of 'paper'.*use own"):
        strategy(space, schedule="calr", complexity_of="paper")


def test_a_mean_at_the_papers_sizes_is_of_spaces_of_the_papers_alone() -> None:
    """Of networks of timm's and of a user's own there is none, and classes are no size."""

    class Own(type(nshot.space("autoformer"))):  # type: ignore[misc]
        presets: ClassVar[dict[str, Any]] = {"proxy": {}}

    own = Own(**SMALL["autoformer"])
    spaces_ = [own, nshot.space("timm", **SMALL["timm"])]
    spaces_ += [preset("paper", "spos", name).space.with_classes(37) for name in ("mobilenet", "autoformer")]
    for space in spaces_:
        facts = decay_facts(strategies["spos"](space, total_steps=1, options=Options(schedule="calr")))
        assert facts.keys() == {"complexity_of", "complexity_range", "mean_decay"}
        assert "paper" not in told(facts)


def test_darts_proxy_counts_the_papers_size() -> None:
    space = preset("proxy", "spos", "darts").space
    rng = np.random.default_rng(0)
    calr, whole = strategy(space, schedule="calr"), nshot.space("darts", resolution=16)
    assert calr.cost_range == whole.params_range
    subnets = [space.sample(rng) for _ in range(20)]
    assert [calr.cost(subnet) for subnet in subnets] == [whole.params(subnet) for subnet in subnets]


# Controls


def test_power_of_the_mean_is_computed() -> None:
    space = preset("smoke").space
    matched = strategy(space, schedule="power")
    expected = mean(gamma(full_size(subnet), C_MIN, C_MAX) for subnet in space.subnets())
    assert {matched.decay(subnet) for subnet in [(0,) * 6, (3,) * 6]} == {matched.mean_decay}
    assert matched.plan(50).lr == pytest.approx(0.5**expected)


WITHOUT = {"nsas", "pada", "pinas", "darts", "gdas"}  # their draws learn, or they have no MS, or no paths


@pytest.mark.parametrize("name", sorted({*nshot.list_strategies()} - WITHOUT))
def test_mean_decay_is_that_of_the_methods_own_draws(name: str) -> None:
    """Of FairNAS's permutations too, which are not drawn one by one."""
    space = preset("proxy").space.restrict("2<-1", "nor_conv_3x3", "skip_connect")
    calr = strategy(space, name, schedule="calr", ms="first")
    paths = [path for step in range(100) for path in calr.plan(step).paths for _ in range(1)]
    paths += [path for seed in range(1, 40) for path in _paths(space, name, seed)]
    decays = [calr.decay(path) for path in paths]
    assert calr.mean_decay == pytest.approx(mean(decays), abs=4 * np.std(decays) / math.sqrt(len(decays)))


def _paths(space: Space, name: str, seed: int) -> list[Subnet]:
    plans = nshot.strategy(name, space, total_steps=100, seed=seed, schedule="calr", ms="first").plan
    return [path for step in range(100) for path in plans(step).paths]


def test_mean_decay_under_proportional_sampling_and_a_window() -> None:
    space = preset("proxy").space
    limit = sum(space.flops_range) // 3
    drawn = strategy(space, schedule="calr", sampling="proportional", max_flops=limit)
    inside = [subnet for subnet in space.subnets() if space.flops(subnet) <= limit]
    weights = np.array([full_size(subnet) for subnet in inside])
    expected = (weights * [gamma(full_size(subnet), C_MIN, C_MAX) for subnet in inside]).sum() / weights.sum()
    assert drawn.mean_decay == pytest.approx(expected)
    assert drawn.mean_decay < 2.6 - 0.1  # sampling makes a difference: uniform draws in this window have more
    shuffled = strategy(space, schedule="shuffled", sampling="proportional", max_flops=limit)
    decays = [shuffled.decay(subnet) for subnet in inside[::3]]
    assert mean(decays) == pytest.approx(expected, abs=4 * np.std(decays) / math.sqrt(len(decays)))


def test_a_part_of_fsnas_has_a_mean_of_its_own() -> None:
    space = preset("proxy").space
    part = space.restrict("1<-0", "nor_conv_3x3")
    low = C_MIN + 241_920
    expected = mean(gamma(full_size(subnet), low, C_MAX) for subnet in part.subnets())
    assert strategy(part, "fsnas", schedule="power").plan(50).lr == pytest.approx(0.5**expected)


def test_centred_calr_decays_on_average_as_a_line() -> None:
    space = preset("proxy").space
    centred, calr = strategy(space, schedule="centred"), strategy(space, schedule="calr")
    subnets = list(space.subnets())
    decays = [centred.decay(subnet) for subnet in subnets]
    assert mean(decays) == pytest.approx(1)
    ratios = [calr.decay(subnet) / decay for subnet, decay in zip(subnets, decays, strict=True)]
    assert ratios == pytest.approx([calr.mean_decay] * len(ratios))


# Configurations


def test_the_configuration_says_whose_complexity_counts() -> None:
    for space, whose in ((preset("proxy").space, "paper"), (nshot.space("nasbench201", channels=8), "own")):
        config = TrainConfig(space=space, options=Options(schedule="calr"))
        stored = to_dict(config)
        assert stored["options"]["complexity_of"] == whose
        assert to_dict(from_dict(stored)) == stored
    assert to_dict(TrainConfig())["options"]["complexity_of"] is None  # no γ, nothing to say


def test_a_run_of_an_earlier_version_means_what_that_did() -> None:
    stored = to_dict(dataclasses.replace(preset("proxy"), options=Options(schedule="calr")))
    del stored["options"]["complexity_of"], stored["bias"]
    stored["options"]["power"] = 2.18  # as it was, for every schedule
    assert from_dict(stored).options == Options(schedule="calr", complexity_of="own")
    assert not from_dict(stored).bias
    again = to_dict(from_dict(stored))
    assert again["options"]["complexity_of"] == "own"
    for schedule in ("power", "cosine"):
        stored["options"]["schedule"] = schedule
        power = {"power": 2.18} if schedule == "power" else {}
        assert from_dict(stored).options == Options(schedule=schedule, **power)


# Retraining (table H)


def own_size(subnet: Subnet) -> int:
    """C(α) with one cell a stage, as the proxy's networks have it."""
    return C_MIN + 5_376 * subnet.count(2) + 48_384 * subnet.count(3)


@pytest.mark.parametrize("name", PRESETS)
def test_retraining_decays_by_the_space_that_is_stood_for(name: str) -> None:
    space = preset(name).space
    decays = [Recipe(schedule="calr").decay(space, subnet) for subnet in space.subnets()]
    assert mean(decays) == pytest.approx(2.18, abs=0.01)
    assert (min(decays), max(decays)) == pytest.approx((1 / 4, 4))
    assert decays == pytest.approx([gamma(full_size(s), C_MIN, C_MAX) for s in space.subnets()], rel=1e-9)


def test_retraining_by_the_networks_own_size_is_to_be_had() -> None:
    space = preset("proxy").space
    own = Recipe(schedule="calr", complexity_of="own")
    decays = [own.decay(space, subnet) for subnet in space.subnets()]
    assert mean(decays) == pytest.approx(2.65, abs=0.01)
    assert decays == pytest.approx([gamma(own_size(s), C_MIN, 363_056) for s in space.subnets()], rel=1e-9)
    mine = nshot.space("nasbench201", channels=8, cells=2)  # sizes of one's own
    for recipe, of in ((Recipe(schedule="calr"), mine), (Recipe(schedule="calr", complexity_of="paper"), SPACE)):
        low, high = of.params_range
        for subnet in [(3, 0, 2, 0, 0, 1), (2, 2, 3, 3, 1, 0)]:
            assert recipe.decay(mine, subnet) == pytest.approx(gamma(of.params(subnet), low, high))


def test_a_retraining_without_a_gamma_is_refused() -> None:
    mobilenet = preset("proxy", "spos", "mobilenet").space
    subnet = mobilenet.sample(np.random.default_rng(0))
    low, high = mobilenet.params_range
    assert Recipe(schedule="calr").decay(mobilenet, subnet) == pytest.approx(
        gamma(mobilenet.params(subnet), low, high, mobilenet.gamma)
    )
    with pytest.raises(UserError, match=r"complexity_of 'paper'.*use own"):
        Recipe(schedule="calr", complexity_of="paper").decay(mobilenet, subnet)
    with pytest.raises(UserError, match="complexity_of paper has no effect without --schedule calr"):
        Recipe(complexity_of="paper")
    one = SPACE
    for decision in one.decisions:
        one = one.restrict(decision.name, "none")
    with pytest.raises(UserError, match="schedule 'calr' on space nasbench201: complexity range 72752 to 72752"):
        Recipe(schedule="calr").decay(one, (0,) * 6)


def test_a_recipe_says_whose_complexity_counts() -> None:
    proxy, mine = preset("proxy").space, nshot.space("nasbench201", channels=8)
    calr = Recipe(schedule="calr")
    assert calr.resolved(proxy) == dataclasses.replace(calr, complexity_of="paper")
    assert calr.resolved(mine) == dataclasses.replace(calr, complexity_of="own")
    assert Recipe().resolved(proxy) == Recipe()
    stored = {"space": {"name": "nasbench201"}, "recipe": dataclasses.asdict(calr)}
    del stored["recipe"]["complexity_of"]  # as an earlier version wrote it
    assert completed(stored)["recipe"] == dataclasses.asdict(dataclasses.replace(calr, complexity_of="own"))
    stored["recipe"]["schedule"] = "cosine"
    assert completed(stored)["recipe"] == dataclasses.asdict(Recipe())


@pytest.mark.parametrize("name", ["long", "deep"])
def test_presets_at_equal_path_steps(name: str) -> None:
    spos, fair, few = (preset(name, method) for method in ("spos", "fairnas", "fsnas"))
    assert spos.epochs == 5 * fair.epochs == 5 * few.epochs  # five paths a step; five supernets
    assert spos.space == fair.space == few.space
    with pytest.raises(UserError, match=f"space darts has no preset '{name}': choose of paper, proxy, smoke"):
        preset(name, "spos", "darts")


def test_clipping_does_not_depend_on_the_door() -> None:
    options = nshot.strategies.strategies["fairnas"].options_type()
    by_hand = TrainConfig(strategy="fairnas", options=options)
    for config in (by_hand, preset("proxy", "fairnas"), dataclasses.replace(preset("proxy"), **vars_of(options))):
        assert config.clipping is None
        assert to_dict(config)["clip"] is None
    assert preset("proxy").clipping == TrainConfig().clipping == 5.0
    assert dataclasses.replace(by_hand, clip=1.0).clipping == 1.0


def vars_of(options: Options) -> dict[str, Any]:
    return {"strategy": "fairnas", "options": options}
