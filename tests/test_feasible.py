"""Subnets within bounds of their costs, by brute force: all are found, alike often; what comes nearest is named."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

import nshot
from helpers import SMALL
from nshot import UserError
from nshot.search.archive import Archive
from nshot.search.evolution import Evolution, evolve
from nshot.search.limits import Limits
from nshot.search.pareto import nsga2
from nshot.search.propose import random_subnets
from nshot.seeding import generator
from nshot.spaces import Space, Subnet, additive, feasible
from nshot.spaces.darts import DARTS
from nshot.spaces.feasible import Bound, Feasible, InfeasibleError
from nshot.spaces.mobilenet import MobileNet

Cost = Callable[[Subnet], float]
OPEN = {  # the decisions that are left, with their options: 648 to 1,260 subnets
    "mobilenet": {0: (0, 3, 5), 1: (0, 1, 2, 4, 5, 6), 2: (1, 6), 8: (0, 5), 12: (0, 2, 3, 5, 4), 20: (2, 3, 4)},
    "darts": {0: (0, 2, 3, 6), 2: (0, 1, 2), 3: (2, 3, 5, 6), 11: (3, 4), 16: (0, 4, 5), 18: (1, 2, 4)},
    "timm": {0: (0, 1, 2), 1: (0, 2, 4), 3: (0, 1), 8: (0, 1, 4), 9: (0, 1), 17: (0, 1), 18: (0, 1, 2)},
    "autoformer": {0: (0, 1, 2), 1: (0, 1), 2: (0, 1), 3: (0, 1), 4: (1,), 5: (0, 1), 6: (0, 1), 7: (0, 1)},
}


def small(name: str) -> Space:
    space = nshot.space(name, **SMALL[name])
    return replace(space, kept=tuple((i, OPEN[name].get(i, (1,))) for i in range(len(space.decisions))))


def milliseconds(space: Space) -> Cost:
    """A table of made-up latencies, as `Latency` adds them."""
    rng = np.random.default_rng(1)
    table = [rng.random(len(decision.options)).tolist() for decision in space.decisions]
    return lambda subnet: 3 + sum(row[o] for row, o in zip(table, space.canonical(subnet), strict=True))


def shares(bounds: list[Bound], costs: list[float]) -> float:
    """By which the bounds are broken."""
    found = 0.0
    for bound, cost in zip(bounds, costs, strict=True):
        if math.isfinite(bound.least):
            found += max(0, bound.least - cost) / abs(bound.least)
        if math.isfinite(bound.most):
            found += max(0, cost - bound.most) / abs(bound.most)
    return found


def uniform(counts: Counter[Subnet], inside: set[Subnet]) -> bool:
    """Whether those alone came up, and alike often: 20 draws each leave out one of 10^8."""
    found = [counts[subnet] for subnet in inside]
    return set(counts) == inside and (len(found) == 1 or chisquare(found).pvalue > 1e-4)


def random_bounds(space: Space, rng: np.random.Generator, count: int) -> list[Bound]:
    """Of some costs: one-sided, or a window, wide or narrow, anywhere."""
    costs: list[Cost] = [space.params, space.flops, milliseconds(space)]
    bounds = []
    for i in rng.permutation(3)[:count]:
        every = sorted({costs[i](subnet) for subnet in space.subnets()})
        low, high = sorted(rng.uniform(every[0], every[-1], 2))
        kind = rng.integers(4)
        if kind == 3:  # just what a few have
            low = high = every[int(rng.integers(len(every)))]
            low -= 1e-6
            high += 1e-6
        bounds.append(Bound(costs[i], -math.inf if kind == 0 else low, math.inf if kind == 1 else high))
    return bounds


@pytest.fixture
def large(monkeypatch) -> None:
    """Has small spaces treated as those that are too large to look at each subnet, and no plain draws."""
    monkeypatch.setattr(feasible, "ENUMERABLE", 0)
    monkeypatch.setattr(feasible, "PROBES", 0)
    monkeypatch.setattr(Feasible, "_often", lambda self, rng: False)


@pytest.mark.parametrize("cells", [2**19, 2**9], ids=["fine", "coarse"])
@pytest.mark.parametrize("name", sorted(OPEN))
def test_feasible_subnets_are_found_uniformly_or_the_nearest_is_named(
    name: str, cells: int, large, monkeypatch
) -> None:
    monkeypatch.setattr(feasible, "CELLS", cells)
    space = small(name)
    every = list(space.subnets())
    outcomes = Counter()
    for seed in range(24):
        rng = np.random.default_rng(seed)
        bounds = random_bounds(space, rng, 1 + seed % 3)
        costs = {subnet: [bound.cost(subnet) for bound in bounds] for subnet in every}
        inside = {s for s in every if all(b.least <= c <= b.most for b, c in zip(bounds, costs[s], strict=True))}
        if inside:
            draws = Feasible(space, bounds, rng)
            assert uniform(Counter(draws.draw(rng) for _ in range(20 * len(inside))), inside)
        else:
            with pytest.raises(InfeasibleError) as error:
                Feasible(space, bounds, rng)
            assert error.value.looked is None
            named = list(error.value.nearest)
            assert shares(bounds, named) == pytest.approx(min(shares(bounds, row) for row in costs.values()), rel=1e-9)
            assert any(row == pytest.approx(named) for row in costs.values())
        outcomes["some" if inside else "none"] += 1
    assert min(outcomes["none"], outcomes["some"]) >= 3


def test_small_spaces_are_looked_through() -> None:
    """NAS-Bench-201, whose FLOPs do not add up: by the leanest equal."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    costs = {subnet: space.flops(space.canonical(subnet)) for subnet in space.subnets()}
    low, high = sorted(set(costs.values()))[1:3]
    inside = [subnet for subnet, cost in costs.items() if low <= cost <= high]
    rng = np.random.default_rng(0)
    draws = Feasible(space, Limits(max_flops=high).bounds(space, space.canonical), rng)
    assert max(costs[draws.draw(rng)] for _ in range(300)) <= high
    draws = Feasible(space, [Bound(lambda s: space.flops(space.canonical(s)), low, high)], rng)
    counts = Counter(draws.draw(rng) for _ in range(20 * len(inside)))
    assert uniform(counts, set(inside))
    with pytest.raises(InfeasibleError) as error:
        Feasible(space, [Bound(space.flops, low + 1, low + 2)], rng)
    assert error.value.nearest == (min(set(costs.values()), key=lambda cost: abs(cost - low - 1.5)),)


