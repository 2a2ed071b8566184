"""Files that are written whole or not at all."""

import errno
import io
import json
import math
import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category

from nshot.errors import UserError, unwritable

if TYPE_CHECKING:
    import pyarrow as pa


def shown(name: str | Path) -> str:
    """A name as one line of text, whatever bytes it is made of: what is no text, or ends a line, is escaped."""
    odd = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are no UTF-8, ends of lines and paragraphs
    return "".join(c.encode("unicode_escape").decode() if category(c) in odd else c for c in str(name))


def make_folder(folder: Path) -> None:
    """Makes a folder and those it lies in. Raises UserError where that cannot be, and for a name that is no text."""
    if shown(folder) != str(folder):
        raise UserError(f"folder {shown(folder)} has a name that is no text: choose another")
    check_length(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise unwritable(folder, error) from None
        raise UserError(f"folder {folder} cannot be made ({error.strerror}): choose another") from None


def check_folder(folder: Path) -> None:
    """Raises UserError where a folder cannot be, for a file lies there or above; makes nothing."""
    check_length(folder)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"folder {folder} cannot be made ({nearest} is a file): choose another")


def typed(path: str | Path) -> str:
    """A path as a shell takes it in a command, also one with spaces, or one that would be taken for a flag."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


LONGEST = 255  # bytes of a file's name, on most file systems


def check_length(path: Path) -> None:
    """Raises UserError for a path of which a name is longer than file systems take."""
    for part in path.parts:
        if (size := len(os.fsencode(part))) > LONGEST:
            many = f"{size} bytes, and a file's name has at most {LONGEST}"
            raise UserError(f"name {shown(part[:40])}...: {many}: choose a shorter one")


def too_long(error: OSError) -> UserError:
    """What the system's word for a name that it does not take comes to, wherever it was met."""
    path = Path(os.fsdecode(error.filename or ""))
    try:
        check_length(path)
    except UserError as told:
        return told
    return UserError(f"path {shown(str(path)[:40])}... is longer than this system takes: choose a shorter one")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says in one line why a file cannot be written; names that are too long are the command line's to explain."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        raise unwritable(path, error) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a crash leaves the old one or the new one, never a part.

    Raises:
        UserError: where it cannot be written, for the disk is full or read-only, or its folder gone.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")  # its own, whoever else writes this file
    try:
        with writing(path):
            with open(partial, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
            _settle(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Has the system write a folder's names down: a file that is renamed may else be gone with the power."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows has no such thing
        return
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, indented; a number that JSON has not (nan, infinity) becomes null."""
    write_atomically(path, (json.dumps(_finite(value), indent=2) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_parquet(path: Path, table: "pa.Table") -> None:
    """Writes a parquet table, compressed."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())
