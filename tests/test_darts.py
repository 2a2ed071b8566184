"""The DARTS space: its size, the notation of the field, the published network's parameters, and what it refuses."""

import itertools

import numpy as np
import pytest
import torch

import nshot
from nshot import UserError
from nshot.spaces.darts import DARTS, OPS, choices

# The cells that Liu et al. found on CIFAR-10 (second order), as their repository prints them.
PUBLISHED = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), "
    "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


@pytest.fixture(scope="module")
def space() -> DARTS:
    return nshot.space("darts")


def test_size_of_the_space(space: DARTS) -> None:
    """Seven operations on each of two of the 2, 3, 4 and 5 inputs, for two kinds of cell."""
    cell = 1
    for inputs in (2, 3, 4, 5):
        cell *= inputs * (inputs - 1) // 2 * 7**2
    assert space.size == cell**2


def test_published_network_has_its_published_size() -> None:
    """3.3 million parameters with 20 cells and 36 channels on CIFAR-10."""
    space = nshot.space("darts", cells=20, channels=36)
    subnet = space.parse(PUBLISHED)
    assert space.network_params(subnet) == pytest.approx(3.3e6, rel=0.02)
    network = space.network(subnet)
    assert sum(p.numel() for p in network.parameters()) == space.network_params(subnet)


def test_published_notation_is_read_as_it_says(space: DARTS) -> None:
    subnet = space.parse(PUBLISHED)
    named = [[(OPS[op], source) for node in choices(subnet, kind) for source, op in node] for kind in (0, 1)]
    assert named[0][:2] == [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]
    assert named[0][4:6] == [("skip_connect", 0), ("sep_conv_3x3", 1)]  # the inputs of a node in order
    assert named[1][2:4] == [("max_pool_3x3", 1), ("skip_connect", 2)]
    assert space.parse(space.format(subnet)) == subnet
    assert space.format(subnet).startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ")


def test_ranges_are_attained(space: DARTS) -> None:
    """By brute force over each kind's last node, the others as cheap or as dear as can be."""
    rng = np.random.default_rng(0)
    costs = [space.params(space.sample(rng)) for _ in range(3000)]
    low, high = space.params_range
    assert low <= min(costs)
    assert max(costs) <= high
    extremes = {"max_pool_3x3": low, "sep_conv_5x5": high}
    for name, expected in extremes.items():
        option = OPS.index(name)
        subnet = tuple(option if d.name[-3:-1] == "op" else 0 for d in space.decisions)
        found = []
        for pairs in itertools.product(*[d.allowed for d in space.decisions if d.name.endswith("inputs")]):
            chosen = iter(pairs)
            tried = [
                next(chosen) if d.name.endswith("inputs") else o for o, d in zip(subnet, space.decisions, strict=True)
            ]
            found.append(space.params(tuple(tried)))
        assert expected in found


def test_reductions_halve_and_widen(space: DARTS) -> None:
    network = space.network(space.parse(PUBLISHED))
    before = x = network.stem(torch.randn(2, 3, 32, 32))
    shapes = []
    kept = [choices(network.subnet, kind) for kind in (0, 1)]
    for kind, cell in zip(network.kinds, network.cells, strict=True):
        before, x = x, cell(before, x, kept[kind])
        shapes.append(tuple(x.shape[1:]))
    assert network.kinds == [0, 0, 1, 0, 0, 1, 0, 0]
    assert shapes == [(64, 32, 32)] * 2 + [(128, 16, 16)] * 3 + [(256, 8, 8)] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|skip_connect~0|", "is no darts subnet"),
        ("Genotype(normal=[], reduce=[])", "is no darts subnet"),
        ("__import__('os').system('true')", "is no darts subnet"),
        (PUBLISHED.replace("dil_conv_3x3", "dil_conv_7x7"), "unknown operation 'dil_conv_7x7'"),
        (
            PUBLISHED.replace("('sep_conv_3x3', 0), ('sep_conv_3x3', 1)", "('sep_conv_3x3', 0), ('sep_conv_3x3', 0)"),
            "is no darts subnet: expected Genotype(normal=[('sep_conv_3x3', 0), ...], reduce=[...]), two inputs a node",
        ),
        (PUBLISHED.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 9)"), "is no darts subnet"),
    ],
)
def test_bad_notation(space: DARTS, text: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        space.parse(text)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 5}, "channels 5: must be even"),
        ({"channels": 0}, "channels 0"),
        ({"cells": 2}, "cells 2: must be at least 3"),
        ({"resolution": 4}, "resolution 4: must be at least 8"),
        ({"num_classes": 1}, "num_classes 1"),
    ],
)
def test_impossible_sizes(sizes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        nshot.space("darts", **sizes)
