"""Spaces on the command line: what cannot be is refused with what can, before any folder; section A's values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nshot
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.spaces.feasible import Bound, Feasible
from nshot.supernets.config import preset


@pytest.mark.parametrize(
    ("space", "flags", "message", "works"),
    [
        ("autoformer", ("--resolution", "33"), "resolution 33: must be a multiple of the patch 4, such as 36", "36"),
        ("autoformer", ("--resolution", "3"), "resolution 3: must be a multiple of the patch 4, such as 4", "4"),
        ("mobilenet", ("--resolution", "31"), "resolution 31: the space halves it 5 times, use at least 32", "32"),
        ("darts", ("--resolution", "7"), "resolution 7: must be at least 8", "8"),
        ("nasbench201", ("--resolution", "3"), "resolution 3: must be a multiple of 4 such as 4", "4"),
        ("autoformer", ("--patch", "0"), "patch 0: must be at least 1", None),
        ("mobilenet", ("--width", "0"), "width 0.0: must be above 0", None),
        ("darts", ("--channels", "5"), "channels 5: must be even", None),
        ("mobilenet", ("--min-flops", "900000000"), "no subnet is inside; space mobilenet", None),
        ("autoformer", ("--max-flops", "10"), "no subnet is inside; space autoformer", None),
    ],
)
def test_impossible_sizes(space: str, flags: tuple[str, ...], message: str, works: str | None, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert message in refuse("train", "--space", space, "--preset", "smoke", "--out", out, "--device", "cpu", *flags)
    assert not out.exists()
    if works is not None:  # the smallest that works does
        sizes = preset("smoke", "spos", space).space.sizes() | {"resolution": int(works)}
        built = nshot.space(space, **{key: value for key, value in sizes.items() if key != "kept"})
        subnet, images = built.sample(np.random.default_rng(0)), torch.randn(4, 3, int(works), int(works))
        supernet = built.supernet(num_classes=5)
        supernet(images, subnet).sum().backward()
        assert supernet(images, subnet).shape == (4, 5)
        assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in supernet.parameters())


@pytest.mark.parametrize("space", nshot.list_spaces())
@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes(space: str, classes: int) -> None:
    with pytest.raises(UserError, match=f"num_classes {classes}: must be .*at least 2"):
        nshot.space(space, num_classes=classes)
    with pytest.raises(UserError, match=f"num_classes {classes}: must be .*at least 2"):
        nshot.space(space).supernet(num_classes=classes)


@pytest.mark.parametrize("space", ["mobilenet", "darts", "autoformer"])
def test_limits_outside_the_spaces_range(space: str, tmp_path: Path) -> None:
    """For each method: the message says what comes nearest, and no search is written."""
    run = tmp_path / "run"
    train = ("train", "--space", space, "--preset", "smoke", "--epochs", "1", "--batch-size", "512", "--out", run)
    assert nshot_(*train, "--device", "cpu")[0] == 0
    search = ("search", run, "--images", "20", "--device", "cpu")
    for method in ("random", "evolution", "nsga2"):
        for limit in (("--max-params", "10"), ("--min-params", "1G"), ("--max-flops", "10")):
            message = refuse(*search, "--method", method, *limit)
            assert "no subnet keeps to" in message
            assert f"space {space} of these sizes comes nearest with " in message
    assert not (run / "search.json").exists()


@pytest.mark.parametrize(
    ("space", "method", "epochs"),
    [
        ("mobilenet", "spos", 150),
        ("mobilenet", "fairnas", 75),
        ("mobilenet", "fsnas", 100),
        ("autoformer", "spos", 500),
    ],
)
def test_paper_presets_are_section_a(space: str, method: str, epochs: int) -> None:
    config = preset("paper", method, space)
    assert (config.dataset, config.batch_size, config.epochs) == ("imagenet", 512, epochs)
    assert (config.space.resolution, config.space.num_classes) == (224, 1000)
    if space == "mobilenet":
        assert (config.optimizer, config.lr, config.momentum, config.weight_decay) == ("sgd", 0.045, 0.9, 4e-5)
        assert config.space.gamma == 3
    else:
        assert (config.optimizer, config.lr, config.weight_decay, config.warmup) == ("adamw", 5e-4, 0.05, 20)
        assert config.drop_path == 0.1


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("mobilenet", {"width": "1.0"}), ("mobilenet", {"resolution": "224"}), ("darts", {"channels": "16"})],
)
def test_a_size_of_another_kind_is_one_line(name: str, sizes: dict) -> None:
    with pytest.raises(UserError) as error:
        nshot.space(name, **sizes)
    assert repr(next(iter(sizes.values()))) in str(error.value)
    assert "\n" not in str(error.value)


def test_numpys_numbers_are_numbers() -> None:
    space = nshot.space("nasbench201", channels=np.int64(8), cells=np.int32(1))
    assert space == nshot.space("nasbench201", channels=8, cells=1)
    assert json.loads(json.dumps(space.sizes()))["channels"] == 8
    assert nshot.space("nasbench201").index(np.array([4] * 6, np.uint8)) == 15624


@pytest.mark.parametrize(
    ("concat", "taken"),
    [("range(2, 6)", True), ("[2, 3, 4, 5]", True), ("(5, 4, 3, 2)", True), ("[4, 5]", False), ("range(6)", False),
     ("range(2, 10**15)", False), ("list(range(2, 6))", False), ("[2, 2, 3, 4, 5]", False), ("None", False)],
)  # fmt: skip
def test_a_genotype_that_leaves_nodes_out_is_refused(concat: str, taken: bool) -> None:
    """The space's cells give all four: another network would be taken for it."""
    space = nshot.space("darts")
    subnet = space.sample(np.random.default_rng(0))
    text = space.format(subnet).replace("reduce_concat=range(2, 6)", f"reduce_concat={concat}")
    if taken:
        assert space.parse(text) == subnet
        return
    with pytest.raises(UserError):
        space.parse(text)


def test_a_subnet_that_was_found_stands_in_where_draws_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tight limits: a grid of rounded costs is hit now and then, and repair may fail."""
    space = nshot.space("mobilenet", **SMALL["mobilenet"])
    rng = np.random.default_rng(0)
    known = space.sample(rng)
    bounds = [
        Bound(space.params, space.params(known), space.params(known) + 50),
        Bound(space.flops, most=space.flops(known)),
    ]
    draws = Feasible(space, bounds, rng)
    assert not draws.often
    outside = tuple(d.allowed[(option + 1) % len(d.allowed)] for d, option in zip(space.decisions, known, strict=True))
    assert not draws.keeps(outside)
    monkeypatch.setattr(draws, "_from_grid", lambda rng: outside)
    monkeypatch.setattr(draws, "repair", lambda subnet, rng: None)
    assert all(draws.keeps(draws.draw(rng)) for _ in range(3))
