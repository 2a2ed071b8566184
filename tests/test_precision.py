"""`--precision bf16-mixed`: every method trains in it, on the fast path too, and what it computes is in it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import nshot
from needs import needs_kernels
from nshot.data.sources import Dataset, load
from nshot.nn import fused
from nshot.strategies import strategies
from nshot.supernets.config import TrainConfig
from nshot.supernets.train import train
from nshot.training.device import Running, fabric

SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
OFTEN = {"cream": {"teach_after": 0, "meta_every": 1}}  # so that what is rare happens in a few steps
CASES = [(name, {}) for name in nshot.list_strategies()] + [("darts", {"order": 2}), ("cream", {"variant": "released"})]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load("digits", resolution=8)
    return dataclasses.replace(whole, train=whole.train.subset(torch.arange(96).numpy()))


def weights(name: str, options: dict[str, Any], data: Dataset, out: Path, precision: str) -> dict[str, Tensor]:
    chosen = strategies[name].options_type.of(**OFTEN.get(name, {}), **options)
    made = TrainConfig(name, SPACE, chosen, "digits", epochs=2, batch_size=48, precision=precision)  # type: ignore[arg-type]
    run = train(made, data, out, device="cpu", say=lambda line: None)
    return {f"{p.parent.name}/{k}": v for p in run.rglob("supernet.safetensors") for k, v in load_file(p).items()}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_method_trains_in_bf16(name: str, options: dict[str, Any], digits: Dataset, tmp_path: Path) -> None:
    """Near what float32 comes to, and not that: the precision is heeded."""
    found = {p: weights(name, options, digits, tmp_path / "run", p) for p in ("bf16-mixed",)}
    found["32-true"] = weights(name, options, digits, tmp_path / "whole", "32-true")
    apart = far = 0.0
    for (key, mixed), whole in zip(found["bf16-mixed"].items(), found["32-true"].values(), strict=True):
        assert mixed.dtype == torch.float32, key
        assert mixed.isfinite().all(), key
        apart += float((mixed - whole).square().sum())
        far += float(whole.square().sum())
    assert 0 < apart < 0.1 * far


@needs_kernels
def test_the_fast_path_runs_in_bf16(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Seen(fused.Tape):
        def __init__(self, train: bool) -> None:
            super().__init__(train)
            seen.append(self.dtype)

    monkeypatch.setattr(fused, "Tape", Seen)
    weights("spos", {}, digits, tmp_path / "run", "bf16-mixed")
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 4  # a path a step


def test_running_is_autocast_with_results_in_float32() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.linear(x), x.sum().long()

        def features(self, x: Tensor) -> Tensor:
            return self.linear(x)

    net, x = Two(), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = net.linear(x)
    assert expected.dtype == torch.bfloat16
    mixed = Running(net, fabric("cpu", "bf16-mixed"))
    outputs, count = mixed(x)
    assert outputs.dtype == torch.float32
    assert count.dtype == torch.int64
    assert outputs.equal(expected.float())
    assert mixed.features(x).equal(expected.float())
    (grad,) = torch.autograd.grad(mixed(x)[0].sum(), [net.linear.bias])
    assert grad.equal(torch.full((2,), 4.0))
    assert Running(net, fabric("cpu"))(x)[0].equal(net.linear(x))
