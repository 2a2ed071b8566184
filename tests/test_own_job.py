"""The whole job on a folder of one's own images: by the README's command and step by step, at small sizes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from helpers import nshot_, refuse
from nshot.data.sources import load
from test_export import ALONE

README = Path(__file__).parent.parent / "README.md"
STEPS = """
nshot train spos --preset proxy --resolution 32 --schedule calr --ms first --dataset imagefolder:pets --out runs/pets
nshot search runs/pets --max-params 300k
nshot retrain runs/pets/search.json --out runs/pets-best
nshot export runs/pets-best --to torch --out pets-network
"""
# What makes it small; each command gets these beside its own.
SMALL = {
    "train": ["--channels", "4", "--epochs", "1", "--batch-size", "32", "--device", "cpu"],
    "search": ["--sample", "5", "--device", "cpu"],
    "retrain": ["--epochs", "2", "--batch-size", "32", "--lr", "0.02", "--device", "cpu"],
    "export": [],
}
AUTO = [
    "--device", "cpu", "--train", "--channels", "4", "--epochs", "1", "--batch-size", "32", "--search", "--sample", "5",
    "--retrain", "--epochs", "2", "--batch-size", "32", "--lr", "0.02",
]  # fmt: skip


def digits(folder: Path) -> list[str]:
    """300 digits of three classes, of mixed sizes."""
    names = ["zero", "one", "two"]
    data = load_digits(n_class=3)
    for i in range(300):
        image = Image.fromarray((data.images[i] * 15.9).astype(np.uint8)).resize((24 + i % 20, 28))
        place = folder / "train" / names[data.target[i]]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{i}.png")
    return sorted(names)


def cifar(folder: Path) -> list[str]:
    """120 images of CIFAR-10's first three classes to train on, 30 in each of val and test."""
    root = Path(os.environ.get("NSHOT_DATA") or "data") / "cifar10"
    if not list(root.glob("test-*.parquet")):
        pytest.skip(f"no cifar10 parquet under {root.parent}: set NSHOT_DATA")
    table = pq.read_table(next(root.glob("test-*.parquet"))).slice(0, 1000)
    names, counts = ["airplane", "automobile", "bird"], [0, 0, 0]
    for cell, label in zip(table.column("img").to_pylist(), table.column("label").to_pylist(), strict=True):
        if label < 3 and counts[label] < 60:
            part = "train" if counts[label] < 40 else "val" if counts[label] < 50 else "test"
            (folder / part / names[label]).mkdir(parents=True, exist_ok=True)
            (folder / part / names[label] / f"{counts[label]}.jpg").write_bytes(cell["bytes"])
            counts[label] += 1
    return names


def commands(text: str = STEPS) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in re.findall(r"^nshot .*$", text, re.MULTILINE)]


@pytest.mark.parametrize("make", [digits, cifar])
def test_the_readmes_commands_lead_from_images_to_answers(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README.read_text().partition("## Your own images")[2].partition("\n## ")[0]
    names = make(tmp_path / "data" / "pets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NSHOT_DATA", raising=False)
    auto, predict = commands(section)
    status, said, err = nshot_(*auto, *AUTO)
    assert (status, err) == (0, "")
    assert "written: runs/pets/report.html" in said
    photo = next(Path("data/pets/train", names[0]).iterdir())
    photo.rename("photo.png")
    Path("more").mkdir()
    for path in Path("data/pets/train", names[1]).iterdir():
        path.rename(Path("more", path.name))
    status, said, err = nshot_(*predict)
    assert (status, err) == (0, "")
    assert all(re.search(rf"^photo\.png: .*{name}", said, re.MULTILINE) for name in names)
    table = Path("answers.csv").read_text().splitlines()
    assert len(table) == 2 + len(list(Path("more").iterdir()))
    result = json.loads(Path("runs/pets/network/result.json").read_text())
    assert result["params"] <= 300_000
    assert result["classes"] == names


@pytest.mark.parametrize("make", [digits, cifar])
def test_single_commands_hand_a_network_over(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = make(tmp_path / "data" / "pets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NSHOT_DATA", raising=False)
    assert [command[0] for command in commands()] == list(SMALL)
    for command in commands():
        status, said, err = nshot_(*command, *SMALL[command[0]])
        assert (status, err) == (0, ""), err
        if command[0] == "train":
            assert "go on with: nshot search runs/pets" in said
    found = json.loads(Path("runs/pets/search.json").read_text())
    result = json.loads(Path("runs/pets-best/result.json").read_text())
    assert found["best"]["params"] <= 300_000
    assert (result["arch"], result["classes"]) == (found["best"]["arch"], names)
    data = load("imagefolder:pets", resolution=32)
    pixels = data.test.pixels
    torch.save(pixels, "pets-network/pixels.pt")
    run = [sys.executable, "-c", ALONE + "\nassert model.CLASSES == " + repr(names), "weights.pt"]
    subprocess.run(run, cwd="pets-network", check=True)
    right = torch.load("pets-network/logits.pt").argmax(1) == data.test.labels
    assert 100 * right.float().mean().item() == pytest.approx(result["test_accuracy"], abs=1e-3)

    # Another class since then: the run's supernet has no output for it, nor were these its images.
    for part in ("train", "val", "test"):
        if Path("data/pets", part).is_dir():
            folder = Path("data/pets", part, "zebra")
            folder.mkdir()
            for i in range(2):
                Image.new("RGB", (32, 32)).save(folder / f"{i}.png")
    changed = f"({2 * len(list(Path('data/pets').iterdir()))} added, such as train/zebra/0.png)"
    for command in (["search", "runs/pets"], ["retrain", "runs/pets/search.json", "--out", "again"]):
        assert f"imagefolder:pets is not what runs/pets was made of {changed}" in refuse(*command)
    assert f"is not what runs/pets was made of {changed}" in refuse(*commands()[0], *SMALL["train"])
    assert f"is not what runs/pets-best was made of {changed}" in refuse(
        "retrain", result["arch"], "--channels", "4", "--cells", "1", "--resolution", "32",
        "--dataset", "imagefolder:pets", "--out", "runs/pets-best", *SMALL["retrain"],
    )  # fmt: skip
    assert not Path("again").exists()


def test_a_killed_training_on_own_images_continues_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits(tmp_path / "data" / "pets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NSHOT_DATA", raising=False)
    args = [*commands()[0], *SMALL["train"], "--checkpoint-every", "2"]
    whole, cut = [*args, "--out", "whole"], [*args, "--out", "cut"]
    assert nshot_(*whole)[0] == nshot_(*cut)[0] == 0
    Path("cut/supernet.safetensors").unlink()  # as if it had been killed after the last checkpoint
    status, said, _ = nshot_(*cut)
    assert status == 0
    assert "resuming cut at step" in said
    assert Path("cut/supernet.safetensors").read_bytes() == Path("whole/supernet.safetensors").read_bytes()
