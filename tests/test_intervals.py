"""The tau at infinitely many images: its interval covers what a simulation knows to be true; a bootstrap's does not."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from nshot.ranking.intervals import _without_noise, at_infinity
from nshot.ranking.metrics import kendall_tau, spearman

SLOPE, MEAN, SPREAD = 1.3, 0.3, 1.6  # of images: how sharply they tell subnets apart, how hard they are


class Population:
    """Subnets of known quality; an image is classified rightly by chance, or more probably the better the subnet."""

    def __init__(self, kind: str, seed: int, count: int = 120) -> None:
        rng = np.random.default_rng(seed)
        if kind == "supernet":  # a tenth is near chance
            self.quality = np.concatenate([rng.normal(0.2, 0.55, count - 12), rng.normal(-2.5, 0.3, 12)])
            self.truth = self.quality + rng.normal(0, 0.55, count)
        elif kind == "close":  # subnets that many images are needed to tell apart
            self.quality = rng.normal(0, 0.18, count)
            self.truth = self.quality + rng.normal(0, 0.05, count)
        else:
            self.quality = rng.normal(0, 0.4, count)
            self.truth = 0.15 * self.quality + rng.normal(0, 0.4, count)

    def right(self, difficulty: np.ndarray) -> np.ndarray:
        """Probabilities (S, N)."""
        return 0.1 + 0.9 / (1 + np.exp(-SLOPE * (self.quality[:, None] - difficulty)))

    @property
    def tau(self) -> float:
        """At infinitely many images: accuracies by Gauss-Hermite quadrature over their difficulty."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        return float(kendalltau(self.right(MEAN + SPREAD * nodes) @ weights, self.truth).statistic)

    def hits(self, images: int, rng: np.random.Generator) -> np.ndarray:
        probability = self.right(rng.normal(MEAN, SPREAD, images))
        return rng.random(probability.shape) < probability


@pytest.mark.parametrize("images", [250, 1000, 4096])
def test_the_interval_covers_the_tau_of_infinitely_many_images(images: int) -> None:
    """In at least 90 % of 200 repeats, 20 each of ten populations; and the estimate lies inside it always."""
    rng = np.random.default_rng(images)
    covered = 0
    errors, raw_errors = [], []
    for seed in range(10):
        population = Population("supernet", seed)
        for _ in range(20):
            hits = population.hits(images, rng)
            found = at_infinity(hits, population.truth)
            assert found.low <= found.tau <= found.high
            covered += found.low <= population.tau <= found.high
            errors.append(found.tau - population.tau)
            raw_errors.append(kendall_tau(hits.mean(axis=1), population.truth) - population.tau)
    assert covered >= 180
    assert abs(np.mean(errors)) < 0.006
    if images == 250:
        assert np.mean(raw_errors) < -0.015  # the control: what was to be corrected is there


@pytest.mark.parametrize("kind", ["close", "unrelated"])
def test_it_covers_where_noise_is_most_of_a_score_and_where_hardly_anything_is_ranked(kind: str) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(10):
        population = Population(kind, seed)
        for _ in range(6):
            found = at_infinity(population.hits(500, rng), population.truth)
            covered += found.low <= population.tau <= found.high
    assert covered >= 54


def test_a_percentile_bootstrap_does_not_cover() -> None:
    """The control: the interval that there was before."""
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(10):
        population = Population("supernet", seed)
        hits = population.hits(250, rng).astype(np.float32)
        draws = rng.multinomial(250, np.full(250, 1 / 250), size=100).T.astype(np.float32)
        taus = [kendalltau(scores, population.truth).statistic for scores in (hits @ draws).T]
        low, high = np.quantile(taus, [0.025, 0.975])
        covered += low <= population.tau <= high
    assert covered <= 5


def test_losses_too() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(10):
        population = Population("supernet", seed)
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        expected = np.log(population.right(MEAN + SPREAD * nodes)) @ weights
        target = kendalltau(expected, population.truth).statistic
        for _ in range(6):
            score = np.log(population.right(rng.normal(MEAN, SPREAD, 400))) + rng.normal(0, 0.5, (120, 400))
            found = at_infinity(score.astype(np.float32), population.truth)
            covered += found.low <= target <= found.high
    assert covered >= 54


def test_it_narrows_with_more_images_and_the_tau_rises_towards_it() -> None:
    population = Population("close", 0)
    hits = population.hits(4000, np.random.default_rng(0))
    widths, raw = [], []
    for images in (250, 1000, 4000):
        found = at_infinity(hits[:, :images], population.truth)
        widths.append(found.high - found.low)
        raw.append(kendall_tau(hits[:, :images].mean(axis=1), population.truth))
    assert widths[0] > widths[1] > widths[2] > 0
    assert raw[0] < raw[1] < raw[2] < found.high


