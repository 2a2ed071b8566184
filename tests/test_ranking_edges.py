"""What rankings are made of, at its edges: halves of images, intervals of given halves, few seeds, threads, spreads."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import nshot.ranking.evaluate as evaluate_module
from helpers import SMALL
from nshot.ranking.evaluate import evaluate
from nshot.ranking.gradients import SpreadRecorder
from nshot.ranking.intervals import HALVES, REACH, at_infinity
from nshot.ranking.metrics import quality, spearman
from nshot.ranking.seeds import Mean, difference, over_seeds
from nshot.spaces import space


@pytest.mark.parametrize("images", [100, 5, 2])
def test_halves_are_halves_each_with_its_other(images: int) -> None:
    """Scores of subnet i are 1 on image i and 0 elsewhere, so that a mean tells which images it is of."""
    seen: list[np.ndarray] = []

    def spy(scores: np.ndarray, truth: np.ndarray) -> float:
        seen.append(np.array(scores))
        return 0.5

    at_infinity(np.eye(images), np.arange(images), spy)
    *halves, whole = seen
    assert np.allclose(whole, 1 / images)
    assert len(halves) == HALVES
    for first, second in zip(halves[::2], halves[1::2], strict=True):
        assert (first > 0).sum() == images // 2
        assert ((first > 0) ^ (second > 0)).all()
        assert first.sum() == pytest.approx(1)  # a mean over its own images
        assert second.sum() == pytest.approx(1)
    if images == 100:  # each image is drawn by itself, none only with its neighbour
        together = np.mean([(first[::2] > 0) == (first[1::2] > 0) for first in halves])
        assert 0.35 < together < 0.65


def interval_of(whole: float, halves: list[float]) -> tuple[float, float, float]:
    """What `at_infinity` makes of these taus of the halves and of all images."""
    given = iter([*halves, whole])
    found = at_infinity(np.zeros((4, 2 * HALVES)), np.arange(4), lambda scores, truth: next(given))
    return found.tau, found.low, found.high


def test_the_interval_is_its_definition() -> None:
    """ρ = sin(π τ / 2); ρ^-2 on a straight line from half the images over all of them to no noise; the spread of the
    halves, stretched as the estimate is."""
    rng = np.random.default_rng(0)
    halves = (0.47 + 0.01 * rng.standard_normal(HALVES)).tolist()
    rho, half = math.sin(math.pi * 0.5 / 2), math.sin(math.pi * (sum(halves) / HALVES) / 2)
    clean = (2 * rho**-2 - half**-2) ** -0.5
    assert rho < clean < 1
    sines = [math.sin(math.pi * tau / 2) for tau in halves]
    mean = sum(sines) / HALVES
    spread = math.sqrt(sum((value - mean) ** 2 for value in sines) / (HALVES - 1)) * clean / rho
    expected = [2 / math.pi * math.asin(value) for value in (clean, clean - REACH * spread, clean + REACH * spread)]
    assert interval_of(0.5, halves) == pytest.approx(expected, abs=1e-12)


def test_without_any_correlation_the_spread_is_that_of_the_halves() -> None:
    tau, low, high = interval_of(0.0, [0.1, -0.1] * (HALVES // 2))
    reach = REACH * np.std([math.sin(math.pi * 0.05), -math.sin(math.pi * 0.05)] * (HALVES // 2), ddof=1)
    assert tau == 0
    assert (low, high) == pytest.approx((-2 / math.pi * math.asin(reach), 2 / math.pi * math.asin(reach)))


@pytest.mark.parametrize(("known", "told"), [(0, False), (1, False), (2, True)])
def test_halves_without_a_value_do_not_count(known: int, told: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = interval_of(0.5, [0.4, 0.45][:known] + [math.nan] * (HALVES - known))
    assert all(math.isfinite(value) == told for value in found)


def test_a_tau_that_halves_mostly_lose_is_not_known_without_noise() -> None:
    """Chance gives 0.08 on all images and 0.05 on halves: that is no perfect order behind noise."""
    assert all(map(math.isnan, interval_of(0.08, [0.04, 0.06] * (HALVES // 2))))
    assert all(map(math.isnan, interval_of(-0.08, [-0.04, -0.06] * (HALVES // 2))))
    assert interval_of(0.98, [0.95, 0.96] * (HALVES // 2))[0] == pytest.approx(1)


def test_a_whole_without_a_value_has_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(map(math.isnan, interval_of(math.nan, [0.4, 0.5] * (HALVES // 2))))


def test_few_seeds_without_common_ones() -> None:
    assert difference({0: 1.0}, {1: 3.0}) == Mean(2.0, None, None, "Welch's")
    assert difference({0: 1.0, 1: 2.0}, {2: 3.0, 3: 4.0, 4: 5.0}) == Mean(2.5, None, None, "Welch's")
    assert difference({0: 1.0, 1: 1.0, 2: 1.0}, {3: 1.5, 4: 1.5, 5: 1.5}) == Mean(0.5, 0.5, 0.5, "Welch's")
    assert difference({0: 1.0}, {0: 3.0}) == Mean(2.0, None, None, "paired")
    assert over_seeds([1.0, 2.0]) == Mean(1.5, None, None, "")


def test_single_precision_figures_are_averaged_in_doubles() -> None:
    figures = np.array([0.1, 0.2, 0.4], np.float32)
    exact = math.fsum(float(value) for value in figures) / 3
    assert over_seeds(list(figures)).mean == pytest.approx(exact, abs=1e-15)
    apart = difference(dict(enumerate(figures)), {i + 3: np.float32(value) for i, value in enumerate(figures**2)})
    squares = math.fsum(float(value) for value in figures**2) / 3
    assert apart.mean == pytest.approx(squares - exact, abs=1e-15)


def test_quality_has_three_figures() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    scores = truth + rng.normal(size=60)
    found = quality(np.where(np.arange(60) == 7, -np.inf, scores), truth)
    least = np.where(np.arange(60) == 7, scores.min() - 1, scores)
    best = np.argsort(-truth)[:6]
    assert found.keys() == {"tau", "spearman", "top_tau"}
    assert found["tau"] == pytest.approx(stats.kendalltau(least, truth).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(least, truth).statistic)
    assert found["top_tau"] == pytest.approx(stats.kendalltau(least[best], truth[best]).statistic)


@pytest.mark.parametrize("pair", [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 1, 1])])
def test_a_constant_has_no_correlation_and_no_warning(pair: tuple[list[int], list[int]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(spearman(*pair))


@pytest.mark.parametrize(("threads", "batches", "pool"), [(3, 2, (2, 1)), (4, 2, (2, 2)), (2, 5, (2, 1)), (4, 1, None)])
def test_batches_go_side_by_side_as_far_as_threads_do(
    threads: int, batches: int, pool: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, and threads of each; a module that is no supernet of ours goes batch by batch."""
    made: list[tuple[int, int]] = []
    real = evaluate_module.ThreadPoolExecutor

    def spy(jobs: int, initializer: object, initargs: tuple[int]) -> object:
        assert initializer is torch.set_num_threads
        made.append((jobs, *initargs))
        return real(jobs, initializer=initializer, initargs=initargs)  # type: ignore[arg-type]

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor, subnet: tuple[int, ...]) -> torch.Tensor:
            return x.mean((2, 3)) * self.weight

    monkeypatch.setattr(evaluate_module, "ThreadPoolExecutor", spy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    chosen = space("nasbench201", **SMALL["nasbench201"])
    given = [(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))] * batches
    subnet = next(iter(chosen.subnets()))
    evaluate(chosen.supernet(), [subnet], given)
    assert made == ([] if pool is None else [pool])
    evaluate(Other(), [subnet], given)
    assert len(made) == (pool is not None)


