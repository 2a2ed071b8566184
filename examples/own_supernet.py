"""A supernet that is none of nshot's: a perceptron whose layers choose width and activation, on handwritten digits.

python examples/own_supernet.py [FOLDER]

Two classes are all that is needed: a space that says its decisions and costs, and a supernet with forward(x, subnet).
Training with CaLR and MS, scoring and searching are nshot's. About ten seconds on one core.
"""

import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import torch.nn.functional as F
from torch import nn

from nshot.data.sources import load
from nshot.search.limits import Limits
from nshot.search.pick import How, search_run
from nshot.spaces import PlainSpace, PlainSupernet, spaces
from nshot.training.config import TrainConfig
from nshot.training.run import load_run
from nshot.training.train import train

WIDTHS = (16, 32, 64)
ACTIVATIONS = {"relu": F.relu, "tanh": F.tanh, "none": lambda x: x}


@spaces.register("perceptron")
@dataclass(frozen=True)
class Perceptron(PlainSpace):
    name = "perceptron"
    resolution: int = 8
    layers: int = 3

    def all_decisions(self):
        widths, activations = tuple(map(str, WIDTHS)), tuple(ACTIVATIONS)
        return tuple(d for i in range(self.layers) for d in ((f"width {i}", widths), (f"activation {i}", activations)))

    def params(self, subnet):
        sizes = [3 * self.resolution**2, *(WIDTHS[option] for option in subnet[::2]), self.num_classes]
        return sum((a + 1) * b for a, b in itertools.pairwise(sizes))

    def flops(self, subnet):
        return self.params(subnet) - sum(WIDTHS[option] for option in subnet[::2]) - self.num_classes

    def supernet(self, num_classes=None):
        return PerceptronSupernet(self.with_classes(num_classes))


class PerceptronSupernet(PlainSupernet):
    """A narrower layer is the leading rows and columns of the widest."""

    def __init__(self, space):
        super().__init__()
        self.space = space
        sizes = [3 * space.resolution**2, *[max(WIDTHS)] * space.layers, space.num_classes]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x, subnet):
        x, activations = x.flatten(1), list(ACTIVATIONS.values())
        for linear, width, activation in zip(self.linears, subnet[::2], subnet[1::2], strict=False):
            rows = WIDTHS[width]
            x = activations[activation](F.linear(x, linear.weight[:rows, : x.shape[1]], linear.bias[:rows]))
        return F.linear(x, self.linears[-1].weight[:, : x.shape[1]], self.linears[-1].bias)


data = load("digits", resolution=8)
config = TrainConfig(space=Perceptron(num_classes=data.classes), dataset="digits", epochs=60, lr=0.1, log_every=100)
options = replace(config.options, schedule="calr", ms="width 0")
run = train(replace(config, options=options), data, Path(sys.argv[1] if sys.argv[1:] else mkdtemp()) / "run")
space, supernet = config.space, load_run(run)[1]
best = search_run(run, Limits(max_params=8_000), How(sample=200))["best"]
print(
    f"best of 200 subnets: {best['arch']}, {best['params']:,} parameters, {best['accuracy']:.1f} % of held-out digits"
)
print("as a module of its own:", type(supernet.extract(space.parse(best["arch"]))).__name__)
