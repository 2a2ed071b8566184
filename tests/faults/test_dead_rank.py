"""One of two processes under torchrun is killed: the job ends within a minute and names it, and goes on bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import forked
from commands import EVERY, SIZES, left
from counts import Outcomes, count
from helpers import TORCHRUN
from nshot.runs.log import read_log

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torch has no gloo there that is tested")

TRAIN = ("train", "spos", "--preset", "smoke", *SIZES, "--epochs", "6", *EVERY, "--device", "cpu", "--out")
STEPS = 108


def together(run: Path) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    words = [*TORCHRUN, "-m", "nshot.cli", *TRAIN, str(run)]
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def ranks_of(launcher: int) -> dict[int, int]:
    """The launcher's processes by their rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == launcher:
                words = entry.joinpath("environ").read_bytes().split(b"\0")
                found |= {int(word[5:]): int(entry.name) for word in words if word.startswith(b"RANK=")}
        except (OSError, ValueError):  # it has ended
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes by /proc")
@pytest.mark.timeout(36_000)
def test_one_of_two_is_killed(tmp_path: Path) -> None:
    wanted, rng, outcomes = count(1, 20), random.Random(1), Outcomes("dead-rank")
    whole = tmp_path / "whole"
    undisturbed = forked.together(*TRAIN, whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected, made = left(whole), 0
    while made < wanted:
        run, rank = tmp_path / f"run-{made}", rng.randrange(2)
        victim_at = rng.randrange(0, STEPS - 20)
        process = together(run)
        while max((line["step"] for line in read_log(run / "log.jsonl")), default=0) < victim_at or not run.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.2))
        ranks = ranks_of(process.pid)
        if rank not in ranks:
            outcomes.add("ended before the signal")
            process.communicate()
            continue
        began = time.monotonic()
        os.kill(ranks[rank], signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
        took = time.monotonic() - began
        assert process.returncode != 0
        assert took < 60
        said = [line for line in out.splitlines() if line.startswith("nshot: error: ")]
        assert len(said) == 1, out
        assert said[0].startswith(f"nshot: error: process {rank} of 2 (pid {ranks[rank]} on "), said
        again = forked.together(*TRAIN, run)
        assert again.returncode == 0, again.stderr
        assert left(run) == expected
        made += 1
        longest = max(took, outcomes.facts.get("longest until the job ended, s", 0.0))
        outcomes.add(f"process {rank} killed", "named", "resumed bit-identically")
        outcomes.add(**{"longest until the job ended, s": longest})
