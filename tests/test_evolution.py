"""Evolution and NSGA-II: on the NAS-Bench-201 table as an oracle, and on a toy whose best is known; each form once."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nshot
from helpers import SMALL, nshot_, refuse
from needs import needs_table
from nshot import UserError
from nshot.benchmarks.table import read_benchmark
from nshot.search.archive import Archive
from nshot.search.evolution import Evolution, evolve
from nshot.search.limits import Limits
from nshot.search.pareto import front, nsga2, objective_values
from nshot.search.pick import _score
from nshot.search.propose import all_subnets, random_subnets
from nshot.spaces import Space, Subnet


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


@st.composite
def spaces_and_limits(draw) -> tuple[Space, Limits]:
    """Any space, and limits that a subnet drawn from it keeps to, with little or much room."""
    name = draw(st.sampled_from(sorted(SMALL)))
    space = nshot.space(name, **SMALL[name])
    known = space.sample(np.random.default_rng(draw(st.integers(0, 2**32))))
    params, flops = space.network_params(known), space.flops(known)
    room = st.none() | st.floats(0.03, 1)
    most, least, work = draw(room), draw(room), draw(room)
    return space, Limits(
        max_params=None if most is None else int(params * (1 + most)),
        min_params=None if least is None else int(params * (1 - least)),
        max_flops=None if work is None else int(flops * (1 + work)),
    )


def weights_of(space: Space, subnet: Subnet) -> int:
    return sum(weight.numel() for weight in space.network(subnet).parameters())


@settings(max_examples=40, deadline=None)
@given(spaces_and_limits(), st.sampled_from(["random", "evolution", "nsga2"]), st.integers(0, 2**32))
def test_limits_are_kept_and_nothing_is_evaluated_twice(given: tuple[Space, Limits], search: str, seed: int) -> None:
    space, limits = given
    counting = Counting()
    archive = Archive(counting, space.canonical)
    if search == "random":
        found = random_subnets(space, 40, limits, seed)
        archive(found)
    elif search == "evolution":
        found = evolve(space, archive, first, limits=limits, evolution=Evolution(10, 4, 4, 5, 5), seed=seed)
    else:
        found = nsga2(space, archive, ("accuracy", "flops"), limits=limits, population=10, generations=4, seed=seed)
    assert found
    assert set(counting.calls.values()) == {1}
    for subnet in found:
        assert subnet in space
        assert subnet == space.canonical(subnet)
        assert space.flops(subnet) <= (limits.max_flops or space.flops_range[1])
    for subnet in found[:: len(found) // 3 + 1]:  # instantiated
        weights = weights_of(space, subnet)
        assert (limits.min_params or 0) <= weights <= (limits.max_params or weights)


def test_exhaustive_is_every_form_once() -> None:
    space = nshot.space("nasbench201", **SMALL["nasbench201"]).restrict("1<-0", "none", "skip_connect")
    found = all_subnets(space, space.canonical)
    assert len(found) == len({space.canonical(subnet) for subnet in space.subnets()}) < space.size == 2 * 5**5
    assert {space.canonical(subnet) for subnet in found} == {space.canonical(subnet) for subnet in space.subnets()}
    limits = Limits(max_flops=int(np.median([space.flops(subnet) for subnet in found])))
    assert all_subnets(space, space.canonical, limits) == [s for s in found if space.flops(s) <= limits.max_flops]
    with pytest.raises(UserError, match=r"method exhaustive: space darts has .* subnets, at most 20,000"):
        all_subnets(nshot.space("darts"), lambda subnet: subnet)


def test_searches_are_functions_of_the_seed(space: Space) -> None:
    for search in (
        lambda seed: evolve(space, Archive(Counting(), space.canonical), first, seed=seed),
        lambda seed: nsga2(space, Archive(Counting(), space.canonical), generations=5, seed=seed),
    ):
        assert search(1) == search(1)
        assert search(1) != search(2)


@pytest.mark.parametrize("most", [None, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nsga2_evaluates_new_forms_as_long_as_there_are_any(seed: int, most: float | None) -> None:
    """Of 5^4 subnets many are one form: 8 new ones a generation, until all within the limits are evaluated."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    for decision in ("1<-0", "2<-0"):
        space = space.restrict(decision, "nor_conv_3x3")
    forms = {space.canonical(subnet) for subnet in space.subnets()}
    limits = Limits()
    if most is not None:
        limits = Limits(max_params=int(np.quantile([space.network_params(form) for form in forms], most)))
        forms = {form for form in forms if space.network_params(form) <= (limits.max_params or 0)}
    assert len(forms) < space.size
    told: list[tuple[int, int]] = []
    found = nsga2(
        space,
        Archive(Counting(), space.canonical),
        limits=limits,
        population=8,
        generations=100,
        seed=seed,
        after=lambda generation, evaluated: told.append((generation, len(evaluated))),
    )
    assert sorted(found) == sorted(forms)
    full = len(forms) // 8
    assert told[:full] == [(generation, 8 * generation) for generation in range(1, full + 1)]
    assert len(told) == -(-len(forms) // 8)


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


def test_what_is_minimised_by_each_objective() -> None:
    """Costs are those of the stand-alone networks, counted."""
    space = nshot.space("nasbench201")
    subnets = [(0, 0, 0, 3, 0, 0), (0, 0, 0, 2, 0, 0), (0, 0, 0, 1, 0, 0)]
    figures = np.array([[70.0, 1.25], [60.0, 0.5], [10.0, 2.5]])
    limits = Limits(latency=lambda subnet: {3: 7.5, 2: 2.5, 1: 1.0}[subnet[3]])
    names = ("accuracy", "loss", "params", "flops", "latency")
    found = objective_values(space, subnets, figures, names, limits)
    counted = [[sum(w.numel() for w in space.network(s).parameters()) for s in subnets]]
    macs = [sum(work(space.network(s), 32)) for s in subnets]
    expected = [[-70, -60, -10], [1.25, 0.5, 2.5], *counted, macs, [7.5, 2.5, 1.0]]
    np.testing.assert_array_equal(found, np.array(expected, dtype=float).T)
    turned = objective_values(space, subnets, figures, names[::-1], limits)
    np.testing.assert_array_equal(turned, found[:, ::-1])
    assert len({tuple(row) for row in np.array(expected).argsort(axis=1).tolist()}) > 2  # columns are told apart


def work(network: nn.Module, side: int) -> list[int]:
    """Multiply-accumulates of each convolution and linear layer, by the sizes of what they give."""
    found: list[int] = []

    def count(layer: Any, given: Any, output: torch.Tensor) -> None:
        found.append(output[0].numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side))
    return found


