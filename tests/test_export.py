"""Hand-over: what is exported runs in a process that cannot import nshot, and computes the same."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import nshot
import nshot.handover.export
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.data.sources import load
from nshot.handover.classifier import read_classifier
from nshot.handover.export import Format, export
from nshot.handover.folder import MANIFEST, write_folder
from nshot.handover.source import SourceError, source_of
from nshot.networks.alone import Recipe
from nshot.networks.result import read_network
from nshot.networks.retrain import RetrainConfig, retrain

ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nshot", "lightning_fabric", "tyro", "torchvision", "scipy", "timm"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import torch, model
pixels = torch.load("pixels.pt")
with torch.no_grad():
    torch.save(model.load(sys.argv[1])(model.normalise(pixels)), "logits.pt")
assert "nshot" not in sys.modules
"""
EVERY = ["model.py", "weights.pt", "weights.safetensors", "model.onnx", "README.md", MANIFEST]


@pytest.fixture(scope="module", params=nshot.list_spaces())
def folder(request: pytest.FixtureRequest, tmp_path_factory) -> Path:
    """A retrained network of every space; one epoch, so that batch norms have statistics."""
    space = nshot.space(request.param, **SMALL[request.param])
    out = tmp_path_factory.mktemp(request.param) / "retrained"
    config = RetrainConfig(space=space, recipe=Recipe(epochs=1, batch_size=64, lr=0.01), dataset="digits")
    data = load("digits", resolution=space.resolution)
    retrain(config, space.sample(np.random.default_rng(3)), data, out, device="cpu", say=lambda line: None)
    return out


@pytest.fixture
def onnx() -> ModuleType:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    return pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def some_pixels(side: int, count: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("to", "weights"), [("torch", "weights.pt"), ("safetensors", "weights.safetensors")])
def test_model_and_weights_run_without_nshot(folder: Path, tmp_path: Path, to: Format, weights: str) -> None:
    files = export(folder, tmp_path, to)
    assert [path.name for path in files] == ["model.py", weights, "README.md", MANIFEST]
    network, result = read_network(folder)
    pixels = some_pixels(result["space"]["resolution"])
    torch.save(pixels, tmp_path / "pixels.pt")
    subprocess.run([sys.executable, "-c", ALONE, weights], cwd=tmp_path, check=True)
    mean, std = (torch.tensor(result["normalise"][key]) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network(((pixels - mean) / std).permute(0, 3, 1, 2))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=1e-4, atol=1e-5)
    source = (tmp_path / "model.py").read_text()
    assert f"ARCH = {result['arch']!r}" in source
    assert f"WEIGHTS = {weights!r}" in source


def test_a_folder_read_again_computes_the_same(folder: Path, tmp_path: Path) -> None:
    own = read_classifier(folder)
    pixels = some_pixels(own.side)
    for name in ("torch", "safetensors"):
        export(folder, tmp_path / name, name)
        again = read_classifier(tmp_path / name)
        assert again.result == own.result
        for mine, theirs in zip(own(pixels), again(pixels), strict=True):
            assert torch.equal(mine, theirs)


def test_onnx_is_the_same_for_any_number_of_images(folder: Path, tmp_path: Path, onnx: ModuleType) -> None:
    path = export(folder, tmp_path, "onnx")[0]
    network, result = read_network(folder)
    session = onnx.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    side = result["space"]["resolution"]
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [side, side, 3])
    mean, std = (torch.tensor(result["normalise"][key]) for key in ("mean", "std"))
    for count in (1, 7):
        pixels = some_pixels(side, count)
        logits, probabilities = session.run(["logits", "probabilities"], {"images": pixels.numpy()})
        with torch.no_grad():
            expected = network(((pixels - mean) / std).permute(0, 3, 1, 2))
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(probabilities), expected.softmax(1), rtol=0, atol=1e-5)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == [str(i) for i in range(10)]
    assert (told["side"], told["opset"], json.loads(told["dataset"])) == (str(side), "18", "digits")
    assert f"{result['normalise']['mean'][0]:.4f}" in json.loads(told["preprocessing"])[-1]


