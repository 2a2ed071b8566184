"""Which of the processes that train together is gone: each says every second that it lives, where torchrun's meet.

A process that waits for one that was killed is told so by gloo, in words about sockets, and of one whose machine is
lost by nobody. Nor does a wait tell: the first process may take minutes to read images or to write a checkpoint.
"""

import os
import socket
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from nshot.errors import UserError

BEAT = 1.0  # seconds between two
LISTEN = 8.0  # seconds in which one that lives is heard
SILENT = 25.0  # seconds after which one is gone; torchrun kills 30 after it has told processes to end


class Heartbeat:
    """Of this process, by a thread of its own; and what it hears of the others.

    Args:
        rank: of this process.
        size: of all.
    """

    def __init__(self, rank: int, size: int) -> None:
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        met = dist.TCPStore(*where, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=LISTEN))
        self._store = dist.PrefixStore(f"nshot/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", met)
        self.rank, self.others = rank, [other for other in range(size) if other != rank]
        self.size = size
        self._store.set(f"who {rank}", f"process {rank} of {size} (pid {os.getpid()} on {socket.gethostname()})")
        self.watching = threading.Event()
        threading.Thread(target=self._live, name="heartbeat", daemon=True).start()

    def _live(self) -> None:
        known, heard = dict.fromkeys(self.others, -1), dict.fromkeys(self.others, time.monotonic())
        try:
            while True:
                self._store.add(f"beats {self.rank}", 1)
                for other, beats in self._beats().items():
                    if beats != known[other]:
                        known[other], heard[other] = beats, time.monotonic()
                silent = [other for other, at in heard.items() if time.monotonic() - at > SILENT]
                if self.watching.is_set() and silent:
                    self._end(silent)
                time.sleep(BEAT)
        except (RuntimeError, OSError):  # where they met is no more: others that are gone are known by gloo alone
            return

    def _beats(self) -> dict[int, int]:
        return {other: self._store.add(f"beats {other}", 0) for other in self.others}

    def _end(self, silent: list[int]) -> None:
        """From beside a process that waits in torch, which no exception reaches."""
        if (error := self.told(silent)) is not None:
            print(f"nshot: error: {error}", file=sys.stderr, flush=True)
        os._exit(2)

    def say_ended(self) -> None:
        """That this process ends, and says itself why."""
        try:
            self._store.set(f"ended {self.rank}", "")
        except (RuntimeError, OSError):
            return

    def silent(self) -> list[int]:
        """Those of the others who do not live any more."""
        try:
            waited, before = time.monotonic(), self._beats()
            while gone := [other for other, beats in self._beats().items() if beats == before[other]]:
                if time.monotonic() - waited > LISTEN:
                    break
                time.sleep(BEAT / 4)
            return gone
        except (RuntimeError, OSError):
            return []

    def told(self, silent: list[int]) -> UserError | None:
        """The error that names those who are gone; None where somebody else says it: they themselves, or the first of
        those who live."""
        unsaid = [other for other in silent if not self._store.check([f"ended {other}"])]
        if not unsaid or any(other < self.rank and other not in silent for other in self.others):
            return None
        who = ", ".join(self._store.get(f"who {other}").decode() for other in unsaid)
        return UserError(
            f"{who} is gone, killed perhaps for want of memory: the same command goes on from the last checkpoint"
        )
