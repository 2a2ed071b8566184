"""How far jobs in other processes are, and what of it is shown."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from nshot.runs import board, progress
from nshot.runs.board import Board, State
from nshot.runs.processes import Processes
from nshot.runs.progress import Progress


class Watch:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[dict[str, State]] = []

    def beside(self, jobs: Mapping[str, State]) -> None:
        self.shown.append(dict(jobs))


def counted(name: str, steps: int) -> str:
    """A job of ``steps`` tenths of a second, of eight images each."""
    with Progress("spos", steps, unit=8) as bar:
        for _ in range(steps):
            time.sleep(0.1)
            bar.advance()
    return name


def test_jobs_of_processes_are_shown_while_they_run() -> None:
    watch = Watch()
    tasks = [("a", 45), ("b", 45), ("c", 1)]
    found = Processes(2).run(counted, tasks, named=lambda name, steps: f"job {name}", watch=watch)  # type: ignore[arg-type]
    assert sorted(found) == ["a", "b", "c"]
    both = [states for states in watch.shown if states.keys() == {"job a", "job b"}]
    assert both, watch.shown
    for state in both[-1].values():
        assert state.doing == "spos"
        assert 0.0 < state.share < 1.0
        assert state.rate == pytest.approx(80, rel=0.3)


def test_nobody_looks_and_nothing_is_written(tmp_path: Path) -> None:
    unseen = Board(str(tmp_path / "token.partial"), None)
    with board.reporting(unseen.slot("job")):
        assert not board.watched()
        board.report(lambda: pytest.fail("nobody asked"))
    unseen.look()
    unseen.done("")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_share_never_falls(tmp_path: Path, clock: list[float]) -> None:
    watch = Watch()
    seen = Board(str(tmp_path / "token.partial"), watch.beside)
    slot = seen.slot("job")
    seen.look()
    assert watch.shown == [{}]
    for doing, share in (("train", 0.9), ("rank", 0.2)):
        clock[0] += 10
        with board.reporting(slot):
            board.report(lambda doing=doing, share=share: State(doing, share, 5.0))  # type: ignore[misc]
            seen.look()
    assert watch.shown[1:] == [{"job": State("train", 0.9, 5.0)}, {"job": State("rank", 0.9, 5.0)}]
    Path(slot).write_text("{")  # half of it, as another machine may see it
    clock[0] += 10
    seen.look()
    assert watch.shown[-1] == {}
    seen.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_no_job(tmp_path: Path, clock: list[float]) -> None:
    clock[0] += 10
    with board.reporting(str(tmp_path / "gone" / "slot.partial")):
        board.report(lambda: State("train", 0.5, 1.0))


def test_what_is_printed_where_there_is_no_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Four runs of which one is done after 100 s and two are at work, a half and a quarter: 1.75 of 4, so 2.25 of them
    take 2.25 / 1.75 * 100 s more."""
    with Progress("study", 4, noun="runs") as bar:
        clock[0] += progress.EVERY - 1
        bar.advance()
        assert capsys.readouterr().err == ""
        clock[0] += 71
        bar.beside({"spos-1": State("train", 0.5, 1200.0), "spos-2": State("rank", 0.25, 0.0)})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "study: 1 of 4, 2 at work, 1,200 images/s, 2.1 min left",
        "  spos-1: train, 50%, 1,200 images/s",
        "  spos-2: rank, 25%",
    ]


def test_nothing_is_done_yet(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("build", 10, start=3, noun="trainings") as bar:
        clock[0] += 31
        bar.beside({})
    assert capsys.readouterr().err == "build: 3 of 10, 0 trainings/s\n"


def test_hundreds_at_work(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("build", 1000, noun="trainings") as bar:
        clock[0] += 31
        bar.beside({f"job {i}": State("alone", 0.5, 10.0) for i in range(512)})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "build: 0 of 1,000, 512 at work, 5,120 images/s, 1.5 min left"
    assert len(lines) == 1 + progress.ROWS