def test_from_the_command_line_all_formats_are_written(folder: Path, tmp_path: Path, onnx: ModuleType) -> None:
    status, out, _ = nshot_("export", folder, "--out", tmp_path / "out")
    assert status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(EVERY)
    assert all(str(tmp_path / "out" / name) in out for name in EVERY)
    result = json.loads((folder / "result.json").read_text())
    readme = (tmp_path / "out" / "README.md").read_text()
    assert f"{result['params']:,}" in readme
    assert f"{result['flops']:,}" in readme
    right = round(result["test_accuracy"] * 5.99)
    p, n, z = right / 599, 599, 1.959964  # Wilson's interval in closed form
    middle, half = (p + z**2 / 2 / n), z * (p * (1 - p) / n + z**2 / 4 / n**2) ** 0.5
    low, high = ((middle + sign * half) / (1 + z**2 / n) * 100 for sign in (-1, 1))
    assert f"{100 * p:.2f} % of 599 images (95 %: {low:.2f} to {high:.2f})" in readme


def test_the_source_imports_torch_and_pillow_alone(folder: Path, tmp_path: Path) -> None:
    source = export(folder, tmp_path, "torch")[0].read_text()
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert packages == {"torch", "PIL", "safetensors"}
    (lazily,) = (node for node in nodes if "safetensors" in ast.unparse(node))
    assert lazily.col_offset > 0  # only where such a file is asked for


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript", "onnx"])
def test_without_onnx_the_extra_is_named(
    folder: Path, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, module, None if module == missing else ModuleType(module))
    said = refuse("export", folder, "--to", "onnx", "--out", tmp_path / "out")
    assert f"format 'onnx' needs {missing}: pip install 'nshot[onnx]'" in said
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(nshot.handover.export, "find_spec", lambda name: None if name == missing else name)
    monkeypatch.setattr(nshot.handover.export, "onnx_of", lambda classifier: b"not asked for")
    status, out, _ = nshot_("export", folder, "--out", tmp_path / "out")
    assert status == 0
    assert f"model.onnx is left out, for it needs {missing}: pip install 'nshot[onnx]'" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(set(EVERY) - {"model.onnx"})


def test_what_cannot_be_exported(folder: Path, tmp_path: Path) -> None:
    assert "holds no retrained network" in refuse("export", tmp_path, "--out", tmp_path / "out")
    assert "'tflite'" in refuse("export", folder, "--to", "tflite", "--out", tmp_path / "out")
    assert "FOLDER: what nshot retrain wrote" in refuse("export")
    with pytest.raises(UserError, match="unknown format 'tflite'"):
        export(folder, tmp_path / "out", ["torch", "tflite"])
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refuse("export", folder, "--to", "torch", "--out", tmp_path / "file" / "out")


# the folder


def test_files_of_anyone_else_are_never_written_over(folder: Path, tmp_path: Path) -> None:
    args = ("export", folder, "--to", "torch", "--out", tmp_path)
    (tmp_path / "model.py").write_text("mine")
    assert "holds 'model.py', which no export wrote" in refuse(*args)
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    assert (tmp_path / "model.py").read_text() == "mine"
    (tmp_path / "model.py").unlink()
    (tmp_path / "notes").mkdir()
    assert "holds 'notes'" in refuse(*args)
    (tmp_path / "notes").rmdir()
    assert "config.json" in refuse(*args[:-1], folder)  # the retrained folder itself
    assert nshot_(*args)[0] == 0
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / ".git").mkdir()
    assert nshot_(*args)[0] == 0
    (tmp_path / "table.csv").write_text("mine")
    assert "holds 'table.csv'" in refuse(*args)
    (tmp_path / "table.csv").unlink()
    model = (tmp_path / "model.py").read_text()
    (tmp_path / "model.py").write_text(model + "# mine")
    assert "'model.py' was changed since it was exported" in refuse(*args)
    assert (tmp_path / "model.py").read_text() == model + "# mine"


