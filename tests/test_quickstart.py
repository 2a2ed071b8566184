"""The quickstart hands its seed to all that it trains."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nshot.quickstart as quickstart


@pytest.mark.parametrize("seed", [0, 3])
def test_the_seed_reaches_every_training(seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {"tau": 0.5, "low": 0.4, "high": 0.6}
    values = np.array([50.0, 60.0])
    ranking = SimpleNamespace(
        subnets=[(0,) * 6, (3,) * 6], accuracy=values, loss=-values, true=values, table={"accuracy": row}
    )
    seeds: list[int] = []

    def trained(config: Any, *args: Any, **options: Any) -> Path:
        seeds.append(config.seed)
        return tmp_path

    def retrained(config: Any, *args: Any, **options: Any) -> dict[str, Any]:
        seeds.append(config.seed)
        return {"arch": "", "params": 1, "test_accuracy": 50.0}

    monkeypatch.setattr(quickstart, "train", trained)
    monkeypatch.setattr(quickstart, "retrain", retrained)
    monkeypatch.setattr(quickstart, "rank_run", lambda *args, **options: (ranking, "digits_test"))
    for name in ("scatter", "print_ranking"):
        monkeypatch.setattr(quickstart, name, lambda *args: None)
    quickstart.quickstart(tmp_path, seed)
    assert seeds == [seed] * 3
