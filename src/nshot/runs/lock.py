"""Who writes a run folder: one process, by a lock that ends with it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from nshot.data.manifest import MANIFEST
from nshot.errors import UserError
from nshot.files import make_folder, shown
from nshot.training.distributed import alone


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder where needed and holds it for this process.

    Raises:
        UserError: where another process holds it, or it holds files but no run; then nothing is written.
    """
    if folder.is_dir() and not (folder / "config.json").exists() and any(not _ours(p) for p in folder.iterdir()):
        raise UserError(f"{folder} is not empty and no run folder: choose a new --out")
    make_folder(folder)
    with _lock(folder, "a training", "use another --out"):
        yield


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Holds a run folder for ``what`` this process does in it, such as ``a search``.

    Raises:
        UserError: where another process holds it, it cannot be written, or torchrun started several processes.
    """
    alone(what)
    with _lock(folder, what, "start again when that has ended"):
        yield


STALE = 3600  # seconds after which what a killed process left half written goes


@contextmanager
def _lock(folder: Path, what: str, instead: str) -> Iterator[None]:
    """The system frees the lock of a process that ends, however it does; what the file says is for the others."""
    path = folder / ".lock"
    with _locked_file(path, folder, instead) as lock:
        lock.truncate(0)
        lock.write(f"{what}, process {os.getpid()}")
        lock.flush()
        _sweep(folder)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked_file(path: Path, folder: Path, instead: str) -> TextIOWrapper:
    """The file at the path, made where there is none, locked."""
    while True:
        try:
            lock = open(path, "a+")  # noqa: SIM115 (the caller closes it)
        except OSError as error:
            raise UserError(f"run folder {folder} cannot be written ({error.strerror}): copy it elsewhere") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, path):
                return lock
        except OSError:
            lock.seek(0)
            holder = f" ({told})" if (told := shown(lock.read())) else ""
            lock.close()
            raise UserError(f"run folder {folder} is being written by another process{holder}: {instead}") from None
        lock.close()  # its last owner took it away between the two: there is another now, or none


def _is_at(stream: TextIOWrapper, path: Path) -> bool:
    """Whether an open file is the one at the path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    return False


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half written."""
    for partial in folder.glob(".*.partial"):
        with suppress(FileNotFoundError):  # whoever wrote it is done
            if time.time() - partial.stat().st_mtime > STALE:
                partial.unlink()


def _ours(path: Path) -> bool:
    """Whether a crash before the first config.json can have left this."""
    return path.name in (".lock", MANIFEST) or path.name.endswith(".partial")
