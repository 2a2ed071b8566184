"""Evolution and NSGA-II: on the NAS-Bench-201 table as an oracle, and on a toy whose best is known; each form once."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import nshot
from helpers import SMALL, nshot_
from nshot import UserError
from nshot.benchmarks.table import read_benchmark
from nshot.search.archive import Archive
from nshot.search.evolution import Evolution, evolve
from nshot.search.limits import Limits
from nshot.search.pareto import front, nsga2, objective_values
from nshot.spaces import Space, Subnet

TABLE = Path(os.environ.get("NSHOT_DATA", "none")) / "nasbench201" / "table.parquet"
needs_table = pytest.mark.skipif(
    not TABLE.exists(), reason="NSHOT_DATA is not set or holds no nasbench201/table.parquet"
)


def first(figures: np.ndarray) -> np.ndarray:
    return figures[:, 0]


class Counting:
    """A made-up accuracy, the more options at 1 the better, that counts how often each subnet is evaluated."""

    def __init__(self) -> None:
        self.calls: Counter[Subnet] = Counter()

    def __call__(self, subnets: list[Subnet]) -> np.ndarray:
        self.calls.update(subnets)
        good = np.array([[subnet.count(1), -subnet.count(1)] for subnet in subnets], dtype=float)
        return good


@pytest.fixture
def space() -> Space:
    return nshot.space("mobilenet", **SMALL["mobilenet"])


@pytest.fixture(scope="module")
def oracle() -> tuple[Space, dict[Subnet, float]]:
    space = nshot.space("nasbench201")
    table = read_benchmark("nasbench201", space)
    return space, dict(zip(table.subnets, table.columns["cifar10_test"].tolist(), strict=True))


def ask(accuracies: dict[Subnet, float]) -> Archive:
    return Archive(
        lambda subnets: np.array([[accuracies[s], -accuracies[s]] for s in subnets]), canonical=lambda subnet: subnet
    )


@needs_table
def test_evolution_finds_the_best_of_nasbench201(oracle) -> None:
    """1,000 evaluations reach the true best 0.1 % in nine of ten seeds, and beat as many random draws."""
    space, accuracies = oracle
    threshold = sorted(accuracies.values(), reverse=True)[15]  # 15 of 15,625 are 0.1 %
    evolved, drawn = [], []
    for seed in range(10):
        subnets = evolve(space, ask(accuracies), first, seed=seed)
        assert len(subnets) == len(set(subnets)) == 1000
        evolved.append(max(accuracies[subnet] for subnet in subnets))
        rng = np.random.default_rng(seed)
        drawn.append(max(accuracies[space.at(int(i))] for i in rng.permutation(space.size)[:1000]))
    assert sum(best >= threshold for best in evolved) >= 9
    assert np.mean(evolved) > np.mean(drawn)


@needs_table
def test_nsga2_finds_the_front_of_nasbench201(oracle) -> None:
    """98 % of the true front's hypervolume, counted by hand from its corners."""
    space, accuracies = oracle
    names = ("accuracy", "params")

    def values(subnets: list[Subnet]) -> np.ndarray:
        return objective_values(space, subnets, np.array([[accuracies[s], 0] for s in subnets]), names)

    every = values(list(accuracies))
    low, high = every.min(axis=0), every.max(axis=0)

    def volume(points: np.ndarray) -> float:
        scaled = (points[front(points)] - low) / (high - low)
        scaled = scaled[np.argsort(scaled[:, 0])]
        edges = np.append(scaled[1:, 0], 1.0)
        return float(((edges - scaled[:, 0]) * (1 - scaled[:, 1])).sum())

    for seed in range(3):
        archive = ask(accuracies)
        found = nsga2(space, archive, names, seed=seed)
        assert len(archive.known) <= 1000
        assert volume(values(found)) > 0.98 * volume(every)


def test_evolution_climbs(space: Space) -> None:
    counting = Counting()
    bests: list[float] = []
    subnets = evolve(
        space,
        Archive(counting, space.canonical),
        first,
        seed=3,
        after=lambda generation, best, value: bests.append(value),
    )
    assert len(bests) == 20
    assert bests == sorted(bests)
    assert bests[-1] > bests[0] + 5
    assert max(subnet.count(1) for subnet in subnets) == bests[-1]
    assert set(counting.calls.values()) == {1}


