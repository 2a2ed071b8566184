"""The feature shift against a forward pass written out, with cases in which it must be 0; the command on digits."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import SMALL, nshot_, refuse
from nshot import space
from nshot.nn.cells import live_edges
from nshot.ranking.shift import GROUP, distance, feature_shift
from nshot.report.shift_plot import thirds
from nshot.spaces import FewShot, list_spaces
from nshot.supernets.shift import shift_paths

SPACE = space("nasbench201", **SMALL["nasbench201"])
EDGES = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
FIRST = {  # of each space the layer that every path runs first
    "autoformer": "layers.0.attention.qkv",
    "darts": "stem.0",
    "mobilenet": "stem.conv",
    "nasbench201": "stem.conv",
    "timm": "net.conv_stem",
}
IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    return SPACE.supernet()


def normed(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def inputs_of(weights: dict[str, torch.Tensor], path: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """What each layer is given: the network written out, with nothing of nshot but the weights."""
    found = {}

    def conv(name: str, x: torch.Tensor, **how: int) -> torch.Tensor:
        found[name] = x
        return F.conv2d(x, weights[f"{name}.weight"], **how)

    x = normed(conv("stem.conv", IMAGES, padding=1))
    for stage in range(3):
        if stage:
            at = f"reductions.{stage - 1}"
            a = normed(conv(f"{at}.conv_a.conv", x.relu(), stride=2, padding=1))
            b = normed(conv(f"{at}.conv_b.conv", a.relu(), padding=1))
            x = conv(f"{at}.shortcut", F.avg_pool2d(x, 2)) + b
        nodes = [x] + [torch.zeros_like(x) for _ in range(3)]
        for e, ((target, source), op) in enumerate(zip(EDGES, live_edges(path), strict=True)):
            edge, value = f"stages.{stage}.0.edges.{e}", nodes[source]
            if op in (2, 3):
                name = f"{edge}.nor_conv_{(1, 3)[op - 2]}x{(1, 3)[op - 2]}.conv"
                value = normed(conv(name, value.relu(), padding=op - 2))
            elif op == 4:
                value = F.avg_pool2d(value, 3, 1, 1, count_include_pad=False)
            nodes[target] = nodes[target] + value * (op != 0)
        x = nodes[3]
    found["classifier"] = normed(x).relu().mean((2, 3))
    return found


def by_hand(first: torch.Tensor, second: torch.Tensor) -> float:
    each = []
    for a, b in zip(first.double().flatten(1).numpy(), second.double().flatten(1).numpy(), strict=True):
        size = math.sqrt((a**2).sum() + (b**2).sum())
        each.append(math.sqrt(((a - b) ** 2).sum()) / size if size else 0.0)
    return float(np.mean(each))


def test_every_layer_by_brute_force(supernet) -> None:
    paths = shift_paths(SPACE, 2 * GROUP, seed=1)
    weights = {name: weight.detach() for name, weight in supernet.named_parameters()}
    pairs: dict[str, list[float]] = {}
    for group in (paths[:GROUP], paths[GROUP:]):
        for one, other in itertools.combinations([inputs_of(weights, path) for path in group], 2):
            for name in one.keys() & other.keys():
                pairs.setdefault(name, []).append(by_hand(one[name], other[name]))
    found = feature_shift(supernet, paths, IMAGES)
    assert found.keys() == pairs.keys()
    assert len(found) > 20
    for name, each in pairs.items():
        assert found[name].pairs == len(each)
        assert found[name].shift == pytest.approx(np.mean(each), abs=1e-5)


def test_distance() -> None:
    a = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [-3.0, -4.0], [6.0, 8.0], [0.0, 0.0]])
    assert distance(a, b).tolist() == pytest.approx([0, 1, math.sqrt(2), 1 / math.sqrt(5), 0])


def test_depth_is_the_mean_share_of_a_paths_layers_that_run_before(supernet) -> None:
    """Of two paths: of 23 layers, five convolutions a stage, and of 14, two a stage on edges 1 and 4."""
    found = feature_shift(supernet, [(3, 2, 3, 1, 2, 3), (1, 2, 1, 1, 2, 1)], IMAGES)
    places = {  # which layer it is of either path, from 0
        "stem.conv": (0, 0),
        "stages.0.0.edges.1.nor_conv_1x1.conv": (2, 1),
        "stages.0.0.edges.4.nor_conv_1x1.conv": (4, 2),
        "reductions.0.conv_a.conv": (6, 3),
        "stages.1.0.edges.1.nor_conv_1x1.conv": (10, 6),
        "stages.1.0.edges.4.nor_conv_1x1.conv": (12, 7),
        "reductions.1.conv_a.conv": (14, 8),
        "stages.2.0.edges.1.nor_conv_1x1.conv": (18, 11),
        "stages.2.0.edges.4.nor_conv_1x1.conv": (20, 12),
        "classifier": (22, 13),
    }
    for name, (one, other) in places.items():
        assert found[name].depth == pytest.approx((one / 22 + other / 13) / 2), name
    assert [name for name in found if name in places] == list(places)  # from the shallowest


# cases in which it must be 0


def test_it_is_zero_where_nothing_differs(supernet) -> None:
    found = feature_shift(supernet, [(3, 2, 3, 1, 2, 3)] * 4, IMAGES)
    assert {layer.shift for layer in found.values()} == {0.0}


def test_it_is_zero_for_layers_before_all_that_differs_and_not_after(supernet) -> None:
    """Paths that differ in the last edge alone: the first cell's layers see the same, all later ones do not."""
    found = feature_shift(supernet, [(3, 2, 3, 1, 2, op) for op in (0, 1, 2, 3, 4)], IMAGES)
    for name, layer in found.items():
        before = name.startswith(("stem", "stages.0"))
        assert (layer.shift == 0) == before, name
    assert min(layer.shift for name, layer in found.items() if name.startswith("stages.2")) > 0.05


