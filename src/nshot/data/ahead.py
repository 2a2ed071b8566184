"""Batches made ahead of time by worker processes: decoding and augmentation beside the training."""

import signal
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nshot.errors import UserError

from .batches import TrainBatches

Batches = Callable[..., tuple[Tensor, Tensor]]


def made(batches: TrainBatches, workers: int, last: int, device: torch.device) -> Batches:
    """``batches`` on the device: made there by the caller, or ahead of time by ``workers`` processes."""
    return Ahead(batches, workers, last, device) if workers else batches.to(device)


Made = tuple[tuple[Tensor, Tensor] | UserError, dict[str, str]]


class _Steps(Dataset[Made]):
    """Batches by how many steps they are after the first, with what this process has left out so far; or why one cannot
    be made, which loaders would wrap."""

    def __init__(self, batches: TrainBatches, first: int, last: int, positions: Tensor | None) -> None:
        self.batches, self.first, self.last, self.positions = batches, first, last, positions

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, i: int) -> Made:
        try:
            rows = () if self.positions is None else (self.positions[i : i + 1],)
            return self.batches(self.first + i, *rows), self.batches.left_out.reasons
        except UserError as error:
            return error, self.batches.left_out.reasons


class Ahead:
    """The same batches as ``batches(step)``, for steps that are asked for in order.

    Args:
        batches: a function of the step alone, so that any process makes the same; its images stay on the CPU.
        workers: processes.
        last: step after the last.
        device: where the batches are wanted.
    """

    def __init__(self, batches: TrainBatches, workers: int, last: int, device: torch.device) -> None:
        self._batches, self._workers, self._last, self._device = batches, workers, last, device
        self._next = self._end = -1
        self._coming: Iterator[Made] = iter(())

    def __call__(self, step: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``positions``: as `TrainBatches`; no batch is made whose images are not among them."""
        if step != self._next or step == self._end:
            self._end = self._last if positions is None else step + len(positions)
            loader = DataLoader(
                _Steps(self._batches, step, self._end, positions),
                batch_size=None,
                num_workers=self._workers,
                pin_memory=self._device.type == "cuda",
                worker_init_fn=_deaf,
            )
            self._coming, self._next = iter(loader), step
        self._next += 1
        try:
            batch, left_out = next(self._coming)
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # The loader's own words, or what its queue meets where a process ends while it hands a batch over; errors
            # inside a process come as "Caught ... in DataLoader worker".
            if str(error).startswith("Caught") or (
                type(error) is RuntimeError and "DataLoader worker" not in str(error)
            ):
                raise
            try:
                _calm()
            except RuntimeError:  # torch's own, for the same process
                _calm()
            who = f"one of {self._workers} processes that make batches"
            raise UserError(f"{who} ended, perhaps for want of memory: start again, with fewer --workers") from None
        for name, why in left_out.items():
            self._batches.left_out.add(name, why)
        if isinstance(batch, UserError):
            raise batch
        images, labels = batch
        return images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


def _deaf(worker: int) -> None:
    """A signal to stop goes to all processes at once: the training heeds it, and ends those that make its batches."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _calm() -> None:
    """Takes torch's handler of ended processes away: it would raise its error again in whatever is done next."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
