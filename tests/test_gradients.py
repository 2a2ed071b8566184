"""Gradient statistics against their definitions, on gradients that plain torch gives."""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nshot
from nshot.data.sources import load
from nshot.nn.cells import live_edges
from nshot.ranking.gradients import SimilarityRecorder, SpreadRecorder, cosine_similarities
from nshot.strategies import strategies
from nshot.studies.gradients import relatives, similarity, spread
from nshot.supernets.config import preset
from nshot.training.loop import train_steps

SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 10


def stem_gradient(supernet: nn.Module, subnet: tuple[int, ...]) -> torch.Tensor:
    supernet.zero_grad()
    images, labels = batch()
    F.cross_entropy(supernet(images, subnet), labels).backward()
    return next(supernet.parameters()).grad.flatten().double()


def recorded(supernet: nn.Module, subnets: list[tuple[int, ...]], steps: int) -> list[float]:
    """As the loop does: all paths' backwards, then gradients are forgotten."""
    recorder = SimilarityRecorder(next(supernet.parameters()), len(subnets))
    images, labels = batch()
    for _ in range(steps):
        supernet.zero_grad()
        for subnet in subnets:
            recorder(F.cross_entropy(supernet(images, subnet), labels))
    return recorder.means


def test_identical_subnets_have_similarity_one() -> None:
    assert recorded(SPACE.supernet(), [(3,) * 6] * 3, steps=2) == pytest.approx([1, 1, 1], abs=1e-5)


def test_similarity_is_the_cosine_of_separate_gradients() -> None:
    supernet = SPACE.supernet()
    subnets = [(3, 1, 2, 3, 1, 2), (3, 1, 2, 3, 1, 3), (1, 1, 3, 2, 3, 2)]
    first, *others = (stem_gradient(supernet, subnet) for subnet in subnets)
    expected = [1.0, *(float(first @ g / math.sqrt(first @ first) / math.sqrt(g @ g)) for g in others)]
    assert recorded(supernet, subnets, steps=2) == pytest.approx(expected, abs=1e-4)


def test_opposite_and_orthogonal_gradients() -> None:
    a = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = cosine_similarities([a, -3 * a, torch.tensor([2.0, -1.0], dtype=torch.float64), 0 * a])
    assert found.tolist() == pytest.approx([1, -1, 0, 0])


def test_relatives_differ_in_as_many_decisions_as_they_say() -> None:
    for seed in range(5):
        subnets = relatives(SPACE, seed)
        assert [sum(a != b for a, b in zip(subnets[0], other, strict=True)) for other in subnets] == [0, 1, 3, 5]
        assert all(live_edges(subnet) == subnet for subnet in subnets)


def test_spread_is_the_standard_deviation_within_clusters() -> None:
    rng = np.random.default_rng(0)
    parameters = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(4))]
    recorder = SpreadRecorder(parameters, clusters=3, takes=2)
    clusters = [0, 1, 1, 0, 1, 2, 0, 1]  # cluster 2 has one step: no deviation
    rows = []
    for i, cluster in enumerate(clusters):
        gradients = [torch.from_numpy(rng.normal(size=tuple(p.shape)).astype(np.float32)) for p in parameters]
        parameters[0].grad = gradients[0]
        parameters[1].grad = None if i == 3 else gradients[1]  # off the path: counts as zero
        rows.append(np.concatenate([gradients[0].numpy().ravel(), gradients[1].numpy() * (i != 3)]))
        recorder.add(cluster)
    deviations, weights = [], []
    for cluster in (0, 1):
        own = np.array([row for row, c in zip(rows, clusters, strict=True) if c == cluster])
        deviations.append(np.sqrt(own.var(axis=0, ddof=1).mean()))
        weights.append(len(own))
    recorder.take(0)
    recorder.take(1)  # it begins anew
    assert recorder.curve[0].item() == pytest.approx(np.average(deviations, weights=weights), rel=1e-6)
    assert math.isnan(recorder.curve[1])
    assert not list(recorder.parameters())


@pytest.mark.parametrize("measure", [similarity, spread])
def test_a_killed_measurement_goes_on_where_it_was(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        preset("smoke"), epochs=2, checkpoint_every=7, options=strategies["spos"].options_type.of(ms="first")
    )
    data, scale = load("digits", resolution=8), cast(Any, None)
    whole = measure(config, data, tmp_path, tmp_path / "whole", scale)
    begun: list[int] = []

    def dying(*args: Any, start: int, **kwargs: Any) -> Any:
        begun.append(start)
        for step, loss in train_steps(*args, start=start, **kwargs):
            if step == start + 16:
                raise KeyboardInterrupt
            yield step, loss

    monkeypatch.setattr("nshot.studies.gradients.train_steps", dying)
    for _ in range(3):
        with contextlib.suppress(KeyboardInterrupt):
            killed = measure(config, data, tmp_path, tmp_path / "killed", scale)
    assert begun == [0, 14, 28]
    assert killed == whole


def test_tiny_gradients_have_a_direction() -> None:
    tiny = torch.tensor([1e-30, 2e-30], dtype=torch.float64)
    found = cosine_similarities([tiny, 3 * tiny, -tiny, torch.tensor([2e-30, -1e-30], dtype=torch.float64)])
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, -1.0, 0.0], dtype=torch.float64))


def test_what_is_recorded_is_summed_in_doubles() -> None:
    """A million steps add to a sum what single precision would lose."""
    weight = nn.Parameter(torch.zeros(3))
    for recorder in (SimilarityRecorder(weight, 2), SpreadRecorder([weight], clusters=2, takes=3)):
        for name, value in recorder.state_dict().items():
            assert value.dtype == (torch.int64 if name == "steps" and value.dim() == 0 else torch.float64), name


def test_the_same_noise_in_more_clusters_deviates_alike() -> None:
    """Else momentum's clusters would seem to deviate less for nothing: five of nine steps by a third."""
    found = {}
    for clusters in (1, 5):
        draw = torch.Generator().manual_seed(1)
        parameter = nn.Parameter(torch.zeros(2000))
        recorder = SpreadRecorder([parameter], clusters=clusters, takes=1)
        for step in range(10):
            parameter.grad = torch.randn(2000, generator=draw)
            recorder.add(step % clusters)
        recorder.take(0)
        found[clusters] = recorder.curve[0].item()
    assert found[1] == pytest.approx(1, abs=0.03)
    assert found[5] == pytest.approx(1, abs=0.03)
