"""Spaces on the command line: what cannot be is refused with what can, before any folder; section A's values."""

from pathlib import Path

import numpy as np
import pytest
import torch

import nshot
from helpers import nshot_, refuse
from nshot import UserError
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
