"""SLURM's script, with stand-ins for SLURM's own commands: told to stop, it asks for nodes again and goes on."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from commands import SIZES, left
from counts import count

pytest.importorskip("ray", reason="ray is not installed: pip install 'nshot[ray]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SLURM has no Windows")

SCRIPT = Path(__file__).parents[2] / "examples/clusters/slurm.sh"
TRAIN = ("train", "fsnas", "--preset", "smoke", *SIZES, "--epochs", "4", "--checkpoint-every", "9", "--device", "cpu")
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@" --node-ip-address=127.0.0.1 --object-store-memory=83886080
"""
SCONTROL = """#!/bin/bash
case $1 in show) printf '127.0.0.1\\nother\\n';; requeue) echo "$2" >>"$SHARED/requeued";; esac
"""


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that all nodes see, short because sockets lie below it; what was begun ends with the test."""
    with tempfile.TemporaryDirectory(prefix="s") as made:
        folder = Path(made)
        (folder / "bin").mkdir()
        for name, text in ("srun", SRUN), ("scontrol", SCONTROL):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (folder / "venv/bin").mkdir(parents=True)
        (folder / "venv/bin/activate").write_text(f'PATH="{folder}/bin:{Path(sys.executable).parent}:$PATH"\n')
        if data := os.environ.get("NSHOT_DATA"):
            (folder / "data").symlink_to(data)
        slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "1"}
        for key, value in {**slurm, "SLURM_NNODES": "2", "SHARED": made, "RAY_TMPDIR": made}.items():
            monkeypatch.setenv(key, value)
        try:
            yield folder
        finally:
            end(folder)


def end(folder: Path) -> None:
    """As SLURM ends what is left of a job."""
    ours = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("SHARED") == str(folder):
                ours.append(process)
        except psutil.Error:  # another user's, or it has ended
            continue
    for process in ours:
        process.terminate()
    for process in psutil.wait_procs(ours, timeout=20)[1]:
        process.kill()


def job(folder: Path, words: list[str | Path]) -> subprocess.Popen[str]:
    out = (folder / "said").open("w")
    return subprocess.Popen(["bash", SCRIPT, *map(str, words)], stdout=out, stderr=out, text=True)


@pytest.mark.skipif(not count(0, 1), reason="in full alone: NSHOT_FAULTS=full")
def test_a_job_that_slurm_takes_back_goes_on(shared: Path, tmp_path: Path) -> None:
    nshot = [Path(sys.executable).parent / "nshot"]
    subprocess.run([*nshot, *TRAIN, "--out", tmp_path / "here"], check=True, capture_output=True)
    words = ["nshot", *TRAIN, "--out", shared / "run"]
    first = job(shared, words)
    while first.poll() is None and not list(shared.glob("run/**/step-*.pt")):
        time.sleep(0.1)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(120) == 75, (shared / "said").read_text()
    assert (shared / "requeued").read_text().split() == [str(os.getpid())]
    end(shared)
    assert job(shared, words).wait(240) == 0, (shared / "said").read_text()
    assert left(shared / "run") == left(tmp_path / "here")
    assert (shared / "ray-token").stat().st_mode & 0o777 == 0o600


def test_without_a_shared_folder_slurm_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARED", raising=False)
    done = subprocess.run([shutil.which("bash") or "bash", SCRIPT], capture_output=True, text=True)
    assert done.returncode != 0
    assert "SHARED: the folder that all nodes see" in done.stderr
