"""Accuracy and loss of many subnets with a supernet's weights, on held-out images."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.errors import statistics_needed
from nshot.spaces import Subnet, Supernet

from .calibrate import calibrate, evaluating


@dataclass(frozen=True)
class Scores:
    """Per subnet (rows, in the order asked for) and image (columns): ``correct`` bool and ``loss`` float32 (S, N).

    The loss is the cross entropy in nats. Kept per image, so that intervals over images can be had. ``seconds`` is
    what the scoring took.
    """

    correct: np.ndarray
    loss: np.ndarray
    seconds: float = 0.0

    @property
    def accuracy(self) -> np.ndarray:
        """Percent, (S,)."""
        return 100 * self.correct.mean(axis=1)

    @property
    def mean_loss(self) -> np.ndarray:
        return self.loss.mean(axis=1, dtype=np.float64)


def evaluate(
    supernet: nn.Module,
    subnets: Sequence[Subnet],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    canonical: Callable[[Subnet], Subnet] = lambda subnet: subnet,
    calibration: Sequence[Tensor] = (),
) -> Scores:
    """Scores of every subnet on every image; subnets with one canonical form are evaluated once.

    Args:
        supernet: ``supernet(x, subnet)`` gives logits. Batch norms without running statistics use each batch's own, so
            the batches (their size, their order) are part of the measure.
        subnets: what to score.
        batches: images and labels, as `nshot.data.batches.heldout_batches` makes them.
        canonical: the space's.
        calibration: batches of training images. Where given, each subnet is scored with running statistics computed
            afresh from them: for supernets whose batch norms have some.

    Nothing is dropped: all is in evaluation mode meanwhile, but for batch norms that are not calibrated.

    Raises:
        UserError: for a batch of one image where the network shrinks it to one pixel: it has no statistics.
    """
    began = time.perf_counter()
    forms = [canonical(subnet) for subnet in subnets]
    rows = {form: row for row, form in enumerate(sorted(set(forms)))}  # sorted: neighbours share most
    with statistics_needed():
        if calibration:
            each = [_calibrated(supernet, form, batches, calibration) for form in rows]
            hits, losses = (torch.cat(part) for part in zip(*each, strict=True))
        else:
            with evaluating(supernet, norms=False):
                hits, losses = _all(supernet, list(rows), batches)
    order = [rows[form] for form in forms]
    return Scores(hits.numpy()[order], losses.numpy()[order], time.perf_counter() - began)


def _all(supernet: nn.Module, forms: list[Subnet], batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Hits and losses (S, N) of these subnets on all images.

    A supernet of ours on the CPU takes as many batches side by side as torch has threads: subnets are too small for
    the threads to share one.
    """
    threads = torch.get_num_threads()
    on_cpu = isinstance(supernet, Supernet) and all(weight.device.type == "cpu" for weight in supernet.parameters())
    jobs = min(threads, len(batches)) if on_cpu else 1
    if jobs == 1:
        parts = [_score(supernet, forms, *batch) for batch in batches]
    else:
        pool = ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(threads // jobs,))
        try:
            parts = list(pool.map(lambda i: _score(supernet, forms, *batches[i]), range(len(batches))))
        finally:
            pool.shutdown(cancel_futures=True)
    hits, losses = zip(*parts, strict=True)
    return torch.cat(hits, dim=1), torch.cat(losses, dim=1)


def _calibrated(
    supernet: nn.Module, form: Subnet, batches: Sequence[tuple[Tensor, Tensor]], calibration: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    calibrate(supernet, calibration, form)
    with evaluating(supernet):
        return _all(supernet, [form], batches)


@torch.inference_mode()
def _score(supernet: nn.Module, forms: list[Subnet], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Hits and losses (S, B) of these subnets on one batch, on the CPU."""
    many = supernet.forward_many if isinstance(supernet, Supernet) else lambda x, all_: (supernet(x, s) for s in all_)
    hits, losses = [], []
    for logits in many(images, forms):
        hits.append(logits.argmax(1) == labels)
        losses.append(F.cross_entropy(logits.float(), labels, reduction="none"))
    return torch.stack(hits).cpu(), torch.stack(losses).cpu()  # one read for all subnets