def test_spread_of_two_small_steps_over_several_weights() -> None:
    """Of two steps each weight's deviation is the difference of its gradients over √2; clusters count by steps."""
    parameters = [nn.Parameter(torch.zeros(size)) for size in (2, 3, 4)]
    recorder = SpreadRecorder(parameters, clusters=3, takes=1)
    generator = torch.Generator().manual_seed(0)
    steps = {0: 2, 1: 1, 2: 3}
    seen: dict[int, list[torch.Tensor]] = {cluster: [] for cluster in steps}
    for cluster, count in steps.items():
        for _ in range(count):
            for parameter in parameters:
                parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
            seen[cluster].append(torch.cat([p.grad for p in parameters if p.grad is not None]).double())
            recorder.add(cluster)
    recorder.take(0)
    deviations = {}
    for cluster in (0, 2):  # one step has no deviation
        grads = torch.stack(seen[cluster])
        deviations[cluster] = grads.var(0, correction=1).mean().sqrt()
    assert deviations[0] == pytest.approx(((seen[0][0] - seen[0][1]) / 2**0.5).square().mean().sqrt().item())
    expected = (2 * deviations[0] + 3 * deviations[2]) / 5
    assert recorder.curve[0].item() == pytest.approx(expected.item(), rel=1e-6)
