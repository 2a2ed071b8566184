"""The MobileNet space: golden figures, its shape by hand, its notation, and what it refuses."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import nshot
from nshot import UserError
from nshot.spaces.mobilenet import OPTIONS, REPEATS, SKIP, MobileNet


@pytest.fixture(scope="module")
def space() -> MobileNet:
    return nshot.space("mobilenet")


def test_golden_ranges(space: MobileNet) -> None:
    """Counted by hand from the widths, without batch norms, the classifier's bias included."""
    assert space.params_range == (2_145_384, 5_054_664)
    assert space.flops_range == (102_528_896, 606_590_720)
    least = tuple(0 if d.name.endswith("layer0") else SKIP for d in space.decisions)
    assert space.params(least) == space.params_range[0]
    assert space.flops((5,) * 21) == space.flops_range[1]


def test_decisions(space: MobileNet) -> None:
    assert len(space.decisions) == 21
    assert OPTIONS == ("MB3_3x3", "MB6_3x3", "MB3_5x5", "MB6_5x5", "MB3_7x7", "MB6_7x7", "skip")
    without_skip = [i for i, d in enumerate(space.decisions) if len(d.options) == 6]
    assert without_skip == [0, 4, 8, 12, 16, 20]  # the first layer of each stage
    assert space.size == 7**15 * 6**6


def test_costs_of_the_whole_size_are_those_of_the_networks(space: MobileNet) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        subnet = space.sample(rng)
        network = space.network(subnet)
        assert sum(p.numel() for p in network.parameters()) == space.network_params(subnet)
        norms = [p for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()]
        assert space.network_params(subnet) - sum(p.numel() for p in norms) == space.params(subnet)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.randn(1, 3, 224, 224))
        assert counter.get_total_flops() == 2 * space.flops(subnet)


def test_shape_of_the_largest(space: MobileNet) -> None:
    network = space.network((5,) * 21)
    shapes = []
    x = network.first(network.stem(torch.randn(1, 3, 224, 224)))
    assert x.shape == (1, 16, 112, 112)
    for layer in network.layers:
        x = layer["MB6_7x7"](x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes[0::4] == [(24, 56, 56), (40, 28, 28), (80, 14, 14), (96, 14, 14), (192, 7, 7), (320, 7, 7)]
    assert network.head(x).shape == (1, 1280, 7, 7)


@pytest.mark.parametrize(
    ("strides", "repeats"),
    [
        ((2, 1, 2, 1, 1, 2, 1), REPEATS),
        ((1, 2, 1, 1, 2, 1, 2), REPEATS),
        ((1,) * 7, (2, 2, 2, 2, 2, 1)),
        ((2, 2, 1, 1, 2, 1, 1), (1, 3, 1, 2, 1, 2)),
    ],
)
def test_strides_and_repeats_are_sizes_of_the_space(strides: tuple[int, ...], repeats: tuple[int, ...]) -> None:
    """The sides of the values and the layers of each stage by hand; costs against torch's count."""
    sizes = {"width": 0.25, "num_classes": 10, "repeats": repeats}
    space = nshot.space("mobilenet", resolution=24, strides=strides, **sizes)
    stages = [stage for stage, count in enumerate(repeats) for _ in range(count)]
    assert [d.name.partition(".")[0] for d in space.decisions] == [f"stage{stage}" for stage in stages]
    assert [SKIP in d.allowed for d in space.decisions] == [a == b for a, b in zip([-1, *stages], stages, strict=False)]
    subnet = space.sample(np.random.default_rng(1))
    assert [len(stage.split(",")) for stage in space.format(subnet).split("|")] == list(repeats)
    assert space.parse(space.format(subnet)) == subnet
    network = space.network(subnet).eval()
    x = torch.randn(1, 3, 24, 24)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    assert counter.get_total_flops() == 2 * space.flops(subnet)
    assert sum(p.numel() for p in network.parameters()) == space.network_params(subnet)
    sides, side = [], 24
    for stride in strides:
        side = -(-side // stride)
        sides.append(side)
    with torch.no_grad():
        value = network.first(network.stem(x))
        assert value.shape[-1] == sides[0]
        for i, (layer, option) in enumerate(zip(network.layers, subnet, strict=True)):
            value = value if option == SKIP else layer[OPTIONS[option]](value)
            assert value.shape[-1] == sides[1 + stages[i]]
    assert space.params_range == nshot.space("mobilenet", resolution=32, **sizes).params_range


def test_skip_leaves_a_layer_out(space: MobileNet) -> None:
    small = nshot.space("mobilenet", width=0.25, resolution=32, num_classes=10)
    least = tuple(0 if d.name.endswith("layer0") else SKIP for d in small.decisions)
    supernet = small.supernet()
    images = torch.randn(4, 3, 32, 32)
    supernet(images, least).sum().backward()
    used = {name.split(".")[1] for name, p in supernet.named_parameters() if p.grad is not None and "layers." in name}
    assert used == {"0", "4", "8", "12", "16", "20"}


def test_gamma_is_that_of_the_paper(space: MobileNet) -> None:
    strategy = nshot.strategy("spos", space, total_steps=100, schedule="calr")
    assert strategy.decay((5,) * 21) == pytest.approx(1 / 3)
    least = tuple(0 if d.name.endswith("layer0") else SKIP for d in space.decisions)
    assert strategy.decay(least) == pytest.approx(3)


def test_notation(space: MobileNet) -> None:
    subnet = tuple(0 if d.name.endswith("layer0") else SKIP for d in space.decisions)
    assert space.format(subnet) == "|".join(["MB3_3x3,skip,skip,skip"] * 5 + ["MB3_3x3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MB3_3x3", "is no mobilenet subnet: expected op,op,op,op|"),
        ("|".join(["MB3_3x3,skip,skip,skip"] * 5 + ["skip"]), "option 6 of decision 'stage5.layer0' is none of"),
        ("|".join(["MB4_3x3,skip,skip,skip"] * 5 + ["MB3_3x3"]), "unknown block 'MB4_3x3'"),
    ],
)
def test_bad_notation(space: MobileNet, text: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        space.parse(text)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"resolution": 31}, "resolution 31: .* at least 32"),
        (
            {"resolution": 3, "strides": (1, 1, 2, 1, 1, 2, 1)},
            "resolution 3: the space halves it 2 times, use at least 4",
        ),
        ({"strides": (2, 2, 2, 2, 1, 2)}, "strides .*must be 7 numbers, each 1 or 2"),
        ({"strides": (2, 2, 2, 3, 1, 2, 1)}, "strides .*must be 7 numbers, each 1 or 2"),
        ({"repeats": (4, 4, 4, 4, 4)}, "repeats .*must be 6 numbers, each at least 1"),
        ({"repeats": (4, 4, 4, 0, 4, 1)}, "repeats .*must be 6 numbers, each at least 1"),
        ({"width": 0.0}, "width 0.0"),
        ({"num_classes": 1}, "num_classes 1"),
    ],
)
def test_impossible_sizes(sizes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        nshot.space("mobilenet", **sizes)
