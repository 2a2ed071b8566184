"""Running statistics of batch norms, computed afresh for one subnet: a supernet's own are of all subnets mixed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def keeps_statistics(network: nn.Module) -> bool:
    """Whether any batch norm of the network has running statistics."""
    return any(True for _ in _norms(network))


@contextmanager
def evaluating(network: nn.Module, *, norms: bool = True) -> Iterator[None]:
    """Inside, the network and all its modules are in evaluation mode; after it each is in its own. Without ``norms``
    batch norms that have running statistics stay as they are: nothing is dropped, and no statistics are taken as given.
    """
    modes = [(module, module.training) for module in network.modules()]
    kept = [] if norms else [(norm, norm.training) for norm in _norms(network)]
    network.eval()
    for norm, training in kept:
        norm.training = training
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def calibrate(network: nn.Module, images: Iterable[Tensor], *args: Any) -> None:
    """Sets the running statistics to those of these batches, each batch counting the same.

    Only batch norms compute as in training, so nothing is dropped; the modes of all modules are as before afterwards.
    What ``network(x, *args)`` does not run ends with the statistics of a new norm.

    Args:
        network: whose batch norms' statistics are replaced.
        images: batches (N, 3, H, W).
        args: what the network takes besides: a supernet's subnet.
    """
    momenta = [(norm, norm.momentum) for norm in _norms(network)]
    with evaluating(network):
        try:
            for norm, _ in momenta:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for an average over all batches
                norm.train()
            for batch in images:
                network(batch, *args)
        finally:
            for norm, momentum in momenta:
                norm.momentum = momentum


def _norms(network: nn.Module) -> Iterable[_BatchNorm]:
    return (m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats)
