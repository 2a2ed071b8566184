"""Memories of methods are equal in all processes that train together, and an error where they are not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forked import together
from nshot.runs import checkpoint

UNEQUAL = """
import torch
from nshot.errors import UserError
from nshot.training import distributed
device = torch.device("cpu")
distributed.join(device)
rank = distributed.rank()
assert distributed.gather(torch.tensor([2 * rank, 2 * rank + 1])).tolist() == [0, 1, 2, 3]
assert distributed.mean(torch.tensor(4.0 * rank)) == 2
module = torch.nn.Module()
module.register_buffer("same", torch.ones(3))
distributed.check_equal(module, "it", device)
module.register_buffer("other", torch.tensor([0.0, 1e-30 * rank]))
try:
    distributed.check_equal(module, "step 3: the memory", device)
except UserError as error:
    print(error)
"""


def test_memories_that_differ_are_an_error(tmp_path: Path) -> None:
    script = tmp_path / "unequal.py"
    script.write_text(UNEQUAL)
    done = torchrun(str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 3: the memory differs in process 1 from that in process 0: start again") == 2


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, *words], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["nsas", "pada"])
def test_two_processes_have_equal_memories(name: str, tmp_path: Path) -> None:
    """20 steps, compared every five, an epoch's end in the midst."""
    flags = ("--preset", "smoke", "--epochs", "2", "--batch-size", "58", "--checkpoint-every", "5")
    done = together("train", name, *flags, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained:") == 1
    state = checkpoint.load_newest(tmp_path / "run")[1]
    assert state is not None
    assert "memory" in state
