"""Two processes train what one would: bit-equal to each other, and to one process within 1e-8, memories and all."""

import multiprocessing
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

import nshot
from counts import Outcomes, count, first
from ranks import process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torch has no gloo there that is tested")
State = dict[str, torch.Tensor]
STEPS = 100
FEW = 8  # steps, without NSHOT_FAULTS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.timeout(36_000)
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    seeds, outcomes = count(1, 20), Outcomes("two-processes")
    steps = FEW if seeds == 1 else STEPS
    runs = [(method, seed) for seed in range(first(), first() + seeds) for method in nshot.list_strategies()]
    context, port = multiprocessing.get_context("spawn"), free_port()
    started = [context.Process(target=process, args=(rank, port, runs, steps, tmp_path)) for rank in (0, 1, None)]
    for each in started:
        each.start()
    try:
        for method, seed in runs:
            files = [tmp_path / f"{method}-{seed}-{rank}.pt" for rank in (0, 1, None)]
            while not all(file.exists() for file in files):
                assert all(each.exitcode in (None, 0) for each in started)
                started[-1].join(0.2) or time.sleep(0.05)
            far = compared(method, seed, *(torch.load(file, weights_only=True) for file in files))
            worst = max(far, outcomes.facts.get("largest difference", 0.0))
            outcomes.add("ranks bit-equal", f"{method}: equal", **{"largest difference": worst, "steps": steps})
            for file in files:
                file.unlink()
        for each in started:
            each.join(60)
            assert each.exitcode == 0
    finally:
        for each in started:
            each.terminate()


def compared(method: str, seed: int, first: State, second: State, one: State) -> float:
    """The largest difference between two processes and one."""
    assert first.keys() == second.keys() == one.keys()
    for name, value in first.items():
        assert value.equal(second[name]), (method, seed, name)
    filled = [name for name, value in first.items() if value.numel()]
    differences = {name: float((first[name].double() - one[name].double()).abs().max()) for name in filled}
    name = max(differences, key=lambda name: differences[name])
    assert differences[name] < 1e-8, (method, seed, name, differences[name])
    return differences[name]
