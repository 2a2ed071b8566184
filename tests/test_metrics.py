"""Rank correlations by brute force, scores by plain torch, and the ranking of a run."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import nshot
import nshot.supernets.heldout as heldout_module
import nshot.supernets.score as score_module
from helpers import SMALL
from nshot import UserError
from nshot.benchmarks.rank import Ranking, compare, rank_run
from nshot.benchmarks.table import EMBEDDED
from nshot.data.sources import load
from nshot.files import write_json
from nshot.ranking.evaluate import Scores, evaluate
from nshot.ranking.metrics import (
    complexity_bias,
    complexity_convergence,
    kendall_tau,
    spearman,
    top_tau,
)
from nshot.supernets.config import preset
from nshot.supernets.train import train

SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)


def tied(count: int, seed: int, levels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated lists with ties within and between them."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=count)
    a, b = (np.round(levels / 4 * (quality + rng.normal(size=count))) for _ in range(2))
    return a, b


def tau_b(a: np.ndarray, b: np.ndarray) -> float:
    """By its definition, over all pairs."""
    agree = disagree = tied_a = tied_b = pairs = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        product = (a[i] - a[j]) * (b[i] - b[j])
        agree += product > 0
        disagree += product < 0
        tied_a += a[i] == a[j]
        tied_b += b[i] == b[j]
        pairs += 1
    return (agree - disagree) / math.sqrt((pairs - tied_a) * (pairs - tied_b))


@pytest.mark.parametrize("seed", range(5))
def test_kendall_tau_is_tau_b(seed: int) -> None:
    a, b = tied(40, seed)
    assert len(set(a)) < 40
    assert kendall_tau(a, b) == pytest.approx(tau_b(a, b))
    assert kendall_tau(a.tolist(), (-b).tolist()) == pytest.approx(-tau_b(a, b))


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys(seed: int) -> None:
    a, b = tied(40, seed)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize("metric", [kendall_tau, spearman])
def test_correlation_of_known_orders(metric) -> None:
    assert metric([1, 2, 3, 4], [10, 20, 25, 90]) == pytest.approx(1)
    assert metric([1, 2, 3, 4], [9, 5, 4, 1]) == pytest.approx(-1)
    assert math.isnan(metric([1, 1, 1], [1, 2, 3]))
    assert math.isnan(metric([1, 2, 3], [7, 7, 7]))


@pytest.mark.parametrize(("share", "best"), [(0.1, 6), (0.25, 15), (1, 60), (0.001, 2)])
def test_top_tau_looks_at_the_truly_best(share: float, best: int) -> None:
    rng = np.random.default_rng(1)
    truth = rng.permutation(60).astype(float)
    scores = truth + rng.normal(scale=10, size=60)
    chosen = sorted(range(60), key=lambda i: truth[i])[60 - best :]
    assert top_tau(scores, truth, share) == pytest.approx(tau_b(scores[chosen], truth[chosen]))


def test_top_tau_is_of_the_best_tenth_by_default() -> None:
    truth = np.arange(100.0)
    scores = np.where(truth >= 90, -truth, truth)  # right except among the best ten, where it is reversed
    assert top_tau(scores, truth) == pytest.approx(-1)


# intervals


def hits(subnets: int, images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which images each subnet classifies rightly, and the subnets' true accuracies."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.3, 0.9, subnets)
    difficulty = rng.normal(scale=0.2, size=images)
    chance = truth[:, None] + difficulty + rng.normal(scale=0.05, size=(subnets, 1))
    return rng.random((subnets, images)) < chance, truth


# scores


class Fake(nn.Module):
    """A supernet of known logits, which counts its calls and notes whether gradients were on."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, classes, generator=torch.Generator().manual_seed(0)))
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, subnet: tuple[int, ...]) -> Tensor:
        assert not torch.is_grad_enabled()
        self.calls.append(subnet)
        return self.logits(x, subnet)

    def logits(self, x: Tensor, subnet: tuple[int, ...]) -> Tensor:
        return x.flatten(1) @ self.weight * (subnet[0] - 1) + subnet[1]


def batches(sizes: tuple[int, ...] = (4, 4, 3)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, 2, 2, generator=generator), torch.randint(5, (n,), generator=generator)) for n in sizes]


def test_scores_are_accuracies_and_losses() -> None:
    scores = Scores(np.array([[1, 0, 1, 1], [0, 0, 0, 1]], bool), np.array([[1, 2, 3, 4], [0, 0, 0, 1]], np.float32))
    assert scores.accuracy.tolist() == [75, 25]
    assert scores.mean_loss.tolist() == [2.5, 0.25]


