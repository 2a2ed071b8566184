"""Accuracy and loss of many subnets with a supernet's weights, on held-out images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.spaces import Subnet


@dataclass(frozen=True)
class Scores:
    """Per subnet (rows, in the order asked for) and image (columns): ``correct`` bool and ``loss`` float32 (S, N).

    The loss is the cross entropy in nats. Kept per image, so that intervals over images can be had.
    """

    correct: np.ndarray
    loss: np.ndarray

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
    advance: Callable[[], None] = lambda: None,
) -> Scores:
    """Scores of every subnet on every image; subnets with one canonical form are evaluated once.

    Args:
        supernet: ``supernet(x, subnet)`` gives logits. Batch norms without running statistics use each batch's own, so
            the batches (their size, their order) are part of the measure.
        subnets: what to score.
        batches: images and labels, as `nshot.data.batches.heldout_batches` makes them.
        canonical: the space's.
        advance: called after each subnet that was evaluated.
    """
    forms = [canonical(subnet) for subnet in subnets]
    rows = {form: row for row, form in enumerate(dict.fromkeys(forms))}
    images = sum(len(labels) for _, labels in batches)
    correct = np.empty((len(rows), images), dtype=bool)
    loss = np.empty((len(rows), images), dtype=np.float32)
    for form, row in rows.items():
        hits, losses = zip(*_score(supernet, form, batches), strict=True)
        correct[row] = torch.cat(hits).cpu().numpy()  # one read a subnet
        loss[row] = torch.cat(losses).float().cpu().numpy()
        advance()
    order = [rows[form] for form in forms]
    if order == list(range(len(rows))):
        return Scores(correct, loss)
    return Scores(correct[order], loss[order])


@torch.inference_mode()
def _score(
    supernet: nn.Module, subnet: Subnet, batches: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in batches:
        logits = supernet(images, subnet)
        yield logits.argmax(1) == labels, F.cross_entropy(logits, labels, reduction="none")
