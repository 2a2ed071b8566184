"""A study as a picture: each row's seeds beside the paper's figure, or what kind of picture its figures ask for."""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from nshot.files import legend_name, write_figure


def draw(path: Path, result: dict[str, Any]) -> Path:
    """Curves where figures have one, one column by another where the study names two, columns side by side where there
    is but one row and the paper has a figure for each, else dots."""
    if result.get("axes") is not None:
        return across(path, result)
    if any("curve" in figures for row in result["rows"] for figures in row["seeds"].values()):
        return curves(path, result)
    (row, *more) = result["rows"]
    if not more and all(2 < len(row["paper"]) == len(figures) for figures in row["seeds"].values()):
        return columns(path, result)
    return dots(path, result)


def dots(path: Path, result: dict[str, Any]) -> Path:
    """Horizontal dots, a line a row: every seed, their mean, and the paper's mean with its spread. For a table of
    several columns the first one is shown; of a row that lacks it, its own first, named beside its label."""
    from matplotlib.figure import Figure

    rows = result["rows"]
    names_of = [list(dict.fromkeys(c for figures in row["seeds"].values() for c in figures)) for row in rows]
    column = next((names[0] for names in names_of if names), "")
    shown = [column if column in names or not names else names[0] for names in names_of]
    figure = Figure(figsize=(8, 1.2 + 0.34 * max(4, len(rows))), layout="constrained", dpi=120)
    panel = figure.subplots()
    labels = {"seed": "our seeds", "mean": "our mean", "paper": "paper, full scale"}
    for y, row in enumerate(rows):
        values = [f[shown[y]] for f in row["seeds"].values() if f.get(shown[y]) is not None]
        if values:
            panel.plot(values, [y] * len(values), "o", color="#4c78a8", alpha=0.5, ms=5, label=labels.pop("seed", None))
            panel.plot(mean(values), y, "|", color="#4c78a8", ms=14, mew=2.5, label=labels.pop("mean", None))
        if row["paper"]:
            std = row["paper"][1] if len(row["paper"]) == 2 else 0
            panel.errorbar(
                row["paper"][0], y, xerr=std, fmt="D", color="#e45756", ms=5, capsize=3, label=labels.pop("paper", None)
            )
    if (most := result.get("ceiling", {}).get(column)) is not None:
        panel.axvline(
            most, color="#888888", lw=1, ls="--", label=f"ceiling {most:.2f}: as far as a network agrees with itself"
        )
    named = [row["label"] + (f": {own}" if own != column else "") for row, own in zip(rows, shown, strict=True)]
    panel.set_yticks(range(len(rows)), named, fontsize=8)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlabel(column)
    panel.set_title(f"{result['title']}\npreset {result['preset']}", fontsize=10)
    panel.grid(axis="x", alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    write_figure(path, figure)
    return path


def across(path: Path, result: dict[str, Any]) -> Path:
    """One column by another: a point a row, the mean over seeds with its deviation; what is ours is filled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained", dpi=120)
    panel = figure.subplots()
    x_name, y_name = result["axes"]
    for i, row in enumerate(row for row in result["rows"] if row["seeds"]):
        (x, dx), (y, dy) = (_spread([figures[name] for figures in row["seeds"].values()]) for name in (x_name, y_name))
        fill = "none" if "ours" not in row["label"] else None
        style: dict[str, Any] = {"fmt": "os^Dv"[i % 5], "color": f"C{i}", "ms": 8, "mfc": fill, "capsize": 3}
        panel.errorbar(x, y, dy, dx, label=legend_name(row["label"]), **style)
    low, high = panel.get_xlim()
    wide = low > 0 and high / low > 10  # else a logarithmic axis has no round numbers to show
    panel.set(xlabel=x_name, ylabel=y_name, xscale="log" if wide else "linear")
    return _finished(path, figure, panel, result, legend="outside right center", ncols=1)


def curves(path: Path, result: dict[str, Any]) -> Path:
    """What each row's figures have as ``curve``, by epoch: every seed a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    panel = figure.subplots()
    for i, row in enumerate(result["rows"]):
        for j, figures in enumerate(row["seeds"].values()):
            values, label = figures["curve"], None if j else legend_name(row["label"])
            panel.plot(range(1, len(values) + 1), values, color=f"C{i}", lw=1.5, label=label)
    panel.set(xlabel="epoch")
    return _finished(path, figure, panel, result)


def columns(path: Path, result: dict[str, Any]) -> Path:
    """The columns of the one row side by side, each seed joined, beside the paper's figure for each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    panel = figure.subplots()
    (row,) = result["rows"]
    for j, figures in enumerate(row["seeds"].values()):
        label = None if j else "ours, seed by seed"
        panel.plot(list(figures), list(figures.values()), "o-", color="#4c78a8", label=label)
        panel.plot(list(figures), row["paper"], "D", color="#e45756", label=None if j else "paper, full scale")
    panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
    return _finished(path, figure, panel, result)


def _finished(
    path: Path, figure: Any, panel: Any, result: dict[str, Any], legend: str = "outside lower center", ncols: int = 3
) -> Path:
    figure.suptitle(f"{result['title']}\npreset {result['preset']}", fontsize=10)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        figure.legend(loc=legend, ncols=ncols, fontsize=8, frameon=False)
    write_figure(path, figure)
    return path


def _spread(values: list[float]) -> tuple[float, float | None]:
    return mean(values), stdev(values) if len(values) > 1 else None
