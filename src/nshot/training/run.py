"""A run is a folder: configuration, log, checkpoints, final weights. It can be copied to another machine."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import torch

from nshot.data.manifest import MANIFEST, check_manifest, write_manifest
from nshot.data.sources import Dataset
from nshot.errors import UserError
from nshot.files import make_folder, shown, write_atomically, write_json
from nshot.spaces import FewShot, Supernet

from .config import TrainConfig, bare_supernet, differences, differing, from_dict
from .distributed import alone

WEIGHTS = "supernet.safetensors"
PARTS = "parts"  # the kind of a run that is made of runs


def versions() -> dict[str, str]:
    """What the run was made with."""
    from importlib.metadata import version

    return {"nshot": version("nshot"), "torch": torch.__version__, "python": platform.python_version()}


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


def read_config(folder: Path) -> dict[str, Any]:
    """The whole of a run's config.json. Raises UserError where there is none or it is broken."""
    try:
        stored = json.loads((folder / "config.json").read_text())
        if not isinstance(stored, dict):
            raise ValueError("no JSON object")
        return stored
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is no run folder: it has no config.json (make one with nshot train --out)") from None
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is broken ({error}): start again in a new folder") from None


Completed = Callable[[dict[str, Any]], dict[str, Any]]


def claim(
    folder: Path,
    kind: str,
    config: dict[str, Any],
    *,
    free: Collection[str] = (),
    finished: bool = False,
    completed: Completed = lambda stored: stored,
    facts: dict[str, Any] | None = None,
    data: Dataset | None = None,
) -> bool:
    """Makes the folder a run of this configuration and these data, or checks that it is one.

    Args:
        folder: the run folder, locked.
        kind: what it is a run of.
        config: JSON-able, everything that determines the run.
        free: entries of the configuration that may change; the folder then takes the new ones, unless ``finished``.
        finished: whether the folder has what it was made for.
        completed: adds to a stored configuration what the version that wrote it did not know.
        facts: what follows from the configuration and a reader wants to know, kept in a new run's config.json.
        data: what it is made of.

    Returns:
        Whether the folder was such a run before.

    Raises:
        UserError: where the folder is another run, with what differs.
    """
    if not (folder / "config.json").exists():
        if data is not None:
            write_manifest(folder, data)
        found = {"facts": facts} if facts else {}
        write_json(folder / "config.json", {"kind": kind, "config": config, **found, "versions": versions()})
        return False
    stored = read_config(folder)
    known = stored.get("config", {})
    before = {"kind": stored.get("kind"), **(completed(known) if stored.get("kind") == kind else known)}
    before = json.loads(json.dumps(before))
    now = {"kind": kind, **json.loads(json.dumps(config))}  # as JSON gives it back: tuples are lists
    changed = differences({**before, **{key: now[key] for key in free if key in now}}, now)
    if data is not None and all(line.startswith("space.num_classes: ") for line in changed):
        check_manifest(folder, data)  # which says more than how many classes there are now
    if changed:
        raise UserError(
            f"{folder} holds another run ({'; '.join(changed)}): {_remedy({'kind': '', **known}, before, now, free)}"
        )
    if before != now and not finished:
        write_json(folder / "config.json", {**stored, "config": config})
    return True


def _remedy(known: dict[str, Any], before: dict[str, Any], now: dict[str, Any], free: Collection[str]) -> str:
    """How such a run goes on: of what has become an option since, a newer default has to be told off."""
    names = [(name, was) for name, was, _ in differing(before, now) if name not in free]
    if any(_holds(known, name.split(".")) for name, _ in names):
        return "choose a new --out, or the same options"
    return f"an earlier version began it, which goes on with {' '.join(_flag(name, was) for name, was in names)}"


def _holds(values: Any, path: list[str]) -> bool:
    return isinstance(values, dict) and path[0] in values and (not path[1:] or _holds(values[path[0]], path[1:]))


def _flag(name: str, value: Any) -> str:
    flag = name.rsplit(".", 1)[-1].replace("_", "-")
    return f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag} {value}"


class Log:
    """``log.jsonl`` and TensorBoard events of a run, continued where a checkpoint left off."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "log.jsonl"
        # Lines after the checkpoint will be written again; a line that a crash cut short goes too.
        kept = [line for line in read_log(self.path) if line["step"] <= start]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.kept = kept
        self._stream = open(self.path, "a")  # noqa: SIM115 (closed by close)
        self._board = SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, step: int, **values: float | list[float]) -> None:
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        self._stream.flush()
        for key, value in values.items():
            for name, each in enumerate(value) if isinstance(value, list) else [("", value)]:
                self._board.add_scalar(f"{key}/{name}".rstrip("/"), each, step)

    def close(self) -> None:
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


def part_folders(folder: Path) -> list[Path]:
    """The runs that a run of several supernets is made of; raises UserError where there are none yet."""
    found = sorted(folder.glob("part-*"))
    if not found:
        raise UserError(f"run {folder} is not finished: continue it with the same nshot train command")
    return found


def load_run(folder: str | Path) -> tuple[TrainConfig, Supernet]:
    """A finished run's configuration and its trained supernet, on the CPU.

    Raises:
        UserError: for a folder that is no run, or one that is not finished.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    stored = read_config(folder)
    if stored.get("kind") == PARTS:
        config = from_dict(stored["config"])
        return config, FewShot(config.space, [load_run(part)[1] for part in part_folders(folder)])
    if stored.get("kind") != "supernet":
        raise UserError(f"{folder} holds a {stored.get('kind')} run: name a folder that nshot train made")
    config = from_dict(stored["config"])
    if not (folder / WEIGHTS).exists():
        raise UserError(f"run {folder} is not finished: continue it with the same nshot train command")
    supernet = bare_supernet(config)
    try:
        supernet.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        message = str(error).partition("\n")[0]
        raise UserError(f"{folder / WEIGHTS} cannot be read ({message}): train the run again") from None
    return config, supernet.to(memory_format=torch.channels_last)
