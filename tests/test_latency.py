"""Latency: the table recovers what it was made of, searches keep to limits of it; one small real measurement."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import nshot
import nshot.search.latency
import nshot.search.pick
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.files import read_json
from nshot.report.search_plot import plot_search
from nshot.search.archive import Archive
from nshot.search.evolution import Evolution, evolve
from nshot.search.latency import Latency, Setting, fitted, latency_of, machine, measure
from nshot.search.limits import Limits, milliseconds
from nshot.search.pareto import front, nsga2, objective_values
from nshot.search.propose import random_subnets
from nshot.spaces import Space, Subnet


def cost(space: Space, subnet: Subnet, setting: Setting = Setting()) -> float:  # noqa: B008 (frozen)
    """What a made-up machine takes: 0.7 ms, and something of its own for each option that matters."""
    form = space.canonical(subnet)
    return 0.7 + sum(abs(float(np.sin(31 * i + 7 * option))) / 10 for i, option in enumerate(form))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_additive_costs_are_recovered(name: str) -> None:
    """Of subnets that the table has not seen too."""
    space = nshot.space(name, **SMALL[name])
    table = fitted(space, by=cost)
    latency = Latency(space, table)
    rng = np.random.default_rng(5)
    for subnet in (space.sample(rng) for _ in range(200)):
        assert latency(subnet) == pytest.approx(cost(space, subnet), rel=1e-6)
    check = table["check"]
    assert check["other"]
    assert check["subnets"] == 50
    assert check["error_90"] < 1e-6
    assert check["tau"] == pytest.approx(1)
    assert check["repeat_90"] == 0


def test_each_side_has_a_table_of_its_own() -> None:
    """What an option costs depends on the images' side: recovered, also where only some sides are left."""
    every = nshot.space("timm", **SMALL["timm"])
    assert len(every.all_sides) == 3

    def by_side(space: Space, subnet: Subnet, setting: Setting) -> float:
        return cost(space, subnet) * every.side(subnet) ** 2

    for space in (every, every.restrict("side", *map(str, every.all_sides[1:]))):
        table = fitted(space, by=by_side)
        assert (table["by"], list(table["tables"])) == (
            "side",
            [str(side) for side in every.all_sides][-len(table["tables"]) :],
        )
        latency = Latency(space, json.loads(json.dumps(table)))
        rng = np.random.default_rng(5)
        for subnet in (space.sample(rng) for _ in range(100)):
            assert latency(subnet) == pytest.approx(by_side(space, subnet, Setting()), rel=1e-6)
        assert table["check"]["error_90"] < 1e-6
        assert table["check"]["subnets"] == 50


def test_a_table_of_an_earlier_version_is_one_for_all_sides() -> None:
    space = nshot.space("timm", **SMALL["timm"])
    rows = [{"name": d.name, "ms": dict.fromkeys(d.options, 0.25)} for d in space.decisions]
    latency = Latency(space, {"setting": {}, "base_ms": 2.0, "decisions": rows})
    assert latency(space.sample(np.random.default_rng(0))) == 2 + len(rows) / 4


