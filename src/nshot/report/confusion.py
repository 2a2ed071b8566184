"""Which class is taken for which, as a picture."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nshot.files import shown, write_figure

from .draw import as_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 40  # classes at most for their names to be readable
NUMBERED = 12  # and for the counts
LONG = 18  # letters of a name


def picture(counts: np.ndarray, names: Sequence[str]) -> "Figure":
    """The confusion matrix: rows are true classes, each coloured by the share of its images."""
    from matplotlib.figure import Figure

    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    inches = min(9.0, 3.2 + 0.3 * classes)
    figure = Figure(figsize=(inches + 0.8, inches), layout="constrained", dpi=110)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the class's images", shrink=0.8)
    axes.set(xlabel="said", ylabel="true")
    if classes <= NAMED:
        shortened = [_short(name) for name in names]
        turned = 90 if max(map(len, shortened)) > 2 else 0
        axes.set_xticks(range(classes), shortened, rotation=turned, parse_math=False)
        axes.set_yticks(range(classes), shortened, parse_math=False)
    if classes <= NUMBERED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=ink, fontsize=9)
    return figure


def plot_confusion(path: Path, verdict: dict[str, Any]) -> Path:
    """Writes the picture as PNG. A class whose name the font has no letters for goes by its number."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    letters = get_font(findfont(FontProperties())).get_charmap()
    names = [row["name"] for row in verdict["classes"]]
    drawn = [name if all(ord(c) in letters for c in _short(name)) else f"class {i}" for i, name in enumerate(names)]
    write_figure(path, picture(np.array(verdict["confusion"]), drawn))
    return path


def svg_of(verdict: dict[str, Any]) -> str:
    """The picture as an SVG element, whose text the reader's own fonts show."""
    figure = picture(np.array(verdict["confusion"]), [row["name"] for row in verdict["classes"]])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the font here is for the layout alone
        return as_svg(figure)


def _short(name: str) -> str:
    name = shown(name)
    return name if len(name) <= LONG else name[: LONG - 1] + "…"
