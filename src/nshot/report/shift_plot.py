"""The feature shift of runs: a picture, and a table on the terminal."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nshot.files import legend_name, write_figure
from nshot.supernets.shift import Layers, mean_shift

NAMED = 60  # layers up to which each has its name below the picture
THIRDS = ("first third", "middle", "last third")


def plot_shift(path: Path, found: Mapping[str, Layers]) -> Path:
    """The shift of each layer, from the shallowest to the deepest of the first run; a line a run."""
    from matplotlib.figure import Figure

    layers = next(iter(found.values()))
    place = {name: i for i, name in enumerate(layers)}
    figure = Figure(figsize=(max(6.0, 0.2 * min(len(layers), NAMED)), 4.8), layout="constrained", dpi=120)
    panel = figure.subplots()
    for title, own in found.items():
        known = [name for name in layers if name in own]
        line = f"{legend_name(title)}: mean {mean_shift(own):.3f}"
        panel.plot([place[n] for n in known], [own[n].shift for n in known], marker="o", ms=3, lw=0.8, label=line)
    panel.axhline(1, color="grey", lw=0.6, ls=":")
    panel.text(0, 1, "orthogonal", color="grey", fontsize=8, va="bottom")
    if len(layers) <= NAMED:
        panel.set_xticks(range(len(layers)), list(layers), rotation=90, fontsize=6)
    panel.set(xlabel="layer, in the order in which they run", ylabel="feature shift", ylim=(0, None))
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8)
    write_figure(path, figure)
    return path


def print_shift(found: Mapping[str, Layers]) -> None:
    """A row a run: the mean over layers, and that of the layers in each third of the depth."""
    table = Table(title="feature shift: 0 the same inputs, 1 orthogonal ones")
    for column in ("run", "layers", "mean", *THIRDS):
        table.add_column(column)
    for name, layers in found.items():
        table.add_row(escape(name), str(len(layers)), f"{mean_shift(layers):.3f}", *map(_number, thirds(layers)))
    Console().print(table)


def thirds(layers: Layers) -> list[float]:
    """Means over the layers in each third of the depth; nan where there are none."""
    places = np.array([min(int(3 * layer.depth), 2) for layer in layers.values()])
    shifts = np.array([layer.shift for layer in layers.values()])
    return [float(shifts[places == third].mean()) if (places == third).any() else float("nan") for third in range(3)]


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