def test_what_the_first_cell_is_given_never_moves(supernet) -> None:
    found = feature_shift(supernet, shift_paths(SPACE, 40, seed=0), IMAGES)
    from_input = {f"stages.0.0.edges.{edge}" for edge in (0, 1, 3)}
    still = {name for name, layer in found.items() if layer.shift == 0}
    assert still == {name for name in found if name == "stem.conv" or name.rsplit(".", 2)[0] in from_input}


def test_it_grows_with_how_much_options_differ() -> None:
    """A supernet whose two convolutions of an edge are nearly one shifts less than one whose are not."""
    means = []
    for apart in (0.0, 0.1, 1.0):
        torch.manual_seed(3)
        supernet = SPACE.supernet()
        for stage in supernet.stages:
            for edge in stage[0].edges:  # the 1x1 convolution as the centre of a 3x3 one that is 0 around it
                three, one = edge["nor_conv_3x3"].conv.weight.data, edge["nor_conv_1x1"].conv.weight.data
                centre = three[:, :, 1:2, 1:2].clone()
                one.copy_((1 - apart) * centre + apart * one)
                three.zero_()[:, :, 1:2, 1:2] = centre
        paths = list(itertools.product((2, 3), repeat=6))[:: 64 // GROUP]
        layers = feature_shift(supernet, paths, IMAGES)
        means.append(np.mean([layer.shift for layer in layers.values()]))
    assert means[0] == pytest.approx(0, abs=1e-6)
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("name", list_spaces())
def test_every_space(name) -> None:
    here = space(name, **SMALL[name])
    torch.manual_seed(0)
    supernet = here.supernet()
    images = torch.randn(4, 3, here.resolution, here.resolution)
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    found = feature_shift(supernet, shift_paths(here, 12, seed=0), images)
    values = np.array([layer.shift for layer in found.values()])
    assert len(values) > 5
    assert np.all((values >= 0) & (values <= math.sqrt(2)))
    assert values.max() > 0.1
    assert [next(iter(found)), list(found)[-1].removeprefix("net.")] == [FIRST[name], "classifier"]
    assert [next(iter(found.values())).depth, list(found.values())[-1].depth] == [0, 1]
    assert supernet.fast  # as it was
    assert not any(module._forward_pre_hooks for module in supernet.modules())
    assert all(torch.equal(before[key], value) for key, value in supernet.state_dict().items())


def test_several_supernets_are_compared_each_with_itself() -> None:
    """A layer is run by the paths of its part alone; parts have no layer in common."""
    torch.manual_seed(0)
    halves = [SPACE.restrict("1<-0", *ops) for ops in (["nor_conv_3x3", "none"], ["skip_connect"])]
    parts = [half.supernet() for half in halves]
    first, second = ([(op, 3, 2, 3, last, 3) for last in range(GROUP // 2)] for op in (3, 1))
    found = feature_shift(FewShot(SPACE, parts), [*first, *second], IMAGES)
    for i, paths in enumerate((first, second)):
        own = feature_shift(parts[i], paths, IMAGES)
        assert {f"parts.{i}.{name}": layer.shift for name, layer in own.items()} == {
            name: layer.shift for name, layer in found.items() if name.startswith(f"parts.{i}")
        }
        assert len(own) > 8
        assert parts[i].fast


# the command


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shifted")
    for name, flags in (("plain", []), ("ms", ["--ms", "first"])):
        train = ["train", "spos", "--preset", "smoke", "--epochs", "1", *flags, "--device", "cpu"]
        assert nshot_(*train, "--out", folder / name)[0] == 0
    return [folder / "plain", folder / "ms"]


def test_runs_side_by_side(runs) -> None:
    given = ["--paths", "48", "--images", "16", "--device", "cpu"]
    status, printed, err = nshot_("analyse", "shift", *runs, *given)
    assert (status, err) == (0, "")
    found = [json.loads((run / "shift.json").read_text()) for run in runs]
    assert (runs[0] / "shift.png").stat().st_size > 10_000
    assert not (runs[1] / "shift.png").exists()
    assert found[0]["shift"].keys() == found[1]["shift"].keys()  # the same paths
    for one, run in zip(found, runs, strict=True):
        assert (one["paths"], one["images"], one["seed"]) == (48, 16, 0)
        shifts = [layer["shift"] for layer in one["shift"].values()]
        assert one["mean"] == pytest.approx(np.mean(shifts))
        assert f"│ {run.name} " in printed
        assert f"{one['mean']:.3f}" in printed
    assert found[0]["mean"] != found[1]["mean"]
    assert nshot_("analyse", "shift", runs[0], *given, "--name", "again")[0] == 0
    again = json.loads((runs[0] / "again.json").read_text())
    assert again == found[0]
    other = ["analyse", "shift", runs[0], *given, "--seed", "1"]
    assert "another shift (seed: 0, not 1)" in refuse(*other, "--name", "again")
    assert json.loads((runs[0] / "again.json").read_text()) == found[0]
    assert nshot_(*other, "--name", "other")[0] == 0
    assert json.loads((runs[0] / "other.json").read_text())["mean"] != found[0]["mean"]


def test_thirds(supernet) -> None:
    layers = feature_shift(supernet, shift_paths(SPACE, 24, seed=0), IMAGES)
    parts: list[list[float]] = [[], [], []]
    for layer in layers.values():
        parts[0 if layer.depth < 1 / 3 else 1 if layer.depth < 2 / 3 else 2].append(layer.shift)
    assert thirds(layers) == pytest.approx([np.mean(part) for part in parts])


def test_what_cannot_be_analysed_is_one_line(runs, tmp_path) -> None:
    plain = runs[0]
    assert "unknown analysis 'shit'" in refuse("analyse", "shit", plain)
    assert "no run is named" in refuse("analyse", "shift")
    assert "is no run folder" in refuse("analyse", "shift", tmp_path)
    assert "is named twice" in refuse("analyse", "shift", plain, plain / ".." / plain.name)
    assert "paths must be" in refuse("analyse", "shift", plain, "--paths", "1").replace("paths 1: ", "paths ")
    assert "images 99999: must be from 2 to" in refuse("analyse", "shift", plain, "--images", "99999")
    assert "must be a file name" in refuse("analyse", "shift", plain, "--name", "a/b")
    assert "another file of a run" in refuse("analyse", "shift", plain, "--name", "log")
    rank = ["rank", plain, "--benchmark", "digits", "--sample", "4", "--name", "ranked", "--device", "cpu"]
    assert nshot_(*rank)[0] == 0
    assert "keeps a ranking by this name" in refuse("analyse", "shift", plain, "--name", "ranked")
    wide = ["train", "spos", "--preset", "smoke", "--epochs", "1", "--channels", "8", "--device", "cpu"]
    assert nshot_(*wide, "--out", tmp_path / "wide")[0] == 0
    assert "have another space" in refuse("analyse", "shift", plain, tmp_path / "wide")
    assert nshot_("analyse")[1].startswith("usage: nshot analyse shift RUN")


def test_a_ranking_does_not_take_the_name_of_a_shift(runs) -> None:
    run = runs[0]
    assert nshot_("analyse", "shift", run, "--name", "moved", "--images", "8", "--paths", "16")[0] == 0
    before = (run / "moved.json").read_bytes()
    for command in (["rank", run, "--benchmark", "digits"], ["search", run]):
        assert "keeps a shift by this name" in refuse(*command, "--name", "moved")
    assert (run / "moved.json").read_bytes() == before
