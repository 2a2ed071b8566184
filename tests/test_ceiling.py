"""The ceiling of rankings: by brute force, and the figures of the official table."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

import nshot
from nshot.benchmarks.ceiling import ceiling
from nshot.benchmarks.table import Benchmark, read_benchmark
from nshot.spaces.lists import subnets_from_file

SPACE = nshot.space("nasbench201")


def benchmark(subnets: list[tuple[int, ...]], true: np.ndarray) -> Benchmark:
    return Benchmark("mine", subnets, {"cifar10_test": true}, {})


def test_each_subnet_counts_against_the_mean_of_the_others_of_its_class() -> None:
    rng = np.random.default_rng(0)
    every = [SPACE.sample(rng) for _ in range(3000)]
    subnets = sorted(set(every))
    true = rng.normal(90, 2, len(subnets))
    own, mean = [], []
    for i, subnet in list(enumerate(subnets))[::7]:
        same = [true[j] for j, other in enumerate(subnets) if j != i and SPACE.twin(other) == SPACE.twin(subnet)]
        if same:
            own.append(true[i])
            mean.append(sum(same) / len(same))
    found = ceiling(SPACE, benchmark(subnets, true), "cifar10_test", subnets[::7])
    assert found is not None
    assert found.subnets == len(own) < len(subnets[::7])
    assert found.tau == pytest.approx(kendalltau(own, mean).statistic)
    assert abs(found.tau) < 0.2  # accuracies that are noise alone can be ranked by nothing


def test_without_noise_the_ceiling_is_one() -> None:
    rng = np.random.default_rng(1)
    subnets = sorted({SPACE.sample(rng) for _ in range(3000)})
    true = np.array([float(np.dot(SPACE.twin(subnet), [1, 7, 49, 343, 2401, 16807])) for subnet in subnets])
    found = ceiling(SPACE, benchmark(subnets, true), "cifar10_test", subnets)
    assert found is not None
    assert found.tau == pytest.approx(1.0)


def test_where_networks_have_no_twins_there_is_none() -> None:
    every = sorted({SPACE.sample(np.random.default_rng(i)) for i in range(400)})
    alone = list({SPACE.twin(subnet): subnet for subnet in every}.values())
    assert ceiling(SPACE, benchmark(alone, np.arange(len(alone), dtype=float)), "cifar10_test", alone) is None
    darts = nshot.space("darts", channels=4, cells=3, resolution=8)
    some = [darts.sample(np.random.default_rng(i)) for i in range(30)]
    assert ceiling(darts, benchmark(some, np.arange(30.0)), "cifar10_test", some) is None


def test_equal_accuracies_have_none() -> None:
    subnets = sorted({SPACE.sample(np.random.default_rng(i)) for i in range(2000)})
    assert ceiling(SPACE, benchmark(subnets, np.full(len(subnets), 90.0)), "cifar10_test", subnets) is None


@pytest.mark.parametrize(
    ("listed", "tau", "count"), [(None, 0.94, 11_782), ("released:nasbench201/rank-list.json", 0.95, 278)]
)
def test_of_the_official_table(listed: str | None, tau: float, count: int) -> None:
    """CIFAR-10 test: no ranking of it can come to 1."""
    root = Path(os.environ.get("NSHOT_DATA") or "data")
    if not (root / "nasbench201" / "table.parquet").exists():
        pytest.skip(f"no nasbench201/table.parquet under {root}: set NSHOT_DATA")
    table = read_benchmark("nasbench201", SPACE, root)
    subnets = table.subnets if listed is None else subnets_from_file(Path(listed), SPACE, root)
    found = ceiling(SPACE, table, "cifar10_test", subnets)
    assert found is not None
    assert (round(found.tau, 2), found.subnets) == (tau, count)
