"""A full disk, a file that may not grow, a folder that is gone, memory that runs out: one line, nothing lost."""

import errno
import os
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import SoftFileLease
from safetensors.torch import load_file

import nshot.files
import nshot.supernets.train as train_module
from forked import command
from helpers import nshot_
from nshot import UserError
from nshot.cli import COMMANDS
from nshot.files import write_json
from nshot.handover.folder import write_folder
from nshot.runs.checkpoint import checkpoints
from nshot.runs.lock import locked
from nshot.runs.log import Log

FLAGS = ("--preset", "smoke", "--epochs", "4", "--log-every", "10", "--checkpoint-every", "10", "--device", "cpu")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"cannot be written \(No space left on device\): make room, then the same command goes on"),
        (errno.EROFS, r"cannot be written \(Read-only file system\): mend that, or copy the folder elsewhere"),
        (errno.EIO, r"cannot be written \(Input/output error\): mend that"),
    ],
)
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_what_cannot_be_written_leaves_what_was_there(
    number: int, said: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"before": 1})
    before = path.read_bytes()

    def broken(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(nshot.files.os, where, broken)
    with pytest.raises(UserError, match=said) as error:
        write_json(path, {"after": 2})
    assert str(error.value).startswith(f"{path} ")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone/a.json cannot be written: its folder is gone"):
        write_json(tmp_path / "gone" / "a.json", 1)


def test_a_log_on_a_full_disk_is_named(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    log._stream.close()
    log._stream = open("/dev/full", "a")  # noqa: SIM115 (the system's own full disk)
    with pytest.raises(UserError, match=r"log.jsonl cannot be written \(No space left on device\): make room"):
        log.write(1, loss=1.0)


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_run_whose_checkpoint_does_not_fit_goes_on_where_it_does(tmp_path: Path) -> None:
    """Of a smoke supernet a log takes little, a checkpoint more than the limit on the size of files."""
    train = ("train", "spos", *FLAGS, "--out")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert command(*train, whole, cwd=tmp_path).returncode == 0
    assert checkpoints(whole)[0].stat().st_size > 100_000
    for _ in range(2):  # also one that is resumed there
        done = command(*train, run, cwd=tmp_path, before=small_files)
        assert done.returncode == 2, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("nshot: error: ")]
        assert "cannot be written (File too large): mend that" in line
        assert "Traceback" not in done.stderr
        assert not list(run.glob("*.pt"))
        assert not list(run.glob(".*"))
    assert command(*train, run, cwd=tmp_path).returncode == 0
    ours, theirs = load_file(run / "supernet.safetensors"), load_file(whole / "supernet.safetensors")
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_run_folder_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    steps = train_module.train_steps

    def vanishing(*args, **given):
        for step, loss in steps(*args, **given):
            if step == 5:
                shutil.rmtree(run)
            yield step, loss

    monkeypatch.setattr(train_module, "train_steps", vanishing)
    status, _, err = nshot_("train", "spos", *FLAGS, "--out", str(run))
    assert status == 2
    assert "cannot be written: its folder is gone; bring it back, or start again elsewhere" in err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_is_said_in_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(args: list[str]) -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "train", greedy)
    remedy = "take a smaller --batch-size or --resolution, or fewer --jobs"
    assert nshot_("train") == (2, "", f"nshot: error: the memory of this machine has run out: {remedy}\n")


def test_torch_says_it_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "train", lambda args: torch.empty(2**55))
    status, _, err = nshot_("train")
    assert (status, err.count("\n")) == (2, 1)
    assert "the memory of this machine has run out" in err


def test_other_errors_of_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: list[str]) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setitem(COMMANDS, "train", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        nshot_("train")


def test_what_other_threads_raise_is_still_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[type] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append(args.exc_type))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Log(tmp_path / name, 0).close()

    def broken() -> None:
        raise FileNotFoundError("a user's own file")

    thread = threading.Thread(target=broken)
    thread.start()
    thread.join()
    assert heard == [FileNotFoundError]


@pytest.mark.parametrize(
    ("function", "broken"),
    [
        (lambda path: nshot.files.make_folder(path / "new"), (Path, "mkdir")),
        (lambda path: write_folder(path / "new", {"model.py": b"1"}, {}), (os, "fsync")),
        (lambda path: locked(path / "new").__enter__(), (SoftFileLease, "acquire")),
    ],
)
def test_a_full_disk_is_named_wherever_it_is_met(
    function: Callable[[Path], object], broken: tuple[type, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is wanted there, no other folder."""

    def full(*args: object, **known: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*broken, full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): make room, then the same"):
        function(tmp_path)