def test_a_loss_is_the_better_the_smaller() -> None:
    """And an accuracy the better the larger; the other score breaks ties alone."""
    figures = np.array([[50.0, 2.0], [60.0, 1.0], [70.0, 1.0], [90.0, 3.0], [90.0, 2.5]])
    best_first = {by: np.argsort(-_score(by, figures)).tolist() for by in ("loss", "accuracy")}
    assert best_first == {"loss": [2, 1, 0, 4, 3], "accuracy": [4, 3, 2, 1, 0]}


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


# from the command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert nshot_("train", "spos", "--preset", "smoke", "--epochs", "1", "--out", run, "--device", "cpu")[0] == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


FEW = ["--population", "8", "--generations", "6", "--images", "100", "--device", "cpu"]


@pytest.mark.parametrize("method", ["evolution", "nsga2"])
def test_from_the_command_line(method: str, run: Path) -> None:
    status, out, err = nshot_("search", run, "--method", method, *FEW)
    assert (status, err) == (0, "")
    assert re.findall(r"^generation (\d+) of 6: best ", out, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]
    found = json.loads((run / "search.json").read_text())
    assert found["best"] == found["top"][0]
    assert f"generation 6 of 6: best {found['best']['accuracy']:.2f} %, loss {found['best']['loss']:.3f}" in out
    assert ("front" in found) == (method == "nsga2")
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    scored = [{"subnet": space.parse(row["arch"])} for row in pq.read_table(run / "search.parquet").to_pylist()]
    for rows in (found["top"], found.get("front", []), scored):  # no network twice, and none that could be leaner
        subnets = [tuple(row["subnet"]) for row in rows]
        assert [space.canonical(subnet) for subnet in subnets] == list(dict.fromkeys(subnets))


def test_evolution_by_loss_climbs_to_the_smallest(run: Path) -> None:
    """What it says is best after each generation is the smallest loss of all that were scored until then."""
    status, out, err = nshot_("search", run, "--method", "evolution", "--by", "loss", *FEW)
    assert (status, err) == (0, "")
    losses = [row["loss"] for row in pq.read_table(run / "search.parquet").to_pylist()]
    said = [float(text) for text in re.findall(r"generation \d of 6: best [\d.]+ %, loss ([\d.]+)", out)]
    assert len(said) == 6
    smallest = [min(losses[: 8 * (i + 1)]) for i in range(6)]
    assert said == pytest.approx(smallest, abs=6e-4)
    assert smallest[-1] < smallest[0] < max(losses)
    assert json.loads((run / "search.json").read_text())["best"]["loss"] == min(losses)


