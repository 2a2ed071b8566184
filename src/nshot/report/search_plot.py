"""A search as a picture: the score of every subnet against what it costs, with the best compromises."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nshot.files import shown, write_figure
from nshot.search.pareto import front

from .plots import low_end

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# (column, axis, limits that are drawn)
COSTS = (
    ("params", "parameters", ("min_params", "max_params")),
    ("flops", "FLOPs (multiply-accumulates)", ("max_flops",)),
    ("latency_ms", "predicted latency (ms", ("max_latency_ms",)),
)
SCORES = {"accuracy": "accuracy with supernet weights (%)", "loss": "loss with supernet weights"}
COLOURS = {"subnet": "#9db4c8", "front": "#c0392b", "best": "#f2b134"}


def plot_search(path: Path, result: Mapping[str, Any], scored: Mapping[str, Any]) -> Path:
    """A panel a cost: all subnets, the front of score and that cost as a line, the best marked, limits dashed.

    Args:
        path: the PNG to write.
        result: what search.json holds.
        scored: columns of search.parquet, all subnets that were scored.
    """
    from matplotlib.figure import Figure

    costs = [cost for cost in COSTS if cost[0] in scored]
    figure = Figure(figsize=(4.6 * len(costs) + 0.4, 4.4), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    by = result["by"]
    score = np.asarray(scored[by], dtype=float)
    for panel, (name, label, limits) in zip(panels, costs, strict=True):
        _panel(panel, np.asarray(scored[name], dtype=float), score, by, result["best"][name], result["best"][by])
        for limit in limits:
            if result["limits"].get(limit) is not None:
                style: dict[str, Any] = {
                    "color": "0.4",
                    "linestyle": "--",
                    "linewidth": 1,
                    "label": limit.replace("_", " "),
                }
                panel.axvline(result["limits"][limit] / _unit(scored[name])[0], **style)
        panel.set_xlabel(_axis(label, scored[name], result))
        panel.legend(fontsize=8, loc="best", framealpha=0.85)
    panels[0].set_ylabel(f"{SCORES[by]}, {result['images']:,} images")
    title = f"{result['candidates']:,} subnets of {result['space']['name']}, {shown(result['dataset'])}"
    figure.suptitle(title, fontsize=11)
    write_figure(path, figure)
    return path


def _unit(values: Any) -> tuple[float, str]:
    """What to divide by, and its name."""
    top = max(values)
    return (1e6, "M") if top >= 1e6 else (1e3, "k") if top >= 1e4 else (1, "")


def _axis(label: str, values: Any, result: Mapping[str, Any]) -> str:
    if "latency" in label:
        setting = result.get("latency", {}).get("setting")  # of what predicts by itself, none
        return f"{label}; threads {setting['threads']}, batch {setting['batch']})" if setting else f"{label})"
    unit = _unit(values)[1]
    return f"{label}, {unit}" if unit else label


def _panel(panel: "Axes", cost: np.ndarray, score: np.ndarray, by: str, best_cost: float, best_score: float) -> None:
    better = -score if by == "accuracy" else score
    unit = _unit(cost)[0]
    corner = front(np.stack([cost, better], axis=1))
    # Several subnets may stand at one point; the line needs each point once, in order.
    line = np.unique(np.stack([cost[corner] / unit, score[corner]], axis=1), axis=0)
    kept = -better >= low_end(-better)  # a few hopeless subnets would squeeze all others into a strip
    panel.scatter(
        cost[kept] / unit, score[kept], s=12, color=COLOURS["subnet"], alpha=0.7, linewidths=0, label="subnet"
    )
    far = int((~kept).sum())
    if far:
        panel.text(0.02, 0.02, f"{far} further off", transform=panel.transAxes, fontsize=8, color="0.4")
    step: dict[str, Any] = {"color": COLOURS["front"], "linewidth": 1.4, "marker": "o", "markersize": 3.5}
    panel.plot(line[:, 0], line[:, 1], drawstyle="steps-post", label="Pareto front", **step)
    star: dict[str, Any] = {
        "marker": "*",
        "s": 170,
        "color": COLOURS["best"],
        "edgecolors": "black",
        "linewidths": 0.8,
        "zorder": 5,
    }
    panel.scatter([best_cost / unit], [best_score], label="best", **star)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
