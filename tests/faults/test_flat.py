"""Memory over a long training and a long scoring: what is resident after a warm-up is what is resident at the end."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from commands import SIZES, Started, run, start
from counts import Outcomes, count

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")

STEPS, SCORED = 20_000, 2_000
EPOCH = 18  # steps of a batch of 32
WARM = 0.2  # share of the time after which memory must not grow


def watched(started: Started, at_it: Callable[[], bool] = lambda: True) -> list[float]:
    """Resident memory in MiB while a command runs and is at it, twenty times a second."""
    statm, seen = Path(f"/proc/{started.process.pid}/statm"), []
    while started.process.exitcode is None:
        try:
            resident = int(statm.read_text().split()[1]) * 4096 / 2**20
        except OSError:  # it has ended, and nobody has asked yet
            resident = 0.0
        seen += [resident] if resident and at_it() else []
        started.process.join(0.05)
    assert started.wait(60) == 0, started.output
    assert len(seen) > 10, "too short to tell"
    return seen


def growth(seen: list[float]) -> float:
    """By what share the last tenth lies above the tenth after the warm-up."""
    tenth, warm = max(1, len(seen) // 10), int(WARM * len(seen))
    return float(np.median(seen[-tenth:]) / np.median(seen[warm : warm + tenth]) - 1)


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("method", ["spos", "pada", "gdas"])
def test_training_is_flat(method: str, tmp_path: Path) -> None:
    steps = count(20 * EPOCH, STEPS)
    if steps < STEPS and method != "spos":
        pytest.skip("one method will do where NSHOT_FAULTS is not full")
    outcomes, epochs = Outcomes(f"memory-{method}"), -(-steps // EPOCH)
    flags = ["--preset", "smoke", *SIZES, "--epochs", epochs, "--checkpoint-every", "200", "--device", "cpu"]
    began = time.monotonic()
    seen = watched(start(["train", method, *flags, "--out", tmp_path / "run"], tmp_path / "said"))
    figures = {"MiB at the end": round(seen[-1]), "seconds": round(time.monotonic() - began)}
    outcomes.add("trained", steps=EPOCH * epochs, growth=growth(seen), samples=len(seen), **figures)
    assert growth(seen) < 0.05


@pytest.mark.timeout(36_000)
def test_scoring_is_flat(tmp_path: Path) -> None:
    scored = min(count(400, SCORED), SCORED)
    run_, outcomes = tmp_path / "run", Outcomes("memory-scoring")
    run(["train", "spos", "--preset", "smoke", *SIZES, "--epochs", "1", "--out", run_], tmp_path / "said")
    words = ["search", run_, "--sample", scored, "--device", "cpu"]

    def scoring() -> bool:
        """From the first hundredth on, and no longer when pictures are drawn."""
        known = [sum(1 for _ in file.open()) for file in run_.glob(".search-*.jsonl")]
        return bool(known) and scored // 100 < known[0] < scored

    seen = watched(start(words, tmp_path / "said"), scoring)
    assert json.loads((run_ / "search.json").read_text())["candidates"] == scored
    figures = {"MiB at the end": round(seen[-1]), "samples": len(seen)}
    outcomes.add("scored", subnets=scored, growth=growth(seen), **figures)
    assert growth(seen) < 0.05
