"""Faults that reading the code found, of modules that have no test file of their own."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

import nshot
from nshot.benchmarks.rank import Ranking, compare
from nshot.benchmarks.zero_cost import ZeroCost
from nshot.files import write_figure
from nshot.ranking.evaluate import Scores
from nshot.ranking.shift import LayerShift
from nshot.report.draw import svg
from nshot.report.plots import scatter, score_scatter
from nshot.report.search_plot import plot_search
from nshot.report.shift_plot import plot_shift
from nshot.report.tables import print_ranking
from nshot.spaces.drawing import Edge, Graph
from nshot.studies.plot import across, curves, dots

SPACE = nshot.space("nasbench201")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Path]], list[Axes]]:
    """The panels of what is drawn by a call."""

    def panels(draw: Callable[[], Path]) -> list[Axes]:
        kept: list[Figure] = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **how: kept.append(figure))
        draw()
        return kept[0].axes

    return panels


def ranking(count: int = 40) -> Ranking:
    """Of random subnets, with some noise."""
    rng = np.random.default_rng(0)
    subnets = [SPACE.sample(rng) for _ in range(count)]
    true = rng.normal(90, 2, count)
    hits = rng.random((count, 200)) < (true[:, None] - 50) / 100
    return compare(SPACE, subnets, Scores(hits, (1 - hits).astype(np.float32)), true)


@pytest.mark.parametrize("known", [True, False])
def test_a_tau_at_infinity_that_noise_hides_is_shown_as_none(
    known: bool, drawn: Callable, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = ranking()
    none = {} if known else dict.fromkeys(("tau_inf", "low", "high"), float("nan"))
    table = {score: {**row, **none} for score, row in found.table.items()}
    shown = {"mine": dataclasses.replace(found, table=table)}
    title = drawn(lambda: scatter(tmp_path / "picture.png", shown, "cifar10_test"))[0].get_title()
    print_ranking(shown, "cifar10_test")
    printed = capsys.readouterr().out
    row = table["accuracy"]
    assert "nan" not in title + printed
    assert ("at ∞ images not known" in title) == (not known)
    assert f"{row['tau']:.3f} │ {row['tau_inf']:.3f} [" in printed if known else f"{row['tau']:.3f} │ - " in printed


def accuracies(far: int) -> np.ndarray:
    """Of 100 subnets; so many of them lie at chance."""
    true = np.linspace(90, 94, 100)
    true[:far] = 10
    return true


@pytest.mark.parametrize("far", [0, 1])
def test_subnets_far_below_are_marked_beside_scores_too(far: int, drawn: Callable, tmp_path: Path) -> None:
    true = accuracies(far)
    subnets = [SPACE.sample(np.random.default_rng(0))] * 100
    found = ZeroCost(subnets, {"zen": np.arange(100.0)}, {"zen": 1.0}, true, np.arange(100), "cifar10_test")
    panel = drawn(lambda: score_scatter(tmp_path / "picture.png", found))[0]
    shown = [points.get_offsets() for points in panel.collections]
    assert [len(points) for points in shown] == ([99, 1] if far else [100])
    assert np.allclose(shown[0], np.stack([np.arange(far, 100) + 1, true[far:]], axis=1))
    assert [text.get_text() for text in panel.texts] == (["▼ 1 further off"] if far else [])
    assert all(points[:, 1].min() > 88 for points in shown)


NAMES = ["$METHOD_$SEED", "_x", "a\nb", "x_$1"]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_pictures_are_what_they_are(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not formulas, nor left out; drawn for real, for a name that is taken for a formula fails there."""
    kept: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **how: (kept.append(figure), real(figure, *a, **how)))
    found = ranking()
    scatter(tmp_path / "rank.png", {name: found}, name)
    score_scatter(
        tmp_path / "score.png",
        ZeroCost(found.subnets, {name: found.accuracy}, {name: 1.0}, found.true, found.params, name),
    )
    plot_shift(tmp_path / "shift.png", {name: {name: LayerShift(0.5, 3, 0.5), "other": LayerShift(0.7, 3, 1.0)}})
    best = {"accuracy": 90.0, "params": 2.0}
    searched = {"by": "accuracy", "best": best, "limits": {}, "images": 10, "candidates": 2}
    searched |= {"space": {"name": name}, "dataset": f"imagefolder:{name}"}
    plot_search(tmp_path / "search.png", searched, {"accuracy": [80.0, 90.0], "params": [1, 2]})
    rows = [{"label": name, "paper": (), "seeds": {"0": {name: 1.0, "other": 2.0, "curve": [1.0, 2.0]}}}]
    study = {"title": name, "preset": "proxy", "rows": rows}
    for how in (dots, curves, across):
        how(tmp_path / f"{how.__name__}.png", {**study, "axes": (name, "other")})
    assert len(kept) == 7
    words = [text.get_text().replace("\n", " ") for figure in kept for text in figure.findobj(Text)]
    assert sum(name.replace("\n", " ") in word or "a\\nb" in word for word in words) >= 7
    legends = [legend for figure in kept for legend in (*figure.legends, figure.axes[0].get_legend()) if legend]
    said = [text.get_text().strip() for legend in legends for text in legend.get_texts()]
    escaped = name.replace("\n", "\\n")
    assert f"{escaped}: mean 0.600" in said
    assert said.count(escaped) == 2  # of curves, and of one column by another


def test_powers_of_ten_stay_formulas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figure = Figure()
    panel = figure.subplots()
    panel.loglog([1, 1000], [1, 1000])
    write_figure(tmp_path / "picture.png", figure)
    major = [tick.label1 for tick in panel.xaxis.get_major_ticks() if tick.label1.get_text()]
    assert major
    assert all(label.get_parse_math() and label.get_text().startswith("$") for label in major)


def test_names_in_a_subnets_picture_are_what_they_are() -> None:
    graph = Graph("$a_$b", ("$in_$1", "out"), (Edge(0, 1, "$op_$x", "conv"),), ("conv",))
    assert "$op_$x" in svg((graph,), "$caption_$c")