def test_a_perfect_order_without_noise_is_itself() -> None:
    scores = np.repeat(np.arange(30.0)[:, None], 64, axis=1)
    found = at_infinity(scores, np.arange(30))
    assert (found.tau, found.low, found.high) == pytest.approx((1, 1, 1))
    found = at_infinity(-scores, np.arange(30))
    assert (found.tau, found.low, found.high) == pytest.approx((-1, -1, -1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "scores", [np.zeros((2, 10)), np.ones((5, 1), dtype=bool), np.zeros((3, 2))], ids=["zeros", "one image", "two"]
)
def test_what_has_no_value_is_none(scores: np.ndarray) -> None:
    found = at_infinity(scores, np.arange(len(scores)))
    assert all(math.isnan(value) for value in (found.tau, found.low, found.high))


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (5, 7), (40, 2), (3, 1025), (3, 5000)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(shape) < rng.random((shape[0], 1))
    found = at_infinity(hits, np.arange(shape[0]))
    assert math.isnan(found.tau) or -1 <= found.low <= found.tau <= found.high <= 1


def test_it_depends_on_its_seed_alone() -> None:
    population = Population("supernet", 0)
    hits = population.hits(300, np.random.default_rng(0))
    first = at_infinity(hits, population.truth, seed=1)
    np.random.seed(3)
    assert at_infinity(hits, population.truth, seed=1) == first
    assert at_infinity(hits, population.truth, seed=2) != first


def test_other_rank_correlations() -> None:
    population = Population("supernet", 0)
    found = at_infinity(population.hits(500, np.random.default_rng(0)), population.truth, spearman)
    assert found.low < found.tau < found.high


def test_the_seed_is_of_the_halves() -> None:
    population = Population("supernet", 1)
    hits = population.hits(300, np.random.default_rng(0))
    assert at_infinity(hits, population.truth) == at_infinity(hits, population.truth, seed=0)
    assert at_infinity(hits, population.truth) != at_infinity(hits, population.truth, seed=1)


def test_scores_are_averaged_in_doubles() -> None:
    """A large common part, which single precision cannot hold beside the differences."""
    rng = np.random.default_rng(0)
    truth = np.arange(40.0)
    images = (rng.normal(size=(40, 50)) * 1e-4 + truth[:, None] * 1e-5).astype(np.float32)
    large = images + np.float32(2.0**10)
    whole = large.astype(np.float64).mean(axis=1)
    seen: list[np.ndarray] = []

    def noting(scores: np.ndarray, truth_: np.ndarray) -> float:
        seen.append(np.asarray(scores))
        return kendall_tau(scores, truth_)

    at_infinity(large, truth, noting)
    assert any(scores.dtype == np.float64 and np.array_equal(scores, whole) for scores in seen)


@pytest.mark.parametrize(
    ("rho", "half", "expected"),
    [
        (0.5, 0.5, 0.5),  # as much noise at half the images: there is none
        (0.5, 0.6, 0.5),  # more than at all of them, by chance
        (0.5, 0.0, math.nan),  # nothing is left at half: noise is all there is
        (0.5, -0.1, math.nan),
        (-0.5, 0.4, math.nan),
        (0.125, 0.0885, math.nan),  # what is left is a thousandth, by chance
        (0.02, -0.3, math.nan),
        (0.125, 0.08, math.nan),  # more than 1/√2 is lost, which no noise does that leaves anything
        (0.4, 0.3, (2 / 0.16 - 1 / 0.09) ** -0.5),
        (-0.4, -0.3, -((2 / 0.16 - 1 / 0.09) ** -0.5)),
        (0.9, 0.5, math.nan),
        (0.9, 0.7, 1.0),  # no correlation is above 1
        (-0.9, -0.7, -1.0),
    ],
)
def test_noise_is_taken_out_by_its_share_at_half_the_images(rho: float, half: float, expected: float) -> None:
    """Noise of variance v at all images is of 2 v at half: 1/ρ² grows by as much from one to the other."""
    assert _without_noise(rho, half) == pytest.approx(expected, nan_ok=True)


def test_noise_alone_is_never_a_perfect_order() -> None:
    """Scores that chance makes: the tau is near 0, and what infinitely many images would show is not known."""
    rng = np.random.default_rng(0)
    found = [at_infinity(rng.random((120, 100)) < 0.5, rng.normal(size=120)) for _ in range(40)]
    known = np.array([each.tau for each in found if not math.isnan(each.tau)])
    assert 10 <= len(known) < 40
    assert abs(known).max() < 0.9
    assert all(math.isnan(each.tau) == math.isnan(each.low) == math.isnan(each.high) for each in found)