def test_evaluate_scores_every_subnet_on_every_image() -> None:
    fake, subnets = Fake(), [(3, 1), (0, 2), (2, 0), (0, 1)]
    scores = evaluate(fake, subnets, batches())
    x, y = (torch.cat(part) for part in zip(*batches(), strict=True))
    with torch.no_grad():
        for row, subnet in enumerate(subnets):
            logits = fake.logits(x, subnet).double()
            assert scores.correct[row].tolist() == (logits.argmax(1) == y).tolist()
            truth = -logits.log_softmax(1)[range(11), y]
            assert scores.loss[row].tolist() == pytest.approx(truth.tolist(), rel=1e-4, abs=1e-5)
            assert scores.mean_loss[row] == pytest.approx(float(cross_entropy(logits, y)), rel=1e-4)
            assert scores.accuracy[row] == pytest.approx(100 * int((logits.argmax(1) == y).sum()) / 11)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_evaluate_runs_each_canonical_form_once_a_batch() -> None:
    fake, subnets = Fake(), [(3, 0), (2, 7), (3, 1), (2, 0), (3, 0)]
    scores = evaluate(fake, subnets, batches(), canonical=lambda subnet: (subnet[0], 0))
    assert sorted(fake.calls) == [(2, 0)] * 3 + [(3, 0)] * 3
    alone = evaluate(Fake(), [(2, 0), (3, 0)], batches())
    assert np.array_equal(scores.correct, alone.correct[[1, 0, 1, 0, 1]])
    assert np.array_equal(scores.loss, alone.loss[[1, 0, 1, 0, 1]])


def test_evaluate_takes_repeated_subnets_in_the_order_asked_for() -> None:
    fake = Fake()
    scores = evaluate(fake, [(3, 0), (0, 0), (3, 0)], batches((2,)))
    assert len(fake.calls) == 2
    assert np.array_equal(scores.loss[0], scores.loss[2])
    assert not np.array_equal(scores.loss[0], scores.loss[1])


@pytest.mark.parametrize("name", nshot.list_spaces())
def test_evaluate_of_a_real_supernet_is_its_forward(name: str) -> None:
    space = nshot.space(name, **SMALL[name])
    torch.manual_seed(0)
    supernet = space.supernet(5)
    generator = torch.Generator().manual_seed(2)
    data = [
        (torch.randn(6, 3, space.resolution, space.resolution, generator=generator), torch.arange(6) % 5)
        for _ in range(2)
    ]
    rng = np.random.default_rng(0)
    subnets = [space.sample(rng) for _ in range(40)]
    scores = evaluate(supernet, subnets, data, canonical=space.canonical)
    with torch.no_grad():
        for row, subnet in enumerate(subnets):
            # Batch by batch: the batch's statistics normalise it.
            form = space.canonical(subnet)
            loss = torch.cat([cross_entropy(supernet(x, form), y, reduction="none") for x, y in data])
            assert scores.loss[row].tolist() == loss.tolist()


def test_batches_side_by_side_change_nothing() -> None:
    """With several threads, for ours; and in batches whose number they do not divide."""
    space = nshot.space("nasbench201", channels=16, cells=1, resolution=8)
    torch.manual_seed(0)
    supernet = space.supernet()
    generator = torch.Generator().manual_seed(2)
    data = [(torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % 10) for n in (9, 9, 9, 9, 4)]
    subnets = [space.sample(np.random.default_rng(i)) for i in range(20)]
    alone = evaluate(supernet, subnets, data, canonical=space.canonical)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = evaluate(supernet, subnets, data, canonical=space.canonical)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(alone.loss, together.loss)
    assert np.array_equal(alone.correct, together.correct)


# rankings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = dataclasses.replace(preset("smoke"), epochs=1)
    return train(small, load("digits"), tmp_path_factory.mktemp("run") / "run", device="cpu", say=lambda line: None)


def benchmark() -> list[dict]:
    """The embedded one, as it lies."""
    return pq.read_table(EMBEDDED).to_pylist()


def rank(run: Path, **options: object) -> Ranking:
    return rank_run(run, "digits", **{"device": "cpu", **options})[0]  # type: ignore[arg-type]


def test_compare_measures_accuracy_and_negated_loss() -> None:
    rng = np.random.default_rng(0)
    subnets = [SPACE.sample(rng) for _ in range(30)]
    truth = rng.uniform(40, 90, 30)
    loss = (3 - truth[:, None] / 50 + rng.normal(size=(30, 80))).astype(np.float32)
    correct = rng.random((30, 80)) < truth[:, None] / 100
    ranking = compare(SPACE, subnets, Scores(correct, loss), truth)
    assert ranking.images == 80
    assert ranking.params.tolist() == [sum(w.numel() for w in SPACE.network(s).parameters()) for s in subnets]
    for name, score in [("accuracy", correct.mean(1)), ("loss", -loss.astype(np.float64).mean(1))]:
        row = ranking.table[name]
        assert row["tau"] == pytest.approx(tau_b(score, truth))
        assert row["spearman"] == pytest.approx(stats.spearmanr(score, truth).statistic)
        assert row["top_tau"] == pytest.approx(top_tau(score, truth))
        assert 0 < row["low"] < row["tau"] < row["high"]


