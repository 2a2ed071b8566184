"""What happened in a run, line by line, and how long it took."""

import json
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nshot.files import appending, read_stored, write_atomically, writing


def _hear_tensorboard() -> None:
    """TensorBoard writes in a thread: where that cannot, the next `Log.write` says so in one line, and the thread's own
    words are left out. What other threads raise goes where it went."""
    hook = threading.excepthook
    if getattr(hook, "of_nshot", False):
        return

    def quiet(args: threading.ExceptHookArgs) -> None:
        if not (issubclass(args.exc_type, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            hook(args)

    quiet.of_nshot = True  # type: ignore[attr-defined]
    threading.excepthook = quiet


class Log:
    """``log.jsonl`` and TensorBoard events of a run, continued where a checkpoint left off."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _hear_tensorboard()
        self.path = folder / "log.jsonl"
        # Lines after the checkpoint will be written again; a line that a crash cut short goes too.
        self.kept = [line for line in read_log(self.path) if line["step"] <= start]
        write_log(self.path, self.kept)
        self._stream = appending(self.path)
        with writing(self.path):
            self._board = SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, step: int, **values: float | list[float]) -> None:
        """A line. Raises UserError where it cannot be written."""
        with writing(self.path):
            self._stream.write(as_line({"step": step, **values}))
            self._stream.flush()
            for key, value in values.items():
                for name, each in enumerate(value) if isinstance(value, list) else [("", value)]:
                    self._board.add_scalar(f"{key}/{name}".rstrip("/"), each, step)

    def close(self) -> None:
        with writing(self.path):
            self._stream.close()
            self._board.close()


CHECK = "crc"  # the entry of a line that says whether the rest is as written


def as_line(values: dict[str, Any]) -> str:
    """A line of a log: JSON, with a checksum of the rest at its end."""
    return json.dumps({**values, CHECK: _checksum(values)}) + "\n"


def _checksum(values: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(values).encode()):08x}"


def write_log(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Writes a whole log."""
    write_atomically(path, "".join(map(as_line, lines)).encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log that are as they were written, in order; not one that a crash cut short, or that is damaged.

    Lines of earlier versions have no checksum and are taken as they are.
    """
    return [line for line in _lines(path) if line is not None]


def mended(path: Path) -> list[dict[str, Any]]:
    """What `read_log` gives, and writes that alone: a line that a crash cut short would spoil the one that follows."""
    lines = read_log(path)
    write_log(path, lines)
    return lines


def damaged_lines(path: Path) -> int:
    """How many lines of a log `read_log` leaves out."""
    return _lines(path).count(None)


def _lines(path: Path) -> list[dict[str, Any] | None]:
    return [_line(text) for text in read_stored(path).split(b"\n") if text] if path.exists() else []


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return None if CHECK in found and found.pop(CHECK) != _checksum(found) else found


def trained_seconds(lines: Sequence[dict[str, Any]], batch_size: int) -> float:
    """Seconds of training behind the last of a log's lines, of all the processes that wrote them.

    Lines of earlier versions have no ``seconds`` but the images a second since their process began. There a process
    is known to have continued another by less time behind it than the line before says, and taken to have begun at
    that line; one that is not known so, for it was slower, is taken to have been as slow before.
    """
    seconds = before = 0.0  # behind this line; behind the one at which its process began
    first = last = 0  # steps of that one and of the line before
    for line in lines:
        if "seconds" in line:
            seconds = before = line["seconds"]
            first = line["step"]
        else:
            now = (line["step"] - first) * batch_size / line["images_per_second"]
            if before + now < seconds:
                before, first = seconds, last
                now = (line["step"] - first) * batch_size / line["images_per_second"]
            seconds = before + now
        last = line["step"]
    return seconds
