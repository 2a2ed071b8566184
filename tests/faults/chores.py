"""Jobs that workers of a cluster are given in tests: a module of its own, which they import."""

import os
import signal
import time
from pathlib import Path

from nshot.errors import UserError
from nshot.runs.progress import Progress


def square(number: int) -> int:
    return number * number


def kill_itself(folder: Path, times: int, number: int) -> int:
    """Dies at its first so many beginnings, each of which it notes."""
    if number == 1 and noted(folder) < times:
        (folder / f"{time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(folder: Path, number: int) -> int:
    """Notes that it began, and ends as a user's error does."""
    (folder / f"{time.monotonic_ns()}").touch()
    raise UserError(f"number {number}: must be another")


def run_out_of_memory(number: int) -> int:
    return len(bytes(2**62)) + number


def count_slowly(steps: int) -> int:
    with Progress("spos", steps, unit=8) as bar:
        for _ in range(steps):
            time.sleep(0.1)
            bar.advance()
    return steps


def noted(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())
