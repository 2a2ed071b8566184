"""Figure C: the decay ratio γ by complexity, for the three g."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nshot.dynamic.calr import G, decay_ratio
from nshot.files import write_figure
from nshot.spaces import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_c(path: Path, space: Space) -> Path:
    """Writes the picture of `drawn`."""
    write_figure(path, drawn(space))
    return path


def drawn(space: Space) -> "Figure":
    """γ of eqs. i to iii over the space's range of parameters, above how many subnets there are at each complexity."""
    from matplotlib.figure import Figure

    low, high = space.params_range
    complexities = np.linspace(low, high, 400)
    figure = Figure(figsize=(6, 4.6), layout="constrained", dpi=120)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for g in G:
        ratios = [decay_ratio(c, (low, high), space.gamma, g) for c in complexities]
        top.plot(complexities / 1e6, ratios, label=f"g = {g}")
    top.axhline(1, color="grey", lw=0.8, ls=":")
    top.set_ylabel("decay ratio γ(α)")
    top.legend(frameon=False)
    bottom.hist([space.params(subnet) / 1e6 for subnet in space.subnets()], bins=60, color="#4c78a8")
    bottom.set_xlabel("complexity C(α), parameters (M)")
    bottom.set_ylabel("subnets")
    for panel in (top, bottom):
        panel.spines[["top", "right"]].set_visible(False)
    return figure