def test_a_ranking_is_written_beside_the_truth(run: Path) -> None:
    ranking, column = rank_run(run, "digits", sample=40, device="cpu")
    truth = {row["arch"]: row["digits_test"] for row in benchmark()}
    rows = pq.read_table(run / "ranking.parquet").to_pylist()
    assert column == "digits_test"
    assert len({row["arch"] for row in rows}) == 40
    assert [row["true"] for row in rows] == pytest.approx([truth[row["arch"]] for row in rows])
    assert [row["flops"] for row in rows] == [SPACE.flops(SPACE.parse(row["arch"])) for row in rows]
    summary = json.loads((run / "ranking.json").read_text())
    assert (summary["benchmark"], summary["column"]) == ("digits", "digits_test")
    assert (summary["subnets"], summary["images"]) == (40, 599)
    tau = stats.kendalltau([row["accuracy"] for row in rows], [row["true"] for row in rows]).statistic
    assert summary["metrics"]["accuracy"]["tau"] == pytest.approx(tau)
    assert summary["metrics"] == ranking.table


def test_a_ranking_takes_a_list_a_column_and_fewer_images(run: Path, tmp_path: Path) -> None:
    rows = benchmark()[5:12]
    (tmp_path / "list.json").write_text(json.dumps([row["arch"] for row in rows]))
    options = {"images": 50, "column": "digits_valid", "name": "few"}
    ranking = rank(run, subnets=Path("list.json"), root=tmp_path, **options)  # under the data root
    assert [SPACE.format(subnet) for subnet in ranking.subnets] == [row["arch"] for row in rows]
    assert ranking.true.tolist() == [row["digits_valid"] for row in rows]
    assert ranking.images == 50
    assert np.allclose(ranking.accuracy % 2, 0)  # percent of 50 images
    assert {"few.parquet", "few.json"} <= {path.name for path in run.iterdir()}
    assert rank(run, subnets=tmp_path / "list.json", **options).accuracy.tolist() == ranking.accuracy.tolist()


def test_sample_zero_ranks_the_whole_benchmark(run: Path) -> None:
    ranking = rank(run, sample=0, images=2, name="whole")
    assert [SPACE.format(subnet) for subnet in ranking.subnets] == [row["arch"] for row in benchmark()]


