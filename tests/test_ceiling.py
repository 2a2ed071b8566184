"""The ceiling of rankings: by brute force, the figures of the official table, and where it is told."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import kendalltau

import nshot
from needs import needs_table
from nshot.benchmarks.ceiling import Ceiling, ceiling
from nshot.benchmarks.rank import compare, write_ranking
from nshot.benchmarks.table import Benchmark, read_benchmark, write_benchmark
from nshot.data.sources import data_root
from nshot.files import read_json
from nshot.ranking.evaluate import Scores
from nshot.report.plots import scatter
from nshot.report.tables import print_ranking
from nshot.spaces.lists import subnets_from_file
from nshot.studies.base import SCALES, Measured, Row, Setting, Study
from nshot.studies.collect import Known, collect
from nshot.studies.plot import dots
from nshot.studies.runner import Job
from nshot.studies.whole import SCORES, whole

SPACE = nshot.space("nasbench201")
SCORED_BY = ("accuracy", "loss")


def benchmark(subnets: list[tuple[int, ...]], true: np.ndarray) -> Benchmark:
    return Benchmark("mine", subnets, {"cifar10_test": true}, {})


def test_each_subnet_counts_against_the_mean_of_the_others_of_its_class() -> None:
    rng = np.random.default_rng(0)
    every = [SPACE.sample(rng) for _ in range(3000)]
    subnets = sorted(set(every))
    true = rng.normal(90, 2, len(subnets))
    own, mean = [], []
    for i, subnet in list(enumerate(subnets))[::7]:
        same = [true[j] for j, other in enumerate(subnets) if j != i and SPACE.twin(other) == SPACE.twin(subnet)]
        if same:
            own.append(true[i])
            mean.append(sum(same) / len(same))
    found = ceiling(SPACE, benchmark(subnets, true), "cifar10_test", subnets[::7])
    assert found is not None
    assert found.subnets == len(own) < len(subnets[::7])
    assert found.tau == pytest.approx(kendalltau(own, mean).statistic)
    assert abs(found.tau) < 0.2  # accuracies that are noise alone can be ranked by nothing


def test_without_noise_the_ceiling_is_one() -> None:
    rng = np.random.default_rng(1)
    subnets = sorted({SPACE.sample(rng) for _ in range(3000)})
    true = np.array([float(np.dot(SPACE.twin(subnet), [1, 7, 49, 343, 2401, 16807])) for subnet in subnets])
    found = ceiling(SPACE, benchmark(subnets, true), "cifar10_test", subnets)
    assert found is not None
    assert found.tau == pytest.approx(1.0)


def test_where_networks_have_no_twins_there_is_none() -> None:
    every = sorted({SPACE.sample(np.random.default_rng(i)) for i in range(400)})
    alone = list({SPACE.twin(subnet): subnet for subnet in every}.values())
    assert ceiling(SPACE, benchmark(alone, np.arange(len(alone), dtype=float)), "cifar10_test", alone) is None
    darts = nshot.space("darts", channels=4, cells=3, resolution=8)
    some = [darts.sample(np.random.default_rng(i)) for i in range(30)]
    assert ceiling(darts, benchmark(some, np.arange(30.0)), "cifar10_test", some) is None


def test_equal_accuracies_have_none() -> None:
    subnets = sorted({SPACE.sample(np.random.default_rng(i)) for i in range(2000)})
    assert ceiling(SPACE, benchmark(subnets, np.full(len(subnets), 90.0)), "cifar10_test", subnets) is None


@needs_table
@pytest.mark.parametrize(
    ("listed", "tau", "count"), [(None, 0.94, 11_782), ("released:nasbench201/rank-list.json", 0.95, 278)]
)
def test_of_the_official_table(listed: str | None, tau: float, count: int) -> None:
    """CIFAR-10 test: no ranking of it can come to 1."""
    table = read_benchmark("nasbench201", SPACE)
    subnets = table.subnets if listed is None else subnets_from_file(Path(listed), SPACE, data_root())
    found = ceiling(SPACE, table, "cifar10_test", subnets)
    assert found is not None
    assert (round(found.tau, 2), found.subnets) == (tau, count)


def drawn(count: int, seed: int) -> tuple[list[tuple[int, ...]], np.ndarray, np.ndarray]:
    """Subnets, what their networks come to on average, and accuracies with noise."""
    rng = np.random.default_rng(seed)
    subnets = sorted({SPACE.sample(rng) for _ in range(count)})
    level = {twin: rng.normal(90, 2) for twin in sorted(set(map(SPACE.twin, subnets)))}
    mean = np.array([level[SPACE.twin(subnet)] for subnet in subnets])
    return subnets, mean, mean + rng.normal(0, 0.3, len(mean))


def test_a_perfect_ranking_comes_a_little_further() -> None:
    """For the twins' mean has noise too."""
    subnets, mean, true = drawn(6000, 2)
    found = ceiling(SPACE, benchmark(subnets, true), "cifar10_test", subnets)
    counts = dict(zip(*np.unique([SPACE.index(SPACE.twin(s)) for s in subnets], return_counts=True), strict=True))
    some = np.array([counts[SPACE.index(SPACE.twin(subnet))] > 1 for subnet in subnets])
    assert found is not None
    assert some.sum() == found.subnets
    assert found.tau < kendalltau(mean[some], true[some]).statistic < found.tau + 0.04
    assert found.tau < 0.97


