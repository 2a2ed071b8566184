"""Plots of rankings, and of scores that need no training, with matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nshot.benchmarks.rank import Ranking
from nshot.benchmarks.zero_cost import ZeroCost
from nshot.files import shown, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection


def scatter(path: Path, rankings: Mapping[str, Ranking], truth: str) -> Path:
    """Supernet accuracy against true accuracy, a panel a ranking, coloured by parameters.

    Args:
        path: the PNG to write.
        rankings: title to ranking.
        truth: what the true accuracy is, for the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(rankings) + 1, 4.6), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(rankings), squeeze=False)[0]
    for panel, (title, ranking) in zip(panels, rankings.items(), strict=True):
        points = _panel(panel, title, ranking, truth)
    figure.colorbar(points, ax=list(panels), label="parameters (M)" if _millions(ranking) else "parameters (k)")
    write_figure(path, figure)
    return path


def _millions(ranking: Ranking) -> bool:
    return bool(ranking.params.max() >= 1e6)


def low_end(values: np.ndarray) -> float:
    """Where an axis may begin: below all values, or, where a few lie far off, below the other 98 %."""
    few, top = np.quantile(values, 0.02), values.max()
    return (
        min(values.min() - 0.02 * (top - values.min()), top)
        if values.min() > few - (top - few)
        else few - (top - few) / 4
    )


def _panel(panel: "Axes", title: str, ranking: Ranking, truth: str) -> "PathCollection":
    colours = ranking.params / (1e6 if _millions(ranking) else 1e3)
    low = np.array([low_end(ranking.accuracy), low_end(ranking.true)])
    exact = np.stack([ranking.accuracy, ranking.true], axis=1)
    at, far = np.maximum(exact, low), (exact < low).any(axis=1)
    style: dict[str, Any] = {"cmap": "viridis", "vmin": colours.min(), "vmax": colours.max(), "linewidths": 0}
    points = panel.scatter(at[~far, 0], at[~far, 1], c=colours[~far], s=14, alpha=0.8, **style)
    if far.any():  # a few hopeless subnets would squeeze all others into a corner
        _further_off(panel, at[far, 0], at[far, 1], colours[far], style)
        panel.set(xlim=(low[0], None), ylim=(low[1], None))
    row = ranking.table["accuracy"]
    infinite = "at ∞ images not known"  # where noise is all there is
    if np.isfinite(row["tau_inf"]):
        infinite = f"at ∞ images {row['tau_inf']:.3f}, 95 %: {row['low']:.3f} to {row['high']:.3f}"
    most = "" if ranking.ceiling is None else f"\n{ranking.ceiling.told}"
    panel.set_title(f"{shown(title)}\nKendall's tau {row['tau']:.3f}  ({infinite}){most}", fontsize=10)
    panel.set_xlabel(f"accuracy with supernet weights (%), {ranking.images:,} images")
    panel.set_ylabel(f"true accuracy (%), {truth}")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    return points


def _further_off(panel: "Axes", x: np.ndarray, y: np.ndarray, colours: np.ndarray, style: dict[str, Any]) -> None:
    """Marks subnets that lie beyond an axis at its end, and counts them."""
    panel.scatter(x, y, c=colours, s=30, marker="v", clip_on=False, **style)
    panel.text(0.02, 0.02, f"▼ {len(x)} further off", transform=panel.transAxes, va="bottom", fontsize=8)


def score_scatter(path: Path, found: ZeroCost) -> Path:
    """Ranks by scores that need no training against true accuracy, a panel a row of the table, coloured by parameters.

    Ranks, for a combination is a mean of ranks, and scores may be infinite or differ by many powers of ten. Subnets
    whose accuracy lies far below stand at the lower end, and say so.
    """
    from matplotlib.figure import Figure
    from scipy.stats import rankdata

    columns = min(len(found.table), 4)
    rows = -(-len(found.table) // columns)
    figure = Figure(figsize=(3.6 * columns + 1, 3.4 * rows), layout="constrained", dpi=100)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    low, colours = low_end(found.true), rankdata(found.params)
    far = found.true < low  # a few hopeless subnets would squeeze all others into a line
    style: dict[str, Any] = {"cmap": "viridis", "vmin": colours.min(), "vmax": colours.max(), "linewidths": 0}
    for panel, (name, row) in zip(panels, found.table.items(), strict=False):
        ranks = rankdata(found.scores(name))
        points = panel.scatter(ranks[~far], found.true[~far], c=colours[~far], s=8, alpha=0.7, **style)
        if far.any():
            _further_off(panel, ranks[far], np.full(far.sum(), low), colours[far], style)
            panel.set_ylim(low, None)
        panel.set_title(f"{name}\nKendall's tau {row['tau']:.3f}", fontsize=10)
        panel.set(xlabel="rank (right: best)", ylabel=f"true accuracy (%), {found.column}")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    for panel in panels[len(found.table) :]:
        panel.set_axis_off()
    figure.colorbar(points, ax=panels, label="rank by parameters")
    write_figure(path, figure)
    return path
