"""Minutes of training, from logs: by a simulated clock, of runs that change speed and of runs that were killed."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nshot.runs.progress as progress
from nshot.runs import checkpoint
from nshot.runs.execute import Job, Run, execute
from nshot.runs.log import read_log
from nshot.studies.searched import training_minutes

STEPS, BATCH, LOG = 60, 8, 4
SPEEDS: dict[str, Callable[[int], float]] = {  # seconds of a step
    "even": lambda step: 2.0,
    "half as fast from the middle": lambda step: 2.0 if step < STEPS // 2 else 4.0,
    "twice as fast from the middle": lambda step: 2.0 if step < STEPS // 2 else 1.0,
    "slow start": lambda step: 100.0 if step == 0 else 1.0,
    "a pause before the last line": lambda step: 300.0 if step == STEPS - 2 else 1.0,
}


class Clock:
    """A process's clock, which begins anywhere and which only steps move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def train(
    folder: Path, clock: Clock, speed: Callable[[int], float], stop: int = STEPS, checkpoint_every: int = 10
) -> None:
    """Runs, or goes on, to the end or until it is killed in step ``stop``; a step of that speed moves the clock."""
    clock.now += 1e6  # another process, another time

    def make() -> Job:
        module = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

        def steps(start: int) -> Iterator[tuple[int, Tensor]]:
            for step in range(start, STEPS):
                clock.now += speed(step)
                if step == stop:
                    raise KeyboardInterrupt
                yield step, torch.tensor(1.0)

        return Job(module, optimizer, steps, STEPS, BATCH, torch.device("cpu"))

    run = Run(folder, "supernet", {}, "done", LOG, checkpoint_every)
    execute(run, make, lambda job: (folder / "done").touch(), say=lambda line: None)


@pytest.mark.parametrize("name", SPEEDS)
def test_minutes_are_those_that_passed(name: str, clock: Clock, tmp_path: Path) -> None:
    train(tmp_path, clock, SPEEDS[name])
    assert training_minutes(tmp_path, BATCH) == pytest.approx(sum(map(SPEEDS[name], range(STEPS))) / 60)


@pytest.mark.parametrize("checkpoint_every", [7, 8, 10])  # at lines of the log, and between them
@pytest.mark.parametrize("name", SPEEDS)
def test_a_killed_run_takes_the_minutes_of_all_its_processes(
    name: str, checkpoint_every: int, clock: Clock, tmp_path: Path
) -> None:
    """The second is three times, the third half as fast; steps that were lost and done again count once."""
    speed, kills = SPEEDS[name], [25, 44]
    kept = [stop // checkpoint_every * checkpoint_every for stop in kills]
    factors, expected = [1.0, 1 / 3, 2.0], 0.0
    for factor, (start, end), stop in zip(factors, itertools.pairwise([0, *kept, STEPS]), [*kills, STEPS], strict=True):
        expected += sum(factor * speed(step) for step in range(start, end))
        slowed = lambda step, factor=factor: factor * speed(step)  # noqa: E731
        if stop < STEPS:
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path, clock, slowed, stop, checkpoint_every)
        else:
            train(tmp_path, clock, slowed, checkpoint_every=checkpoint_every)
    assert training_minutes(tmp_path, BATCH) == pytest.approx(expected / 60)
    seconds = [line["seconds"] for line in read_log(tmp_path / "log.jsonl")]
    assert seconds == sorted(seconds)


def test_minutes_are_those_of_all_parts(clock: Clock, tmp_path: Path) -> None:
    train(tmp_path / "part-0", clock, SPEEDS["even"])
    train(tmp_path / "part-1", clock, SPEEDS["slow start"])
    assert training_minutes(tmp_path, BATCH) == pytest.approx((2 * STEPS + 100 + STEPS - 1) / 60)


# logs of earlier versions: the images a second since the process began


def age(folder: Path) -> None:
    """Makes the log and the checkpoints of a run those of an earlier version."""
    lines = [{key: line[key] for key in ("step", "images_per_second")} for line in read_log(folder / "log.jsonl")]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in folder.glob("step-*.pt"):
        path.unlink()


@pytest.mark.parametrize("name", SPEEDS)
def test_an_old_log_of_one_process_says_it_exactly(name: str, clock: Clock, tmp_path: Path) -> None:
    train(tmp_path, clock, SPEEDS[name])
    age(tmp_path)
    assert "seconds" not in (tmp_path / "log.jsonl").read_text()
    assert training_minutes(tmp_path, BATCH) == pytest.approx(sum(map(SPEEDS[name], range(STEPS))) / 60)


def test_an_old_log_of_a_faster_second_process_says_it_exactly(clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, clock, lambda step: 3.0, stop=45, checkpoint_every=20)
    train(tmp_path, clock, lambda step: 1.0, checkpoint_every=20)
    age(tmp_path)
    assert training_minutes(tmp_path, BATCH) == pytest.approx((40 * 3 + 20) / 60)


def test_a_run_that_an_earlier_version_began_counts_what_its_log_says(clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, clock, SPEEDS["slow start"], stop=45, checkpoint_every=20)
    newest = max(tmp_path.glob("step-*.pt"))
    state = torch.load(newest, weights_only=True)
    del state["seconds"]
    age(tmp_path)
    checkpoint.save(tmp_path, 40, state)
    train(tmp_path, clock, lambda step: 5.0, checkpoint_every=20)
    assert training_minutes(tmp_path, BATCH) == pytest.approx((100 + 39 + 20 * 5) / 60)
