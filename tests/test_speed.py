"""That the speed benchmarks run; what they measure is no test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("name", ["step.py", "rank.py"])
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / name), "--quick", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    result = json.loads(out.read_text())
    measured = result["comparisons"][0]["ms"].values() if name == "step.py" else [result["nshot, s a subnet"]]
    assert all(value > 0 for value in measured)