@pytest.mark.parametrize(("names", "signs"), [(("loss", "flops"), (1, 1)), (("accuracy", "params"), (-1, 1))])
def test_the_front_of_a_search_by_brute_force(names: tuple[str, ...], signs: tuple[int, ...], run: Path) -> None:
    """Of all that were scored: those of which no other is as good in both and better in one."""
    assert nshot_("search", run, "--method", "nsga2", "--objectives", ",".join(names), *FEW)[0] == 0
    rows = pq.read_table(run / "search.parquet").to_pylist()
    points = [[sign * row[name] for name, sign in zip(names, signs, strict=True)] for row in rows]
    best = {
        row["arch"]
        for row, (a, b) in zip(rows, points, strict=True)
        if not any((x <= a and y <= b) and (x < a or y < b) for x, y in points)
    }
    found = json.loads((run / "search.json").read_text())
    assert found["objectives"] == list(names)
    assert {row["arch"] for row in found["front"]} == best
    assert 1 < len(best) < len(rows)


def search_until_killed(run: Path, method: str, generation: int) -> None:
    """In a child process: SIGKILL where the figures of a generation are half written."""
    keep, kept = Archive._keep, []

    def dying(self: Archive, rows) -> None:
        kept.append(0)
        if len(kept) == generation:
            rows = list(rows)
            keep(self, rows[: len(rows) // 2])
            store = self._store
            assert store is not None
            with open(store, "a") as stream:
                stream.write('{"subnet": [0, ')
            os.kill(os.getpid(), signal.SIGKILL)
        keep(self, rows)

    Archive._keep = dying  # type: ignore[method-assign]
    nshot_("search", run, "--method", method, *FEW)
    os._exit(3)  # it should not have lived this long


def archived(run: Path) -> dict[tuple[int, ...], list[float]]:
    (store,) = run.glob(".search-*.jsonl")
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    found = {tuple(line["subnet"]): line["figures"] for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize("method", ["evolution", "nsga2"])
def test_a_search_killed_at_a_random_generation_ends_with_the_same_archive(
    method: str, trained: Path, tmp_path: Path
) -> None:
    whole, killed = (Path(shutil.copytree(trained, tmp_path / name)) for name in ("whole", "killed"))
    assert nshot_("search", whole, "--method", method, *FEW)[0] == 0
    for generation in random.Random(0).sample(range(1, 4), 2):  # killed twice
        child = multiprocessing.get_context("fork").Process(
            target=search_until_killed, args=(killed, method, generation)
        )
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert not (killed / "search.json").exists()
    assert nshot_("search", killed, "--method", method, *FEW)[0] == 0
    assert archived(killed) == archived(whole)
    assert (killed / "search.json").read_text() == (whole / "search.json").read_text()
    kept = archived(killed)
    assert nshot_("search", killed, "--method", method, *FEW)[0] == 0
    assert archived(killed) == kept  # nothing was left to evaluate


def test_exhaustive_from_the_command_line(run: Path) -> None:
    """All networks without a convolution, no two of them one function; random finds the same of as many draws."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    fitting = [subnet for subnet in space.subnets() if space.network_params(subnet) <= 4_894]
    flags = ["--max-params", "4894", "--images", "20", "--device", "cpu"]
    assert nshot_("search", run, "--method", "exhaustive", *flags)[0] == 0
    found = json.loads((run / "search.json").read_text())
    assert found["candidates"] == len({space.canonical(subnet) for subnet in fitting}) > 10
    assert found["candidates"] == len(archived(run))
    drawing = ("--method", "random", "--sample", str(space.size), "--name", "drawn")
    assert nshot_("search", run, *drawing, *flags)[0] == 0
    drawn = json.loads((run / "drawn.json").read_text())
    assert drawn["candidates"] == found["candidates"] == len(archived(run))
    for row in (*found["top"], *drawn["top"]):
        assert space.canonical(tuple(row["subnet"])) == tuple(row["subnet"])
    assert (drawn["best"]["accuracy"], drawn["best"]["loss"]) == (found["best"]["accuracy"], found["best"]["loss"])
    assert "sample 5 has no effect without --method random" in refuse(
        "search", run, "--method", "exhaustive", "--sample", "5"
    )
