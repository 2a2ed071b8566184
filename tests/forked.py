"""nshot's commands in processes that are forked from a server which has imported everything: one begins in no time."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

server = multiprocessing.get_context("forkserver") if sys.platform != "win32" else None
if server is not None:
    ours = ["nshot.cli", "nshot.auto.command", "nshot.studies.command", "nshot.report.page", "nshot.search.pareto"]
    theirs = [
        "lightning_fabric",
        "matplotlib.pyplot",
        "tensorboard",
        "torch.utils.tensorboard",
        "tyro",
        "sklearn.datasets",
    ]
    server.set_forkserver_preload([*ours, *theirs])


def say_to(file: Path, number: int) -> None:
    """Has this process write its output (1) or its errors (2) to the end of a file."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, number)
    setattr(sys, {1: "stdout", 2: "stderr"}[number], open(number, "w", closefd=False))  # noqa: SIM115


def _command(
    words: Sequence[str], cwd: Path, variables: Mapping[str, str], said: Path, before: Callable[[], None] | None
) -> None:
    os.setsid()
    say_to(said / "out", 1)
    say_to(said / "err", 2)
    os.chdir(cwd)
    os.environ.update(variables)
    sys.path[:0] = [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path]  # as a new one does
    if before is not None:
        before()
    torch.set_num_threads(1)
    from nshot.cli import main

    status = main(list(words))
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


class Begun:
    """A command that runs in a session of its own, once for each set of variables; as `subprocess.Popen` has it."""

    def __init__(
        self,
        args: Sequence[str | Path],
        cwd: Path | None = None,
        each: Sequence[Mapping[str, str]] = ({},),
        before: Callable[[], None] | None = None,
    ) -> None:
        assert server is not None
        self.args = [str(arg) for arg in args]
        self.folder = TemporaryDirectory()
        said = Path(self.folder.name)
        self.started = [
            server.Process(target=_command, args=(self.args, cwd or Path.cwd(), own, said, before)) for own in each
        ]
        for process in self.started:
            process.start()

    @property
    def pid(self) -> int:
        return self.started[0].pid

    @property
    def returncode(self) -> int | None:
        """The first that is not 0; None while one of them runs."""
        codes = [process.exitcode for process in self.started]
        return None if None in codes else next((code for code in codes if code), 0)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        for process in self.started:
            process.join(timeout)
        assert self.returncode is not None, "a command that hangs"
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said, when it has ended."""
        self.wait(timeout)
        files = [Path(self.folder.name) / name for name in ("out", "err")]
        return files[0].read_text(), files[1].read_text()

    def completed(self) -> subprocess.CompletedProcess[str]:
        out, err = self.communicate()
        return subprocess.CompletedProcess(self.args, self.wait(), out, err)


def command(
    *args: str | Path, cwd: Path, before: Callable[[], None] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command, run in a folder, with environment variables, after what is done before."""
    return Begun(args, cwd, [variables], before).completed()


def together(*args: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """A command that several processes run together, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return Begun(args, each=ranks).completed()


CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendall(json.dumps([os.getcwd(), *sys.argv[1:]]).encode())
    server.shutdown(socket.SHUT_WR)
    with server.makefile() as answer:
        status, out, err = json.load(answer)
sys.stdout.write(out), sys.stderr.write(err), sys.exit(status)
"""


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Puts a command ``nshot`` into a folder, for shells, that has this process fork what it runs."""
    with TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address := f"{short}/s")
        listening.listen()
        (folder / "nshot").write_text(CLIENT.format(python=sys.executable, address=address))
        (folder / "nshot").chmod(0o755)
        threading.Thread(target=_answer, args=(listening,), daemon=True).start()
        yield


def _answer(listening: socket.socket) -> None:
    while True:
        try:
            asked = listening.accept()[0]
        except OSError:  # nobody asks any more
            return
        with asked, asked.makefile("rw") as file:
            cwd, *args = json.load(file)
            done = command(*args, cwd=Path(cwd))
            json.dump([done.returncode, done.stdout, done.stderr], file)
