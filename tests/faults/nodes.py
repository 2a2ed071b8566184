"""A Ray cluster of three nodes on this machine, and what can befall it."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # before it is imported: nothing of it listens but at 127.0.0.1
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
OURS = ("ray::IDLE", "ray::look", "ray::DashboardAgent", "ray::RuntimeEnvAgent")  # no jobs: Ray's own, and ours
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@contextmanager
def three_nodes() -> Iterator[Any]:
    """Of one core each; this process is not connected, but RAY_ADDRESS names them."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="r") as short, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", short)
        found = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
        for _ in range(2):
            found.add_node(**SMALL)
        patch.setenv("RAY_ADDRESS", found.address)
        yield found
        found.shutdown()


def begin(words: list[str | Path]) -> subprocess.Popen[str]:
    """A command on the cluster, as a process of its own."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "-m", "nshot.cli", *map(str, words), "--on", "ray"]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def at_work() -> list[psutil.Process]:
    """The workers that do a job now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = process.cmdline()[0]
        except (psutil.Error, IndexError):  # it has ended
            continue
        if title.startswith("ray::") and not title.startswith(OURS):
            found.append(process)
    return found


def wait_for_work(driver: subprocess.Popen[str]) -> None:
    """Until a worker does a job, or the driver ends."""
    while driver.poll() is None and not at_work():
        time.sleep(0.05)


def kill_worker(cluster: Any, driver: subprocess.Popen[str], rng: random.Random) -> bool:
    """Whether there was one at work, which is dead now."""
    if not (workers := at_work()):
        return False
    rng.choice(workers).kill()
    return True


def remove_node(cluster: Any, driver: subprocess.Popen[str], rng: random.Random) -> bool:
    """A node vanishes with its worker, and another one comes."""
    cluster.remove_node(rng.choice([node for node in cluster.list_all_nodes() if node is not cluster.head_node]), False)
    cluster.add_node(**SMALL)
    return True


def kill_driver(cluster: Any, driver: subprocess.Popen[str], rng: random.Random) -> bool:
    driver.kill()
    return True


def ask_driver(cluster: Any, driver: subprocess.Popen[str], rng: random.Random) -> bool:
    """To stop, as SLURM does before it takes nodes back."""
    driver.send_signal(signal.SIGUSR1)
    return True


FAULTS = {"worker": kill_worker, "node": remove_node, "driver": kill_driver, "asked": ask_driver}
STATUS = {"worker": 0, "node": 0, "driver": -signal.SIGKILL, "asked": 75}