def test_the_check_says_how_far_the_table_is_off() -> None:
    """Of a machine that takes 1.2 times as long when all is measured again, and now and then ten times as long."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    calls: list[Subnet] = []

    def noisy(space: Space, subnet: Subnet, setting: Setting) -> float:
        calls.append(subnet)
        burst = 10 if len(calls) % 7 == 0 else 1
        return burst * cost(space, subnet) * (1.2 if len(calls) > 3 * 140 else 1)

    check = fitted(space, by=noisy, samples=90)["check"]
    assert len(calls) == 3 * 190
    assert not set(calls[:270]) & set(calls[270:])
    assert check["repeat_median"] == pytest.approx(0.2 / 1.1)
    assert check["error_median"] == pytest.approx(0.1 / 1.1)


def test_a_small_space_is_measured_whole() -> None:
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    for edge in ("1<-0", "2<-0", "2<-1", "3<-0"):
        space = space.restrict(edge, "nor_conv_3x3")
    table = fitted(space, by=cost)
    assert table["samples"] == len({space.canonical(subnet) for subnet in space.subnets()})
    assert not table["check"]["other"]
    latency = Latency(space, table)
    assert [latency(s) for s in space.subnets()] == pytest.approx([cost(space, s) for s in space.subnets()])


def test_too_few_samples() -> None:
    with pytest.raises(UserError, match="samples 24: the table of space nasbench201 has 25 unknowns"):
        fitted(nshot.space("nasbench201"), by=cost, samples=24)
    for wrong in ({"threads": 0}, {"batch": 0}):
        with pytest.raises(UserError, match="0: must be at least 1"):
            Setting(**wrong)


class Timed(nn.Module):
    """A network that takes 50 ms to warm up, then 2 ms, and of every seventh call 80; it keeps how it was run."""

    def __init__(self, clock: SimpleNamespace) -> None:
        super().__init__()
        self.clock, self.calls, self.seen = clock, 0, set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.clock.now += 0.05 if self.calls <= 3 else 0.08 if self.calls % 7 == 0 else 0.002
        self.seen.add((tuple(x.shape), torch.get_num_threads(), torch.is_inference_mode_enabled(), self.training))
        return x


def test_a_measurement_is_the_median_of_calls_that_are_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    network = Timed(clock)
    space = SimpleNamespace(network=lambda subnet: network, resolution=8)
    monkeypatch.setattr(nshot.search.latency, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    threads = torch.get_num_threads()
    assert measure(space, (0,), Setting(threads=2, batch=5)) == pytest.approx(2.0)
    assert torch.get_num_threads() == threads
    assert network.seen == {((5, 3, 8, 8), 2, True, False)}
    assert network.calls >= 3 + 9


def test_a_larger_network_takes_longer() -> None:
    """Gradients are as they were before."""
    small, large = (
        measure(nshot.space("nasbench201", channels=c, cells=1, resolution=32), (3,) * 6, Setting(threads=1, batch=8))
        for c in (4, 64)  # 256 times as many multiplications
    )
    assert large > 2 * small > 0
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("text", "value"), [("3ms", 3), ("0.5 s", 500), ("800us", 0.8), ("1.5µs", 0.0015), (" 2 MS ", 2), (".5s", 500)]
)
def test_times(text: str, value: float) -> None:
    assert milliseconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["3", "", "ms", "-3ms", "0ms", "3 m", "3mss", "1,5ms", "nan ms", "inf s", "3ms ms"])
def test_no_time(text: str) -> None:
    with pytest.raises(UserError) as refusal:
        Limits.of(None, None, None, text)
    assert f"time {text!r}: write a number above 0 with its unit, such as 3ms" in str(refusal.value)


# searches


def evaluate(subnets: list[Subnet]) -> np.ndarray:
    return np.array([[sum(subnet) * 1.0, -sum(subnet)] for subnet in subnets])


@pytest.fixture
def space() -> Space:
    return nshot.space("nasbench201", **SMALL["nasbench201"])


@pytest.fixture
def limits(space: Space) -> Limits:
    """Half of the space keeps to them."""
    middle = float(np.median([cost(space, subnet) for subnet in space.subnets()]))
    return Limits(max_latency=middle, latency=lambda subnet: cost(space, subnet))


@pytest.mark.parametrize("search", ["random", "evolution", "nsga2"])
def test_limits_of_latency_are_kept(space: Space, limits: Limits, search: str) -> None:
    archive = Archive(evaluate, space.canonical)
    if search == "random":
        found = random_subnets(space, 300, limits)
    elif search == "evolution":
        found = evolve(space, archive, lambda figures: figures[:, 0], limits=limits, evolution=Evolution(generations=4))
    else:
        found = nsga2(space, archive, ("accuracy", "latency"), limits=limits, generations=4)
    assert len(found) > 100
    assert all(cost(space, subnet) <= limits.max_latency for subnet in found)


def test_latency_as_an_objective(space: Space, limits: Limits) -> None:
    """What NSGA-II calls its front is the brute-force front of accuracy and latency."""
    found = nsga2(space, Archive(evaluate, space.canonical), ("accuracy", "latency"), limits=limits, generations=4)
    figures = evaluate(found)
    values = objective_values(space, found, figures, ("accuracy", "latency"), limits)
    points = [(-figures[i, 0], cost(space, subnet)) for i, subnet in enumerate(found)]
    expected = [
        i for i, (a, b) in enumerate(points) if not any((c, d) != (a, b) and c <= a and d <= b for c, d in points)
    ]
    assert front(values).tolist() == expected


def test_unsatisfiable_latency_says_what_there_is(space: Space, limits: Limits) -> None:
    every = [cost(space, subnet) for subnet in space.subnets()]
    tight = Limits(max_latency=0.5, latency=limits.latency)
    with pytest.raises(UserError, match=r"max latency 0\.5 ms") as refusal:
        random_subnets(space, 3, tight)
    assert f"comes nearest with a latency of {min(every):.4g} ms" in str(refusal.value)


def test_latency_without_what_tells_it(space: Space) -> None:
    with pytest.raises(UserError, match="give Limits its latency"):
        random_subnets(space, 3, Limits(max_latency=1))


# the file


def test_a_table_is_made_once(space: Space, tmp_path: Path) -> None:
    calls: list[Subnet] = []

    def counted(space: Space, subnet: Subnet, setting: Setting) -> float:
        calls.append(subnet)
        return cost(space, subnet)

    def made(setting: Setting | None = None) -> Latency:
        return latency_of(tmp_path, space, setting, by=counted, say=lambda line: None)

    first = made(Setting(threads=2, batch=3))
    count = len(calls)
    assert made().table == first.table == read_json(tmp_path / "latency.json")
    assert made().setting == Setting(threads=2, batch=3)
    assert len(calls) == count
    subnets = [(3,) * 6, (1,) * 6, (3,) * 6]
    assert made().measured(subnets) == made().measured(subnets) == [cost(space, subnet) for subnet in subnets]
    assert len(calls) == count + 3 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"name": "darts"}}, "space.name: darts, not nasbench201"),
        ({"machine": {**machine(), "cpu": "abacus"}}, "machine.cpu: abacus, not "),
        ({"setting": {"threads": 4, "batch": 1}}, "setting.threads: 4, not 1"),
        ({"samples": 7}, "samples: 7, not 90"),
        ({"decisions": None}, "is no latency table: delete it to measure anew"),
        ({"machine": None}, "machine: None, not"),
    ],
)
def test_another_table_is_refused(space: Space, tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({**fitted(space, by=cost), **change}))
    with pytest.raises(UserError) as refusal:
        latency_of(tmp_path, space, Setting(), samples=90, by=cost)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "delete it to measure anew" in str(refusal.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose latency table the made-up machine made."""
    folder = tmp_path_factory.mktemp("latency") / "run"
    assert nshot_("train", "spos", "--preset", "smoke", "--epochs", "1", "--out", folder, "--device", "cpu")[0] == 0
    latency_of(folder, nshot.space("nasbench201", **SMALL["nasbench201"]), by=cost, say=lambda line: None)
    return folder


