"""That the speed benchmarks run; what they measure is no test."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from nshot.data.images import Images

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("name", ["step.py", "rank.py"])
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / name), "--quick", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    result = json.loads(out.read_text())
    measured = result["comparisons"][0]["ms"].values() if name == "step.py" else [result["nshot, s a subnet"]]
    assert all(value > 0 for value in measured)


def test_clusters_are_all_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    step = importlib.import_module("step")
    size = {"channels": 2, "cells": 1, "resolution": 4}
    for clusters in (1, 5, 25):
        ours = step.Ours(size, step.batch_of(size, 2), clusters=clusters, fast=False)
        assert {ours.plan(i).cluster for i in range(60)} == set(range(clusters))


def test_a_cut_that_was_killed_is_cut_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder is there only once it is whole."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    auto = importlib.import_module("auto")
    labels = torch.arange(10).repeat(4)
    images = Images(torch.zeros(40, 4, 4, 3, dtype=torch.uint8), labels)
    monkeypatch.setattr(auto, "load", lambda name: SimpleNamespace(train=images, valid=images))
    real = Image.Image.save
    written: list[Path] = []

    def dying(image: Image.Image, path: Path) -> None:
        if len(written) == 13:
            raise KeyboardInterrupt
        written.append(path)
        real(image, path)

    monkeypatch.setattr(Image.Image, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        auto.cut(3, tmp_path / "images")
    assert not (tmp_path / "images").exists()
    monkeypatch.setattr(Image.Image, "save", real)
    auto.cut(3, tmp_path / "images")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert {path.name: len(list(path.iterdir())) for path in (tmp_path / "images" / "train").iterdir()} == {
        str(label): 3 for label in range(10)
    }


def test_the_gpu_check_runs_and_wants_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "gpu.py"), "--quick"]
    subprocess.run([*command, "--device", "cpu", "--out", str(out)], check=True, capture_output=True, timeout=250)
    result = json.loads(out.read_text())
    assert result["right"]
    assert len(result["checks"]) == 2
    if not torch.cuda.is_available():
        refused = subprocess.run(command, capture_output=True, text=True, timeout=250)
        assert refused.returncode == 2
        assert refused.stderr == "gpu.py: torch finds no CUDA GPU here: run it where there is one\n"


def test_parts_add_up(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "parts.py"), "--quick", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    for measured in json.loads(out.read_text()).values():
        whole = measured["ms"].pop("all")
        assert {"3x3 convolutions", "1x1 convolutions", "mix", "moments"} <= measured["ms"].keys()
        assert all(value >= 0 for value in measured["ms"].values())
        assert sum(measured["ms"].values()) == pytest.approx(whole, abs=0.1)


def test_depthwise_convolutions_are_timed(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "depthwise.py"), "--quick", "--out", str(out)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    seconds = time.perf_counter() - begin
    result = json.loads(out.read_text())
    assert [row["space"] for row in result["steps"]] == ["darts", "mobilenet"]
    times = [row[kind] for row in result["steps"] for kind in ("torch", "ours")]
    assert min(times) > 0.1  # a training step of 64 images: milliseconds, not seconds
    assert 2 * 5 * sum(times) / 1000 < 2 * seconds  # two subnets, five calls each: no longer than all took


def test_a_time_is_the_median_after_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    depthwise = importlib.import_module("depthwise")
    took = iter([9.0, 9.0, 0.003, 0.001, 0.002])  # seconds of each call
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(depthwise, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def call() -> None:
        clock.now += next(took)

    assert depthwise.milliseconds(call, 3) == pytest.approx(2.0)
