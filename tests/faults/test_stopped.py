"""SIGKILL, SIGTERM and SIGUSR1 at random moments of commands, which then end as if nothing had been."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

import nshot
from commands import Started, Task, left, run, start, tasks, training
from counts import Outcomes, count

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

STATUS = {"SIGKILL": -9, "SIGTERM": 143, "SIGUSR1": 75}
LOADED = 0.5  # seconds in which a process has loaded nshot, which then answers signals
IN_A_ROW = 4  # at most, to one run
FEW = ("train pada", "retrain", "search")  # without NSHOT_FAULTS


def struck(started: Started, name: str, delay: float) -> str:
    """When the signal came; where nshot was at work, it ended as it should."""
    started.process.join(delay)
    if started.process.exitcode is None:
        os.kill(started.process.pid, getattr(signal, name))
    status = started.wait(120)
    if status == -getattr(signal, name) and delay < LOADED and not started.output:
        return "before nshot was loaded"
    assert status in (0, STATUS[name]), (status, started.output)
    assert "Traceback" not in started.output
    return "at work" if status else "after the end"


@pytest.mark.timeout(36_000)
def test_signals_at_random_moments(tmp_path: Path) -> None:
    wanted, rng, outcomes = count(3, 300), random.Random(0), Outcomes("signals")
    known: dict[str, Task] = tasks(tmp_path) | {t.name: t for t in map(training, nshot.list_strategies())}
    names = [*2 * sorted(known.keys() - {"study"}), "study"] if wanted > len(FEW) else FEW  # a study takes long
    whole: dict[str, tuple[dict[str, str], float]] = {}
    made = trial = 0
    while made < wanted:
        task, trial = known[names[trial % len(names)]], trial + 1
        if task.name not in whole:
            began = time.monotonic()
            run(task.prepare(tmp_path / f"whole {task.name}"), tmp_path / "said")
            whole[task.name] = left(tmp_path / f"whole {task.name}"), time.monotonic() - began
        expected, seconds = whole[task.name]
        folder = tmp_path / f"trial-{trial}"
        words = task.prepare(folder)
        for _ in range(min(rng.randint(1, IN_A_ROW), wanted - made) if wanted > len(FEW) else 1):
            name = rng.choice(sorted(STATUS))
            when = struck(start(words, tmp_path / "said"), name, rng.uniform(0, seconds))
            if when == "after the end":
                outcomes.add("ended before the signal")
                break
            if when == "at work":
                made += 1
            outcomes.add(name if when == "at work" else when, f"{task.name}: struck")
        run(words, tmp_path / "said")
        now = left(folder)
        different = sorted(key for key in expected.keys() | now.keys() if expected.get(key) != now.get(key))
        assert not different, (task.name, folder, different)
        outcomes.add("runs resumed bit-identically", faults=made)
