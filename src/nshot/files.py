"""Files that are written whole or not at all."""

import csv
import errno
import hashlib
import io
import json
import math
import os
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from unicodedata import category

from nshot.errors import UserError, first_line, unwritable

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure


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
            with open(partial, "xb") as stream:
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


def read_stored(path: Path) -> bytes:
    """A file's bytes. Raises OSError where there is none, or what is no plain file: a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path.read_bytes()


def appending(path: Path) -> IO[str]:
    """A file of lines, opened for more of them; a link, which a stranger's folder may hold, is not followed.

    Raises:
        UserError: where it cannot be written.
    """
    with writing(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        return open(os.open(path, flags, 0o666), "a", encoding="utf-8")


def check_inside(folder: Path, name: str) -> Path:
    """A file or a folder in a run folder; raises UserError where it is a link, which may lead anywhere."""
    if (folder / name).is_symlink():
        raise UserError(f"{folder / name} is a link, and nothing is written outside {folder}: take it away")
    return folder / name


DIGEST = "sha256"  # the entry of a JSON object, and of a table's metadata, that says whether the rest is as written


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr)  # a damaged column may hold what JSON has not
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, indented, an object with its digest at the end; a number that JSON has not (nan) becomes null."""
    write_atomically(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    plain = _finite(value)
    if isinstance(plain, dict):
        plain = {**plain, DIGEST: _digest(json.loads(json.dumps(plain)))}
    return (json.dumps(plain, indent=2) + "\n").encode()


def read_json(path: Path) -> Any:
    """What `write_json` wrote, without the digest. Files without one, of earlier versions or written by hand, are taken
    as they are.

    Raises:
        OSError: where it cannot be read.
        ValueError: where it is no JSON, or not what was written.
    """
    try:
        found = json.loads(read_stored(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(found, dict) and DIGEST in found and found.pop(DIGEST) != _digest(found):
        raise ValueError(CHANGED)
    return found


T = TypeVar("T")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, lines ended by a line feed; all is quoted where a text holds a carriage return, which csv takes for
    the end of a line."""
    kept = [list(row) for row in rows]
    bare = any("\r" in value for row in kept for value in row if isinstance(value, str))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL).writerows(kept)
    return text.getvalue()


def needed(read: Callable[..., T], path: Path, remedy: str, *args: Any) -> T:
    """What `read_json` or `read_parquet` gives. Raises UserError, with what to do, where a file cannot be read."""
    try:
        return read(path, *args)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}") from None


CHANGED = f"it is not as it was written; if you changed it on purpose, take its entry {DIGEST} out"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_parquet(path: Path, table: "pa.Table") -> None:
    """Writes a parquet table, compressed, with a digest of what it holds in its metadata."""
    import pyarrow.parquet as pq

    kept = table.schema.metadata or {}
    buffer = io.BytesIO()
    digest = {DIGEST.encode(): _table_digest(table).encode()}
    pq.write_table(table.replace_schema_metadata({**kept, **digest}), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def legend_name(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out what begins with _."""
    return f" {shown(name)}" if name.startswith("_") else shown(name)


def write_figure(path: Path, figure: "Figure") -> None:
    """Writes a matplotlib figure in the format that the file's name says; a ``$`` in its texts begins no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        for label in axis.get_ticklabels(which="both") if axis.get_scale() == "log" else ():
            label.set_parse_math(True)  # the powers of ten, which are formulas
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."))
    write_atomically(path, buffer.getvalue())


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """A parquet table, all columns or some. One that `write_parquet` wrote is as it was written.

    Raises:
        OSError: where it cannot be read.
        ValueError: where it is no parquet file, not what was written, or lacks columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # In this thread alone: one of pyarrow's that holds Python's bytes when the process ends aborts it.
        table = pq.ParquetFile(io.BytesIO(read_stored(path)), pre_buffer=False).read(use_threads=False)
        table.validate(full=True)  # texts that are none would be met only where they are used
        metadata = table.schema.metadata or {}
        written = metadata.pop(DIGEST.encode(), None)
        table = table.replace_schema_metadata(metadata)
        if written is not None and written.decode() != _table_digest(table):
            raise ValueError(CHANGED)
        return table if columns is None else table.select(list(columns))
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(first_line(error)) from None
    except OSError as error:  # pyarrow's own have no number
        if error.errno is not None:
            raise
        raise ValueError(first_line(error)) from None


def _table_digest(table: "pa.Table") -> str:
    """Of names, types and values, and of what the table says of itself."""
    metadata = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
    columns = zip(table.schema.names, table.schema.types, table.columns, strict=True)
    return _digest([metadata, [[name, str(kind), column.to_pylist()] for name, kind, column in columns]])
