"""The presets of NAS-Bench-201, DARTS and AutoFormer: sizes, epochs by method, and what else of section A.

Methods whose epochs are not said have SPOS's. Beside ``paper`` all methods but sandwich, which is for pretrained
networks, train as many paths as SPOS: a FairNAS step has five, FSNAS has five supernets, an NSAS step nine paths, a
SUMNAS step five of two inner steps, one of DARTS all five options of each edge twice, one of GDAS two paths.
"""

import math
from typing import Any

SHARES = {"fairnas": 1 / 5, "fsnas": 1 / 5, "nsas": 1 / 9, "sumnas": 1 / 10, "darts": 1 / 10, "gdas": 1 / 2}


def equal_paths(epochs: int) -> dict[str, int]:
    """Epochs of each method for as many paths as SPOS trains in these."""
    return {"spos": epochs, **{name: max(1, math.floor(epochs * share + 0.5)) for name, share in SHARES.items()}}


SMOKE = {"dataset": "digits", "batch_size": 32, "log_every": 20, "checkpoint_every": 100}

NASBENCH201: dict[str, dict[str, Any]] = {
    "paper": {
        "epochs": {"spos": 250, "fairnas": 200, "fsnas": 300, "darts": 50, "pinas": 200},
        "methods": {"sumnas": {"batch_size": 256}, "pada": {"batch_size": 256}, "pinas": {"batch_size": 192}},
    },
    # The paper's depth, in an hour of one core.
    "deep": {"sizes": {"channels": 16, "cells": 5, "resolution": 16}, "epochs": equal_paths(115)},
    # The paper's number of steps.
    "long": {"sizes": {"channels": 16, "cells": 1, "resolution": 16}, "epochs": equal_paths(250)},
    "proxy": {"sizes": {"channels": 16, "cells": 1, "resolution": 16}, "epochs": equal_paths(40)},
    "smoke": {"sizes": {"channels": 4, "cells": 1, "resolution": 8}, "epochs": equal_paths(10), "config": SMOKE},
}

# Section B.2, after Li and Talwalkar (UAI 2019): 50 epochs, batch 64, the search split.
DARTS: dict[str, dict[str, Any]] = {
    "paper": {
        "epochs": {"spos": 50, "gdas": 250},
        "config": {"batch_size": 64, "lr": 0.025, "weight_decay": 3e-4},
        "methods": {"darts": {"nesterov": False}},
    },
    "proxy": {
        "sizes": {"channels": 8, "cells": 5, "resolution": 16},
        "epochs": {"spos": 15, "fairnas": 2, "fsnas": 2, "nsas": 2, "sumnas": 2, "darts": 1, "gdas": 4},
        "config": {"batch_size": 64, "weight_decay": 3e-4},
    },
    "smoke": {
        "sizes": {"channels": 4, "cells": 3, "resolution": 8},
        "epochs": {"spos": 1},
        "config": {"dataset": "digits", "batch_size": 64, "log_every": 5},
    },
}

SMALL = {"batch_size": 64, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup": 1}
AUTOFORMER: dict[str, dict[str, Any]] = {
    "paper": {
        "sizes": {"resolution": 224, "num_classes": 1000},
        "epochs": {"spos": 500, "fairnas": 100, "fsnas": 100, "random": 500, "nsas": 500, "sumnas": 100},
        "config": {
            "dataset": "imagenet",
            "batch_size": 512,
            "optimizer": "adamw",
            "lr": 5e-4,
            "weight_decay": 0.05,
            "warmup": 20,
            "label_smoothing": 0.1,
            "drop_path": 0.1,
        },
        "augment": {"crop": "resized", "policy": "randaugment", "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0},
    },
    "proxy": {
        "sizes": {"patch": 4, "resolution": 16, "widths": (48, 54, 60), "depths": (3, 4, 5), "head_dim": 16},
        "epochs": {"spos": 15, "fairnas": 4, "fsnas": 4, "random": 15, "nsas": 2, "sumnas": 2},
        "config": SMALL,
    },
    "smoke": {
        "sizes": {"patch": 4, "resolution": 8, "widths": (16, 20, 24), "depths": (2, 3), "head_dim": 8},
        "epochs": {"spos": 2, "fairnas": 1, "fsnas": 1, "random": 2, "nsas": 1, "sumnas": 1},
        "config": {**SMALL, "dataset": "digits", "log_every": 5},
    },
}
