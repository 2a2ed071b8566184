"""The simulation of many cores (benchmarks/simulation.py) where its answer can be worked out by hand."""

import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nshot.studies.base import scale, studies
from nshot.supernets.config import to_dict

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import clusters
from simulation import Measured, Outcome, Work, simulate

IDEAL = Measured(start=0.0, dispatch=0.0, write=0.0, spread=0.0)


def run(seconds: list[float], machine: Measured, cores: int, writes: int = 1, megabytes: float = 1.0) -> Outcome:
    work = Work("work", np.array(seconds, dtype=float), writes, megabytes)
    return simulate(work, machine, cores, np.random.default_rng(0))


def test_one_core_does_one_job_after_the_other() -> None:
    out = run([10, 20, 30], Measured(start=5, dispatch=0.5, write=0.25, spread=0), 1, writes=4, megabytes=2)
    assert out.hours * 3600 == pytest.approx(60 + 5 + 3 * 0.5 + 3 * 4 * 0.25 * 2)
    assert out.tail == 0


@pytest.mark.parametrize(("jobs", "cores", "rounds"), [(12, 4, 3), (13, 4, 4), (3, 8, 1), (1, 512, 1)])
def test_equal_jobs_go_in_rounds(jobs: int, cores: int, rounds: int) -> None:
    out = run([7.0] * jobs, IDEAL, cores)
    assert out.hours * 3600 == pytest.approx(7 * rounds)
    assert out.efficiency == pytest.approx(jobs / (cores * rounds))


def test_the_longest_job_last_is_waited_for() -> None:
    """Two cores: 1, 1 and then 10 on one of them; the other has nothing to do for 10 of 11 seconds."""
    out = run([1, 1, 10], IDEAL, 2)
    assert out.hours * 3600 == pytest.approx(11)
    assert out.tail == pytest.approx(10 / 11)


def test_the_driver_is_the_limit_of_small_jobs() -> None:
    """A hundred cores and jobs of 1 s, but the driver gives out two a second."""
    out = run([1.0] * 1000, Measured(start=0, dispatch=0.5, write=0, spread=0), 100)
    assert out.hours * 3600 == pytest.approx(1000 * 0.5 + 1)
    assert out.driver == pytest.approx(500 / 501)


def test_the_folder_is_the_limit_of_large_writes() -> None:
    """Of 50 jobs that begin together each writes 3 s at its end: the last of them after 1 + 150 s."""
    out = run([1.0] * 50, Measured(start=0, dispatch=0, write=3, spread=0), 50)
    assert out.hours * 3600 == pytest.approx(151)
    assert out.folder == pytest.approx(150 / 151)


def test_times_spread_as_was_measured() -> None:
    """The mean of a log-normal variable is exp(s²/2) times its median."""
    out = run([100.0] * 20_000, Measured(start=0, dispatch=0, write=0, spread=0.3), 1)
    assert out.hours * 3600 == pytest.approx(2e6 * np.exp(0.045), rel=0.01)


def test_a_training_counts_once_however_many_results_it_has() -> None:
    """Configurations of the rows, by all that determines a training; what figure B and table I record is trained anew.

    Paths by hand: 390 batches an epoch, one path for SPOS in 250 epochs, five for FairNAS in 200, five parts in 300 for
    FSNAS, four of table I.
    """
    distinct, recorded = set(), set()
    for study in map(studies.__getitem__, studies.names()):
        for row, seed in itertools.product(study.rows, range(3)):
            config = row.setting.at(scale("paper"), seed)
            if config.space.name == "nasbench201" and config.strategy in clusters.METHODS:
                kind = study.name if study.name in ("figure-b", "table-i") else ""
                (recorded if kind else distinct).add((kind, json.dumps(to_dict(config), sort_keys=True)))
    found = list(clusters.trainings())
    assert len(found) == len(distinct) + len(recorded) == 126
    assert len(recorded) == 3 * (3 + 1)
    by_paths = Counter((config.strategy, steps * paths) for config, steps, paths in found)
    assert set(by_paths) == {
        ("spos", 250 * 390),
        ("spos", 250 * 390 * 4),
        ("fairnas", 200 * 390 * 5),
        ("fsnas", 5 * 300 * 390),
    }
    assert by_paths["spos", 250 * 390 * 4] == 3
