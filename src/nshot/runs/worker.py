"""What a worker of a Ray cluster does: one job after the other. It imports torch only when it is told of one thread."""

import errno
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nshot import plugins
from nshot.errors import UserError

from . import lock
from .board import reporting
from .executor import told
from .stopping import Stopped, install

DONE, STOPPED, FAILED = "done", "stopped", "failed"
LOOK = 1.0  # seconds between two looks at whether to stop
PATIENCE = 90.0  # seconds in which a worker whose job this was, and whose driver died, has ended


@dataclass(frozen=True)
class Order:
    """What all jobs of a crew have in common."""

    function: Callable[..., Any]
    given: Sequence[Any]


_kept: dict[str, Order] = {}  # the order that this worker last worked on, by its key


def work(
    orders: Sequence[Any],
    key: str,
    settings: Mapping[str, str],
    folder: str,
    token: str,
    go_on: str,
    slot: str,
    job: str,
    task: bytes,
) -> tuple[str, Any]:
    """Does a job: what it gave, the signal that stopped it, or why it failed.

    Args:
        orders: the order as an object of Ray's, in a list, so that Ray does not bring it where it is there already.
        key: of the order.
        settings: environment variables of the caller, and of one thread.
        folder: where the caller works: paths are relative to it.
        token: a file that the caller wrote to where results go.
        go_on: a file that goes when all jobs shall stop.
        slot: the file that says how far the job is (`nshot.runs.board`).
        job: its name.
        task: what it is, pickled: its classes may be a plug-in's, which is imported before.
    """
    install()
    try:
        order = _order(orders, key, settings, folder, token)
        with _while_there(go_on), reporting(slot):
            return DONE, order.function(*order.given, *pickle.loads(task))
    except Stopped as stopped:
        if stopped.number != signal.SIGINT:  # no cancelling: the machine is taken back, and others go on
            sys.exit(stopped.status)
        return STOPPED, stopped.number
    except Exception as error:
        return FAILED, told(error, job)


@contextmanager
def _while_there(go_on: str) -> Iterator[None]:
    """While it lasts this process is stopped, as by Ctrl-C, when the file has gone."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK):
            if _gone(go_on):
                os.kill(os.getpid(), signal.SIGINT)
                return

    if _gone(go_on):
        raise Stopped(signal.SIGINT)
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


def _gone(path: str) -> bool:
    """Asked by opening it, which no network file system answers from what it remembers."""
    try:
        open(path, "rb").close()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ESTALE)
    return False


def _order(orders: Sequence[Any], key: str, settings: Mapping[str, str], folder: str, token: str) -> Order:
    if key not in _kept:
        os.environ.update(settings)
        if (lacking := unseen(folder, token)) is not None:
            raise UserError(f"node {socket.gethostname()} does not see {lacking}")
        os.chdir(folder)
        import ray
        import torch

        torch.set_num_threads(1)
        lock.PATIENCE = PATIENCE
        plugins.load()
        _kept.clear()
        _kept[key] = ray.get(orders[0])
    return _kept[key]


def unseen(folder: str, token: str) -> str | None:
    """The first of the caller's folders that this machine does not see."""
    if not Path(token).exists():
        return str(Path(token).parent)
    return None if Path(folder).is_dir() else folder
