"""What several test modules share: the command line in this process, and sizes at which every space is quick."""

import contextlib
import io
import re
import sys
from pathlib import Path

import numpy as np

import nshot.cli
from nshot.spaces import Space, Subnet

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
SMALL = {
    "nasbench201": {"channels": 4, "cells": 1, "resolution": 8},
    "autoformer": {
        "patch": 4,
        "resolution": 8,
        "widths": (16, 20, 24),
        "depths": (2, 3),
        "head_dim": 8,
        "num_classes": 10,
    },
    "darts": {"channels": 4, "cells": 3, "resolution": 8},
    "mobilenet": {"width": 0.25, "resolution": 64, "num_classes": 10},
    "timm": {"model": "mobilenetv3_small_050", "resolution": 32, "num_classes": 10},
}


def nshot_(*args: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = nshot.cli.main([str(arg) for arg in args])
        except SystemExit as stop:  # tyro's way out
            status = stop.code  # type: ignore[assignment]
    return status, out.getvalue(), err.getvalue()


def refuse(*args: str | Path) -> str:
    """The message of a command that must end with status 2: one line."""
    status, _, err = nshot_(*args)
    assert status == 2
    assert re.fullmatch(r"nshot: error: [^\n]+\n", err)
    return err


def quiet(line: str) -> None:
    """For lines that are not looked at."""


def sample(space: Space, count: int, seed: int = 0) -> list[Subnet]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]
