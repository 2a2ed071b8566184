"""A worker, a node or the driver of a job on Ray dies at a random moment, or is asked to stop: what comes of it is what
would have come."""

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import SIZES, left
from counts import Outcomes, count
from nodes import FAULTS, STATUS, begin, three_nodes, wait_for_work

pytest.importorskip("ray", reason="ray is not installed: pip install 'nshot[ray]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ray has no clusters there")

FEW = ("driver", "asked")  # without NSHOT_FAULTS: jobs whose workers die test_remote.py has
TINY = ("--preset", "smoke", *SIZES, "--epochs", "2", "--checkpoint-every", "9", "--device", "cpu")
JOBS: dict[str, tuple[Any, int, int]] = {  # the words for a folder; how many faults of each kind, few and in full
    "parts": (lambda f: ["train", "fsnas", *TINY, "--out", f], 1, 1),
    "study": (
        lambda f: ["study", "table-k", "--preset", "smoke", "--seeds", "1", "--runs", f, "--out", f / "s"],
        0,
        10,
    ),
    "benchmark": (
        lambda f: ["benchmark", "build", "--subnets", "40", "--seeds", "1", *SIZES[:2], "--epochs", "1", "--out", f],
        0,
        1,
    ),
    "ranking": (lambda f: ["rank", f, "--benchmark", "digits", "--sample", "200", "--device", "cpu"], 0, 1),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with three_nodes() as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of each job what it leaves, and the seconds in which workers were at it."""
    known: dict[str, tuple[dict[str, str], float]] = {}

    def of(job: str) -> tuple[dict[str, str], float]:
        if job not in known:
            folder = tmp_path_factory.mktemp(job) / "run"
            driver = begin(prepared(job, folder))
            wait_for_work(driver)
            began = time.monotonic()
            out, _ = driver.communicate(timeout=3600)
            assert driver.returncode == 0, out
            known[job] = left(folder), time.monotonic() - began
        return known[job]

    return of


def prepared(job: str, folder: Path) -> list[str | Path]:
    """The words of a job, and before them what it works on."""
    if job == "ranking":
        driver = begin(["train", "fsnas", *TINY, "--out", folder])
        out, _ = driver.communicate(timeout=3600)
        assert driver.returncode == 0, out
    return JOBS[job][0](folder)


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("job", JOBS)
def test_a_death(job: str, fault: str, cluster: Any, undisturbed: Any, tmp_path: Path) -> None:
    wanted = count(*JOBS[job][1:])
    if not wanted or (not os.environ.get("NSHOT_FAULTS") and fault not in FEW):
        pytest.skip("in full alone: NSHOT_FAULTS=full")
    rng, outcomes = random.Random(f"{job} {fault}"), Outcomes(f"cluster-{job}-{fault}")
    expected, seconds = undisturbed(job)
    made = tried = 0
    while made < wanted:
        folder, tried = tmp_path / f"run-{tried}", tried + 1
        words = prepared(job, folder)
        driver = begin(words)
        wait_for_work(driver)
        time.sleep(rng.uniform(0, 0.8 * seconds))
        if driver.poll() is not None or not FAULTS[fault](cluster, driver, rng):
            driver.communicate()
            outcomes.add("ended before the fault")
            continue
        out, _ = driver.communicate(timeout=3600)
        if fault == "asked" and driver.returncode != STATUS[fault] and left(folder) == expected:
            outcomes.add("ended before the fault")  # all was done, and Python was about to end
            continue
        assert driver.returncode == STATUS[fault], out
        if driver.returncode:
            driver = begin(words)
            out, _ = driver.communicate(timeout=3600)
        assert driver.returncode == 0, out
        assert left(folder) == expected
        told = "taken up again" in out
        outcomes.add(f"{fault}: as undisturbed" + (", and said" if told else ""))
        made += 1