def test_an_interrupted_ranking_continues(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_module, "CHUNK", 10)
    scored: list[tuple[int, ...]] = []
    dies = [True]

    def counting(supernet, subnets, *args, **options):
        if len(scored) == 20 and dies[0]:
            raise KeyboardInterrupt
        scored.extend(subnets)
        return evaluate(supernet, subnets, *args, **options)

    monkeypatch.setattr(heldout_module, "evaluate", counting)
    with pytest.raises(KeyboardInterrupt):
        rank(run, sample=40, name="again")
    assert not (run / "again.json").exists()
    dies[0] = False
    continued = rank(run, sample=40, name="again")
    assert len(scored) == len(set(scored)) == 40  # none twice
    whole = rank(run, sample=40)
    assert continued.accuracy.tolist() == whole.accuracy.tolist()
    assert continued.loss.tolist() == whole.loss.tolist()
    assert not list(run.glob(".scores*"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sample": -1}, "sample -1"),
        ({"sample": 1}, "at least 2 subnets, not 1"),
        ({"images": 1}, "images 1: must be from 2 to the 599"),
        ({"images": 600}, "images 600: must be from 2 to the 599"),
        ({"column": "cifar10_test"}, "no column 'cifar10_test'"),
        ({"subnets": Path("no.json")}, r"no\.json cannot be read"),
        ({"name": "no/where", "sample": 5}, "name 'no/where'"),
        ({"device": "abc", "sample": 5}, "unknown device 'abc'"),
    ],
)
def test_a_ranking_that_cannot_be_is_an_error_and_writes_nothing(options: dict, expected: str, run: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(UserError, match=expected):
        rank(run, **options)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_what_json_has_not_becomes_null(tmp_path):
    write_json(tmp_path / "a.json", {"tau": float("nan"), "rows": [1, (float("inf"), 2.5)], "text": "nan"})
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert read.pop("sha256")
    assert read == {"tau": None, "rows": [1, [None, 2.5]], "text": "nan"}


@pytest.mark.parametrize("seed", range(5))
def test_complexity_bias_by_brute_force(seed: int) -> None:
    """Of the pairs in the wrong order, those whose smaller subnet is put first."""
    rng = np.random.default_rng(seed)
    scores, truth, complexity = rng.integers(0, 8, (3, 30))
    wrong, small_first = 0, 0
    for i, j in itertools.permutations(range(30), 2):  # i is put before j, wrongly
        if scores[i] > scores[j] and truth[i] < truth[j] and complexity[i] != complexity[j]:
            wrong += 1
            small_first += complexity[i] < complexity[j]
    assert wrong > 20
    assert complexity_bias(scores, truth, complexity) == pytest.approx(small_first / wrong)


def test_complexity_bias_of_known_orders() -> None:
    params, truth = [1, 2, 3, 4], [10, 20, 30, 40]
    assert complexity_bias([4, 3, 2, 1], truth, params) == 1  # small subnets always first
    assert complexity_bias([4, 3, 2, 1], truth, [4, 3, 2, 1]) == 0
    assert math.isnan(complexity_bias([1, 2, 3, 4], truth, params))  # no mistake


@pytest.mark.parametrize("seed", range(3))
def test_complexity_convergence_by_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    accuracy, truth, complexity = rng.random(40), 1 + rng.random(40), rng.integers(0, 9, 40)
    found = complexity_convergence(accuracy, truth, complexity)
    assert found == pytest.approx(tau_b(complexity, accuracy / truth))
    assert complexity_convergence([3.0, 2.0, 1.0], [4.0, 4.0, 4.0], [1, 2, 3]) == pytest.approx(-1)


def pairs_told_wrong(scores: list[float], truth: list[float], complexity: list[float]) -> tuple[int, int]:
    """Of all pairs, taken one by one: how many are ordered wrongly, and how many of these put the smaller first."""
    wrong = small = 0
    for i, j in itertools.combinations(range(len(scores)), 2):
        tied = scores[i] == scores[j] or truth[i] == truth[j] or complexity[i] == complexity[j]
        if not tied and (scores[i] > scores[j]) != (truth[i] > truth[j]):
            wrong += 1
            small += (scores[i] > scores[j]) == (complexity[i] < complexity[j])
    return wrong, small


@pytest.mark.parametrize("kind", ["uint8", "float16", "list"])
def test_complexity_bias_of_few_small_and_tied_values(kind: str) -> None:
    """Differences of unsigned numbers wrap, products of small ones vanish, and a pair may be all there is."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 7))
        scale = 1 if kind == "uint8" else 1e-3
        columns = [(rng.integers(0, 4, count) * scale).astype("float64" if kind == "list" else kind) for _ in range(3)]
        given = [list(c) for c in columns] if kind == "list" else columns
        wrong, small = pairs_told_wrong(*([float(v) for v in c] for c in columns))
        found = complexity_bias(*given)
        assert math.isnan(found) if wrong == 0 else found == small / wrong


def test_convergence_is_of_doubles() -> None:
    """Two shares that single precision cannot tell apart are told apart."""
    accuracy = np.array([1 / 3, 1 / 3 + 1e-9, 1 / 3 + 2e-9])
    assert complexity_convergence(list(accuracy), [1, 1, 1], [1, 2, 3]) == 1
    halves = np.array([0.1, 0.2, 0.3], np.float16), np.array([0.3, 0.6001, 0.9001], np.float16)
    exact = [float(a) / float(b) for a, b in zip(*halves, strict=True)]
    expected = stats.kendalltau([1, 2, 3], exact).statistic
    assert complexity_convergence(*halves, [1, 2, 3]) == pytest.approx(expected)


def test_correlation_with_a_constant_is_none() -> None:
    varied, constant = np.array([-1.0, 1.0, -1.0, 1.0]), np.ones(4)  # the varied one's deviation is 1
    for a, b in ((varied, constant), (constant, varied), (constant, constant)):
        assert math.isnan(spearman(a, b))
    assert spearman(varied, varied) == 1
    ties = np.array([0.0, 0.0, 2.0, 2.0])  # whose ranks 1.5 and 3.5 have the deviation 1
    assert spearman(np.arange(4.0), ties) == pytest.approx(stats.spearmanr(np.arange(4.0), ties).statistic)


def test_top_tau_takes_the_first_of_equals() -> None:
    """As many subnets tie at the border as an unstable sort would mix."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([np.full(500, 1.0), np.arange(2.0, 12.0)])
    scores = rng.normal(size=510)
    best = [*range(509, 499, -1), *range(41)]  # ten distinct, then the first of the equals
    expected = stats.kendalltau(scores[best], truth[best]).statistic
    assert top_tau(scores, truth, 0.1) == pytest.approx(expected)
