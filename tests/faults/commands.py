"""nshot's commands as processes that faults happen to: forked from a server that has imported everything, so that one
begins in no time; and what they leave, to be compared bit for bit."""

import errno
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from forked import say_to, server
from nshot.runs.checkpoint import checkpoints, step_of
from nshot.training.distributed import digest

SIZES = ("--channels", "4", "--cells", "1", "--resolution", "8")
EVERY = ("--log-every", "5", "--checkpoint-every", "9")
TRAIN = ("--preset", "smoke", *SIZES, "--epochs", "3", *EVERY, "--device", "cpu")
ARCH = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|skip_connect~2|"
TIMES = {"seconds", "images_per_second", "latency_ms", "versions", "crc", "sha256"}  # differ each time
HISTORY = {"before"}  # what an export says of those that it replaced


def _run(words: Sequence[str], said: Path, writes: int | None) -> None:
    say_to(said, 1)
    say_to(said, 2)
    torch.set_num_threads(1)
    if writes is not None:
        _refuse_after(writes)
    from nshot.cli import main

    status = main(list(words))
    sys.stdout.flush()
    sys.exit(status)


def _refuse_after(writes: int) -> None:
    """Has the system of this process say that the disk is full, from so many whole files on."""
    flush, left = os.fsync, [writes]

    def full(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    os.fsync = full


@dataclass
class Started:
    """A command that runs; ``said`` is the file of its output."""

    process: Any
    said: Path

    def wait(self, seconds: float = 600) -> int:
        self.process.join(seconds)
        assert self.process.exitcode is not None, "a command that hangs"
        return self.process.exitcode

    @property
    def output(self) -> str:
        """Empty where it was killed before it could say anything."""
        return self.said.read_text() if self.said.exists() else ""


def start(words: Sequence[str | Path], said: Path, writes: int | None = None) -> Started:
    """Begins a command; ``writes``: after how many whole files the disk is full."""
    assert server is not None
    said.unlink(missing_ok=True)
    process = server.Process(target=_run, args=([str(word) for word in words], said, writes))
    process.start()
    return Started(process, said)


def run(words: Sequence[str | Path], said: Path) -> str:
    """A command that must end well; its output."""
    started = start(words, said)
    assert started.wait() == 0, started.output
    return started.output


@dataclass(frozen=True)
class Task:
    """A command whose results are compared: its words for a folder, and what must lie there before."""

    name: str
    words: Callable[[Path], list[str | Path]]
    before: Path | None = None
    """A folder that is copied first."""

    def prepare(self, folder: Path) -> list[str | Path]:
        if self.before is not None:
            shutil.copytree(self.before, folder)
        return self.words(folder)


def training(method: str) -> Task:
    return Task(f"train {method}", lambda folder: ["train", method, *TRAIN, "--out", folder])


def images(folder: Path) -> Path:
    """Three classes by brightness."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "hen")):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.clip(rng.integers(0, 256, (12, 15, 3)) * 0.3 + 80 * label, 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "train" / name / f"{i}.png")
    return folder


def tasks(root: Path) -> dict[str, Task]:
    """The commands besides trainings, by name; ``root`` gets what they begin with."""
    supernet, photos = root / "supernet", images(root / "photos")
    run(training("spos").words(supernet), root / "said")
    quick = ["--train", "--epochs", "4", *SIZES[:4], "--search", "--sample", "20", "--retrain", "--epochs", "4"]
    retrain = ["--dataset", "digits", *SIZES, "--epochs", "6", *EVERY, "--device", "cpu"]
    found = [
        Task("search", lambda f: ["search", f, "--sample", "200", "--device", "cpu"], supernet),
        Task("rank", lambda f: ["rank", f, "--benchmark", "digits", "--sample", "200", "--device", "cpu"], supernet),
        Task("retrain", lambda f: ["retrain", ARCH, *retrain, "--out", f]),
        Task("auto", lambda f: ["auto", f"imagefolder:{photos}", "--out", f, "--device", "cpu", *quick]),
        Task(
            "study",
            lambda f: ["study", "table-j", "--preset", "smoke", "--seeds", "1", "--runs", f, "--out", f / "results"],
        ),
    ]
    return {task.name: task for task in found}


def left(folder: Path) -> dict[str, str]:
    """A digest of each result (weights, the checkpoint of the last step, tables, logs, JSON) without how long it took.

    An earlier checkpoint stays where a signal came, and only there.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if not path.name.startswith(".")):
        if path.suffix in (".safetensors", ".csv", ".onnx", ".md", ".py"):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".parquet":
            found[str(path.relative_to(folder))] = repr(pq.read_table(path).to_pydict())
        elif path.suffix == ".json":
            found[str(path.relative_to(folder))] = json.dumps(untimed(json.loads(path.read_text())))
        elif path.name == "log.jsonl":
            lines = [untimed(json.loads(line)) for line in path.read_text().splitlines()]
            found[str(path.relative_to(folder))] = json.dumps(lines)
    for config in folder.rglob("config.json"):
        newest, log = checkpoints(config.parent), config.parent / "log.jsonl"
        if newest and step_of(newest[0]) == json.loads(log.read_text().splitlines()[-1])["step"]:
            state = torch.load(io.BytesIO(newest[0].read_bytes()), weights_only=True)
            state.pop("seconds")
            found[str(config.parent.relative_to(folder) / "checkpoint")] = digest(state).hex()
    return found


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(entry) for key, entry in value.items() if key not in TIMES | HISTORY}
    return [untimed(entry) for entry in value] if isinstance(value, list) else value
