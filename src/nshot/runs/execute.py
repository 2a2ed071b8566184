"""Runs training steps in a run folder: resumes by itself, logs, saves checkpoints, loses nothing to a crash."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nshot.data.manifest import check_batches
from nshot.data.sources import Dataset
from nshot.errors import DivergedError, Say
from nshot.training import distributed
from nshot.training.skipping import Skipping

from . import checkpoint
from .folder import Completed, claim
from .lock import locked
from .log import Log, trained_seconds
from .progress import Progress
from .stopping import Stopped, between_steps, stop_if_asked

FREE = ("log_every", "checkpoint_every")  # entries that do not change what is trained: a run goes on with others
AGREE = 10  # steps between two at which several processes ask each other whether one was told to stop


@dataclass(frozen=True)
class Job:
    """What a run trains: the module whose weights count, its optimizer, and the steps from a given one on."""

    module: nn.Module
    optimizer: Optimizer
    steps: Callable[[int], Iterator[tuple[int, Tensor]]]
    total_steps: int
    batch_size: int
    device: torch.device
    rates: Callable[[int], Sequence[float]] | None = None
    """Of a step, the learning rate of each path; None: that of the optimizer."""
    paths: Callable[[int], Sequence[str]] = lambda step: ()
    """What a step trained, where that can still be told."""
    memory: nn.Module = field(default_factory=nn.Module)
    """What the method remembers, kept with the weights; equal in all processes."""
    figures: Callable[[], dict[str, float | list[float]]] = dict
    """What the log says besides, of the method's memory."""
    skipping: Skipping | None = None
    """Which steps were skipped, where that is the policy."""

    def told(self) -> dict[str, float | list[float]]:
        """What the log says besides the loss and the rates."""
        skipped = {} if self.skipping is None else {"skipped": float(len(self.skipping.steps))}
        return {**self.figures(), **skipped}

    def logged_rates(self, step: int) -> dict[str, float | list[float]]:
        """What the log says of a step's learning rate: the mean over its paths, and each where there are several."""
        if self.rates is None:
            return {"lr": self.optimizer.param_groups[0]["lr"]}
        rates = list(self.rates(step))
        several = {"path_lr": rates} if len(rates) > 1 else {}
        return {"lr": sum(rates) / len(rates), **several}


@dataclass(frozen=True)
class Run:
    """A run folder and what identifies it.

    Args:
        folder: the run folder.
        kind: ``supernet`` or ``retrain``.
        config: JSON-able, everything that determines the run.
        result: name of the file whose existence says that the run is finished.
        log_every: steps between lines of the log.
        checkpoint_every: steps between checkpoints.
        completed: see `claim`.
        facts: see `claim`.
        opening: a line that is said where the run begins.
        data: what it is made of.
        processes: how many train it together, where it depends on that; None: another number may go on.
        contents: see `claim`.
    """

    folder: Path
    kind: str
    config: dict[str, Any]
    result: str
    log_every: int
    checkpoint_every: int
    completed: Completed = lambda stored: stored
    facts: dict[str, Any] | None = None
    opening: str = ""
    data: Dataset | None = None
    processes: int | None = None
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def crop(self) -> str:
        """Of training images, where the configuration says it."""
        return self.config.get("recipe", self.config).get("augment", {}).get("crop", "")

    def tell_left_out(self, say: Say, *, last: bool = False) -> None:
        if self.data is not None:
            self.data.tell_left_out(self.folder, say, last=last)


def execute(run: Run, make: Callable[[], Job], finish: Callable[[Job], None], say: Say = print) -> None:
    """Trains the job that ``make`` builds, from the newest intact checkpoint on, then calls ``finish``.

    ``finish`` must write ``run.result``. A finished run is left alone, and so is a folder that holds another run. Of
    several processes that train together the first alone writes.

    The log's ``seconds`` are those of training up to a line, of all processes that the run took; steps that a crash had
    done again count once.

    Raises:
        UserError: for a folder that is another run or that another process writes, and a loss that is not finite.
        Stopped: after the step in which the process was asked to stop, when its checkpoint is written.
    """
    # A launcher that sees one process die tells the others to stop: not before they have said which it was.
    waiting = between_steps() if distributed.size() > 1 else nullcontext()
    with waiting, distributed.watched():
        if distributed.rank() == 0:
            _lead(run, make, finish, say)
        else:
            _follow(run, make)
    stop_if_asked()


def _lead(run: Run, make: Callable[[], Job], finish: Callable[[Job], None], say: Say) -> None:
    with locked(run.folder):
        finished = (run.folder / run.result).exists()
        named: dict[str, Any] = {"completed": run.completed, "facts": run.facts, "data": run.data}
        named |= {"free": FREE, "finished": finished, "processes": run.processes, "contents": run.contents}
        resumed = claim(run.folder, run.kind, run.config, **named)
        if finished:
            say(f"{run.folder} is finished already: nothing to do")
            distributed.wait()
            return
        if resumed and run.data is not None:
            check_batches(run.folder, run.data, resized=run.crop == "resized")
        distributed.wait()  # the others may look into the folder now
        job = make()
        losses = torch.zeros(run.log_every, device=job.device)  # read off the device only when logged
        start, seconds, known = _restore(run.folder, job, losses, say)
        if resumed:
            say(f"resuming {run.folder} at step {start} of {job.total_steps}")
        elif run.opening:
            say(run.opening)
        log = Log(run.folder, start)
        if seconds is None:  # a checkpoint of an earlier version
            seconds = trained_seconds(log.kept, job.batch_size)
        with Progress(run.kind, job.total_steps, start, unit=job.batch_size, before=seconds) as progress:
            stop = _steps(run, job, start, known, losses, log, progress, say)
        log.close()
        if stop:
            raise Stopped(stop)
        _check_weights(job.total_steps, job, run)
        finish(job)
        if job.skipping is not None and job.skipping.steps:
            many = f"{len(job.skipping.steps)} of {job.total_steps} steps"
            say(f"{many} were skipped: their loss or gradient was not finite")
        run.tell_left_out(say, last=True)
        distributed.wait()


