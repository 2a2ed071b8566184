"""What a study's figures say over seeds: means and differences between rows with their intervals, and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nshot.ranking.seeds import LEAST, Mean, difference, over_seeds

from .base import Study

OF_IMAGES, AT_INFINITY = "±", "∞ images"  # columns: half the width of one supernet's interval, and what it is around
NOT_COMPARED = (OF_IMAGES, AT_INFINITY, "parameters", "(min)", "deviation", "5 %", "50 %")
Figures = Mapping[str, Any]


def summarize(study: Study, result: dict[str, Any]) -> dict[str, Any]:
    """The result, each of its rows with the means of its columns over seeds, and its differences from the rows that it
    is compared with: paired by seed where both have one, else Welch's; intervals from three seeds on."""
    by_label = {row["label"]: row["seeds"] for row in result["rows"]}
    for row, found in zip(study.rows, result["rows"], strict=True):
        seeds = found["seeds"]
        found["means"] = {
            column: asdict(over_seeds(known)) for column in columns(seeds) if (known := _known(seeds, column))
        }
        found["differences"] = [
            {"against": other, "column": column, **asdict(change), "shown": change.shown}
            for other in row.against
            for column in columns(seeds)
            if not any(word in column for word in NOT_COMPARED)
            if (change := _difference(by_label[other], seeds, column)) is not None
        ]
    return result


def columns(seeds: Mapping[str, Figures]) -> list[str]:
    """Names of the figures that are numbers."""
    found: dict[str, None] = {}
    for figures in seeds.values():
        found |= dict.fromkeys(
            name for name, value in figures.items() if value is None or isinstance(value, int | float)
        )
    return list(found)


def _known(seeds: Mapping[str, Figures], column: str) -> list[float]:
    return list(_by_seed(seeds, column).values())


def _by_seed(seeds: Mapping[str, Figures], column: str) -> dict[int, float]:
    values = {int(seed): figures.get(column) for seed, figures in seeds.items()}
    return {seed: value for seed, value in values.items() if value is not None and np.isfinite(value)}


def _difference(first: Mapping[str, Figures], second: Mapping[str, Figures], column: str) -> Mean | None:
    a, b = _by_seed(first, column), _by_seed(second, column)
    return difference(a, b) if a and b else None


def markdown(result: dict[str, Any]) -> str:
    """The table beside the paper's figures, and the differences between its rows."""
    names = list(dict.fromkeys(name for row in result["rows"] for name in columns(row["seeds"])))
    shown = [name for name in names if OF_IMAGES not in name]
    lines = [f"### {result['title']}", "", f"Preset {result['preset']}.", ""]
    there = [row for row in result["rows"] if row["seeds"] or row["failed"]]
    lines += _table(
        ["row", "paper", *shown, "seeds"],
        [[row["label"], _paper(row["paper"]), *(_cell(row, name) for name in shown), _state(row)] for row in there],
    )
    if absent := [row["label"] for row in result["rows"] if row not in there]:
        lines += ["", f"Not run yet: {'; '.join(absent)}."]
    if any(row["seeds"] for row in there):
        lines += ["", _legend(names)]
    if most := result.get("ceiling"):
        told = ", ".join(f"{value:.2f} ({name})" for name, value in most.items())
        lines += ["", f"No ranking reaches 1; where networks are the same (twins), true accuracies agree by: {told}."]
    changes = [[row["label"], *_change(change)] for row in result["rows"] for change in row.get("differences", [])]
    if changes:
        lines += ["", *_table(["row", "against", "column", "difference", "95 % interval", ""], changes)]
    if result["note"]:
        lines += ["", result["note"]]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _legend(names: Sequence[str]) -> str:
    inside = (
        ", at infinitely many images with half its own interval" if any(AT_INFINITY in name for name in names) else ""
    )
    return (
        "The paper's: mean ± standard deviation. Ours: mean ± half the 95 % t-interval over seeds; "
        f"below {LEAST} seeds each value{inside}."
    )


def _cell(row: dict[str, Any], name: str) -> str:
    mean = row["means"].get(name)
    if mean is None:
        return "-"
    if mean["low"] is not None:
        return f"{_number(mean['mean'])} ± {_number(mean['high'] - mean['mean'])}"
    width = name.replace(AT_INFINITY, OF_IMAGES)
    values = [(figures[name], figures.get(width)) for figures in row["seeds"].values() if figures.get(name) is not None]
    return ", ".join(
        f"{_number(value)} ± {_number(half)}" if half is not None and width != name else _number(value)
        for value, half in values
    )


def _state(row: dict[str, Any]) -> str:
    return str(len(row["seeds"])) + (f", {len(row['failed'])} failed" if row["failed"] else "")


def _change(change: dict[str, Any]) -> list[str]:
    if change["low"] is None:
        interval, said = f"none below {LEAST} seeds", ""
    else:
        interval = f"{change['low']:+.3f} to {change['high']:+.3f}"
        said = "shown" if change["shown"] else "not shown"
    how = {"paired": "", "Welch's": " (Welch's)"}[change["how"]]
    return [change["against"], change["column"], f"{change['mean']:+.3f}{how}", interval, said]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"


def _paper(figures: Sequence[float]) -> str:
    if not figures:
        return "-"
    return f"{figures[0]:.3f} ± {figures[1]:.3f}" if len(figures) == 2 else ", ".join(f"{f:.2f}" for f in figures)
