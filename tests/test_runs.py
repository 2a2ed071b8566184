"""Run folders: a crash loses nothing, a resumed run is bit-identical, a folder is never mistaken for another run."""

import dataclasses
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import nshot.runs.checkpoint as checkpoint
import nshot.supernets.train as train_module
from helpers import nshot_, refuse
from nshot import UserError
from nshot.data.augment import Augment
from nshot.data.batches import TrainBatches
from nshot.data.sources import Dataset
from nshot.dynamic import ComplexityAwareLR, SeparatedMomentum
from nshot.files import read_json
from nshot.runs.lock import locked
from nshot.runs.log import read_log
from nshot.strategies import Options, strategies, strategy
from nshot.supernets.config import TrainConfig, from_dict, preset, to_dict
from nshot.supernets.load import load_run
from nshot.supernets.train import train
from nshot.training.loop import train_steps
from nshot.training.optimizers import sgd

EPOCHS, STEPS = 4, 72  # 599 digits in batches of 32: 18 steps an epoch


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    options = Options(schedule="calr", ms="first")
    return dataclasses.replace(preset("smoke"), epochs=EPOCHS, options=options, log_every=7, checkpoint_every=10)


@pytest.fixture(scope="module")
def whole(config, digits, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    return train(config, digits, tmp_path_factory.mktemp("whole") / "run", device="cpu", say=lambda line: None)


def outcome(run: Path):
    losses = [(line["step"], line["loss"], line["lr"]) for line in read_log(run / "log.jsonl")]
    return losses, load_file(run / "supernet.safetensors")


def assert_identical(run: Path, other: Path) -> None:
    (losses, weights), (other_losses, other_weights) = outcome(run), outcome(other)
    assert losses == other_losses
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[key], other_weights[key]) for key in weights)


def train_until_killed(config, digits, out, kill_at, during) -> None:
    """In a child process: SIGKILL at a step, or while the checkpoint of that step is being written."""
    steps, replace = train_module.train_steps, os.replace

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_steps(*args, **kwargs):
        for step, loss in steps(*args, **kwargs):
            if during == "step" and step == kill_at:
                die()
            yield step, loss

    def dying_replace(source, target):
        if Path(target).name.startswith(f"step-{kill_at:08d}"):
            die()
        replace(source, target)

    train_module.train_steps = dying_steps
    if during == "checkpoint":
        os.replace = dying_replace
    train(config, digits, out, device="cpu", say=lambda line: None)
    os._exit(3)  # it should not have lived this long


