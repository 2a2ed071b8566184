"""Jobs on a Ray cluster of three nodes on this machine: what comes of them is what comes of them here, bit for bit."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from commands import left
from helpers import nshot_
from nodes import three_nodes

pytest.importorskip("ray", reason="ray is not installed: pip install 'nshot[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with three_nodes() as found:
        yield found


def command(*words: str | Path) -> str:
    status, out, err = nshot_(*words)
    assert status == 0, err
    return out


def compared(words: list[str | Path], tmp_path: Path, *here: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a command leaves here and on the cluster."""
    command(*words, "--out", tmp_path / "here", *here)
    assert ": 3 nodes, 3 cores; dashboard: none" in command(*words, "--out", tmp_path / "there", "--on", "ray")
    return left(tmp_path / "here"), left(tmp_path / "there")


BUILD = ["benchmark", "build", "--subnets", "40", "--seeds", "1", "--channels", "2", "--epochs", "1"]


def test_a_benchmark(cluster: Any, tmp_path: Path) -> None:
    here, there = compared([*BUILD, "--batch-size", "256"], tmp_path, "--jobs", "2")
    assert here == there
    assert "benchmark.parquet" in here


def test_parts(cluster: Any, tmp_path: Path) -> None:
    words = ["train", "fsnas", "--preset", "smoke", "--epochs", "1", "--channels", "4", "--device", "cpu"]
    here, there = compared(words, tmp_path, "--jobs", "1")
    assert here == there
    assert len([name for name in here if name.endswith("supernet.safetensors")]) == 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet, to be copied."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    command("train", "spos", "--preset", "smoke", "--epochs", "1", "--device", "cpu", "--out", folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["rank", "--benchmark", "digits", "--sample", "200"],
        ["search", "--sample", "100"],
        ["search", "--method", "evolution", "--population", "10", "--generations", "3"],
    ],
)
def test_scores_of_subnets(words: list[str], cluster: Any, run: Path, tmp_path: Path) -> None:
    for name in ("here", "there"):
        shutil.copytree(run, tmp_path / name)
    command(words[0], tmp_path / "here", *words[1:], "--device", "cpu")
    command(words[0], tmp_path / "there", *words[1:], "--device", "cpu", "--on", "ray")
    here, there = left(tmp_path / "here"), left(tmp_path / "there")
    assert here == there
    assert {"ranking.parquet"} & here.keys() or {"search.parquet"} & here.keys()


def test_scores_that_need_no_training(cluster: Any, tmp_path: Path) -> None:
    words = ["score", "synflow", "params", "--benchmark", "digits", "--dataset", "digits", "--sample", "40"]
    for name, more in (("here", []), ("there", ["--on", "ray"])):
        command(*words, "--channels", "4", "--cells", "1", "--resolution", "8", "--out", tmp_path / name, *more)
    here, there = (pq.read_table(tmp_path / name / "scores.parquet").to_pydict() for name in ("here", "there"))
    assert here == there


def test_retraining_of_several(cluster: Any, tmp_path: Path) -> None:
    parts = tmp_path / "run"
    command(
        "train", "fsnas", "--preset", "smoke", "--epochs", "1", "--channels", "2", "--device", "cpu", "--out", parts
    )
    command("search", parts, "--sample", "20", "--device", "cpu")
    words = ["retrain", parts / "search.json", "--epochs", "1", "--device", "cpu"]
    here, there = compared(words, tmp_path)
    assert here == there
    assert "part-1/network.safetensors" in here
