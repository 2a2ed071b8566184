"""Pre-emption: a system that takes the machine back says so by a signal, and a process stops where nothing is lost.

SIGTERM and SIGUSR1, which SLURM sends before it takes a machine back, and SIGINT (Ctrl-C) stop a training at the end of
its step, with a checkpoint. Whatever else a process does it stops at once: what it had finished is on disk. A second
Ctrl-C stops at once in any case.
"""

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75}  # exit statuses; 75: try again, as sysexits.h has it
AGAIN = 0.05  # seconds
SIGNALS = tuple(getattr(signal, name) for name in STATUS if hasattr(signal, name))  # not every system has all


class Stopped(BaseException):
    """The process was asked to stop. No `Exception`, so that nothing which mends errors keeps it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)  # as another process makes it again
        self.number = number

    @property
    def status(self) -> int:
        return STATUS[self.name]

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


_asked: list[int] = []  # the signals that came
_waiting: list[None] = []  # as many as there are `between_steps` around
_raised: list[int] = []  # the signals that were raised as `Stopped`


def _answer(number: int, frame: FrameType | None) -> None:
    again = number == signal.SIGINT in _asked
    _asked.append(number)
    if again or not _waiting:
        _raised.append(number)
        raise Stopped(number)


def stop_if_asked() -> None:
    """Raises Stopped where a signal came."""
    if _asked:
        raise Stopped(_asked[0])


def install() -> dict[int, object]:
    """Has this process answer the signals as above; returns what it did before. Elsewhere than in the main thread,
    where Python takes no signals, it changes nothing."""
    _asked.clear()
    _raised.clear()
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, _answer) for number in SIGNALS}


@contextmanager
def answered() -> Iterator[None]:
    """While it lasts the signals are answered.

    Raises:
        Stopped: where a signal came, also if what was being done made another error of it, or none: some modules that
            are stopped while they are imported say that they are not installed.
    """
    before, hook = install(), sys.unraisablehook

    def unraisable(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, Stopped):  # it came in a destructor, which nothing is raised from: again soon
            threading.Timer(AGAIN, _thread.interrupt_main, (lost.exc_value.number,)).start()
        else:
            hook(lost)

    sys.unraisablehook = unraisable
    try:
        yield
        _raise_again()
    except Exception:
        _raise_again()
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _raise_again() -> None:
    if _raised:
        raise Stopped(_raised[0]) from None


@contextmanager
def between_steps() -> Iterator[Callable[[], int | None]]:
    """While it lasts signals wait: whoever asks is told which came first, saves, and raises `Stopped`."""
    _waiting.append(None)
    try:
        yield lambda: _asked[0] if _asked else None
    finally:
        _waiting.pop()
