"""What happened in a run, line by line, and how long it took."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nshot.files import write_atomically, writing


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
        kept = [line for line in read_log(self.path) if line["step"] <= start]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.kept = kept
        self._stream = open(self.path, "a")  # noqa: SIM115 (closed by close)
        with writing(self.path):
            self._board = SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, step: int, **values: float | list[float]) -> None:
        """A line. Raises UserError where it cannot be written."""
        with writing(self.path):
            self._stream.write(json.dumps({"step": step, **values}) + "\n")
            self._stream.flush()
            for key, value in values.items():
                for name, each in enumerate(value) if isinstance(value, list) else [("", value)]:
                    self._board.add_scalar(f"{key}/{name}".rstrip("/"), each, step)

    def close(self) -> None:
        with writing(self.path):
            self._stream.close()
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, in order."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


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
