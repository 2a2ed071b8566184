"""Work in parallel processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from nshot.training.processes import run_in_processes

SCRIPT = """
import os, sys, time
from pathlib import Path
from nshot.training.processes import run_in_processes

def work(folder, name):
    (Path(folder) / name).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    list(run_in_processes(work, [("a",), ("b",)], 2, given=(sys.argv[1],)))
"""


def threads() -> str:
    return os.environ["OMP_NUM_THREADS"]


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


def test_a_process_has_one_thread() -> None:
    assert list(run_in_processes(threads, [()], 1)) == ["1"]


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
