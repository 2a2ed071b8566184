"""Regions of weights that subnets share in part: what is used of each of the first dimensions."""

from torch import Tensor

Region = tuple[int | slice | Tensor, ...]
"""The size of a leading slice, a slice, or rising indices; of dimensions that are not named all is used."""


def part_of(weight: Tensor, region: Region) -> Tensor:
    """A copy of the region, in the weight's memory format."""
    for dim, chosen in enumerate(region):
        if isinstance(chosen, Tensor):
            weight = weight.index_select(dim, chosen)
        else:
            weight = weight[(*[slice(None)] * dim, _slice(chosen))]
    return weight.clone()


def fill(weight: Tensor, region: Region, value: float | bool) -> None:
    """Sets all of the region to one value, in place."""
    indices = [chosen for chosen in region if isinstance(chosen, Tensor)]
    if len(indices) < 2:
        weight[tuple(c if isinstance(c, Tensor) else _slice(c) for c in region)] = value
        return
    rows, columns = region[:2]
    assert len(region) == 2 and isinstance(rows, Tensor) and isinstance(columns, Tensor)  # noqa: PT018
    weight[rows[:, None], columns] = value


def _slice(chosen: int | slice) -> slice:
    return slice(chosen) if isinstance(chosen, int) else chosen