def kill(config, digits, out, kill_at, during="step") -> None:
    # fork: the child starts with torch already imported
    child = multiprocessing.get_context("fork").Process(
        target=train_until_killed, args=(config, digits, out, kill_at, during)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("kill_at", random.Random(0).sample(range(1, STEPS), 5))
def test_a_run_killed_at_a_random_step_resumes_bit_identically(kill_at, config, digits, whole, tmp_path) -> None:
    kill(config, digits, tmp_path / "run", kill_at)
    assert not (tmp_path / "run" / "supernet.safetensors").exists()
    said: list[str] = []
    train(config, digits, tmp_path / "run", device="cpu", say=said.append)
    assert f"at step {kill_at // 10 * 10} of {STEPS}" in said[0]
    assert_identical(tmp_path / "run", whole)


def test_a_run_killed_twice_and_while_saving_resumes_bit_identically(config, digits, whole, tmp_path) -> None:
    kill(config, digits, tmp_path / "run", 30, during="checkpoint")
    kill(config, digits, tmp_path / "run", 41)
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere")  # a run folder can be moved
    train(config, digits, tmp_path / "elsewhere", device="cpu", say=lambda line: None)
    assert_identical(tmp_path / "elsewhere", whole)


def test_a_corrupt_checkpoint_falls_back_to_the_older_one_and_says_so(config, digits, whole, tmp_path) -> None:
    run = tmp_path / "run"
    kill(config, digits, run, 45)
    newest, _ = checkpoint.checkpoints(run)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    said: list[str] = []
    train(config, digits, run, device="cpu", say=said.append)
    assert newest.name in said[0]
    assert "corrupt" in said[0]
    assert "at step 30" in said[1]
    assert_identical(run, whole)


@pytest.mark.parametrize("damaged", [0, 1])
def test_of_the_checkpoints_that_are_kept_two_are_intact(damaged: int, tmp_path: Path) -> None:
    """A damaged one of a later step than the next, or of an earlier, takes no place of an intact one."""
    for step in (10, 20):
        checkpoint.save(tmp_path, step, {"step": torch.tensor(step)})
    path = checkpoint.checkpoints(tmp_path)[damaged]
    path.write_bytes(path.read_bytes()[:-1])
    intact = 10 if damaged == 0 else 20
    start, _, corrupt = checkpoint.load_newest(tmp_path)
    assert (start, corrupt) == (intact, [path.name] if damaged == 0 else [])
    checkpoint.save(tmp_path, intact + 5, {"step": torch.tensor(intact + 5)})
    assert [checkpoint.step_of(kept) for kept in checkpoint.checkpoints(tmp_path)] == [intact + 5, intact]
    for kept in checkpoint.checkpoints(tmp_path):
        assert int(torch.load(kept)["step"]) == checkpoint.step_of(kept)


def test_no_intact_checkpoint_is_an_error(config, digits, tmp_path) -> None:
    run = tmp_path / "run"
    kill(config, digits, run, 25)
    for path in checkpoint.checkpoints(run):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="no intact checkpoint"):
        train(config, digits, run, device="cpu", say=lambda line: None)


def test_only_the_two_newest_checkpoints_are_kept_and_torch_reads_them(whole) -> None:
    paths = checkpoint.checkpoints(whole)
    assert [checkpoint.step_of(path) for path in paths] == [70, 60]
    state = torch.load(paths[0], weights_only=True)
    assert set(state) == {"format", "model", "optimizer", "losses", "seconds"}
    assert not list(whole.glob("*.partial"))


def test_another_configuration_is_refused_with_what_differs(config, digits, whole) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in whole.iterdir())
    other = dataclasses.replace(config, lr=0.05, options=Options(schedule="calr", gamma=3))
    with pytest.raises(UserError) as error:
        train(other, digits, whole, device="cpu")
    assert "lr: 0.025, not 0.05" in str(error.value)
    assert "options.gamma: None, not 3" in str(error.value)
    assert "options.ms: first, not None" in str(error.value)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in whole.iterdir()) == before


def test_a_finished_run_is_left_alone(config, digits, whole) -> None:
    said: list[str] = []
    weights = (whole / "supernet.safetensors").stat().st_mtime_ns
    train(config, digits, whole, device="cpu", say=said.append)
    assert "finished already" in said[0]
    assert (whole / "supernet.safetensors").stat().st_mtime_ns == weights