def _steps(run: Run, job: Job, start: int, known: int, losses: Tensor, log: Log, progress: Progress, say: Say) -> int:
    """Takes the steps that are left, with a log and checkpoints; the signal that ended them early, or 0."""
    with between_steps() as asked:
        for step, loss in job.steps(start):
            done, slot = step + 1, step % run.log_every
            losses[slot] = loss
            progress.advance()
            if slot == run.log_every - 1 or done == job.total_steps:
                mean = _mean(_finite(losses, slot, known, done, job, run))
                speed = {"images_per_second": progress.rate, "seconds": progress.seconds}
                log.write(done, **mean, **job.logged_rates(step), **job.told(), **speed)
                progress.show(**mean)
                run.tell_left_out(say)
            _check_skips(done, job, run)
            stop = _stopping(asked(), done, job)
            if _agreed(run, job, done) or stop:
                _finite(losses, slot, known, done, job, run)
                _check_weights(done, job, run)
                _save(run.folder, done, job, losses, progress.seconds)
            if stop:
                say(f"stopped at step {done} of {job.total_steps}: the same command goes on from there")
                return stop
    return 0


def _follow(run: Run, make: Callable[[], Job]) -> None:
    """The same steps in a process that writes nothing."""
    distributed.wait()
    if (run.folder / run.result).exists():
        return
    job = make()
    start, *_ = _restore(run.folder, job, torch.zeros(run.log_every, device=job.device), lambda line: None)
    with between_steps() as asked:
        for step, _ in job.steps(start):
            _check_skips(step + 1, job, run)
            stop = _stopping(asked(), step + 1, job)
            _agreed(run, job, step + 1)
            if stop:
                raise Stopped(stop)
    distributed.wait()


def _stopping(asked: int | None, done: int, job: Job) -> int:
    """The signal to stop by after this step, 0 for none; of several processes all stop after the same step."""
    if done == job.total_steps:
        return 0
    if distributed.size() == 1:
        return asked or 0
    return distributed.largest(asked or 0, job.device) if done % AGREE == 0 else 0


def _agreed(run: Run, job: Job, done: int) -> bool:
    """Whether it is time for a checkpoint, or for the end: raises UserError where the processes' memories differ."""
    due = done % run.checkpoint_every == 0
    if due or done == job.total_steps:
        distributed.check_equal(job.memory, f"step {done}: the method's memory", job.device)
    return due


def _mean(losses: Tensor) -> dict[str, float]:
    """In double precision on the CPU: not every device has it. Of no losses, as where all steps were skipped, none."""
    return {"loss": float(losses.cpu().double().mean())} if len(losses) else {}


def _check_skips(done: int, job: Job, run: Run) -> None:
    """Raises DivergedError where more steps were skipped than may be."""
    if job.skipping is not None and job.skipping.exceeded:
        raise _diverged(float("nan"), done - 1, job, run, skipped=job.skipping.most)


def _check_weights(done: int, job: Job, run: Run) -> None:
    """Raises DivergedError where a step of a finite loss has left weights that are not: none are saved."""
    weights = [*job.module.parameters(), *job.memory.parameters()]
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise _diverged(None, done - 1, job, run)


def _diverged(loss: float | None, step: int, job: Job, run: Run, skipped: int = 0) -> DivergedError:
    clip = run.config.get("recipe", run.config).get("clip")
    return DivergedError(loss, step + 1, run.folder, clip, job.paths(step), skipped)


def _restore(folder: Path, job: Job, losses: Tensor, say: Say) -> tuple[int, float | None, int]:
    """Loads the newest intact checkpoint, if any: the step to go on with, the seconds of training behind it, and the
    first step whose loss is among ``losses``."""
    start, state, corrupt = checkpoint.load_newest(folder)
    for name in corrupt:
        say(f"checkpoint {name} is corrupt: falling back to the older one")
    if state is None:
        return start, 0.0, 0
    job.module.load_state_dict(state["model"])
    job.optimizer.load_state_dict(state["optimizer"])
    job.memory.load_state_dict(state.get("memory", {}))
    if job.skipping is not None:
        job.skipping.steps[:] = state["skipped"]
    old, every = state["losses"], len(losses)  # of other lengths where --log-every has changed
    steps = torch.arange(max(0, start - min(len(old), every)), start)
    losses[(steps % every).to(losses.device)] = old[steps % len(old)].to(losses.device)
    return start, state.get("seconds"), start - len(steps)


def _save(folder: Path, step: int, job: Job, losses: Tensor, seconds: float) -> None:
    state = {"model": job.module.state_dict(), "optimizer": job.optimizer.state_dict(), "losses": losses}
    state["seconds"] = seconds
    if memory := job.memory.state_dict():
        state["memory"] = memory
    if job.skipping is not None:
        state["skipped"] = list(job.skipping.steps)
    checkpoint.save(folder, step, state)


def _finite(losses: Tensor, slot: int, known: int, done: int, job: Job, run: Run) -> Tensor:
    """The losses since the log's last line, but for steps that were skipped; raises DivergedError for the first that is
    not finite."""
    first = max(0, known - done + 1 + slot)
    since, began = losses[first : slot + 1].cpu(), done - 1 - slot + first
    skipped = job.skipping.steps if job.skipping is not None else []
    for place in (~since.isfinite()).nonzero().flatten().tolist():
        if began + place not in skipped:
            raise _diverged(float(since[place]), began + place, job, run)
    return since[since.isfinite()]
