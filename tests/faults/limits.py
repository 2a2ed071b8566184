"""What the scripts of faults share: how much they do, and how long a command may take."""

import os
import signal
from collections.abc import Callable
from typing import Any

FULL = os.environ.get("NSHOT_FAULTS") == "full"
LONGEST = 120  # seconds that a command may take; on an idle machine all take less than five
SMOKE = ("--preset", "smoke", "--epochs", "2", "--log-every", "1", "--checkpoint-every", "3")
CPU = ("--device", "cpu")


class Hang(BaseException):
    """No Exception, so that nothing which mends errors keeps it."""


def within(read: Callable[[], Any], seconds: int = LONGEST) -> Any:
    """What it gives. Raises Hang where it takes longer."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        return read()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
