"""A disk that is full at a random write: what lay there before is intact, and the same command goes on when there is
room. On a small file system of its own where this process may mount one, else by writes that the system refuses."""

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import left, run, start, tasks, training
from counts import Outcomes, count
from nshot.runs.checkpoint import load_newest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fills a tmpfs")

ROOM = 24  # MiB of the file system
FEW = ("train pada", "retrain")
NAMES = ("train spos", "train pada", "train fsnas", "train pinas", "search", "rank", "retrain", "auto")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A tmpfs in the folder; False where this process may not mount one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes of the disk."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, free - leave))
    return ballast


def intact(folder: Path) -> None:
    """Checkpoints, results and configurations can be read, and nothing is half there under its name."""
    for config in folder.rglob("config.json"):
        _, _, corrupt = load_newest(config.parent)
        assert not corrupt
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


def refused(words: list, said: Path, writes: int | None) -> bool:
    """Whether the command ended for want of room, in one line; else it fitted."""
    started = start(words, said, writes)
    status = started.wait(300)
    told = [line for line in started.output.splitlines() if line.startswith("nshot: error: ")]
    assert (status, len(told)) in ((0, 0), (2, 1)), (status, started.output)
    assert "Traceback" not in started.output, started.output
    assert all("No space left on device" in line and "make room" in line for line in told), told
    return status == 2


@pytest.mark.timeout(36_000)
def test_a_disk_that_is_full_at_a_random_write(tmp_path: Path) -> None:
    wanted, rng, outcomes = count(2, 100), random.Random(2), Outcomes("full-disk")
    names = NAMES if wanted > len(FEW) else FEW
    known = tasks(tmp_path) | {f"train {m}": training(m) for m in ("spos", "pada", "fsnas", "pinas")}
    whole: dict[str, tuple[dict[str, str], int]] = {}
    made = trial = 0
    with small_disk(tmp_path / "disk") as mounted:
        outcomes.add(disk="a tmpfs" if mounted else "refused writes")
        while made < wanted:
            task, trial = known[names[trial % len(names)]], trial + 1
            folder, said = tmp_path / "disk" / f"run-{trial}", tmp_path / "said"
            if task.name not in whole:
                run(task.prepare(tmp_path / task.name), said)
                size = sum(path.stat().st_size for path in (tmp_path / task.name).rglob("*"))
                whole[task.name] = left(tmp_path / task.name), size
            expected, size = whole[task.name]
            words = task.prepare(folder)
            ballast = fill(tmp_path / "disk", rng.randrange(size)) if mounted else None
            if refused(words, said, None if mounted else rng.randrange(8)):
                made += 1
                outcomes.add(f"{task.name}: full", "one line", faults=made)
                intact(folder)
                again = None if mounted else 0
                outcomes.add("again in the full disk: one line" if refused(words, said, again) else "again: it fitted")
                intact(folder)
            else:
                outcomes.add("it fitted")
            if ballast is not None:
                ballast.unlink()
            run(words, said)
            assert left(folder) == expected, task.name
            outcomes.add("completed bit-identically")
            subprocess.run(["rm", "-r", str(folder)], check=True)
