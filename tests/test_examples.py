"""What a newcomer copies: the README's section on one's own images, and the examples."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import nshot_
from nshot.data.sources import Images, load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLASSES = ("circle", "one", "two")
SMALL = {  # what a test changes of the commands, by command
    "train": ["--resolution", "32", "--epochs", "2", "--batch-size", "16", "--device", "cpu"],
    "search": ["--sample", "8", "--device", "cpu"],
    "retrain": ["--epochs", "1", "--device", "cpu"],
}


def commands() -> list[list[str]]:
    section = README.split("## Your own images\n")[1].split("\n## ")[0]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.split()[1:] for line in block[1].strip().splitlines()]


def digits_images() -> Images:
    return load("digits").train


def cifar_images() -> Images:
    if not (Path(os.environ.get("NSHOT_DATA", "")) / "cifar10").is_dir():
        pytest.skip("NSHOT_DATA is not set or holds no cifar10")
    return load("cifar10").train


@pytest.mark.parametrize("made_of", [digits_images, cifar_images])
def test_the_readmes_section_runs_on_a_folder_of_images(made_of, tmp_path: Path, monkeypatch) -> None:
    images = made_of()
    for label, name in enumerate(CLASSES):
        for part, first in (("train", 0), ("val", 20), ("test", 40)):
            folder = tmp_path / "data" / "pets" / part / name
            folder.mkdir(parents=True)
            own = torch.nonzero(images.labels == label).flatten()[first : first + 20].tolist()
            for i in own:
                Image.fromarray(images.pixels[i].numpy()).resize((33, 36)).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NSHOT_DATA", raising=False)
    for args in commands():
        status, _, err = nshot_(*args, *SMALL.get(args[0], []))
        assert status == 0, err
    best = json.loads((tmp_path / "runs/pets/search.json").read_text())["best"]
    result = json.loads((tmp_path / "runs/pets-best/result.json").read_text())
    assert best["params"] <= 300_000
    assert best["flops"] <= 10_000_000
    assert (result["arch"], result["classes"]) == (best["arch"], list(CLASSES))
    (graph,) = (tmp_path / "pets-network").glob("*.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(graph)
    given = session.get_inputs()[0]
    logits = session.run(None, {given.name: np.zeros((5, *given.shape[1:]), np.float32)})[0]
    assert logits.shape == (5, len(CLASSES))
    assert (tmp_path / "runs/pets/report.html").exists()


def test_a_supernet_of_ones_own(tmp_path: Path) -> None:
    script = ROOT / "examples" / "own_supernet.py"
    assert len(script.read_text().splitlines()) < 80
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"200 subnets: ([\d-]+), ([\d,]+) parameters, ([\d.]+) %", done.stdout)
    assert found is not None
    widths = [(16, 32, 64)[int(option)] for option in found[1].split("-")[::2]]
    dense = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in zip([192, *widths], [*widths, 10], strict=True)))
    params = sum(p.numel() for p in dense.parameters())
    assert int(found[2].replace(",", "")) == params <= 8_000
    assert float(found[3]) > 50  # of ten digits
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["options"]["schedule"], config["options"]["ms"]) == ("calr", "width 0")
