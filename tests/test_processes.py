"""Work in parallel processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nshot import UserError
from nshot.runs.processes import Processes

SCRIPT = """
import os, sys, time
from pathlib import Path
from nshot.runs.processes import Processes

def work(folder, name):
    (Path(folder) / name).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    list(Processes(2).run(work, [("a",), ("b",)], given=(sys.argv[1],)))
"""


def sleep_or_fail(folder: Path, name: str) -> None:
    (folder / name).write_text(str(os.getpid()))
    if name == "fails":
        assert within(60, lambda: (folder / "sleeps").exists())
        raise ValueError("as told")
    time.sleep(600)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def first_or_sleep(folder: Path, task: int) -> int:
    (folder / str(task)).write_text(str(os.getpid()))
    if task > 0:
        time.sleep(600)
    return task


def threads() -> tuple[int, int]:
    """Of torch; and those that this process has more once torch has done work that many threads would share."""
    import torch

    torch.ones(8)  # what torch starts for any work
    before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    torch.ones(2000, 2000) @ torch.ones(2000, 2000)
    torch.exp(torch.ones(4_000_000))
    return torch.get_num_threads(), (len(os.listdir("/proc/self/task")) if before else 0) - before


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{process}/stat").exists() or ") Z " not in Path(f"/proc/{process}/stat").read_text()


def within(seconds: float, happens) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.1)
    return False


def test_a_process_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert list(Processes(1).run(threads, [()])) == [(1, 0)]
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_processes_end_with_their_killed_caller(tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    folder.mkdir()
    caller = subprocess.Popen([sys.executable, str(script), str(folder)])
    try:
        assert within(60, lambda: len([file for file in folder.iterdir() if file.read_text()]) == 2)
        workers = [int(file.read_text()) for file in folder.iterdir()]
        assert all(map(alive, workers))
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    assert within(30, lambda: not any(map(alive, workers)))


def test_a_task_that_raises_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as told"):
        list(Processes(2).run(sleep_or_fail, [("sleeps",), ("fails",)], given=(tmp_path,)))
    workers = [int((tmp_path / name).read_text()) for name in ("sleeps", "fails")]
    assert within(30, lambda: not any(map(alive, workers)))


def test_a_consumer_that_stops_ends_the_processes(tmp_path: Path) -> None:
    """As Ctrl-C does: what is not done is not waited for."""
    results = Processes(2).run(first_or_sleep, [(0,), (1,), (2,)], given=(tmp_path,))
    assert next(results) == 0
    assert within(60, lambda: len(list(tmp_path.iterdir())) == 3)
    results.close()  # type: ignore[attr-defined]
    workers = [int(file.read_text()) for file in tmp_path.iterdir()]
    assert within(30, lambda: not any(map(alive, workers)))


UNGUARDED = """
import sys
from pathlib import Path
from nshot.runs.processes import Processes

def work(name):
    return name

with open("ran", "a") as stream:
    stream.write("x")
print(list(Processes(2).run(work, [("a",), ("b",)])))
"""


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """Not that its processes were killed for want of memory; and they say nothing themselves."""
    (tmp_path / "script.py").write_text(UNGUARDED)
    run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("nshot.errors.UserError: processes cannot begin, for each runs the script that starts them")
    assert last.endswith("put what it does under if __name__ == '__main__':")
    assert run.stderr.count("Traceback") == 1  # the script's own, which does not catch the error
    assert len((tmp_path / "ran").read_text()) <= 3


def test_a_killed_process_is_named() -> None:
    with pytest.raises(UserError, match="one of 2 processes was killed, perhaps for want of memory"):
        list(Processes(2).run(die, [(), ()]))
