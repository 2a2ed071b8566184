"""How alike the gradients of subnets are: table I's cosine similarity and figure B's standard deviation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SimilarityRecorder(nn.Module):
    """Mean cosine similarity (MGCS) between the first path's gradient and each other's, in steps of several paths.

    Stands in for the loop's ``backward``: what a path's backward adds to the gradient of ``parameter`` is its own. What
    it has recorded is its ``state_dict``.

    Args:
        parameter: whose gradients are compared, table I: the first layer's weights.
        paths: how many a step has.
    """

    sums: Tensor
    steps: Tensor

    def __init__(self, parameter: Tensor, paths: int) -> None:
        super().__init__()
        self.paths = paths
        self._watched = [parameter]  # in a list, so that it is no parameter of this module
        self._gradients: list[Tensor] = []
        self.register_buffer("sums", torch.zeros(paths, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, loss: Tensor) -> None:
        (parameter,) = self._watched
        before = None if parameter.grad is None else parameter.grad.clone()
        loss.backward()
        assert parameter.grad is not None, "the parameter is on every path"
        added = parameter.grad if before is None else parameter.grad - before
        self._gradients.append(added.detach().flatten().double().clone())
        if len(self._gradients) == self.paths:
            self.sums += cosine_similarities(self._gradients)
            self.steps += 1
            self._gradients = []

    def forget(self) -> None:
        """Begins anew: table I is of the last epoch."""
        self.sums.zero_()
        self.steps.zero_()

    @property
    def means(self) -> list[float]:
        """MGCS of each path with the first one; the first is 1."""
        return (self.sums / self.steps.clamp_min(1)).tolist()


def cosine_similarities(gradients: Sequence[Tensor]) -> Tensor:
    """Cosine of each gradient (flat, float64) with the first one, (K,); 0 where one is zero."""
    first = gradients[0]
    return torch.stack([torch.nn.functional.cosine_similarity(first, other, dim=0, eps=1e-300) for other in gradients])


class SpreadRecorder(nn.Module):
    """Standard deviation of the gradients that feed one momentum, in a stretch of training (figure B).

    For each cluster the deviation of the gradient of all weights from its mean over the cluster's steps, as the root
    of its mean square over weights; then the mean over clusters, by their steps. Weights off a path have zero gradient.
    The supplement does not define its deviation; this is ours. What it has recorded is its ``state_dict``.

    Args:
        parameters: of the supernet.
        clusters: how many momenta.
        takes: how often `take` will be called.
    """

    sums: Tensor
    squares: Tensor
    steps: Tensor
    curve: Tensor

    def __init__(self, parameters: Sequence[Tensor], clusters: int, takes: int) -> None:
        super().__init__()
        self._watched = list(parameters)
        size = sum(parameter.numel() for parameter in self._watched)
        self.register_buffer("sums", torch.zeros(clusters, size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(clusters, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(clusters, dtype=torch.float64))
        self.register_buffer("curve", torch.full((takes,), torch.nan, dtype=torch.float64))

    def add(self, cluster: int) -> None:
        """Takes the gradients that the parameters have now, before the optimizer's step."""
        start = 0
        for parameter in self._watched:
            if parameter.grad is not None:
                flat = parameter.grad.detach().flatten()
                self.sums[cluster, start : start + flat.numel()] += flat
                self.squares[cluster] += flat.double().square().sum()
            start += parameter.numel()
        self.steps[cluster] += 1

    def take(self, at: int) -> None:
        """Notes as ``curve[at]`` the standard deviation since the last call; nan without a cluster of two steps."""
        seen = self.steps > 1
        means = self.sums[seen] / self.steps[seen, None]
        variances = self.squares[seen] / self.steps[seen] - means.square().sum(dim=1)
        variances *= self.steps[seen] / (self.steps[seen] - 1)  # else more clusters of the same noise deviate less
        deviations = (variances.clamp_min(0) / self.sums.shape[1]).sqrt()
        self.curve[at] = (deviations * self.steps[seen]).sum() / self.steps[seen].sum()  # nan where none was seen
        for total in (self.sums, self.squares, self.steps):
            total.zero_()
