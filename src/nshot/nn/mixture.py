"""Mixtures: edges that run all their options, each by a weight (DARTS), or one that stands for all (GDAS)."""

from collections.abc import Callable, Iterable

from torch import Tensor


class Mixture:
    """Instead of a subnet: a weight for each option of each edge.

    An edge's output is ``Σ_o w_o o(x)`` over its options. Where one option an edge is ``taken``, it is
    ``w_k o_k(x) + Σ_{j≠k} w_j`` with k the one taken: the others do not run. Their weights are 0, and the numbers that
    are added give them a gradient, the sum of that of the output.

    Args:
        weights: (edges, options), as the space's ``edges`` lists them; they may require gradients.
        taken: of each edge the option that runs; None: all run.
    """

    def __init__(self, weights: Tensor, taken: tuple[int, ...] | None = None) -> None:
        self.weights = weights
        self.taken = taken

    def rows(self, start: int, count: int) -> "Mixture":
        """Of some of the edges."""
        rows = slice(start, start + count)
        return Mixture(self.weights[rows], None if self.taken is None else self.taken[rows])

    def edge(self, e: int, options: Iterable[int], run: Callable[[int], Tensor]) -> Tensor:
        """The output of edge e, which has these options, from what each gives."""
        weights = self.weights[e]
        if self.taken is None:
            terms = [weights[option] * run(option) for option in options]
            return sum(terms[1:], terms[0])
        k = self.taken[e]
        others = [weights[option] for option in options if option != k]
        return sum(others, weights[k] * run(k))
