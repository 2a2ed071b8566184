"""Steps whose loss or gradient is not finite are skipped, as if they had not been; so many, and no more."""

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nshot
import nshot.supernets.train as train_module
from helpers import SMALL, refuse
from nshot import SeparatedMomentum, UserError
from nshot.data.sources import Dataset, load
from nshot.report.page import write_report
from nshot.runs import checkpoint
from nshot.runs.execute import Job
from nshot.runs.log import read_log
from nshot.seeding import generator
from nshot.strategies import Plan, strategies
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.train import make_strategy
from nshot.training import distributed
from nshot.training.distributed import digest
from nshot.training.loop import train_steps
from nshot.training.skipping import Skipping

STEPS, EPOCH, BATCH = 15, 5, 8
BROKEN = (4, 6, 7, 12)  # an epoch's end among them, and two in a row


@pytest.fixture(scope="module")
def data() -> Dataset:
    found = load("digits", resolution=8)
    return dataclasses.replace(found, train=found.train.subset(np.arange(EPOCH * BATCH)))


def config_of(name: str, **more: Any) -> TrainConfig:
    base = preset("smoke", name)
    whole = nshot.space("nasbench201", channels=2, cells=1, resolution=8)
    space = strategies[name].parts(whole, base.options, 0)[0].with_classes(10)
    made = dataclasses.replace(base, space=space, batch_size=BATCH, epochs=3, log_every=2, checkpoint_every=1)
    return dataclasses.replace(made, **more)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[Collection[int]], None]:
    """Has the images of some steps be no numbers."""

    def poisoned(steps: Collection[int]) -> None:
        def made(batches: Any, *_: Any) -> Any:
            def batch(step: int, *positions: Tensor) -> tuple[Tensor, Tensor]:
                x, y = batches(step, *positions)
                return (x * float("nan") if step in steps else x), y

            return batch

        monkeypatch.setattr(train_module, "made", made)

    return poisoned


def job_of(config: TrainConfig, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> Job:
    jobs: list[Job] = []
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "execute", lambda run, make, *_: jobs.append(make()))
        train_module.train(config, data, "nowhere", device="cpu")
    return jobs[0]


def state(job: Job) -> list[bytes]:
    return [digest(part.state_dict()) for part in (job.module, job.optimizer, job.memory)]


