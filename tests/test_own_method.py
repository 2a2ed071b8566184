"""A method of one's own with a memory, by the example in examples/."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nshot.runs.checkpoint import load_newest

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_method.py"
STEPS = 2 * 18  # 599 digits in batches of 32

KILLED = """
import sys
sys.argv = ["own_method.py", "run"]
import nshot.runs.checkpoint as checkpoint
save = checkpoint.save
def killing(folder, step, state):
    save(folder, step, state)
    if step == 20:
        import os
        os._exit(9)
checkpoint.save = killing
import nshot.supernets.config as config
import dataclasses, runpy
made = config.TrainConfig.__init__
def often(self, *args, **given):
    made(self, *args, **{**given, "checkpoint_every": 10})
config.TrainConfig.__init__ = often
runpy.run_path("own_method.py", run_name="__main__")
"""


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True)


def counts(folder: Path) -> Any:
    _, state, _ = load_newest(folder)
    assert state is not None
    return state["memory"]["counts"]


def test_the_example_trains_options_equally_often_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "own_method.py").write_text(EXAMPLE.read_text())
    done = run("own_method.py", "whole", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run("-c", KILLED, cwd=tmp_path).returncode == 9
    half = counts(tmp_path / "run")
    assert half.sum(1).tolist() == [20] * 6
    assert half.min() == half.max() == 4  # 20 steps, five options
    done = run("-c", KILLED.replace("step == 20", "step == 0"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "at step 20 of 36" in done.stdout
    whole, resumed = (load_file(tmp_path / name / "supernet.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    after = counts(tmp_path / "run")  # the newest checkpoint, of step 30
    assert after.sum(1).tolist() == [30] * 6
    assert after.max() == after.min() == 6


def test_the_example_is_short() -> None:
    lines = EXAMPLE.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("@strategies"))
    last = next(i for i, line in enumerate(lines) if line.startswith("if __name__"))
    assert len([line for line in lines[first:last] if line.strip()]) <= 40
