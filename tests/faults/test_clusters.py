"""Jobs on a Ray cluster of three nodes on this machine: what comes of them is what comes of them here, bit for bit."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import left
from helpers import nshot_

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # before it is imported: nothing of it listens but at 127.0.0.1
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'nshot[ray]'")
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one core; this process is not connected, but RAY_ADDRESS names them."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="r") as short, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", short)
        found = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
        for _ in range(2):
            found.add_node(**SMALL)
        patch.setenv("RAY_ADDRESS", found.address)
        yield found
        found.shutdown()


def command(*words: str | Path) -> str:
    status, out, err = nshot_(*words)
    assert status == 0, err
    return out


def compared(words: list[str | Path], tmp_path: Path, *here: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a command leaves here and on the cluster."""
    command(*words, "--out", tmp_path / "here", *here)
    assert "on 3 nodes of Ray, 3 at once" in command(*words, "--out", tmp_path / "there", "--on", "ray")
    return left(tmp_path / "here"), left(tmp_path / "there")


BUILD = ["benchmark", "build", "--subnets", "40", "--seeds", "1", "--channels", "2", "--epochs", "1"]


def test_a_benchmark(cluster: Any, tmp_path: Path) -> None:
    here, there = compared([*BUILD, "--batch-size", "256"], tmp_path, "--jobs", "2")
    assert here == there
    assert "benchmark.parquet" in here
