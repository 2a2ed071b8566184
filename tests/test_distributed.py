"""Data-parallel training: two processes against a loop that averages the gradients of both shares by hand."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from forked import together
from helpers import TORCHRUN, nshot_, refuse
from nshot.cli import COMMANDS
from nshot.data.batches import TrainBatches
from nshot.data.sources import load
from nshot.files import read_json
from nshot.nn.drop import DropPath
from nshot.runs import checkpoint
from nshot.seeding import seeded
from nshot.strategies import strategies
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.train import new_supernet, train
from nshot.training import distributed


def torchrun(*args: str | Path) -> subprocess.CompletedProcess[str]:
    words = [*TORCHRUN, "-m", "nshot.cli", *map(str, args)]
    return subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def by_hand(config: TrainConfig, steps: int) -> dict[str, torch.Tensor]:
    """Both shares in one process, with torch's own optimizers, one a cluster."""
    data = load("digits", resolution=config.space.resolution)
    config = replace(config, space=config.space.with_classes(10))
    supernet = new_supernet(config)
    shares = [
        TrainBatches(data.train, config.batch_size, config.seed, flip=data.mirrors, share=(i, 2)) for i in range(2)
    ]
    total = config.epochs * shares[0].steps_per_epoch
    strategy = strategies[config.strategy](config.space, total_steps=total, seed=config.seed, options=config.options)
    weights = list(supernet.parameters())
    optimizers = [
        torch.optim.SGD(weights, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov)
        for _ in range(strategy.clusters)
    ]
    for step in range(steps):
        plan = strategy.plan(step)
        for path, weight in zip(plan.paths, plan.weights, strict=True):
            for x, y in (share(step) for share in shares):
                (F.cross_entropy(supernet(x, path), y) * weight / 2).backward()
        for parameter in weights:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.nn.utils.clip_grad_norm_(weights, config.clipping or float("inf"))
        optimizer = optimizers[plan.cluster]
        optimizer.param_groups[0]["lr"] = config.lr * plan.lr
        optimizer.step()
        supernet.zero_grad()
    return supernet.state_dict()


@pytest.mark.parametrize("method", ["spos", "fairnas"])
def test_two_processes_train_what_one_would_on_both_shares(method: str, tmp_path: Path) -> None:
    # A small rate: rounding otherwise than one process does would grow tenfold in a few steps.
    flags = ("--preset", "smoke", "--epochs", "1", "--lr", "0.005", "--schedule", "calr", "--ms", "first")
    start = torchrun if method == "spos" else together  # the others in a tenth of the time
    done = start("train", method, *flags, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained:") == 1
    options = strategies[method].options_type.of(schedule="calr", ms="first")
    config = replace(preset("smoke", method, "nasbench201"), epochs=1, lr=0.005, options=options)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    expected = by_hand(config, steps[-1])
    for name, weight in load_file(tmp_path / "run" / "supernet.safetensors").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)
    again = together("train", method, *flags, "--out", tmp_path / "run")
    assert again.returncode == 0
    assert again.stdout.count("finished already") == 1


def test_each_supernet_of_several_is_trained_together(tmp_path: Path) -> None:
    flags = ("--preset", "smoke", "--epochs", "1", "--lr", "0.005", "--schedule", "calr", "--ms", "last")
    refused = together("train", "fsnas", *flags, "--jobs", "2", "--out", tmp_path / "run")
    assert "nshot: error: jobs 2: 2 processes train each supernet together, leave out --jobs" in refused.stderr
    assert not (tmp_path / "run").exists()
    done = together("train", "fsnas", *flags, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained:") == 1
    options = strategies["fsnas"].options_type.of(schedule="calr", ms="last")
    config = replace(preset("smoke", "fsnas", "nasbench201"), epochs=1, lr=0.005, options=options)
    parts = strategies["fsnas"].parts(config.space, config.options, config.seed)
    assert len(list((tmp_path / "run").glob("part-*"))) == len(parts) == 5
    for i, part in enumerate(parts):
        folder = tmp_path / "run" / f"part-{i}"
        last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"]
        expected = by_hand(replace(config, space=part), last)
        for name, weight in load_file(folder / "supernet.safetensors").items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_each_process_drops_other_paths_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = DropPath()
    network.p = 0.5
    masks = []
    for rank in ("0", "1", "2", "1"):
        monkeypatch.setenv("RANK", rank)
        with seeded(distributed.own_seed(7), "forward", 3):
            masks.append(network(torch.ones(64, 1, 1, 1)).flatten().tolist())
    assert masks[1] == masks[3]
    assert masks[0] != masks[1] != masks[2] != masks[0]
    monkeypatch.delenv("RANK")
    with seeded(7, "forward", 3):
        assert network(torch.ones(64, 1, 1, 1)).flatten().tolist() == masks[0]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    done = together("train", "spos", "--preset", "smoke", "--batch-size", "63", "--out", tmp_path / "run")
    assert "batch_size 63: must be a multiple of the 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"train"}))
def test_every_other_command_is_the_work_of_one(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first says so, before it looks at its arguments, the others end without a word."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    said = f"nshot: error: 2 processes: nshot {command} is the work of one, start it without torchrun\n"
    assert nshot_(command, "nowhere") == (2, "", said)
    monkeypatch.setenv("RANK", "1")
    assert nshot_(command, "nowhere") == (0, "", "")


class StoppedError(Exception):
    pass


def begun(config: TrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in one process, stopped at its first checkpoint."""

    def stop(*args: object) -> None:
        raise StoppedError

    data = load("digits", resolution=config.space.resolution)
    config = replace(config, space=config.space.with_classes(10), checkpoint_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(StoppedError):
            train(config, data, folder, device="cpu", say=lambda line: None)


def test_a_run_goes_on_with_as_many_processes_as_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = preset("smoke", "spos", "nasbench201"), tmp_path / "run"
    begun(config, run, monkeypatch)
    stored = read_json(run / "config.json")
    assert stored["processes"] == 1
    (run / "config.json").write_text(json.dumps({**stored, "processes": 2}))
    flags = ("train", "spos", "--preset", "smoke", "--checkpoint-every", "1", "--device", "cpu", "--out")
    said = refuse(*flags, run)
    assert "run was begun by 2 processes, and now they are 1: batch norms are of each one's share of a batch" in said
    del stored["processes"]  # an earlier version did not say
    (run / "config.json").write_text(json.dumps(stored))
    assert nshot_(*flags, run)[0] == 0
    (run / "config.json").write_text(json.dumps({**stored, "processes": 2}))
    assert "is finished already" in nshot_(*flags, run)[1]


def test_any_number_of_processes_goes_on_where_norms_are_not_of_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = replace(preset("smoke", "spos", "nasbench201"), fast="off", sync_bn="on")
    for name, config in {"synced": synced, "none": preset("smoke", "spos", "autoformer")}.items():
        begun(config, tmp_path / name, monkeypatch)
        assert "processes" not in json.loads((tmp_path / name / "config.json").read_text())


@pytest.mark.parametrize("command", ["rank"])
def test_what_one_process_does_is_one_line_of_several(command: str, tmp_path: Path) -> None:
    done = torchrun(command, tmp_path / "run")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("nshot: error: ")]
    assert said == [f"nshot: error: 2 processes: nshot {command} is the work of one, start it without torchrun"]