def test_a_folder_with_other_files_is_refused(config, digits, tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty and no run folder"):
        train(config, digits, tmp_path, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def hold(folder, held, release) -> None:
    with locked(folder):
        held.set()
        release.wait(60)


def test_a_run_of_an_earlier_version_goes_on(config, digits, whole, tmp_path) -> None:
    """One that did not have an option yet, which is at its default now; with another value it is another run."""
    old = shutil.copytree(whole, tmp_path / "old")
    (old / "supernet.safetensors").unlink()
    stored = read_json(old / "config.json")
    del stored["config"]["augment"], stored["config"]["drop_path"], stored["config"]["options"]["power"]
    (old / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"holds another run \(label_smoothing: 0.0, not 0.1\)"):
        train(dataclasses.replace(config, label_smoothing=0.1), digits, old, device="cpu")
    with pytest.raises(UserError, match=r"holds another run \(augment.cutout: 0, not 2\)"):
        train(dataclasses.replace(config, augment=Augment(cutout=2)), digits, old, device="cpu")
    train(config, digits, old, device="cpu", say=lambda line: None)
    assert_identical(old, whole)


def test_a_folder_that_another_process_writes_is_refused(config, digits, tmp_path) -> None:
    fork = multiprocessing.get_context("fork")
    held, release = fork.Event(), fork.Event()
    child = fork.Process(target=hold, args=(tmp_path, held, release))
    child.start()
    held.wait(60)
    try:
        with pytest.raises(UserError, match="written by another process"):
            train(config, digits, tmp_path, device="cpu")
    finally:
        release.set()
        child.join()


def test_a_diverging_run_says_so(config, digits, tmp_path) -> None:
    wild = dataclasses.replace(config, lr=1e30, clip=None)
    said = []
    for every in (1, 7, 1000):  # however seldom the losses are looked at
        each = dataclasses.replace(wild, log_every=every)
        with pytest.raises(
            UserError, match=r"^the loss is (nan|inf) at step \d+ \(of \|.*\|\): lower --lr, or set"
        ) as error:
            train(each, digits, tmp_path / f"run{every}", device="cpu")
        said.append(str(error.value))
    assert len(set(said)) == 1
    step = int(said[0].split("at step ")[1].split()[0])
    options = dataclasses.asdict(wild.options)
    method = strategy("spos", wild.space, total_steps=STEPS, seed=wild.seed, **options)
    assert f"(of {wild.space.format(method.plan(step - 1).paths[0])})" in said[0]
    assert checkpoint.load_newest(tmp_path / "run1000")[1] is None  # none was written with such weights


def test_a_checkpoint_of_a_later_version_is_refused(whole, tmp_path) -> None:
    (path, *_) = checkpoint.checkpoints(whole)
    data = torch.load(path, weights_only=True)
    assert data["format"] == checkpoint.FORMAT
    checkpoint.save(tmp_path, 3, {**data, "format": checkpoint.FORMAT + 1})
    with pytest.raises(UserError, match=r"a newer nshot wrote it \(format 2, and this one reads 1\)"):
        checkpoint.load_newest(tmp_path)


def test_global_generators_have_no_say(config, digits, whole, tmp_path) -> None:
    torch.manual_seed(12345)
    random.seed(12345)
    assert_identical(train(config, digits, tmp_path / "run", device="cpu"), whole)


def test_another_seed_is_another_run(config, digits, whole, tmp_path) -> None:
    run = train(dataclasses.replace(config, seed=1), digits, tmp_path / "run", device="cpu")
    assert outcome(run)[0] != outcome(whole)[0]


def test_load_run_gives_the_trained_supernet(config, whole, digits) -> None:
    loaded, supernet = load_run(whole)
    assert loaded == config.resolved()
    weights = load_file(whole / "supernet.safetensors")
    assert all(torch.equal(value, weights[key]) for key, value in supernet.state_dict().items())


def test_load_run_refuses_what_is_no_finished_run(config, digits, whole, tmp_path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        load_run(tmp_path)
    kill(config, digits, tmp_path / "run", 12)
    with pytest.raises(UserError, match="not finished"):
        load_run(tmp_path / "run")
    shutil.copytree(whole, tmp_path / "broken")
    weights = tmp_path / "broken" / "supernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read"):
        load_run(tmp_path / "broken")


def test_configuration_and_versions_are_kept(config, whole) -> None:
    stored = read_json(whole / "config.json")
    assert from_dict(stored["config"]) == config.resolved()
    assert stored["config"] == json.loads(json.dumps(to_dict(config)))
    assert stored["versions"]["torch"] == torch.__version__


def test_a_restricted_space_survives_the_configuration(config) -> None:
    restricted = dataclasses.replace(config, space=config.space.restrict("1<-0", "none", "nor_conv_3x3"))
    assert from_dict(json.loads(json.dumps(to_dict(restricted)))) == restricted.resolved()


def test_tensorboard_has_the_log(whole) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole))
    events.Reload()
    lines = read_log(whole / "log.jsonl")
    assert len(lines) == -(-STEPS // 7)
    assert [e.step for e in events.Scalars("loss")] == [line["step"] for line in lines]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])


