"""Told to stop, a command ends its step, says where it is, and the same command ends as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forked import Begun, together
from helpers import TORCHRUN, nshot_
from nshot.cli import COMMANDS
from nshot.runs.checkpoint import checkpoints, step_of
from nshot.runs.log import read_log
from nshot.runs.processes import Processes
from nshot.runs.stopping import Stopped, answered, between_steps, stop_if_asked

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75}
FLAGS = ("--preset", "smoke", "--epochs", "20", "--log-every", "1", "--checkpoint-every", "100000", "--device", "cpu")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*args: str | Path) -> subprocess.Popen[str]:
    """The command in two processes that train together."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*TORCHRUN, "-m", "nshot.cli", *map(str, args)], env=ENVIRONMENT, **pipes)


def start(*args: str | Path) -> Begun:
    """The command as a process of its own, in a session of its own."""
    return Begun(args)


def until(met: Callable[[], bool], process: Begun | subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not met():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


def steps_in(run: Path) -> int:
    return max((line["step"] for line in read_log(run / "log.jsonl")), default=0)


def weights(run: Path) -> dict[str, torch.Tensor]:
    files = sorted(run.rglob("*.safetensors"))
    return {f"{path.relative_to(run)}:{name}": value for path in files for name, value in load_file(path).items()}


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return bool(left) and left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start("train", "spos", *FLAGS, "--out", run)
    assert process.wait() == 0, process.communicate()
    return run


@pytest.mark.parametrize(("name", "workers"), [("SIGINT", 0), ("SIGUSR1", 0), ("SIGTERM", 1)])
def test_training_stops_after_its_step(name: str, workers: int, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("train", "spos", *FLAGS, "--workers", str(workers), "--out", run)
    process = start(*command)
    until(lambda: steps_in(run) >= 20, process)
    os.killpg(process.pid, getattr(signal, name))  # as a system does: to all processes of the job
    out, err = process.communicate(timeout=60)
    assert process.returncode == STATUS[name], err
    assert err.splitlines()[-1] == f"nshot: stopped by {name}; the same command continues"
    assert "Traceback" not in err
    (only,) = checkpoints(run)
    reached = step_of(only)
    assert reached == steps_in(run)  # its checkpoint is of the step that it ended with
    assert f"stopped at step {reached} of 360: the same command goes on from there" in out
    assert not (run / ".lock").exists()
    again = start(*command)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"resuming {run} at step {reached} of 360" in out
    assert same(run, whole)


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    """In a step that does not end."""
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from nshot.runs.stopping import answered, between_steps\n"
        "with answered(), between_steps() as asked:\n"
        "    print('step', flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "step\n"
    for number in (signal.SIGTERM, signal.SIGINT):  # neither is a second interrupt
        process.send_signal(number)
        time.sleep(0.3)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "Stopped" in process.communicate(timeout=20)[1]


def test_supernets_in_processes_of_their_own_stop_after_their_steps(tmp_path: Path) -> None:
    flags = ("--preset", "smoke", "--epochs", "12", "--log-every", "1", "--checkpoint-every", "100000")
    whole, run = tmp_path / "whole", tmp_path / "run"
    undisturbed = start("train", "fsnas", *flags, "--device", "cpu", "--out", whole)
    command = ("train", "fsnas", *flags, "--device", "cpu", "--jobs", "2", "--out", run)
    process = start(*command)
    until(lambda: steps_in(run / "part-0") >= 5 and steps_in(run / "part-1") >= 5, process)
    process.send_signal(signal.SIGTERM)  # to the caller alone
    _, err = process.communicate(timeout=90)
    assert process.returncode == 143, err
    for part in ("part-0", "part-1"):
        if not (run / part / "supernet.safetensors").exists():
            assert step_of(checkpoints(run / part)[0]) == steps_in(run / part)
    again = start(*command)
    assert again.wait(timeout=240) == 0, again.communicate()
    assert undisturbed.wait(timeout=240) == 0
    assert same(run, whole)


def test_processes_that_train_together_stop_after_the_same_step(tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    flags = ("--preset", "smoke", "--epochs", "12", "--log-every", "1", "--checkpoint-every", "100000")
    undisturbed = together("train", "spos", *flags, "--out", whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    process = torchrun("train", "spos", *flags, "--out", run)
    until(lambda: steps_in(run) >= 15, process)
    process.send_signal(signal.SIGTERM)  # to the launcher, which tells both
    process.communicate(timeout=90)
    (only,) = checkpoints(run)
    assert step_of(only) % 10 == 0
    again = together("train", "spos", *flags, "--out", run)
    assert again.returncode == 0, again.stderr
    assert f"at step {step_of(only)} of" in again.stdout
    assert same(run, whole)


def sleepy(seconds: float) -> float:
    for _ in range(int(seconds * 100)):
        time.sleep(0.01)
    return seconds


def test_a_pool_that_is_told_to_stop_ends_soon() -> None:
    threading.Timer(3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    with pytest.raises(Stopped), answered():
        list(Processes(2).run(sleepy, [(60,), (60,)]))
    assert time.monotonic() - began < 30


@pytest.fixture
def asked() -> Iterator[Callable[[], int | None]]:
    with pytest.raises(Stopped), answered(), between_steps() as asked:
        yield asked


def test_the_first_signal_counts(asked: Callable[[], int | None]) -> None:
    assert asked() is None
    stop_if_asked()
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGTERM)
    assert asked() == signal.SIGUSR1
    with pytest.raises(Stopped) as stopped:
        stop_if_asked()
    assert (stopped.value.name, stopped.value.status) == ("SIGUSR1", 75)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)


def ranking_of(run: Path, name: str) -> dict:
    return json.loads((run / f"{name}.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def undisturbed(whole: Path) -> dict:
    process = start("rank", whole, "--benchmark", "digits", "--sample", "0", "--name", "undisturbed", "--device", "cpu")
    assert process.wait(timeout=240) == 0, process.communicate()
    return ranking_of(whole, "undisturbed")


@pytest.mark.parametrize("name", ["SIGUSR1"])
def test_a_ranking_that_is_stopped_goes_on(name: str, whole: Path, undisturbed: dict) -> None:
    """It stops at once; the chunks that it had scored are kept."""
    command = ("rank", whole, "--benchmark", "digits", "--sample", "0", "--name", f"after-{name}", "--device", "cpu")
    process = start(*command)
    until(lambda: len(list(whole.glob(".scores-*/*.npz"))) >= 2, process)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == STATUS[name], err
    kept = len(list(whole.glob(".scores-*/*.npz")))
    assert kept >= 2
    again = start(*command)
    assert again.wait(timeout=240) == 0, again.communicate()
    assert ranking_of(whole, f"after-{name}") == undisturbed


@pytest.mark.parametrize("made", [ImportError("onnxruntime is not installed"), None])
def test_a_signal_that_becomes_another_error_is_still_a_signal(
    made: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it comes while a module is imported, which then says that it is not there."""

    def command(args: list[str]) -> None:
        try:
            signal.raise_signal(signal.SIGUSR1)
        except Stopped:
            if made is not None:
                raise made from None

    monkeypatch.setitem(COMMANDS, "draw", command)
    assert nshot_("draw") == (75, "", "nshot: stopped by SIGUSR1; the same command continues\n")
    monkeypatch.setitem(COMMANDS, "draw", lambda args: None)
    assert nshot_("draw") == (0, "", "")


def test_a_signal_in_a_destructor_is_heeded_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised there Python prints and forgets."""
    done = []

    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGUSR1)

    def command(args: list[str]) -> None:
        Dying()
        for _ in range(600):
            time.sleep(0.01)
        done.append(True)

    monkeypatch.setitem(COMMANDS, "draw", command)
    assert nshot_("draw") == (75, "", "nshot: stopped by SIGUSR1; the same command continues\n")
    assert not done
