"""What a user is told where a Ray cluster or a job on it is not as it should be; each in one line."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import chores
from nodes import three_nodes
from nshot.errors import UserError
from nshot.runs import cluster as clusters
from nshot.runs.board import State
from nshot.runs.executor import Executor, Needs
from nshot.runs.where import On

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'nshot[ray]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ray has no clusters there")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # workers find chores.py
        with three_nodes() as found:
            yield found


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def opened(cluster: Any, tmp_path: Path, said: list[str]) -> Iterator[Callable[..., Executor]]:
    """Opens the executor, with what `On` takes."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(On(on="ray", **more).open(tmp_path / "out", say=said.append))


def test_jobs_are_done(cluster: Any, said: list[str], tmp_path: Path) -> None:
    with On(on="ray").open(tmp_path / "out", say=said.append) as there:
        assert sorted(there.run(chores.square, [(i,) for i in range(20)])) == [i * i for i in range(20)]
        assert there.where == "on 3 nodes of Ray, 3 at once"
    assert len(said) == 1
    assert said[0].endswith(": 3 nodes, 3 cores; dashboard: none")
    assert list(tmp_path.iterdir()) == []  # nothing of it stays where results go


def test_how_far_jobs_are_is_shown(opened: Callable[..., Executor]) -> None:
    shown: list[dict[str, State]] = []

    class Watch:
        def beside(self, jobs: Mapping[str, State]) -> None:
            shown.append(dict(jobs))

    found = opened().run(chores.count_slowly, [(60,)], named=lambda steps: "part-0", watch=Watch())  # type: ignore[arg-type]
    assert list(found) == [60]
    states = [states["part-0"] for states in shown if states]
    assert states, shown
    assert all(state.doing == "spos" and 0 < state.share < 1 for state in states)


def test_a_job_whose_worker_dies_is_taken_up_again(
    opened: Callable[..., Executor], said: list[str], tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    found = opened(retries=2).run(chores.kill_itself, [(i,) for i in range(3)], given=(notes, 2))
    assert sorted(found) == [0, 1, 2]
    assert said[1:] == [f"job 1: its worker died; taken up again, {n} of at most 2 times" for n in (1, 2)]


def test_but_not_for_ever(opened: Callable[..., Executor], tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    with pytest.raises(
        UserError, match=r"^job 1: its worker died, 2 times: see the logs of the node; the same command"
    ):
        list(opened(retries=1).run(chores.kill_itself, [(1,)], given=(notes, 9)))
    assert chores.noted(notes) == 2


def test_a_job_that_fails_is_not_tried_again(opened: Callable[..., Executor], tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    with pytest.raises(UserError, match=r"^number 7: must be another$"):
        list(opened().run(chores.fail, [(7,)], given=(notes,)))
    assert chores.noted(notes) == 1


def test_whose_memory_ran_out_is_named(opened: Callable[..., Executor]) -> None:
    with pytest.raises(UserError, match=r"^scores of a\|b: .*memory"):
        list(opened().run(chores.run_out_of_memory, [(7,)], named=lambda number: "scores of a|b"))


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(cores=2), "a job needs 2 CPU, and no node of the Ray cluster has more than 1"),
        (Needs(gpus=1), "a job needs 1 GPU, and no node of the Ray cluster has more than 0"),
    ],
)
def test_what_no_node_has_is_not_waited_for(needs: Needs, message: str, opened: Callable[..., Executor]) -> None:
    with pytest.raises(UserError, match=message):
        list(opened().run(chores.square, [(7,)], needs=needs))


def test_a_node_that_sees_another_file_system(opened: Callable[..., Executor], tmp_path: Path) -> None:
    opened()
    with pytest.raises(UserError, match=rf"^node \S+ \(\S+\) does not see {tmp_path}/elsewhere: run folders lie where"):
        clusters.check_nodes(ray, str(Path.cwd()), str(tmp_path / "elsewhere" / "token"))
    there = tmp_path / "token"
    there.touch()
    with pytest.raises(UserError, match=r"does not see /nowhere: run folders"):
        clusters.check_nodes(ray, "/nowhere", str(there))


def test_a_node_of_other_versions(
    opened: Callable[..., Executor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened()
    there = tmp_path / "token"
    there.touch()
    real = clusters.version
    monkeypatch.setattr(clusters, "version", lambda name: "9.9" if name == "torch" else real(name))
    with pytest.raises(UserError, match=rf"has torch {real('torch')}, not 9\.9: install the same on all nodes"):
        clusters.check_nodes(ray, str(Path.cwd()), str(there))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999", "no-such-host.invalid:6379"])
def test_nobody_answers(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"^on {address}: no Ray cluster answers \("):
        On(on="ray").open(tmp_path).__enter__()
    with pytest.raises(UserError, match=rf"^on ray://{address}: no Ray cluster answers \("):
        On(on=f"ray://{address}").open(tmp_path).__enter__()
    assert time.monotonic() - began < 25
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "on", ["slurm", "ray://", "ray://host", "ray://host:port", "ray://a b:10001", "Ray", "", "ray/"]
)
def test_where_there_is_nothing(on: str) -> None:
    with pytest.raises(UserError, match="choose local, ray or ray://HOST:PORT"):
        On(on=on)


def test_retries_are_for_ray_alone() -> None:
    with pytest.raises(UserError, match=r"^retries 5 has no effect without --on ray$"):
        On(retries=5)
    with pytest.raises(UserError, match=r"^retries 0 has no effect without --on ray$"):
        On(retries=0, jobs=2)
    assert On(retries=3).on == "local"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from nshot.runs import where

    monkeypatch.setattr(where, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^on ray needs ray: pip install 'nshot\[ray\]'$"):
        On(on="ray")


def test_nothing_imports_ray_but_who_asks() -> None:
    code = "import sys, nshot, nshot.cli, nshot.studies.command; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
