"""Cream's memory: the prioritised paths, and the meta network that says which of them teaches (`cream`)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nshot.spaces import Subnet

from .memory import Trained

BETTER = 5.0  # points of top-1 by which a path is better whatever it costs

Run = Callable[[Tensor, Subnet], Tensor]


class Board(Trained):
    """The prioritised paths, sorted by (top-1, FLOPs), the best first, each with a slice of images x_i and what its
    teacher said of them, q_i; and the meta network M with its optimizer.

    Args:
        entries: at most.
        decisions: of the space.
        like: has the weights' type and device.
        images: of a slice.
        side: their height and width.
        classes: of the data.
    """

    paths: Tensor
    marks: Tensor
    images: Tensor
    shares: Tensor
    count: Tensor

    def __init__(self, entries: int, decisions: int, like: Tensor, images: int, side: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("paths", torch.zeros(entries, decisions, dtype=torch.int64))
        self.register_buffer("marks", torch.zeros(entries, 2, dtype=torch.float64))  # top-1 in percent, FLOPs
        self.register_buffer("images", like.new_zeros(entries, images, 3, side, side))
        self.register_buffer("shares", like.new_zeros(entries, images, classes))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.meta = nn.Linear(images * classes, 1).to(like)

    def members(self) -> list[Subnet]:
        return [tuple(path) for path in self.paths[: int(self.count)].tolist()]

    def score(self, i: int, path: Subnet, run: Run) -> Tensor:
        """``s_i = M(softmax f(x_i; a) - q_i)``."""
        return self.meta((run(self.images[i], path).softmax(1) - self.shares[i]).flatten())

    def welcomes(self, top1: float, flops: float) -> bool:
        """Whether there is room, or the worst is worse by 5 points, or worse and more costly."""
        count = int(self.count)
        if count < len(self.paths):
            return True
        worst, cost = self.marks[count - 1].tolist()
        return top1 > worst + BETTER or (top1 > worst and flops < cost)

    def insert(self, path: Subnet, top1: float, flops: float, images: Tensor, shares: Tensor) -> None:
        """Takes the last entry's place where there is no room; behind its equals."""
        at = min(int(self.count), len(self.paths) - 1)
        rows = (torch.tensor(path), torch.tensor([top1, flops], dtype=torch.float64), images, shares)
        for buffer, row in zip((self.paths, self.marks, self.images, self.shares), rows, strict=True):
            buffer[at] = row
        self.count.fill_(at + 1)
        order = sorted(range(at + 1), key=lambda i: (-self.marks[i, 0].item(), -self.marks[i, 1].item()))
        for buffer in (self.paths, self.marks, self.images, self.shares):
            buffer[: at + 1] = buffer[order]