# the paper's sizes


@pytest.mark.parametrize("measure", ["params", "flops"])
@pytest.mark.parametrize("end", ["lowest", "highest"])
@pytest.mark.parametrize("name", ["nasbench201", "mobilenet", "darts", "autoformer"])
def test_the_ends_of_the_papers_spaces(name: str, end: str, measure: str) -> None:
    """2,000 draws within a second, of 10,000 in 5: the lowest and the highest hundredth of the range."""
    space = nshot.space(name)
    cost, (low, high) = space.complexity(measure)  # type: ignore[arg-type]
    hundredth = (high - low) / 100
    bound = Bound(cost, most=low + hundredth) if end == "lowest" else Bound(cost, least=high - hundredth)
    begin = time.process_time()
    rng = np.random.default_rng(0)
    draws = Feasible(space, [bound], rng)
    found = [draws.draw(rng) for _ in range(2000)]
    assert time.process_time() - begin < 1
    costs = [cost(subnet) for subnet in found]
    assert all(subnet in space for subnet in found[:50])
    assert low <= min(costs) <= max(costs) <= low + hundredth or high - hundredth <= min(costs)
    assert (low if end == "lowest" else high) in costs or len(set(costs)) > 20


def test_the_end_of_mobilenet_by_counting() -> None:
    """Subnets of each cost are drawn in proportion to how many there are, counted by a dictionary."""
    space = nshot.space("mobilenet")
    largest = (5,) * 21
    steps = [[space.params(largest) - space.params((*largest[:i], o, *largest[i + 1 :])) for o in range(len(d.options))]
             for i, d in enumerate(space.decisions)]  # fmt: skip
    room = (space.params_range[1] - space.params_range[0]) // 200
    ways = Counter({0: 1})
    for row in steps:
        grown: Counter[int] = Counter()
        for cost, count in ways.items():
            for step in row:
                if cost + step <= room:
                    grown[cost + step] += count
        ways = grown
    rng = np.random.default_rng(0)
    draws = Feasible(space, [Bound(space.params, least=space.params_range[1] - room)], rng)
    found = Counter(space.params_range[1] - space.params(draws.draw(rng)) for _ in range(4000))
    assert set(found) <= set(ways)
    common = [cost for cost, count in ways.items() if 4000 * count > 10 * sum(ways.values())]
    expected = np.array([ways[cost] for cost in common])
    counts = np.array([found[cost] for cost in common])
    assert chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-4


