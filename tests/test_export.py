"""Hand-over: what is exported runs in a process that cannot import nshot, and computes the same."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import nshot
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.data.sources import load
from nshot.training.alone import Recipe
from nshot.training.export import Format, export, read_network
from nshot.training.retrain import RetrainConfig, retrain

ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nshot", "lightning", "tyro"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import torch, model
pixels = torch.load("pixels.pt")
with torch.no_grad():
    torch.save(model.load(sys.argv[1])(model.normalise(pixels)), "logits.pt")
assert "nshot" not in sys.modules
"""


@pytest.fixture(scope="module", params=nshot.list_spaces())
def folder(request: pytest.FixtureRequest, tmp_path_factory) -> Path:
    """A retrained network of every space; one epoch, so that batch norms have statistics."""
    space = nshot.space(request.param, **SMALL[request.param])
    out = tmp_path_factory.mktemp(request.param) / "retrained"
    config = RetrainConfig(space=space, recipe=Recipe(epochs=1, batch_size=64, lr=0.01), dataset="digits")
    data = load("digits", resolution=space.resolution)
    retrain(config, space.sample(np.random.default_rng(3)), data, out, device="cpu", say=lambda line: None)
    return out


@pytest.mark.parametrize(("to", "weights"), [("torch", "weights.pt"), ("safetensors", "weights.safetensors")])
def test_model_and_weights_run_without_nshot(folder: Path, tmp_path: Path, to: Format, weights: str) -> None:
    files = export(folder, to, tmp_path)
    assert [path.name for path in files] == ["model.py", weights]
    network, result = read_network(folder)
    side = result["space"]["resolution"]
    pixels = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8)
    torch.save(pixels, tmp_path / "pixels.pt")
    subprocess.run([sys.executable, "-c", ALONE, weights], cwd=tmp_path, check=True)
    mean, std = (torch.tensor(result["normalise"][key]) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network(((pixels - mean) / std).permute(0, 3, 1, 2))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=1e-4, atol=1e-5)
    source = (tmp_path / "model.py").read_text()
    assert result["arch"] in source
    assert ("safetensors" in source) == (to == "safetensors")


def test_onnx_is_the_same_for_any_number_of_images(folder: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    (path,) = export(folder, "onnx", tmp_path)
    network, result = read_network(folder)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 7):
        images = torch.randn(count, 3, result["space"]["resolution"], result["space"]["resolution"])
        (logits,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=1e-4, atol=1e-4)


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    status, out, _ = nshot_("export", folder, "--out", tmp_path / "out")
    assert status == 0
    assert "model.py" in out
    assert json.loads((folder / "result.json").read_text())["arch"] in (tmp_path / "out" / "model.py").read_text()


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_without_onnx_the_extra_is_named(
    folder: Path, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, module, None if module == missing else ModuleType(module))
    said = refuse("export", folder, "--to", "onnx", "--out", tmp_path / "out")
    assert f"format 'onnx' needs {missing}: pip install 'nshot[onnx]'" in said
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported(folder: Path, tmp_path: Path) -> None:
    assert "holds no retrained network" in refuse("export", tmp_path, "--out", tmp_path / "out")
    assert "'tflite'" in refuse("export", folder, "--to", "tflite", "--out", tmp_path / "out")
    assert "FOLDER: what nshot retrain wrote" in refuse("export")
    with pytest.raises(UserError, match="unknown format 'tflite'"):
        export(folder, "tflite", tmp_path / "out")
    assert not (tmp_path / "out").exists()
