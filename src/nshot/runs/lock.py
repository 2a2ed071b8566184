"""Who writes a run folder: by leases that are renewed while their process lives, on file systems of several machines
too.

| a command | excludes |
| --- | --- |
| training, retraining, building a benchmark | all that writes to the folder |
| a ranking or a search | trainings, and what is written by the same name |
| a measurement of latency | trainings, and other measurements |
| report, draw, export, predict, compare | nobody |

A dead process's lease is taken over at once on its own machine, elsewhere when it was not renewed for as long as the
lease says. A process that finds its own taken over, as one that slept may, stops.
"""

import _thread
import errno
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import SoftFileLease, Timeout

from nshot.data.manifest import MANIFEST
from nshot.errors import UserError, unwritable
from nshot.files import check_inside, make_folder, shown
from nshot.training.distributed import alone

TRAINING = ".lease"
LEASE = 60.0  # seconds; renewed thrice in them
PATIENCE = 0.0  # seconds for which a process of this machine that writes is waited for
STALE = 3600  # seconds after which what a killed process left half written goes


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder where needed and holds it for this process: nobody else writes there.

    Raises:
        UserError: where another process writes to it, its lease is a link, or it holds files but no run; then nothing
            is written.
    """
    if folder.is_dir() and not (folder / "config.json").exists() and any(not _ours(p) for p in folder.iterdir()):
        raise UserError(f"{folder} is not empty and no run folder: choose a new --out")
    make_folder(folder)
    with _leased(folder / TRAINING, "use another --out"):
        for path in folder.glob(".*.lease"):
            _check_free(path, "start again when that has ended")
        _sweep(folder)
        yield


@contextmanager
def held(folder: Path, what: str, name: str) -> Iterator[None]:
    """Holds a name in a run folder for ``what`` this process does, such as ``a search``.

    Raises:
        UserError: where another process holds the name or trains there, its lease is a link, the folder cannot be
            written, or torchrun started several processes.
    """
    alone(what)
    with _leased(folder / f".{name}.lease", "start again when that has ended"):
        _check_free(folder / TRAINING, "start again when that has ended")
        _sweep(folder)
        yield


@contextmanager
def _leased(path: Path, instead: str) -> Iterator[None]:
    check_inside(path.parent, path.name)
    lease = SoftFileLease(path, lease_duration=LEASE, on_compromise=lambda lost: _give_way(path))
    _acquire(lease, path, instead)
    try:
        yield
    finally:
        with suppress(OSError):
            lease.release()


def _acquire(lease: SoftFileLease, path: Path, instead: str) -> None:
    """Raises UserError where a living process has it; another machine's process has as long as its lease to show so."""
    try:
        try:
            lease.acquire(timeout=PATIENCE)
        except Timeout:
            owner = lease.owner
            if owner is None or owner.hostname == _this_machine():
                raise
            who = f"process {owner.pid} on {shown(owner.hostname)}"
            print(f"nshot: waiting to see whether {who} still writes {path.parent}", file=sys.stderr)
            lease.acquire(timeout=1.5 * LEASE)
    except Timeout:
        owner = lease.owner
        who = f" (process {owner.pid} on {shown(owner.hostname)})" if owner else ""
        raise UserError(f"run folder {path.parent} is being written by another process{who}: {instead}") from None
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise unwritable(path, error) from None
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"run folder {path.parent} cannot be written ({reason}): copy it elsewhere") from None


def _check_free(path: Path, instead: str) -> None:
    if path.exists():
        with _leased(path, instead):
            pass


@cache
def _this_machine() -> str:
    """As leases name it."""
    with tempfile.TemporaryDirectory() as folder:
        lease = SoftFileLease(Path(folder) / "lease", lease_duration=LEASE)
        with lease:
            return lease.owner.hostname if lease.owner else ""


def _give_way(path: Path) -> None:
    """Another process writes here now: this one stops as if it were told to."""
    print(f"nshot: {path.parent} was taken over by another process, for this one did not answer", file=sys.stderr)
    _thread.interrupt_main(signal.SIGTERM)


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half written."""
    for partial in folder.glob(".*.partial"):
        with suppress(FileNotFoundError):  # whoever wrote it is done
            if time.time() - partial.stat().st_mtime > STALE:
                partial.unlink()


def _ours(path: Path) -> bool:
    """Whether a crash before the first config.json can have left this."""
    return path.name == MANIFEST or path.name.endswith((".partial", ".lease"))
