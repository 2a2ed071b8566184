"""How much memory there is for this process, of the machine or where a container has a limit, and how much it took."""

import os
import sys
from pathlib import Path, PurePosixPath

import psutil


def memory_here(root: Path = Path("/")) -> int:
    """Bytes: of the machine, or the least limit of the control groups (versions 1 and 2) that this process is in.

    ``root`` is where /proc and /sys are.
    """
    return min([psutil.virtual_memory().total, *_limits(root)])


def processes_here() -> int:
    """How many processes train together on this machine, each with the images in memory of its own (torchrun)."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(said)) if said.isdecimal() else 1


def peak_memory() -> int:
    """The most bytes that this process has had in memory until now."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # macOS counts bytes


def _limits(root: Path) -> list[int]:
    """The limits of the groups that /proc/self/cgroup names, and of those they lie in.

    Inside a container the path may be that outside, of which no more than the ends of it is to be seen here: then the
    container's own limit stands at the top.
    """
    groups = root / "sys/fs/cgroup"
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, kinds, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not kinds:
            top, name = groups, "memory.max"
        elif "memory" in kinds.split(","):
            top, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        texts = [_text(top / part / name).strip() for part in (inner, *inner.parents)]
        found += [int(text) for text in texts if text.isdecimal()]  # "max" is none
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