class HostReads(TorchDispatchMode):
    """Counts reads of a tensor's value by the host."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_host_read_in_a_step(config, digits) -> None:
    with HostReads() as control:
        torch.ones(1).item()
    assert control.count == 1

    batches = TrainBatches(digits.train, 32, 0, flip=True)
    plans = strategy("spos", config.space, total_steps=10, schedule="calr", ms="first")
    supernet = config.space.supernet()
    recipe = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    optimizer = SeparatedMomentum(
        sgd(supernet.parameters(), idle="drift", clip=5.0, fast=False, **recipe), plans.clusters
    )
    with HostReads() as reads:
        for _ in train_steps(supernet, optimizer, plans.plan, batches, start=0, total_steps=10, lr=0.1):
            pass
    assert reads.count == 0


def test_warm_up_rises_linearly_on_top_of_the_schedule(config, digits, tmp_path) -> None:
    warm = dataclasses.replace(config, options=Options(), warmup=2, log_every=1)
    run = train(warm, digits, tmp_path / "run", device="cpu", say=lambda line: None)
    rates = [line["lr"] for line in read_log(run / "log.jsonl")]
    cosine = [config.lr * (1 + math.cos(math.pi * step / STEPS)) / 2 for step in range(STEPS)]
    expected = [rate * min(1, (step + 1) / 36) for step, rate in enumerate(cosine)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("method", ["spos", "fairnas"])
def test_logged_rates_are_those_of_the_public_scheduler(method: str, digits: Dataset, tmp_path: Path) -> None:
    """Each path of each step, FairNAS's too, where the optimizer's own rate is constant (Alg. 2)."""
    options = strategies[method].options_type.of(schedule="calr", gamma=3.0, g="linear")
    config = dataclasses.replace(preset("smoke", method), epochs=1, options=options, log_every=1)
    run = train(config, digits, tmp_path / "run", device="cpu", say=lambda line: None)
    lines = read_log(run / "log.jsonl")
    plans = strategies[method](config.space, total_steps=len(lines), seed=config.seed, options=options)
    paper = config.space.represented
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    calr = ComplexityAwareLR(
        optimizer, total_steps=len(lines), complexity_range=paper.params_range, gamma=3.0, g="linear"
    )
    for step, line in enumerate(lines):
        rates = []
        for path in plans.plan(step).paths:
            calr.last_epoch = step - 1
            calr.step(paper.params(path))
            rates += calr.get_last_lr()
        assert line["lr"] == pytest.approx(sum(rates) / len(rates), rel=1e-12)
        assert line.get("path_lr", rates) == pytest.approx(rates, rel=1e-12)
        assert ("path_lr" in line) == (method == "fairnas")
    assert len({line["lr"] for line in lines}) == len(lines)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup": 5}, "warmup 5: must not exceed the 4 epochs"),
        ({"warmup": -1}, "warmup -1"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam': choose one of sgd, adamw"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum 0.5 has no effect with --optimizer adamw"),
    ],
)
def test_optimizers_that_cannot_be(config, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **values)


def test_an_adamw_run_resumes_bit_for_bit(config, digits, tmp_path) -> None:
    adam = dataclasses.replace(config, optimizer="adamw", lr=1e-3, warmup=1)
    run = train(adam, digits, tmp_path / "whole", device="cpu", say=lambda line: None)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "supernet.safetensors").unlink()
    newest, _ = checkpoint.checkpoints(copy)
    newest.unlink()  # goes on from the older one
    train(adam, digits, copy, device="cpu", say=lambda line: None)
    assert_identical(run, copy)


@pytest.mark.parametrize(
    ("name", "lacking", "flags"),
    [
        ("nasbench201", ["bias", "options.complexity_of"], "--no-bias --complexity-of own"),
        ("darts", ["options.complexity_of"], "--complexity-of own"),
        ("autoformer", ["decayed"], "--decayed all"),
    ],
)
def test_the_command_that_is_told_goes_on_with_a_run_of_an_earlier_version(
    name: str, lacking: list[str], flags: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    method = ["--schedule", "calr"] if "complexity" in flags else []
    command = ["train", "spos", "--preset", "smoke", "--space", name, "--epochs", "1", *method, "--out", run]
    assert nshot_(*command, *flags.split())[0] == 0
    stored = read_json(run / "config.json")
    for key in lacking:
        *path, last = key.split(".")
        holder = stored["config"][path[0]] if path else stored["config"]
        del holder[last]
    (run / "config.json").write_text(json.dumps(stored))
    told = refuse(*command).rsplit("goes on with ", 1)[1].split()
    assert sorted(told) == sorted(flags.split())
    assert nshot_(*command, *told)[0] == 0
    assert "same options" in refuse(*command, *told, "--seed", "5")


# what a run goes on with


@pytest.mark.parametrize(("kill_at", "every"), [(25, 3), (44, 20), (44, 100), (39, 11)])
def test_a_run_goes_on_with_other_lines_and_checkpoints(kill_at, every, config, digits, whole, tmp_path) -> None:
    """The same weights; each line is the mean of the losses since the one before, as far as the checkpoint had them."""
    folder = tmp_path / "run"
    kill(config, digits, folder, kill_at)
    start = checkpoint.step_of(checkpoint.checkpoints(folder)[0])
    kept = [line for line in read_log(folder / "log.jsonl") if line["step"] <= start]
    other = dataclasses.replace(config, log_every=every, checkpoint_every=9)
    train(other, digits, folder, device="cpu", say=lambda line: None)
    assert all(torch.equal(value, outcome(whole)[1][name]) for name, value in outcome(folder)[1].items())
    single = tmp_path / "single"
    train(dataclasses.replace(config, log_every=1), digits, single, device="cpu", say=lambda line: None)
    losses = [line["loss"] for line in read_log(single / "log.jsonl")]
    lines = read_log(folder / "log.jsonl")
    assert lines[: len(kept)] == kept
    steps = [line["step"] for line in lines[len(kept) :]]
    assert steps == [step for step in range(start + 1, STEPS + 1) if step % every == 0 or step == STEPS]
    for line in lines[len(kept) :]:
        first = (line["step"] - 1) // every * every
        first = max(first, start - min(config.log_every, every))
        mean = sum(losses[first : line["step"]]) / (line["step"] - first)
        assert line["loss"] == pytest.approx(mean, rel=1e-5)
    stored = read_json(folder / "config.json")["config"]
    assert (stored["log_every"], stored["checkpoint_every"]) == (every, 9)


def test_a_finished_run_keeps_what_it_was_trained_with(config, digits, whole) -> None:
    before = (whole / "config.json").read_bytes()
    train(dataclasses.replace(config, log_every=5, checkpoint_every=9), digits, whole, device="cpu", say=[].append)
    assert (whole / "config.json").read_bytes() == before


class NoDouble(torch.Tensor):
    """As on a device without float64: there is none until it is on the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu:
            return found.as_subclass(torch.Tensor)
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return found


class OnSuchADevice(TorchFunctionMode):
    """The losses of a run are kept there."""

    made = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is torch.zeros and args == (7,):
            self.made += 1
            return found.as_subclass(NoDouble)
        return found


def test_a_device_without_float64_trains_and_logs(config, digits, whole, tmp_path) -> None:
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(7).as_subclass(NoDouble).double()
    with OnSuchADevice() as device:
        train(config, digits, tmp_path / "run", device="cpu", say=lambda line: None)
    assert device.made == 1
    assert_identical(tmp_path / "run", whole)