def test_from_the_command_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nshot.search.pick, "latency_of", partial(latency_of, by=lambda *_: 42.0))
    flags = ["--method", "nsga2", "--objectives", "accuracy,latency", "--population", "12", "--generations", "3"]
    status, out, err = nshot_("search", run, *flags, "--max-latency", "1.1ms", "--images", "100", "--device", "cpu")
    assert (status, err) == (0, "")
    found = read_json(run / "search.json")
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    assert found["limits"]["max_latency_ms"] == 1.1
    assert found["objectives"] == ["accuracy", "latency"]
    for row in [*found["top"], *found["front"]]:
        assert row["latency_ms"] == pytest.approx(cost(space, tuple(row["subnet"])), rel=1e-6)
        assert row["latency_ms"] <= 1.1
    assert all(row["measured_ms"] == 42 for row in [found["best"], *found["front"]])
    assert "(42)" in out
    scored = pq.read_table(run / "search.parquet").to_pylist()
    assert len(scored) == found["candidates"]
    assert {row["arch"] for row in [*found["top"], *found["front"]]} <= {row["arch"] for row in scored}
    assert (run / "search.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = nshot_("latency", run)
    assert status == 0
    assert "90 subnets" in out
    assert "1 thread, batch of 1" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["search", "--max-latency", "3"], "time '3': write a number above 0 with its unit"),
        (["search", "--max-latency", "0.1ms", "--name", "quick"], "no subnet keeps to max latency 0.1 ms"),
        (["search", "--method", "nsga2", "--objectives", "accuracy,beauty"], "objectives accuracy, beauty: name two"),
        (["search", "--method", "nsga2", "--objectives", "latency"], "objectives latency: name two or more of"),
        (["latency", "--threads", "2"], "setting.threads: 1, not 2"),
        (["latency", "--batch", "0"], "batch 0: must be at least 1"),
        (["latency", "--samples", "100"], "samples: 90, not 100"),
    ],
)
def test_what_cannot_be_is_refused(run: Path, args: list[str], message: str) -> None:
    before = sorted(path.name for path in run.iterdir())
    assert message in refuse(args[0], run, *args[1:])
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_search_keeps_to_a_latency_of_ones_own(run: Path) -> None:
    """Of another machine, say: this one is not measured, and the costs are those that were told."""
    space = nshot.space("nasbench201", **SMALL["nasbench201"])

    def own(subnet: Subnet) -> float:
        return 3.0 + sum(subnet)

    limits = Limits(max_latency=12.0, latency=own)
    before = (run / "latency.json").read_bytes()
    found = nshot.search.pick.search_run(
        run, limits, nshot.search.pick.How(sample=30), images=100, name="own", device="cpu", say=lambda line: None
    )
    assert all(row["latency_ms"] == own(tuple(row["subnet"])) <= 12 for row in found["top"])
    assert "latency" not in found
    assert "measured_ms" not in found["best"]
    assert (run / "latency.json").read_bytes() == before
    assert space.check(found["best"]["subnet"])
    scored = pq.read_table(run / "own.parquet").to_pydict()
    for other in (limits, Limits(max_latency=12.0, latency=lambda subnet: 1.0)):
        with pytest.raises(UserError, match=r"another search \(a latency of one's own, which cannot be compared\)"):
            nshot.search.pick.search_run(run, other, nshot.search.pick.How(sample=30), images=100, name="own")
    assert plot_search(run / "own.png", found, scored).read_bytes().startswith(b"\x89PNG")