def test_twins_of_the_same_seeds_say_nothing_of_noise() -> None:
    """In the embedded table those of one canonical form have the same accuracies to the last digit, seed by seed."""
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
    digits = read_benchmark("digits", space)
    by_form: dict[tuple[int, ...], set[float]] = {}
    for subnet, true in zip(digits.subnets, digits.columns["digits_test"], strict=True):
        by_form.setdefault(space.canonical(subnet), set()).add(true)
    assert sum(len(values) == 1 for values in by_form.values()) > 0.97 * len(by_form)
    assert len(by_form) < len(digits.subnets)
    assert ceiling(space, digits, "digits_test", digits.subnets) is None
    unsaid = replace(digits, metadata={})
    assert ceiling(space, unsaid, "digits_test", digits.subnets) is not None


def pictured(draw: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> tuple[Figure, Axes]:
    """The figure that was saved, and its first panel."""
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **how: kept.append(figure))
    draw()
    return kept[0], kept[0].axes[0]


@pytest.mark.parametrize("most", [None, Ceiling(0.944, 1278)])
def test_a_ranking_is_told_with_its_ceiling(
    most: Ceiling | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    subnets, _, true = drawn(50, 4)
    scores = Scores(np.random.default_rng(0).random((len(subnets), 40)) < 0.5, np.ones((len(subnets), 40), np.float32))
    ranking = {"mine": compare(SPACE, subnets, scores, true, ceiling=most)}
    _, panel = pictured(lambda: scatter(tmp_path / "picture.png", ranking, "cifar10_test"), monkeypatch)
    print_ranking(ranking, "cifar10_test")
    told = "ceiling 0.94: as far as a network agrees with itself (1,278 subnets have twins)"
    assert (told in panel.get_title()) == (told in capsys.readouterr().out) == (most is not None)


def test_a_table_of_taus_has_it_as_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {"label": "SPOS", "paper": (0.75, 0.01), "seeds": {"0": {"tau by accuracy": 0.5}}}
    result = {"title": "Mine", "preset": "proxy", "rows": [row]}
    for most, lines in (({}, []), ({"ceiling": {"tau by accuracy": 0.949, "random: tau by accuracy": 0.3}}, [0.949])):
        figure, panel = pictured(lambda most=most: dots(tmp_path / "picture.png", {**result, **most}), monkeypatch)
        assert [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"] == lines
        words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert ("ceiling 0.95: as far as a network agrees with itself" in words) == bool(lines)


# studies


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table as one that is imported, of accuracies with noise."""
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    subnets, _, true = drawn(4000, 3)
    metadata = {"space": {"name": "nasbench201"}, "imported": "made up"}
    write_benchmark(path, SPACE, subnets, {"digits_test": true}, metadata)
    return path


def ranked(job: Job, folder: Path, table: Benchmark, count: int, name: str, earlier: bool) -> Ceiling | None:
    """Writes a ranking of the first subnets, as an earlier version where asked; returns their ceiling."""
    subnets = table.subnets[:count]
    rng = np.random.default_rng(0)
    scores = Scores(rng.random((count, 40)) < 0.5, rng.random((count, 40), dtype=np.float32))
    most = ceiling(SPACE, table, "digits_test", subnets)
    found = compare(SPACE, subnets, scores, table.truth("digits_test", subnets), ceiling=most)
    write_ranking(folder, name, SPACE, found, {"column": "digits_test"})
    if earlier:
        path = folder / f"{name}.json"
        path.write_text(json.dumps({key: v for key, v in read_json(path).items() if key != "ceiling"}))
    return most


@pytest.mark.parametrize("earlier", [False, True])
def test_studies_say_it_of_each_list(earlier: bool, imported: Path, tmp_path: Path) -> None:
    scale = replace(SCALES["smoke"], benchmark=str(imported))
    study = Study("mine", "Mine", (Row("SPOS", Setting("spos")),))
    job = Job.of(Setting("spos"), scale, 0)
    folder = tmp_path / job.folder
    folder.mkdir()
    table = read_benchmark(str(imported), SPACE)
    first = ranked(job, folder, table, 500, job.result, earlier)
    second = ranked(job, folder, table, 900, job.second, earlier)
    assert first is not None
    assert second is not None
    assert first.tau != second.tau
    result = collect(study, scale, 1, tmp_path)
    told = {
        f"{where}tau by {score}": most.tau for where, most in (("", first), ("random: ", second)) for score in SCORED_BY
    }
    assert result["ceiling"] == pytest.approx(told)
    before = Known({job.name: result["rows"][0]["seeds"]["0"]}, 1, result["ceiling"])
    assert collect(study, scale, 1, tmp_path / "elsewhere", before=before)["ceiling"] == result["ceiling"]
    assert "ceiling" not in collect(study, scale, 1, tmp_path / "elsewhere", before=replace(before, figures={}))


def test_an_earlier_ranking_is_collected_where_its_benchmark_is_not(imported: Path, tmp_path: Path) -> None:
    scale = replace(SCALES["smoke"], benchmark="elsewhere.parquet")
    job = Job.of(Setting("spos"), scale, 0)
    (tmp_path / job.folder).mkdir()
    for name in (job.result, job.second):
        ranked(job, tmp_path / job.folder, read_benchmark(str(imported), SPACE), 500, name, earlier=True)
    result = collect(Study("mine", "Mine", (Row("SPOS", Setting("spos")),)), scale, 1, tmp_path)
    assert result["rows"][0]["seeds"]["0"]["tau by loss"]
    assert "ceiling" not in result


def test_a_whole_space_has_that_of_all_its_subnets(imported: Path, tmp_path: Path) -> None:
    """Though but one of each form is scored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    scale = replace(SCALES["smoke"], benchmark=str(imported))
    setting = Measured("spos", function=whole, benchmark=True)
    job = Job.of(setting, scale, 0)
    folder = tmp_path / job.folder
    folder.mkdir()
    table = read_benchmark(str(imported), SPACE)
    subnets = sorted(table.subnets)
    forms = sorted(set(map(SPACE.canonical, subnets)))
    rows = [forms.index(SPACE.canonical(subnet)) for subnet in subnets]
    rng = np.random.default_rng(0)
    scores = {"accuracy": rng.random(len(forms))[rows], "loss": rng.random(len(forms))[rows]}
    columns = {"arch": list(map(SPACE.format, subnets)), "form": rows, "part": [0] * len(rows), **scores}
    pq.write_table(pa.table(columns), folder / SCORES)
    (folder / "measured.json").write_text(json.dumps({"training (min)": 1.0, "scoring (min)": 0.1}))
    result = collect(Study("mine", "Mine", (Row("SPOS", setting),), measure="whole"), scale, 1, tmp_path)
    found = ceiling(SPACE, table, "digits_test", table.subnets)
    assert found is not None
    assert found.subnets < len(subnets)
    assert result["ceiling"] == pytest.approx({f"tau by {score}": found.tau for score in SCORED_BY})
