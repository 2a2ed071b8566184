"""Systems that are merely written for: nothing of nshot needs what Windows has not, and processes may be spawned."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file

from nshot.seeding import seeded

# In a process of its own: whatever of nshot imports os or signal gets them as Windows has them, and not the rest.
WINDOWS = """
import builtins, importlib, pkgutil, signal, sys, types, os
import nshot

GONE = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "crypt", "nis", "readline"}
WITHOUT = {
    "os": "sysconf fork forkpty getuid geteuid getgid getppgid getloadavg uname mkfifo mknod nice killpg setsid "
          "sched_getaffinity sched_setaffinity wait wait3 wait4 WIFEXITED statvfs fchown chown lchown sync preadv "
          "O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_SYNC posix_fallocate posix_spawn register_at_fork".split(),
    "signal": "SIGUSR1 SIGUSR2 SIGCHLD SIGHUP SIGKILL SIGALRM SIGQUIT SIGSTOP SIGCONT alarm setitimer pause sigwait "
              "pthread_kill pthread_sigmask".split(),
}
plain, bare = builtins.__import__, {}
for name, without in WITHOUT.items():
    bare[name] = types.ModuleType(name)
    bare[name].__dict__.update({k: v for k, v in vars(sys.modules[name]).items() if k not in without})

def importing(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and str((globals or {}).get("__name__", "")).partition(".")[0] == "nshot":
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}")
        if name in bare:
            return bare[name]
    return plain(name, globals, locals, fromlist, level)

for name in [name for name in sys.modules if name.partition(".")[0] == "nshot"]:
    del sys.modules[name]
builtins.__import__ = importing
import nshot
for module in pkgutil.walk_packages(nshot.__path__, "nshot."):
    importlib.import_module(module.name)
from nshot.runs import stopping
assert not hasattr(stopping.signal, "SIGUSR1") and not hasattr(sys.modules["nshot.files"].os, "sysconf")
from nshot.cli import main
run, best = sys.argv[1:]
for command in (
    ["train", "spos", "--preset", "smoke", "--epochs", "2", "--batch-size", "256", "--device", "cpu", "--out", run],
    ["rank", run, "--benchmark", "digits", "--sample", "9", "--device", "cpu"],
    ["search", run, "--sample", "4", "--device", "cpu"],
    ["retrain", run, "--epochs", "1", "--device", "cpu", "--out", best],
    ["report", run],
):
    assert main(command) == 0, command
print("all of it")
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_nothing_needs_what_windows_has_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WINDOWS, str(tmp_path / "run"), str(tmp_path / "best")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all of it\n")


SPAWNED = """
import multiprocessing, sys
from nshot.cli import main

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
"""
TRAIN = ["train", "spos", "--preset", "smoke", "--epochs", "1", "--batch-size", "200", "--device", "cpu"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_batches_are_the_same_whichever_way_processes_start(method: str, tmp_path: Path) -> None:
    """On Windows and macOS, and on Linux from Python 3.14 on, data workers do not share their caller's memory."""
    (tmp_path / "script.py").write_text(SPAWNED)
    runs = {}
    for workers in ("0", "2"):
        out = tmp_path / workers
        command = [sys.executable, str(tmp_path / "script.py"), method, *TRAIN, "--workers", workers, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr[-2000:]
        runs[workers] = load_file(out / "supernet.safetensors")
    assert all(runs["2"][name].equal(weight) for name, weight in runs["0"].items())


def test_supernets_are_trained_in_spawned_processes(tmp_path: Path) -> None:
    """`Processes` spawns on every system; each part is the one that is trained here."""
    fsnas = ["train", "fsnas", *TRAIN[2:]]
    (tmp_path / "script.py").write_text(SPAWNED)
    for jobs in ("1", "2"):
        command = [sys.executable, str(tmp_path / "script.py"), "spawn", *fsnas, "--jobs", jobs]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / jobs)], capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr[-2000:]
    for part in sorted((tmp_path / "1").glob("part-*")):
        one = load_file(part / "supernet.safetensors")
        other = load_file(tmp_path / "2" / part.name / "supernet.safetensors")
        assert all(other[name].equal(weight) for name, weight in one.items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_has_not() -> None:
    """One thread draws weights while another forks data workers, whose batches draw too."""
    inside, leave = threading.Event(), threading.Event()

    def draw() -> None:
        with seeded(0, "a thread"):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=draw)
    thread.start()
    inside.wait(60)
    child = multiprocessing.get_context("fork").Process(target=_drawn)
    child.start()
    child.join(30)
    code = child.exitcode
    child.kill()
    leave.set()
    thread.join()
    assert code == 0


def _drawn() -> None:
    with seeded(0, "a process"):
        pass
    os._exit(0)
