"""A progress bar with loss, images a second and time left; where the output is no terminal, a line now and then."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from .board import State, report, watched

EVERY = 30.0  # seconds between lines, where there is no bar
ROWS = 16  # most jobs in other processes that are shown, a line each


class Progress:
    """Counts work of ``total`` pieces, ``unit`` images each; use as a context manager.

    ``rate`` is in images a second since this process began; ``seconds`` are those of this process after ``before``,
    which it is told of the processes that it continues. Lines go to standard error, so that what is printed to a file
    stays what was found.
    """

    def __init__(
        self, title: str, total: int, start: int = 0, unit: int = 1, noun: str = "images", before: float = 0.0
    ) -> None:
        self.noun = noun
        self._before = before
        self.unit = unit
        self.done = 0
        self._title, self._total, self._start = title, total, start
        self._note = ""
        self._jobs: Mapping[str, State] = {}
        self._rows: dict[str, TaskID] = {}
        self._began = self._told = time.monotonic()
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, note="")

    @property
    def rate(self) -> float:
        return self.done * self.unit / max(time.monotonic() - self._began, 1e-9)

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def advance(self, pieces: int = 1) -> None:
        self.done += pieces
        self._bar.update(self._task, completed=self._reached)
        report(lambda: State(self._title, self._reached / max(self._total, 1), self._images))
        self._tell_if_due()

    def show(self, **values: float) -> None:
        """Writes these values and the rate beside the bar."""
        self._note = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        self._bar.update(self._task, note=f"{self._note}  {self.rate:,.0f} {self.noun}/s")

    def beside(self, jobs: Mapping[str, State]) -> None:
        """Shows how far the pieces are that other processes work on, each a job by its name: a line each."""
        self._jobs = jobs
        self._bar.update(self._task, completed=self._reached, note=self._together())
        for job in self._rows.keys() - jobs.keys():
            self._bar.remove_task(self._rows.pop(job))
        for job in list(jobs)[:ROWS]:
            row = self._rows.get(job)
            if row is None:
                row = self._rows[job] = self._bar.add_task("", total=1.0, note="")
            note = f"{jobs[job].rate:,.0f} images/s" if jobs[job].rate else ""
            self._bar.update(row, description=f"  {job}: {jobs[job].doing}", completed=jobs[job].share, note=note)
        self._tell_if_due()

    @property
    def _reached(self) -> float:
        """Pieces that are done, with the shares of those at work."""
        return self._start + self.done + sum(job.share for job in self._jobs.values())

    @property
    def _images(self) -> float:
        """Images a second, of this process and the jobs beside it."""
        return (self.rate if self.noun == "images" else 0.0) + sum(job.rate for job in self._jobs.values())

    def _together(self) -> str:
        return f"{len(self._jobs)} at work, {self._images:,.0f} images/s" if self._jobs else ""

    def _tell_if_due(self) -> None:
        if time.monotonic() - self._told > EVERY and not self._bar.console.is_terminal and not watched():
            self._tell()

    def _tell(self) -> None:
        """A line of how far it is, and how long the rest will take at this rate; then one a job beside it."""
        self._told = time.monotonic()
        gained = self._reached - self._start
        parts = [f"{self._title}: {self._start + self.done:,} of {self._total:,}", self._note]
        parts.append(self._together() or f"{self.rate:,.0f} {self.noun}/s")
        if gained:
            left = (self._total - self._reached) * (self._told - self._began) / gained
            parts.append(f"{left / 60:.1f} min left")
        lines = [", ".join(filter(None, parts))]
        for job, state in list(self._jobs.items())[:ROWS]:
            rate = f", {state.rate:,.0f} images/s" if state.rate else ""
            lines.append(f"  {job}: {state.doing}, {state.share:.0%}{rate}")
        print("\n".join(lines), file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        if self._bar.console.is_terminal and not watched():
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar.console.is_terminal:
            self._bar.stop()
