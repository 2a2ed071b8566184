"""A progress bar with loss, images a second and time left; where the output is no terminal, a line now and then."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

EVERY = 30.0  # seconds between lines, where there is no bar


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
        self._bar.advance(self._task, pieces)
        if time.monotonic() - self._told > EVERY and not self._bar.console.is_terminal:
            self._tell()

    def show(self, **values: float) -> None:
        """Writes these values and the rate beside the bar."""
        self._note = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        self._bar.update(self._task, note=f"{self._note}  {self.rate:,.0f} {self.noun}/s")

    def _tell(self) -> None:
        """A line of how far it is, and how long the rest will take at this rate."""
        self._told = time.monotonic()
        reached = self._start + self.done
        left = (self._total - reached) * (self._told - self._began) / self.done
        parts = [f"{self._title}: {reached:,} of {self._total:,}", self._note, f"{self.rate:,.0f} {self.noun}/s"]
        print(", ".join([*filter(None, parts), f"{left / 60:.1f} min left"]), file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        if self._bar.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar.console.is_terminal:
            self._bar.stop()
