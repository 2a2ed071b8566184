"""Memories of methods are equal in all processes that train together, and an error where they are not."""

import os
import subprocess
from pathlib import Path

import pytest

from forked import together
from helpers import TORCHRUN
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*TORCHRUN, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 3: the memory differs in process 1 from that in process 0: start again") == 2


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


UNLIKE = """
import torch
from torch import nn
from nshot.seeding import generator
from nshot.strategies import Plan, Strategy, strategies
from nshot.training import distributed

@strategies.register("unlike")
class Unlike(Strategy):
    name = "unlike"

    def memory(self, supernet, facts):
        memory = nn.Module()
        memory.register_buffer("ranks", torch.zeros(1))
        return memory

    def plan(self, step, memory=None):
        return Plan((self.draw(generator(self.seed, "path", step)),), (1.0,), 1.0, 0)

    def after(self, step, plan, seen, memory, tools):
        memory.ranks += distributed.rank()
"""


@pytest.mark.parametrize(("every", "step"), [(4, 4), (1000, 10)])
def test_a_method_whose_memories_differ_ends_at_a_checkpoint_or_the_end(every: int, step: int, tmp_path: Path) -> None:
    """Of ten steps. Nothing of them is kept."""
    (tmp_path / "unlike.py").write_text(UNLIKE)
    flags = ("--preset", "smoke", "--epochs", "1", "--batch-size", "58", "--checkpoint-every", str(every))
    mine = ("train", "unlike", *flags, "--plugin", tmp_path / "unlike.py", "--device", "cpu")
    done = together(*mine, "--out", tmp_path / "run")
    assert done.returncode == 2
    differs = f"step {step}: the method's memory differs in process 1 from that in process 0: start again in one"
    assert f"nshot: error: {differs} process" in done.stderr
    assert not list((tmp_path / "run").glob("step-*"))
    assert not (tmp_path / "run" / "supernet.safetensors").exists()