@pytest.mark.parametrize("name", nshot.list_strategies())
def test_what_is_skipped_has_not_been(name: str, data: Dataset, poison: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, momentum and memory are those of a training that never took these steps."""
    expected, strategy = job_of(config_of(name), data, monkeypatch), make_strategy(config_of(name), EPOCH)
    start = 0
    for stop in (*BROKEN, STEPS):
        for step, _ in expected.steps(start) if start < stop else ():
            if step == stop - 1:
                break
        if stop < STEPS:
            strategy.skipped(stop, expected.memory)
        start = stop + 1
    poison(BROKEN)
    job = job_of(config_of(name, diverging="skip"), data, monkeypatch)
    losses = {step: float(loss) for step, loss in job.steps(0)}
    assert job.skipping is not None
    assert job.skipping.steps == list(BROKEN)
    assert [step for step, loss in losses.items() if loss != loss] == list(BROKEN)
    assert state(job) == state(expected)
    assert all(p.grad is None for p in [*job.module.parameters(), *job.memory.parameters()])


def test_an_epoch_ends_though_its_last_step_was_skipped(
    data: Dataset, poison: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PA&DA draws the next one's images by what the steps that were taken say, as its formulas do by hand."""
    poison([EPOCH - 1])
    job = job_of(config_of("pada", diverging="skip"), data, monkeypatch)
    steps = iter(job.steps(0))
    for _ in range(EPOCH - 1):
        next(steps)
    assert job.memory.u.count_nonzero() == (EPOCH - 1) * BATCH
    assert job.memory.s.count_nonzero() > 0
    next(steps)
    images = EPOCH * BATCH  # in epoch 0 tau is 0: each image is as probable
    drawn = generator(config_of("pada").seed, "images", 1).choice(images, images, p=np.full(images, 1 / images))
    assert job.memory.order.tolist() == drawn.tolist()
    assert not job.memory.u.any()
    assert not job.memory.s.any()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", nshot.list_spaces())
def test_no_kernel_hides_what_is_not_a_number(name: str, fast: bool) -> None:
    """Else the loss of broken weights would look fine: a ReLU that makes 0 of it does so."""
    space = nshot.space(name, **SMALL[name])
    supernet = space.supernet().to(memory_format=torch.channels_last)
    supernet.fast = fast
    x = torch.randn(8, 3, space.resolution, space.resolution).to(memory_format=torch.channels_last)
    subnet = next(s for s in map(space.sample, map(np.random.default_rng, range(99))) if varies(supernet, x, s))
    next(p for p in supernet.parameters() if p.dim() == 4).data.fill_(float("nan"))
    assert supernet(x, subnet).isnan().all()
    with torch.no_grad():
        assert supernet(x, subnet).isnan().all()


def varies(supernet: nn.Module, x: Tensor, subnet: Any) -> bool:
    """Whether the outputs depend on the images: some subnets have no path to them."""
    with torch.no_grad():
        return bool(supernet(x, subnet).std(0).max() > 1e-3)


class Steep(nn.Module):
    """A finite loss whose gradient is infinite at 0; counts its passes, as running statistics do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, x: Tensor, path: Any) -> Tensor:
        self.passes += 1
        return (self.weight * x).sqrt().sum()


def steep(xs: list[float], most: int = 10) -> tuple[Steep, Skipping]:
    model = Steep()
    optimizer = SeparatedMomentum(torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9), 1)
    skipping = Skipping(most, model, optimizer, nn.Module())
    known: dict[str, Any] = {"start": 0, "total_steps": len(xs), "lr": 0.1, "criterion": lambda out, y: out}
    list(
        train_steps(
            model,
            optimizer,
            lambda step: Plan(((0,),), (1.0,), 1.0, 0),
            lambda step: (torch.tensor([xs[step]]), torch.zeros(1)),
            skipping=skipping,
            **known,
        )
    )
    return model, skipping


def test_a_gradient_that_is_not_finite_counts_too() -> None:
    model, skipping = steep([4.0, 0.0, 1.0])
    # w <- w - 0.1 m: 1 - 0.1 * 1 = 0.9, then m = 0.9 * 1 + 0.5 / sqrt(0.9)
    assert model.weight.item() == pytest.approx(0.9 - 0.1 * (0.9 + 0.5 / 0.9**0.5))
    assert skipping.steps == [1]
    assert float(model.passes) == 2


def test_all_processes_skip_what_one_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def largest(value: int, device: torch.device) -> int:
        asked.append(value)
        return int(len(asked) == 2 or value)

    monkeypatch.setattr(distributed, "largest", largest)
    _, skipping = steep([1.0, 1.0, 0.0, 1.0])
    assert asked == [0, 0, 1, 0]
    assert skipping.steps == [1, 2]


class StoppedError(Exception):
    pass


def kept(config: TrainConfig, data: Dataset, folder: Path, patch: pytest.MonkeyPatch, last: int) -> dict[str, Any]:
    """The checkpoint after so many steps, at which the training is stopped."""
    save = checkpoint.save

    def saved(folder: Path, step: int, state: dict[str, Any]) -> Path:
        path = save(folder, step, state)
        if step == last:
            raise StoppedError
        return path

    patch.setattr(checkpoint, "save", saved)
    with pytest.raises(StoppedError):
        train_module.train(config, data, folder, device="cpu", say=lambda line: None)
    patch.setattr(checkpoint, "save", save)
    found = checkpoint.load_newest(folder)[1]
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["spos", "gdas", "pinas"])
def test_a_resumed_run_knows_what_it_skipped(
    name: str, data: Dataset, poison: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(BROKEN)
    config = config_of(name, diverging="skip")
    whole = kept(config, data, tmp_path / "whole", monkeypatch, STEPS)
    assert whole["skipped"] == list(BROKEN)
    for last in (3, 5, 8, 13, STEPS):  # before and after what is skipped
        found = kept(config, data, tmp_path / "run", monkeypatch, last)
        assert found["skipped"] == [step for step in BROKEN if step < last]
    for key in whole.keys() - {"seconds", "losses"}:
        assert digest(found[key]) == digest(whole[key]), key
    lines = [
        {key: line.get(key) for key in ("step", "loss", "skipped")} for line in read_log(tmp_path / "run" / "log.jsonl")
    ]
    assert lines == [
        {key: line.get(key) for key in ("step", "loss", "skipped")}
        for line in read_log(tmp_path / "whole" / "log.jsonl")
    ]


def test_the_log_and_the_page_say_how_many(
    data: Dataset, poison: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(BROKEN)
    run, said = tmp_path / "run", []
    train_module.train(config_of("spos", diverging="skip", skips=4), data, run, device="cpu", say=said.append)
    lines = read_log(run / "log.jsonl")
    assert [line["skipped"] for line in lines] == [0, 0, 1, 3, 3, 3, 4, 4]
    assert [line["step"] for line in lines if "loss" not in line] == [8]  # both of its steps were skipped
    assert all(line["loss"] == line["loss"] for line in lines if "loss" in line)
    assert "Steps that were skipped: 4; their loss or gradient was not finite" in write_report(run).read_text()
    assert "4 of 15 steps were skipped" in said[-1]
    poison(())
    plain = train_module.train(config_of("spos"), load("digits", resolution=8), tmp_path / "plain", device="cpu")
    assert "were skipped" not in write_report(plain).read_text()
    assert all("skipped" not in line for line in read_log(plain / "log.jsonl"))


def test_one_more_than_may_be_skipped_ends_the_run(data: Dataset, poison: Any, tmp_path: Path) -> None:
    poison(BROKEN)
    config = config_of("spos", diverging="skip", skips=3)
    for _ in range(2):  # also where it is resumed
        with pytest.raises(
            UserError,
            match=r"^the loss is nan at step 13 \(of \|.*\), after 3 steps that were skipped, though .* clipped",
        ):
            train_module.train(config, data, tmp_path / "run", device="cpu", say=lambda line: None)
    assert checkpoint.step_of(checkpoint.checkpoints(tmp_path / "run")[0]) == 12
    with pytest.raises(UserError, match=r"^the loss is nan at step 5 \(of \|.*\|\), though"):  # the default stops
        train_module.train(config_of("spos"), data, tmp_path / "other", device="cpu")


def test_weights_that_are_not_finite_are_not_saved(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step of a finite loss: it would be noticed one step later, and the checkpoint lie there."""
    steps = train_module.train_steps

    def poisoned(model: nn.Module, *args: Any, **known: Any) -> Any:
        for step, loss in steps(model, *args, **known):
            if step == 9:
                next(model.parameters()).data.fill_(float("inf"))
            yield step, loss

    monkeypatch.setattr(train_module, "train_steps", poisoned)
    config = config_of("spos", checkpoint_every=5)
    with pytest.raises(UserError, match=r"^weights are not finite after step 10 \(of .*, though .* clipped to 5"):
        train_module.train(config, data, tmp_path / "run", device="cpu")
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(tmp_path / "run")] == [5]


def test_what_cannot_be_skipped_is_refused(tmp_path: Path) -> None:
    out = ("--preset", "smoke", "--out", tmp_path / "run")
    assert "skips 3 has no effect without --diverging skip" in refuse("train", "spos", "--skips", "3", *out)
    assert "skips 0: must be at least 1" in refuse("train", "spos", "--diverging", "skip", "--skips", "0", *out)
    words = ("train", "cream", "--diverging", "skip", "--variant", "released")
    assert "diverging skip: Cream's released variant moves weights before the step's loss" in refuse(*words, *out)
    assert not (tmp_path / "run").exists()
