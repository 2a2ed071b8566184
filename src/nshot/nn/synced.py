"""Batch norm by the statistics of all processes that train together, on any device: torch's own wants a GPU."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .sliced import SlicedNorm


def _gathered(value: Tensor) -> Tensor:
    """The processes' values, one a row. Of so few numbers gloo gathers in a third of the time in which it sums."""
    rows = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, value.contiguous())
    return torch.stack(rows)


class _All(torch.autograd.Function):
    """The values (C,) of all processes, (P, C), to each. A gradient by them is of what all processes see."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _gathered(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Own.apply(grads[0])


class _Own(torch.autograd.Function):
    """Of all processes' rows (P, C) the sums of those that belong to each, (C,): the transpose of `_All`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _gathered(rows)[:, dist.get_rank()].sum(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _All.apply(grads[0])


def _processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def batch_norm(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """torch's own function of this name, over the batches of all processes, which must be of one shape; alone, or where
    it uses running statistics, the very same."""
    processes = _processes()
    if processes == 1 or not training:
        return F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
    count, dtype = processes * x.numel() / x.shape[1], x.dtype
    x = x if dtype == torch.float64 else x.float()  # as torch's own, whose statistics are no bf16 under autocast
    own = torch.cat(torch.var_mean(x, (0, 2, 3), correction=0))
    variances, means = _All.apply(own).chunk(2, dim=1)  # one exchange a norm
    now = means.mean(0)
    spread = variances.mean(0) + means.var(0, correction=0)
    if mean is not None and variance is not None:
        with torch.no_grad():
            mean.lerp_(now.to(mean), momentum)
            variance.lerp_((spread * count / (count - 1)).to(variance), momentum)
    normed = (x - now[:, None, None]) * (spread + eps).rsqrt()[:, None, None]
    normed = normed if weight is None or bias is None else normed * weight[:, None, None] + bias[:, None, None]
    return normed.to(dtype)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` by `batch_norm` of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if _processes() == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)
        share = self.momentum or 0.0
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, share, self.eps)


def synchronise(network: nn.Module) -> int:
    """Has the batch norms of a network be synchronised, and says how many; weights and buffers stay the very same.

    Those of kinds that are neither torch's own nor ours stay as they are: `by_shares` has them.
    """
    found = 0
    for module in list(network.modules()):
        for name, norm in module.named_children():
            if type(norm) is nn.BatchNorm2d:
                synced = SyncedBatchNorm2d(
                    norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
                )
                synced.__dict__.update(norm.__dict__)
                setattr(module, name, synced)
            elif isinstance(norm, SlicedNorm):
                norm.batch_norm = batch_norm
            else:
                continue
            found += 1
    return found


def by_shares(network: nn.Module) -> list[str]:
    """The names of the batch norms that are not synchronised."""
    norms = ((name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm))
    whole = (SyncedBatchNorm2d, nn.SyncBatchNorm)
    return [name for name, m in norms if not isinstance(m, whole) and getattr(m, "batch_norm", None) is not batch_norm]
