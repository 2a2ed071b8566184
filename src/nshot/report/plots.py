"""Plots of rankings, with matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nshot.benchmarks.rank import Ranking

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
    figure.savefig(path)
    return path


def _millions(ranking: Ranking) -> bool:
    return bool(ranking.params.max() >= 1e6)


def _panel(panel: "Axes", title: str, ranking: Ranking, truth: str) -> "PathCollection":
    unit = 1e6 if _millions(ranking) else 1e3
    points = panel.scatter(
        ranking.accuracy, ranking.true, c=ranking.params / unit, s=14, cmap="viridis", alpha=0.8, linewidths=0
    )
    row = ranking.table["accuracy"]
    interval = f"95 % over images: {row['low']:.3f} to {row['high']:.3f}"
    panel.set_title(f"{title}\nKendall's tau {row['tau']:.3f}  ({interval})", fontsize=10)
    panel.set_xlabel(f"accuracy with supernet weights (%), {ranking.images:,} images")
    panel.set_ylabel(f"true accuracy (%), {truth}")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    return points
