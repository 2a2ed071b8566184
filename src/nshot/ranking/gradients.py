"""How alike the gradients of subnets are: table I's cosine similarity and figure B's standard deviation."""

from collections.abc import Sequence

import torch
from torch import Tensor


class SimilarityRecorder:
    """Mean cosine similarity (MGCS) between the first path's gradient and each other's, in steps of several paths.

    Stands in for the loop's ``backward``: what a path's backward adds to the gradient of ``parameter`` is its own.

    Args:
        parameter: whose gradients are compared, table I: the first layer's weights.
        paths: how many a step has.
    """

    def __init__(self, parameter: Tensor, paths: int) -> None:
        self.parameter = parameter
        self.paths = paths
        self._gradients: list[Tensor] = []
        self._sums = torch.zeros(paths, dtype=torch.float64)
        self._steps = 0

    def __call__(self, loss: Tensor) -> None:
        before = None if self.parameter.grad is None else self.parameter.grad.clone()
        loss.backward()
        assert self.parameter.grad is not None, "the parameter is on every path"
        added = self.parameter.grad if before is None else self.parameter.grad - before
        self._gradients.append(added.detach().flatten().double().clone())
        if len(self._gradients) == self.paths:
            self._sums += cosine_similarities(self._gradients)
            self._steps += 1
            self._gradients = []

    def forget(self) -> None:
        """Begins anew: table I is of the last epoch."""
        self._sums.zero_()
        self._steps = 0

    @property
    def means(self) -> list[float]:
        """MGCS of each path with the first one; the first is 1."""
        return (self._sums / max(1, self._steps)).tolist()


def cosine_similarities(gradients: Sequence[Tensor]) -> Tensor:
    """Cosine of each gradient (flat, float64) with the first one, (K,); 0 where one is zero."""
    first = gradients[0]
    return torch.stack([torch.nn.functional.cosine_similarity(first, other, dim=0, eps=1e-300) for other in gradients])


class SpreadRecorder:
    """Standard deviation of the gradients that feed one momentum, in a stretch of training (figure B).

    For each cluster the deviation of the gradient of all weights from its mean over the cluster's steps, as the root
    of its mean square over weights; then the mean over clusters, by their steps. Weights off a path have zero gradient.
    The supplement does not define its deviation; this is ours.

    Args:
        parameters: of the supernet.
        clusters: how many momenta.
    """

    def __init__(self, parameters: Sequence[Tensor], clusters: int) -> None:
        self.parameters = list(parameters)
        size = sum(parameter.numel() for parameter in self.parameters)
        self._sums = torch.zeros(clusters, size, dtype=torch.float64)
        self._squares = torch.zeros(clusters, dtype=torch.float64)
        self._steps = torch.zeros(clusters, dtype=torch.float64)

    def add(self, cluster: int) -> None:
        """Takes the gradients that the parameters have now, before the optimizer's step."""
        start = 0
        for parameter in self.parameters:
            if parameter.grad is not None:
                flat = parameter.grad.detach().flatten()
                self._sums[cluster, start : start + flat.numel()] += flat
                self._squares[cluster] += flat.double().square().sum()
            start += parameter.numel()
        self._steps[cluster] += 1

    def take(self) -> float:
        """The standard deviation since the last call; nan without a cluster of two steps."""
        seen = self._steps > 1
        means = self._sums[seen] / self._steps[seen, None]
        variances = self._squares[seen] / self._steps[seen] - means.square().sum(dim=1)
        deviations = (variances.clamp_min(0) / self._sums.shape[1]).sqrt()
        value = float((deviations * self._steps[seen]).sum() / self._steps[seen].sum()) if seen.any() else float("nan")
        for total in (self._sums, self._squares, self._steps):
            total.zero_()
        return value
