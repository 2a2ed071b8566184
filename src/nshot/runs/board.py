"""How far jobs in other processes are: each writes it to a small file now and then, which the command's process reads.

A file, for that is what all machines that share a run folder share already.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

EVERY = 2.0  # seconds between two writes of a job, and two looks at all of them


@dataclass(frozen=True)
class State:
    """What a job is doing, the share of it that is done, from 0 to 1, and at how many images a second."""

    doing: str
    share: float
    rate: float


class Board:
    """Reads the states of jobs.

    Args:
        token: a path that begins the names of the jobs' files; they end like what a crash may leave half written.
        show: is given the states of the jobs at work, by name, now and then; None: nobody looks.
    """

    def __init__(self, token: str, show: Callable[[Mapping[str, State]], None] | None) -> None:
        self._begin, self._show = token.removesuffix(".partial"), show
        self._jobs: dict[str, str] = {}  # by their files
        self._shares: dict[str, float] = {}
        self._count = 0
        self._next = 0.0

    def slot(self, job: str) -> str:
        """A file to which the job shall write; empty where nobody looks."""
        if self._show is None:
            return ""
        self._count += 1
        slot = f"{self._begin}-{self._count}.partial"
        self._jobs[slot] = job
        return slot

    def look(self) -> None:
        """Shows the states, where it is due."""
        if self._show is None or (now := time.monotonic()) < self._next:
            return
        self._next = now + EVERY
        states = {}
        for slot, job in self._jobs.items():
            with suppress(OSError, ValueError, TypeError):  # not begun, done, or just being written
                state = State(**json.loads(Path(slot).read_text()))
                # A job that has trained goes on to rank: its share begins anew there, but less is not left to do.
                share = self._shares[slot] = max(state.share, self._shares.get(slot, 0.0))
                states[job] = State(state.doing, share, state.rate)
        self._show(states)

    def done(self, slot: str) -> None:
        """The job is at work no more."""
        if self._jobs.pop(slot, None) is not None:
            self._shares.pop(slot, None)
            with suppress(OSError):
                Path(slot).unlink(missing_ok=True)

    def close(self) -> None:
        for slot in list(self._jobs):
            self.done(slot)


_mine: list[Path] = []  # the file of the job that this process does
_next = 0.0  # when it is due


@contextmanager
def reporting(slot: str) -> Iterator[None]:
    """While it lasts, the bars of this process write how far they are to the file, if one is given."""
    _mine[:] = [Path(slot)] if slot else []
    try:
        yield
    finally:
        for path in _mine:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        _mine.clear()


def watched() -> bool:
    """Whether another process shows how far this one is."""
    return bool(_mine)


def report(state: Callable[[], State]) -> None:
    """Writes the state, where another process looks and it is due."""
    global _next
    if not _mine or (now := time.monotonic()) < _next:
        return
    _next = now + EVERY
    partial = _mine[0].with_name(f"{_mine[0].stem}w.partial")
    with suppress(OSError):  # that it cannot be shown is nothing to end a job for
        partial.write_text(json.dumps(asdict(state())))
        os.replace(partial, _mine[0])
