"""Makes the pictures of docs/concepts.md: python benchmarks/pictures.py"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import nshot
from nshot.report.draw import draw

OUT = Path(__file__).parent.parent / "docs" / "pictures"
SPACE = nshot.space("nasbench201")
STEPS = 200
ARCH = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"  # one of 15,625


def rates(complexity: int) -> list[float]:
    """Learning rates of one subnet through a training, by the scheduler itself."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.025)
    calr = nshot.ComplexityAwareLR(optimizer, total_steps=STEPS, complexity_range=SPACE.params_range, gamma=4)
    found = []
    for _ in range(STEPS):
        calr.step(complexity)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def calr() -> None:
    low, high = SPACE.params_range
    figure = Figure(figsize=(6, 3.4), layout="constrained", dpi=120)
    panel = figure.subplots()
    for name, value in (("smallest", low), ("middle", (low + high) // 2), ("largest", high)):
        panel.plot(np.arange(STEPS) / STEPS, rates(value), label=f"{name}: {value:,} parameters")
    panel.set(xlabel="share of the training", ylabel="learning rate")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="lower left")
    figure.savefig(OUT / "calr.png")


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    calr()
    draw(SPACE, SPACE.parse(ARCH), OUT / "path.png")