# a space of which nothing is known


class Unknown(MobileNet):
    """As a space of a user's own that says no groups."""

    groups = None  # type: ignore[assignment]
    params_range = flops_range = (0, 0)  # type: ignore[assignment]


def test_repair_finds_both_ends_and_says_how_far_it_looked() -> None:
    space, known = Unknown(width=0.25, resolution=64), nshot.space("mobilenet", width=0.25, resolution=64)
    low, high = known.params_range
    for bound in (
        Bound(space.params, most=low),
        Bound(space.params, least=high),
        Bound(space.params, low + 1, low + (high - low) // 50),
    ):
        rng = np.random.default_rng(0)
        draws = Feasible(space, [bound], rng)
        assert all(bound.least <= space.params(draws.draw(rng)) <= bound.most for _ in range(20))
    with pytest.raises(UserError, match=r"no subnet of [\d,]+ looked at keeps to max params") as refusal:
        random_subnets(space, 5, Limits(max_params=low // 2))
    row = [min(d.allowed, key=lambda o, i=i: space.network_params((0,) * i + (o,) + (0,) * (20 - i)))
           for i, d in enumerate(space.decisions)]  # fmt: skip
    lean = space.network_params(tuple(row))
    assert f"comes nearest with {lean:,} parameters" in str(refusal.value)


# searches and windows at the ends


def first(figures: np.ndarray) -> np.ndarray:
    return figures[:, 0]


def made_up(subnets: list[Subnet]) -> np.ndarray:
    return np.array([[sum(subnet) % 7, 1] for subnet in subnets], dtype=float)


def ends(space: Space) -> list[Limits]:
    """Just within the costs of the leanest and of the largest network that 300 local moves come to."""
    rng = np.random.default_rng(0)

    def climbed(cost: Cost, sign: int) -> float:
        best = space.canonical(space.sample(rng))
        for _ in range(4):
            for i, decision in enumerate(space.decisions):
                moved = [space.canonical((*best[:i], option, *best[i + 1 :])) for option in decision.allowed]
                best = max(moved, key=lambda subnet: sign * cost(subnet))
        return cost(best)

    ms = milliseconds(space)
    least, most = climbed(space.network_params, -1), climbed(space.network_params, 1)
    return [
        Limits(max_params=int(least)),
        Limits(min_params=int(most)),
        Limits(max_params=int(least + (most - least) / 100), max_flops=int(climbed(space.flops, -1) * 1.2)),
        Limits(max_latency=climbed(ms, -1) * 1.0001, latency=ms),
    ]


@pytest.mark.parametrize("search", ["random", "evolution", "nsga2"])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_searches_at_the_ends_of_every_space(name: str, search: str) -> None:
    space = nshot.space(name, **SMALL[name])
    for limits in ends(space):
        archive = Archive(made_up, space.canonical)
        if search == "random":
            found = random_subnets(space, 30, limits)
        elif search == "evolution":
            found = evolve(space, archive, first, limits=limits, evolution=Evolution(10, 3, 4, 5, 5))
        else:
            found = nsga2(space, archive, limits=limits, population=6, generations=3)
        assert found
        assert all(limits.allow(space, subnet) and space.canonical(subnet) == subnet for subnet in found)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_windows_at_the_ends_of_every_space(name: str) -> None:
    """A plan is a function of seed and step also there."""
    space = nshot.space(name, **SMALL[name])
    low, high = space.flops_range
    for window in ({"max_flops": low}, {"min_flops": high}, {"max_flops": low + (high - low) // 100}):
        for sampling in ("uniform", "proportional"):
            one, other = (
                nshot.strategy("spos", space, total_steps=99, seed=3, sampling=sampling, **window) for _ in range(2)
            )
            paths = [one.plan(step).paths[0] for step in range(20)]
            assert all(window.get("min_flops", 0) <= space.flops(p) <= window.get("max_flops", high) for p in paths)
            assert [other.plan(step).paths[0] for step in reversed(range(20))] == paths[::-1]
    with pytest.raises(UserError, match=f"no subnet is inside; .* comes nearest with {low:,} FLOPs"):
        nshot.strategy("spos", space, total_steps=99, max_flops=low - 1)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_paths_without_a_window_are_those_of_earlier_versions(name: str) -> None:
    space = nshot.space(name, **SMALL[name])
    plan = nshot.strategy("spos", space, total_steps=99, seed=7).plan
    for step in range(20):
        rng = generator(7, "path", step)
        picks = rng.integers([len(decision.allowed) for decision in space.decisions])
        assert plan(step).paths == (tuple(d.allowed[i] for d, i in zip(space.decisions, picks, strict=True)),)


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_paths_in_a_window_are_those_of_earlier_versions(share: float) -> None:
    """Plain draws until one is inside, also where few are: else a run that goes on would mix two kinds of paths."""
    space = nshot.space("mobilenet", **SMALL["mobilenet"])
    rng = np.random.default_rng(0)
    most = int(np.quantile([space.flops(space.sample(rng)) for _ in range(2000)], share))
    plan = nshot.strategy("spos", space, total_steps=99, seed=7, max_flops=most).plan
    for step in range(20):
        rng = generator(7, "path", step)
        path = space.sample(rng)
        while space.flops(path) > most:
            path = space.sample(rng)
        assert plan(step).paths == (path,)


# small spaces, and costs that nobody limits


@pytest.mark.parametrize("population", [2, 3, 5, 8, 50])
@pytest.mark.parametrize("edges", [0, 1, 2])
def test_nsga2_in_spaces_no_larger_than_its_population(edges: int, population: int) -> None:
    """1, 5 and 25 subnets, of 1, 5 and 13 forms."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    for decision in space.decisions[: 6 - edges]:
        space = space.restrict(decision.name, "nor_conv_3x3")
    forms = {space.canonical(subnet) for subnet in space.subnets()}
    calls: list[int] = []
    found = nsga2(
        space,
        Archive(made_up, space.canonical),
        population=population,
        generations=6,
        after=lambda generation, evaluated: calls.append(len(evaluated)),
    )
    assert set(found) <= forms
    assert len(found) >= min(population, len(forms))
    assert calls == sorted(calls)
    assert calls


class Slow(DARTS):
    """Its FLOPs are counted one by one."""

    asked: list[Subnet] = []  # noqa: RUF012

    def flops(self, subnet: Subnet) -> int:
        self.asked.append(subnet)
        return super().flops(subnet)


@pytest.mark.parametrize("search", ["random", "evolution", "nsga2"])
def test_a_search_without_a_limit_on_flops_counts_none(search: str) -> None:
    space = Slow(**SMALL["darts"])
    space.asked.clear()
    limits, archive = Limits(max_params=sum(space.params_range) // 2), Archive(made_up, space.canonical)
    if search == "random":
        random_subnets(space, 30, limits)
    elif search == "evolution":
        evolve(space, archive, first, limits=limits, evolution=Evolution(10, 3, 4, 5, 5))
    else:
        nsga2(space, archive, limits=limits, population=10, generations=3)
    assert not space.asked


def test_only_as_many_are_looked_at_as_are_wanted() -> None:
    """Where each FLOPs takes milliseconds and the space is small."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    asked: list[Subnet] = []

    def slow(subnet: Subnet) -> float:
        asked.append(subnet)
        return 1.0

    assert len(random_subnets(space, 7, Limits(max_latency=2, latency=slow))) == 7
    assert len(asked) < 20


def test_sums_too_many_for_a_bit_each(large, monkeypatch) -> None:
    """A single cost is searched for as several are."""
    monkeypatch.setattr(additive, "BITS", 0)
    space = small("mobilenet")
    costs = sorted({space.params(subnet) for subnet in space.subnets()})
    rng = np.random.default_rng(0)
    assert space.params(Feasible(space, [Bound(space.params, costs[9], costs[9])], rng).draw(rng)) == costs[9]
    gap = max(range(len(costs) - 1), key=lambda i: costs[i + 1] - costs[i])
    low = costs[gap]
    with pytest.raises(InfeasibleError) as error:
        Feasible(space, [Bound(space.params, low + 1, low + 2)], rng)
    assert (error.value.nearest, error.value.looked) == ((low,), None)
