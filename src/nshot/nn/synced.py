"""Batch norm by the statistics of all processes that train together, on any device: torch's own wants a GPU."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


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


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all processes, which must be of one shape; alone, or where it would use
    running statistics, the very same."""

    def forward(self, x: Tensor) -> Tensor:
        processes = dist.get_world_size() if dist.is_initialized() else 1
        if processes == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)
        count = processes * x.numel() / x.shape[1]
        own = torch.cat(torch.var_mean(x, (0, 2, 3), correction=0))
        variances, means = _All.apply(own).chunk(2, dim=1)  # one exchange a norm
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean), share)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)
        normed = (x - mean[:, None, None]) * (variance + self.eps).rsqrt()[:, None, None]
        return normed if self.weight is None else normed * self.weight[:, None, None] + self.bias[:, None, None]


def synchronise(network: nn.Module) -> int:
    """Has all batch norms of a network be synchronised, and says how many; weights and buffers stay the very same."""
    found = 0
    for module in list(network.modules()):
        for name, norm in module.named_children():
            if type(norm) is nn.BatchNorm2d:
                synced = SyncedBatchNorm2d(
                    norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
                )
                synced.__dict__.update(norm.__dict__)
                setattr(module, name, synced)
                found += 1
    return found
