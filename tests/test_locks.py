"""Who may write to a run folder at once: all pairs of the table in `nshot.runs.lock`, dead and sleeping holders."""

import dataclasses
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nshot.runs.lock as lock
from helpers import nshot_, refuse
from nshot import UserError
from nshot.data.sources import load
from nshot.runs.lock import held, locked
from nshot.supernets.config import preset
from nshot.supernets.train import train

FORK = multiprocessing.get_context("fork")
AT = ("--images", "20", "--device", "cpu")
HOLDERS: dict[str, Callable[[Path], Any]] = {
    "training": locked,
    "ranking": lambda run: held(run, "a ranking", "ranking"),
    "search": lambda run: held(run, "a search", "search"),
    "latency": lambda run: held(run, "a measurement of latency", "latency"),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "training": ("train", "spos", "--preset", "smoke", "--epochs", "1", "--device", "cpu", "--out", "RUN"),
    "ranking": ("rank", "RUN", "--benchmark", "digits", "--sample", "3", *AT),
    "search": ("search", "RUN", "--sample", "4", *AT),
    "latency": ("latency", "RUN", "--samples", "90"),
    "draw": ("draw", "RUN/first.json", "--out", "OUT/a.svg"),
    "report": ("report", "RUN", "--out", "OUT/page.html"),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = load("digits", resolution=8)
    folder = train(
        dataclasses.replace(preset("smoke"), epochs=1), data, tmp_path / "run", device="cpu", say=lambda line: None
    )
    assert nshot_("search", folder, "--sample", "3", "--name", "first", *AT)[0] == 0
    return folder


def hold(holder: str, run: Path, began: Any, end: Any) -> None:
    with HOLDERS[holder](run):
        began.set()
        end.wait(120)
    os._exit(0)


@contextmanager
def holding(holder: str, run: Path) -> Iterator[Any]:
    """A process that holds the run folder as a command of that kind does."""
    began, end = FORK.Event(), FORK.Event()
    child = FORK.Process(target=hold, args=(holder, run, began, end))
    child.start()
    try:
        assert began.wait(60)
        yield child
    finally:
        if child.is_alive():  # a dead one would be waited for
            end.set()
        child.join(60)


def files(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.iterdir() if not path.name.endswith(".lease")}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies that are of one call each."""
    monkeypatch.setattr("nshot.search.latency.CALLS", 1)
    monkeypatch.setattr("nshot.search.latency.SECONDS", 0.0)


@pytest.mark.parametrize("holder", HOLDERS)
def test_all_pairs(holder: str, run: Path, tmp_path: Path, quick: None) -> None:
    """Both end as alone, or the second refuses in one line and writes nothing."""
    with holding(holder, run) as child:
        for name, words in COMMANDS.items():
            command = [word.replace("RUN", str(run)).replace("OUT", str(tmp_path)) for word in words]
            before = files(run)
            excluded = name in HOLDERS and ("training" in (holder, name) or holder == name)
            if excluded:
                message = refuse(*command)
                assert f"being written by another process (process {child.pid} on " in message
                assert files(run) == before
            else:
                status, _, err = nshot_(*command)
                assert status == 0, err
    assert not list(run.glob("*.lease"))
    assert not list(run.glob(".*.lease"))


def test_the_same_subnets_are_not_scored_twice_at_once(run: Path) -> None:
    words = ("rank", str(run), "--benchmark", "digits", "--sample", "3", *AT)
    seen: list[str] = []
    original = lock._leased

    @contextmanager
    def noting(path: Path, instead: str) -> Iterator[None]:
        seen.append(path.name)
        with original(path, instead):
            yield

    lock._leased = noting
    try:
        assert nshot_(*words)[0] == 0
    finally:
        lock._leased = original
    (scoring,) = [name for name in seen if name.startswith(".scores-")]
    with held(run, "a scoring", scoring.removeprefix(".").removesuffix(".lease")):
        assert "being written by another process" in refuse(*words, "--name", "other")
    assert nshot_(*words, "--name", "other")[0] == 0


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_dead_holder_is_no_holder(holder: str, run: Path) -> None:
    with holding(holder, run) as child:
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert list(run.glob(".*lease"))  # what a dead process left
        began = time.monotonic()
        with locked(run):
            pass
        assert time.monotonic() - began < 5
    assert not list(run.glob(".*lease"))


def lease_of(host: str, seconds: float) -> bytes:
    """What filelock 4 writes for a process of another machine."""
    with lock.SoftFileLease("lease", lease_duration=seconds):
        own = Path("lease").read_bytes()
    assert f"host={socket.gethostname()}".encode() in own
    lines = [f"host={host}" if line.startswith("host=") else line for line in own.decode().split("\n")]
    return "\n".join(lines).encode()


def test_another_machines_lease_is_taken_over_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "LEASE", 2.0)
    (tmp_path / ".search.lease").write_bytes(lease_of("elsewhere", 2.0))
    began = time.monotonic()
    with held(tmp_path, "a search", "search"):
        assert 2 <= time.monotonic() - began < 4


def test_another_machines_lease_that_is_renewed_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "LEASE", 2.0)
    path = tmp_path / ".search.lease"
    path.write_bytes(lease_of("elsewhere", 2.0))
    renewing = FORK.Process(target=renew, args=(path,))
    renewing.start()
    try:
        with (
            pytest.raises(UserError, match=r"by another process \(process \d+ on elsewhere\): start again when"),
            held(tmp_path, "a search", "search"),
        ):
            pass
    finally:
        renewing.kill()
        renewing.join()


def renew(path: Path) -> None:
    while True:
        os.utime(path)
        time.sleep(0.2)


def compete(folder: Path, count: int) -> None:
    for _ in range(count):
        try:
            with held(folder, "a test", "name"):
                descriptor = os.open(folder / "alone", os.O_CREAT | os.O_EXCL)  # fails where another is in here too
                os.close(descriptor)
                (folder / "alone").unlink()
        except UserError:
            pass
    os._exit(0)


def test_a_lock_that_goes_and_comes_lets_one_in_at_a_time(tmp_path: Path) -> None:
    children = [FORK.Process(target=compete, args=(tmp_path, 300)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]


def test_a_folder_that_cannot_be_written_is_said(run: Path) -> None:
    (run / ".search.lease").mkdir()
    assert "cannot be written" in refuse("search", run, "--sample", "3", *AT)


def test_what_a_killed_writer_left_goes_after_a_while(run: Path) -> None:
    old, new = run / ".old.partial", run / ".new.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    with held(run, "a test", "test"):
        assert (old.exists(), new.exists()) == (False, True)
