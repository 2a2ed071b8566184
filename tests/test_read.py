"""Faults that reading the code found, of modules that have no test file of their own."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import nshot
from nshot.benchmarks.rank import Ranking, compare
from nshot.ranking.evaluate import Scores
from nshot.report.plots import scatter
from nshot.report.tables import print_ranking

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
