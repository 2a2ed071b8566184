"""A supernet of one's own, by the example in examples/: the script runs, and what a space has by default is right."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nshot
from nshot import UserError

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_supernet.py"

# The example's space registered, the whole job goes by the run folder: train, search, retrain, export.
WHOLE_JOB = """
from pathlib import Path
from own_supernet import Blocks
from nshot.data.sources import load
from nshot.handover.export import export
from nshot.search.limits import Limits
from nshot.search.pick import How, search_run
from nshot.spaces import spaces
from nshot.strategies import Options
from nshot.networks.alone import Recipe
from nshot.supernets.config import TrainConfig
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.supernets.train import train
spaces.register("blocks")(Blocks)
space, data = Blocks(), load("digits", resolution=8)
options = Options(schedule="calr", ms="first")
train(TrainConfig(space=space, options=options, dataset="digits", epochs=1), data, "run", device="cpu")
found = search_run(Path("run"), Limits(max_params=5000), How(sample=20), device="cpu")
config = RetrainConfig(space=space, recipe=Recipe(epochs=1, batch_size=64, lr=0.01), dataset="digits")
retrain(config, tuple(found["best"]["subnet"]), data, "best", device="cpu")
export("best", "out", "torch")
"""


@pytest.fixture(scope="module")
def blocks():
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        import own_supernet
    finally:
        sys.path.pop(0)
    return own_supernet.Blocks(num_classes=7)


def test_the_example_is_short_and_finds_a_subnet_that_learns() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80
    said = subprocess.run([sys.executable, EXAMPLE], check=True, capture_output=True, text=True).stdout
    assert re.search(r"^256 subnets ranked, from \d+\.\d % to", said, re.MULTILINE)
    params = re.search(r"at most 6,000 parameters: \d-\d-\d-\d with (\d,\d+)", said)
    assert params
    assert int(params[1].replace(",", "")) <= 6000
    alone = re.search(r"test accuracy: (\d+\.\d) %", said)
    assert alone
    assert float(alone[1]) > 90


def test_what_a_space_has_by_default_is_right(blocks) -> None:
    supernet = blocks.supernet()
    images = torch.randn(2, 3, 8, 8)
    rng = np.random.default_rng(0)
    for subnet in [blocks.sample(rng) for _ in range(8)]:
        assert blocks.parse(blocks.format(subnet)) == subnet
        assert blocks.canonical(subnet) == subnet
        network = nshot.extract(supernet, subnet)
        expected = supernet(images, subnet)
        assert torch.equal(network(images), expected)
        # What the loss reaches are the subnet's weights: its parameters.
        expected.sum().backward()
        reached = sum(p.numel() for p in supernet.parameters() if p.grad is not None)
        assert blocks.params(subnet) == blocks.network_params(subnet) == reached
        supernet.zero_grad()
        with FlopCounterMode(display=False) as counter:
            blocks.network(subnet)(images)
        assert 2 * 2 * blocks.flops(subnet) == counter.get_total_flops()  # of two images, twice as many
    assert blocks.params_range == (28 * 12 + 193 * 7, 28 * 12 + 193 * 7 + 4 * (144 * 25 + 36))


def test_flops_of_norms_over_a_single_pixel() -> None:
    """A batch norm that trains wants more than one value a channel, and one image of 1x1 pixels has no more."""

    class Pixel(nshot.spaces.Supernet):
        def __init__(self, space: nshot.spaces.Space) -> None:
            super().__init__()
            self.space = space
            self.stem, self.classifier = nn.Conv2d(3, 6, 8, bias=False), nn.Linear(6, space.num_classes)
            self.blocks = nn.ModuleList(nn.Conv2d(6, 6, 1, groups=g, bias=False) for g in (1, 2, 3))
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x: torch.Tensor, subnet: nshot.spaces.Subnet) -> torch.Tensor:
            return self.classifier(self.norm(self.blocks[subnet[0]](self.stem(x))).flatten(1))

    @dataclass(frozen=True)
    class Pixels(nshot.spaces.Space):
        name = "pixels"
        resolution: int = 8

        def all_decisions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
            return (("block", ("1", "2", "3")),)

        def params(self, subnet: nshot.spaces.Subnet) -> int:
            return 3 * 64 * 6 + 36 // (subnet[0] + 1) + 12 + 70

        def supernet(self, num_classes: int | None = None) -> Pixel:
            return Pixel(self.with_classes(num_classes))

    space = Pixels()
    assert [space.flops((i,)) for i in range(3)] == [3 * 64 * 6 + 36 // groups + 60 for groups in (1, 2, 3)]


@pytest.mark.parametrize("text", ["0-1-2", "0-1-2-9", "0-1-2-x", "", "-1-0-0-0"])
def test_a_text_that_is_no_subnet_is_refused(blocks, text: str) -> None:
    with pytest.raises(UserError, match=r"block") as error:
        blocks.parse(text)
    assert "\n" not in str(error.value)


def test_a_space_too_large_to_enumerate_must_say_its_ranges(blocks) -> None:
    class Large(type(blocks)):
        def all_decisions(self):
            return tuple((f"block{i}", ("a", "b", "c")) for i in range(10))

    with pytest.raises(UserError, match=r"59,049 subnets, too many .* give it params_range"):
        Large().params_range  # noqa: B018


def test_a_registered_space_does_the_whole_job(blocks, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(EXAMPLE.parent)!r})\n{WHOLE_JOB}")
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True, capture_output=True, timeout=200)
    result = json.loads((tmp_path / "best" / "result.json").read_text())
    assert result["params"] <= 5000
    weights = torch.load(tmp_path / "out" / "weights.pt", weights_only=True)
    assert sum(w.numel() for w in weights.values()) == result["params"]  # none of the blocks that it does not use
    sys.path.insert(0, str(tmp_path / "out"))
    try:
        import model
    finally:
        sys.path.pop(0)
        sys.modules.pop("model", None)
    logits = model.load(tmp_path / "out" / "weights.pt")(model.normalise(torch.zeros(5, 8, 8, 3, dtype=torch.uint8)))
    assert logits.shape == (5, 10)


def test_a_large_space_needs_its_ranges_only_where_they_count(blocks) -> None:
    class Large(type(blocks)):
        def all_decisions(self):
            return tuple((f"block{i}", ("a", "b", "c")) for i in range(10))

        def params(self, subnet):
            return 1 + sum(subnet)

    assert len(nshot.strategy("spos", Large(), total_steps=10).plan(3).paths[0]) == 10
    with pytest.raises(UserError, match=r"59,049 subnets, too many"):
        nshot.strategy("spos", Large(), total_steps=10, schedule="calr")