@pytest.mark.parametrize("search", ["evolution", "nsga2"])
def test_limits_are_kept_and_nothing_is_evaluated_twice(space: Space, search: str) -> None:
    low, high = space.flops_range
    limits = Limits(max_flops=(low + high) // 2)
    counting = Counting()
    archive = Archive(counting, space.canonical)
    if search == "evolution":
        found = evolve(space, archive, first, limits=limits)
    else:
        found = nsga2(space, archive, ("accuracy", "flops"), limits=limits, generations=8)
    assert all(limits.allow(space, subnet) and subnet in space for subnet in found)
    assert set(counting.calls.values()) == {1}


def test_searches_are_functions_of_the_seed(space: Space) -> None:
    for search in (
        lambda seed: evolve(space, Archive(Counting(), space.canonical), first, seed=seed),
        lambda seed: nsga2(space, Archive(Counting(), space.canonical), generations=5, seed=seed),
    ):
        assert search(1) == search(1)
        assert search(1) != search(2)


def test_a_small_space_is_exhausted() -> None:
    space = nshot.space("nasbench201")
    for decision in ("1<-0", "2<-0", "2<-1", "3<-0"):
        space = space.restrict(decision, "nor_conv_3x3")
    found = evolve(space, Archive(Counting(), lambda subnet: subnet), first)
    assert sorted(found) == sorted(space.subnets())


def test_the_front_by_brute_force() -> None:
    values = np.random.default_rng(0).integers(0, 6, (60, 3)).astype(float)
    expected = [
        i for i, a in enumerate(values) if not any(all(b <= a) and any(b < a) for j, b in enumerate(values) if j != i)
    ]
    assert front(values).tolist() == expected


def test_an_archive_on_disk_is_not_evaluated_again(space: Space, tmp_path: Path) -> None:
    store = tmp_path / "figures.jsonl"
    rng = np.random.default_rng(0)
    subnets = [space.sample(rng) for _ in range(100)]
    before = Archive(Counting(), space.canonical, store)(subnets)
    store.write_text(store.read_text()[:-7])  # a line that a crash cut short
    counting = Counting()
    after = Archive(counting, space.canonical, store)(subnets)
    assert np.array_equal(before, after)
    assert sum(counting.calls.values()) == 1
    assert np.array_equal(before, Archive(counting, space.canonical, store)(subnets))
    assert sum(counting.calls.values()) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Evolution(population=10), "population 10: must hold the 50"),
        (lambda: Evolution(generations=0), "generations 0"),
        (lambda: Evolution(probability=2.0), "probability 2.0"),
    ],
)
def test_impossible_sizes(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "accuracy"), ("accuracy", "beauty")])
def test_impossible_objectives(space: Space, objectives: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="name two or more of accuracy, loss, params, flops"):
        nsga2(space, Archive(Counting(), space.canonical), objectives)


@pytest.mark.parametrize("method", ["evolution", "nsga2"])
def test_from_the_command_line(method: str, tmp_path: Path) -> None:
    """And killed after the first search, the second has nothing left to evaluate."""
    run = tmp_path / "run"
    assert nshot_("train", "spos", "--preset", "smoke", "--epochs", "1", "--out", run, "--device", "cpu")[0] == 0
    flags = ["--method", method, "--population", "8", "--generations", "3", "--images", "100", "--device", "cpu"]
    status, out, err = nshot_("search", run, *flags)
    assert (status, err) == (0, "")
    assert "generation 3 of 3" in out
    found = json.loads((run / "search.json").read_text())
    assert found["best"] == found["top"][0]
    assert ("front" in found) == (method == "nsga2")
    (store,) = run.glob(".search-*.jsonl")
    kept = store.read_text()
    assert nshot_("search", run, *flags)[0] == 0
    assert store.read_text() == kept
    assert json.loads((run / "search.json").read_text()) == found