def test_an_export_of_fewer_formats_leaves_nothing_old(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path, ["torch", "safetensors"])
    export(folder, tmp_path, "safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["model.py", "weights.safetensors", "README.md", MANIFEST]
    )
    assert "weights.pt" not in (tmp_path / "README.md").read_text()


def test_a_crash_leaves_a_folder_that_the_next_export_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = ({name: f"{age} {name}".encode() for name in "abc"} for age in ("old", "new"))
    write_folder(tmp_path, old, {"result": {}})
    replace = Path.replace

    def crash(path: Path, target: Path) -> Path:
        if Path(target).name == "b":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path, new, {"result": {}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", MANIFEST]
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [new["a"], old["b"], old["c"]]
    monkeypatch.undo()
    write_folder(tmp_path, new, {"result": {}})
    assert [(tmp_path / name).read_bytes() for name in "abc"] == list(new.values())


def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path, "safetensors")
    data = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(data[:-1])
    with pytest.raises(UserError, match="safetensors is not what was exported"):
        read_classifier(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights.safetensors cannot be read \(No such file"):
        read_classifier(tmp_path)
    for manifest in ("", "[]", "{}", '{"files": [], "before": {}, "result": {}}'):
        (tmp_path / MANIFEST).write_text(manifest)
        with pytest.raises(UserError, match="no manifest of an export"):
            read_classifier(tmp_path)


def test_names_with_anything_in_them_stay_what_they_are(tmp_path: Path) -> None:
    space = nshot.space("nasbench201", channels=2, cells=1, resolution=8)
    names = ['"""quotes', "`ticks`", "new\nline", "back\\slash", "{braces}", "caf\udcff"]
    data = load("digits", resolution=8)
    kept = [part.subset(np.flatnonzero(part.labels.numpy() < 6)) for part in (data.train, data.valid, data.test)]
    data = type(data)('imagefolder:"""pets\\x', 6, False, *kept, tuple(names))
    config = RetrainConfig(space=space, recipe=Recipe(epochs=1, batch_size=64), dataset=data.name)
    retrain(config, space.sample(np.random.default_rng(0)), data, tmp_path / "in", device="cpu", say=lambda line: None)
    export(tmp_path / "in", tmp_path / "out", "torch")
    found: dict = {}
    exec(compile((tmp_path / "out" / "model.py").read_text(), "model", "exec"), found)
    assert found["CLASSES"] == names
    assert found["DATASET"] == data.name
    assert read_classifier(tmp_path / "out").classes == names
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "1. `` `ticks` ``\n2. `new\\nline`\n3. `back\\slash`" in readme


class Own(nn.Module):
    """A network of a user's."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.classifier = nn.Sequential(*layers), nn.Linear(3, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(x).mean((2, 3)))


class Measured(Own):
    """What torch.fx cannot follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.shape[-1] > 4 else -x)


class Twice(nn.Module):
    """Two layers whose names are one with underscores for dots."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv_0 = nn.ModuleList([nn.Conv2d(3, 3, 1)]), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_0(self.conv[0](x))


RESULT = {
    "arch": "own", "dataset": "digits", "classes": [str(i) for i in range(10)], "crop": 1.0,
    "space": {"name": "own", "resolution": 7}, "normalise": {"mean": [0.0] * 3, "std": [1.0] * 3},
}  # fmt: skip


@pytest.mark.parametrize(
    "network",
    [
        Own(nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        Own(nn.AvgPool2d(2, ceil_mode=True)),
        Own(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.MaxPool2d(3)),
        Own(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")),
        Own(Twice()),
        Measured(nn.Identity()),
    ],
)
def test_a_source_that_is_not_the_network_is_refused(network: nn.Module) -> None:
    """What layers do not print, names that fall together, and what cannot be traced."""
    with pytest.raises(SourceError) as error:
        source_of(network.eval(), RESULT, "weights.pt")
    assert "\n" not in str(error.value)
    source, weights = source_of(Own(nn.Conv2d(3, 3, 3), nn.ReLU()).eval(), RESULT, "weights.pt")
    assert "class Network" in source
    assert len(weights) == 4
