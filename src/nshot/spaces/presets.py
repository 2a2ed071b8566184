"""The presets of NAS-Bench-201 and DARTS: sizes, epochs by method, and what else of section A.

Methods whose epochs are not said have SPOS's. Beside ``paper`` all methods train as many paths as SPOS: a FairNAS step
has five, FSNAS has five supernets, an NSAS step nine paths, a SUMNAS step five of two inner steps, one of DARTS all
five options of each edge twice, one of GDAS two paths.
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
