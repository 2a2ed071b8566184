"""A batch of one image that the network shrinks to one pixel has no statistics: one line, on every path."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import nshot
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.ranking.evaluate import evaluate

ONE_PIXEL = {
    "nasbench201": {"channels": 4, "cells": 1, "resolution": 4},
    "mobilenet": {"width": 0.25, "resolution": 32, "num_classes": 10},
}
SUBNETS = {"nasbench201": [(0,) * 6, (3,) * 6, (1, 2, 3, 4, 1, 3)], "mobilenet": [(0,) * 21, (5,) * 21]}


@pytest.mark.parametrize("name", ONE_PIXEL)
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("gradients", [True, False])
def test_both_paths_say_the_same_of_one_image(name: str, fast: bool, gradients: bool) -> None:
    space = nshot.space(name, **ONE_PIXEL[name])
    supernet = space.supernet()
    supernet.fast = fast
    one = torch.randn(1, 3, space.resolution, space.resolution)
    for subnet in SUBNETS[name]:
        subnet = space.check(subnet)
        with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match="more than 1 value per channel"):
            supernet(one, subnet)
        assert supernet(torch.cat([one, one + 1]), subnet).shape == (2, 10)
    labels = torch.zeros(1, dtype=torch.long)
    with pytest.raises(UserError, match="no batch statistics") as refusal:
        evaluate(supernet, [space.check(SUBNETS[name][0])], [(one, labels)])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", SMALL)
def test_one_image_of_several_pixels_is_scored(name: str) -> None:
    larger = {"resolution": 96, "sides": ()} if name == "timm" else {}  # of 32 px its network leaves one
    space = nshot.space(name, **{**SMALL[name], **larger})
    subnet = space.sample(np.random.default_rng(0))
    one = torch.randn(1, 3, space.resolution, space.resolution)
    for fast in (True, False):
        supernet = space.supernet()
        supernet.fast = fast
        assert evaluate(supernet, [subnet], [(one, torch.zeros(1, dtype=torch.long))]).correct.shape == (1, 1)


@pytest.mark.parametrize(
    "args",
    [
        ["train", "spos", "--preset", "smoke", "--space", "mobilenet"],
        ["train", "spos", "--preset", "smoke", "--resolution", "4"],
        ["train", "fsnas", "--preset", "smoke", "--resolution", "4", "--fast", "off"],
        ["retrain", "|".join(["MB3_3x3,MB3_3x3,MB3_3x3,MB3_3x3"] * 5 + ["MB3_3x3"]), "--space", "mobilenet",
         "--dataset", "digits", "--resolution", "32", "--width", "0.25"],
    ],
    ids=lambda args: " ".join(args[:1] + args[-2:]),
)  # fmt: skip
def test_a_training_on_batches_of_one_is_refused_before_any_folder(args: list[str], tmp_path: Path) -> None:
    message = refuse(*args, "--batch-size", "1", "--epochs", "1", "--device", "cpu", "--out", tmp_path / "run")
    assert "no batch statistics" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("images", [2, 255, 257, 513])
def test_batches_of_scoring_have_no_last_one_of_one(images: int, tmp_path: Path) -> None:
    """MobileNet's smoke ends at one pixel."""
    run = tmp_path / "run"
    train = ["train", "spos", "--preset", "smoke", "--space", "mobilenet", "--epochs", "1", "--batch-size", "512"]
    assert nshot_(*train, "--device", "cpu", "--out", run)[0] == 0
    status, out, err = nshot_("search", run, "--sample", "2", "--images", str(images), "--device", "cpu")
    assert (status, err) == (0, "")
    assert re.search(rf"best of 2 subnets by accuracy,\s+{images}", out)
