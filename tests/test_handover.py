"""From files to classes, the same everywhere: nshot's own test, nshot predict, model.py alone, ONNX Runtime."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import nshot
from helpers import nshot_, refuse
from nshot.data.images import Files
from nshot.data.sources import load
from nshot.handover.classifier import Classifier, completed, read_classifier
from nshot.handover.embed import source_with_needs
from nshot.handover.export import export
from nshot.handover.folder import write_folder
from nshot.handover.predict import predict
from nshot.handover.readme import readme
from nshot.networks.recipes import Recipe
from nshot.networks.result import read_network
from nshot.networks.retrain import RetrainConfig, retrain

SIDE = 16
CLASSES = ["dark", "light", "striped"]
ALONE = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nshot", "numpy", "torchvision", "safetensors", "scipy", "onnx"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
import model, torch
network = model.load()
files = sys.argv[1:]
names, probabilities = model.predict(files, network, batch=7)
again, one = model.predict(files[0])
assert again == names[:1] and torch.allclose(one[0], probabilities[0], atol=1e-6)
assert model.predict([], network) [0] == []
pixels = torch.stack([model.square(file) for file in files])
stepwise = network(torch.stack([model.preprocess(file) for file in files])).softmax(1)
assert torch.allclose(stepwise, probabilities, atol=1e-6)
torch.save({"names": names, "probabilities": probabilities, "pixels": pixels}, "said.pt")
assert not {"nshot", "numpy", "torchvision"} & set(sys.modules)
"""


def photo(kind: str, rng: np.random.Generator) -> Image.Image:
    """Noise of a class's brightness, of any size."""
    high, wide = rng.integers(17, 90, 2)
    pixels = rng.integers(0, 90, (high, wide, 3)) + {"dark": 0, "light": 160, "striped": 40}[kind]
    if kind == "striped":
        pixels[:, (np.arange(wide) * 8 // wide) % 2 == 1] += 110
    return Image.fromarray(pixels.astype(np.uint8))


def turned(image: Image.Image, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path.with_suffix(".jpg"), exif=exif, quality=90)


def deep(image: Image.Image, path: Path) -> None:
    """16 bits of grey."""
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    Image.fromarray(grey * 256 + 255 - grey).save(path.with_suffix(".png"))


def clear(image: Image.Image, path: Path) -> None:
    """A palette with a transparent entry."""
    image.quantize(16).save(path.with_suffix(".png"), transparency=3)


def faded(image: Image.Image, path: Path) -> None:
    """RGBA that is transparent towards the right."""
    alpha = np.broadcast_to(np.linspace(255, 0, image.width).astype(np.uint8), (image.height, image.width))
    image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    image.save(path.with_suffix(".png"))


ODD = [
    lambda image, path: image.save(path.with_suffix(".jpg"), quality=80),
    lambda image, path: turned(image, path, 6),
    lambda image, path: turned(image, path, 5),
    lambda image, path: image.resize((400, 250)).save(path.with_suffix(".jpg")),  # decoded smaller
    lambda image, path: turned(image.resize((150, 333)), path, 8),
    lambda image, path: image.convert("L").save(path.with_suffix(".png")),
    deep,
    lambda image, path: image.quantize(32).save(path.with_suffix(".png")),
    clear,
    faded,
    lambda image, path: image.convert("LA").save(path.with_suffix(".png")),
    lambda image, path: image.convert("1").save(path.with_suffix(".png")),
    lambda image, path: image.convert("L").save(path.with_suffix(".jpeg")),
    lambda image, path: image.save(path.with_suffix(".WEBP"), lossless=True),
    lambda image, path: image.quantize(64).save(path.with_suffix(".gif")),
    lambda image, path: image.save(path.with_suffix(".bmp")),
    lambda image, path: image.save(path.with_suffix(".tiff")),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pets`` with 40 plain images of each class to train on, and 17 odd ones to test."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in CLASSES:
        for part, count in (("train", 40), ("test", len(ODD))):
            (root / "pets" / part / kind).mkdir(parents=True)
            for i in range(count):
                path = root / "pets" / part / kind / f"{i:02}"
                if part == "train":
                    photo(kind, rng).save(path.with_suffix(".png"))
                else:
                    ODD[i](photo(kind, rng), path)
    return root


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network retrained on them."""
    folder = tmp_path_factory.mktemp("trained") / "network"
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=SIDE)
    config = RetrainConfig(space=space, recipe=Recipe(epochs=6, batch_size=24), dataset="imagefolder:pets")
    data = load(config.dataset, root=root, resolution=SIDE)
    subnet = space.parse("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|")
    retrain(config, subnet, data, folder, device="cpu", say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def photos(root: Path) -> list[Path]:
    files = sorted(path for path in (root / "pets" / "test").rglob("*") if path.is_file())
    assert len(files) == len(CLASSES) * len(ODD)
    return files


@pytest.fixture(scope="module")
def handed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handed") / "over"
    export(trained, folder, ["torch", "safetensors"])
    return folder


def own(trained: Path, root: Path) -> dict[bytes, np.ndarray]:
    """By pixels: the probabilities of each test image as nshot loads it, without the code under test."""
    network, result = read_network(trained)
    data = load("imagefolder:pets", root=root, resolution=SIDE)
    mean, std = (torch.tensor(result["normalise"][key]) for key in ("mean", "std"))
    with torch.no_grad():
        said = network(((data.test.pixels - mean) / std).permute(0, 3, 1, 2)).softmax(1).numpy()
    right = 100 * (said.argmax(1) == data.test.labels.numpy()).mean()
    assert right == pytest.approx(result["test_accuracy"])
    return {pixels.numpy().tobytes(): row for pixels, row in zip(data.test.pixels, said, strict=True)}


def read_table(path: Path) -> tuple[list[str], np.ndarray]:
    rows = list(csv.reader(io.StringIO(path.read_text())))
    assert rows[0] == ["file", "class", "probability", *(f"p({name})" for name in CLASSES)]
    values = np.array([[float(value) for value in row[3:]] for row in rows[1:]])
    assert [row[1] for row in rows[1:]] == [CLASSES[i] for i in values.argmax(1)]
    assert [float(row[2]) for row in rows[1:]] == values.max(1).tolist()
    return [row[0] for row in rows[1:]], values


def test_every_way_says_the_same_of_the_same_files(
    trained: Path, handed: Path, root: Path, photos: list[Path], tmp_path: Path
) -> None:
    known = own(trained, root)
    assert len(known) == len(photos)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = f"import sys\nsys.path.insert(0, {str(handed)!r}){ALONE}"
    subprocess.run([sys.executable, "-I", "-c", code, *photos], cwd=tmp_path, check=True, env=env)
    said = torch.load(tmp_path / "said.pt")
    assert {one.numpy().tobytes() for one in said["pixels"]} == set(known)  # bit for bit what training decoded
    expected = np.stack([known[one.numpy().tobytes()] for one in said["pixels"]])
    labels = [CLASSES[i] for i in expected.argmax(1)]
    assert min(Counter(labels).values()) > 5  # it tells classes apart
    truth = [path.parent.name for path in photos]
    accuracy = 100 * np.mean([a == b for a, b in zip(labels, truth, strict=True)])
    assert accuracy == pytest.approx(json.loads((trained / "result.json").read_text())["test_accuracy"])

    assert said["names"] == labels
    np.testing.assert_allclose(said["probabilities"].numpy(), expected, atol=1e-5, rtol=0)
    for folder in (trained, handed):
        args = ["predict", folder, *photos, "--out", tmp_path / "table.csv", "--device", "cpu"]
        status, printed, err = nshot_(*args)
        assert (status, err) == (0, "")
        files, values = read_table(tmp_path / "table.csv")
        assert files == [str(path) for path in photos]
        np.testing.assert_allclose(values, expected, atol=1e-5, rtol=0)
        assert [line.split(": ")[1].split()[0] for line in printed.splitlines()[:-1]] == labels


def test_onnx_runtime_says_the_same(trained: Path, root: Path, photos: list[Path], tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    known = own(trained, root)
    export(trained, tmp_path, "onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    classifier = read_classifier(trained)
    pixels = np.stack([classifier.square(path) for path in photos])
    logits, probabilities = session.run(None, {"images": pixels})
    expected = np.stack([known[one.tobytes()] for one in pixels])
    np.testing.assert_allclose(probabilities, expected, atol=1e-5, rtol=0)
    assert (logits.argmax(1) == expected.argmax(1)).all()
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == CLASSES


def test_the_readmes_lines_run(
    trained: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    export(trained, tmp_path)
    monkeypatch.chdir(tmp_path)
    large = next(path for path in photos if path.suffix == ".jpg" and min(Image.open(path).size) > 8 * SIDE)
    png = photos[5]
    Path("photo.jpg").write_bytes(large.read_bytes())
    Path("other.png").write_bytes(png.read_bytes())
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    expected = predict(trained, ["photo.jpg", "other.png"], device="cpu")
    said = []
    for block in blocks:
        keep = "\nprint(json.dumps([classes, probabilities.tolist(), logits.tolist()]))"
        code = f"import sys, json\nsys.path.insert(0, '.')\n{block}{keep}"
        run = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
        said.append(json.loads(run.stdout))
    (names, probabilities, logits), (classes, onnx_probabilities, onnx_logits) = said
    assert names == expected.labels
    assert classes == CLASSES
    np.testing.assert_allclose(probabilities, expected.probabilities.numpy(), atol=1e-5)
    np.testing.assert_allclose(torch.tensor(logits).softmax(1), expected.probabilities[:1], atol=1e-5)
    np.testing.assert_allclose(onnx_probabilities, expected.probabilities[:1].numpy(), atol=1e-5)
    np.testing.assert_allclose(onnx_logits, logits, atol=1e-4)
    assert json.loads((trained / "result.json").read_text())["arch"] in Path("README.md").read_text()


@pytest.mark.parametrize("crop", [1.0, 0.6])
def test_the_readmes_lines_make_the_pixels_of_training(
    crop: float, trained: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of RGB images of any size and turn: what the session is given by the lines for ONNX Runtime."""
    monkeypatch.chdir(tmp_path)
    session = SimpleNamespace(
        get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={"classes": "[]"}),
        run=lambda names, given: (given["images"], None),
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=lambda path: session))
    text = readme({**completed(read_network(trained)[1]), "crop": crop}, ["model.onnx"])
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    large = photo("striped", np.random.default_rng(0)).resize((1300, 900), Image.Resampling.BICUBIC)
    files = [path for path in photos if path.suffix in (".jpg", ".jpeg", ".bmp", ".WEBP")]
    for i, orientation in enumerate((1, 6, 8)):
        turned(large.resize((1300 // (1 + i), 900)), tmp_path / f"large{i}", orientation)
        files.append(tmp_path / f"large{i}.jpg")
    expected = Files(files, torch.zeros(len(files)), SIDE, crop).squares(torch.arange(len(files)))
    for path, pixels in zip(files, expected.numpy(), strict=True):
        Path("photo.jpg").write_bytes(path.read_bytes())
        found: dict[str, np.ndarray] = {}
        exec(lines, found)
        assert np.array_equal(found["logits"][0], pixels), path


@pytest.mark.parametrize("files", [["model.py", "weights.pt"], ["model.py", "weights.safetensors"], ["model.onnx"]])
def test_a_readme_names_what_is_there_alone(files: list[str], trained: Path) -> None:
    text = readme(completed(read_network(trained)[1]), files)
    assert ("model.square" in text, "model.preprocess" in text) == (False, files[0] == "model.py")
    assert ("ONNX" in text) == (files == ["model.onnx"])
    needs = {"weights.pt": ["needs torch and Pillow alone"]}
    needs["weights.safetensors"] = ["needs torch, Pillow and safetensors alone"]
    assert re.findall(r"needs [\w, ]+ alone", text) == needs.get(files[-1], [])


def test_what_a_model_of_safetensors_needs_is_said(trained: Path, tmp_path: Path) -> None:
    for to, needs in (("torch", "torch and Pillow"), ("safetensors", "torch, Pillow and safetensors")):
        export(trained, tmp_path / to, to)
        first = (tmp_path / to / "model.py").read_text().partition("\n")[0]
        assert first == f'"""An image classifier that needs {needs} alone.'


def test_images_that_pil_has_opened(handed: Path, photos: list[Path], tmp_path: Path) -> None:
    spec = spec_from_file_location("handed_over", handed / "model.py")
    assert spec is not None
    assert spec.loader is not None
    model = module_from_spec(spec)
    spec.loader.exec_module(model)

    def opened(path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            size = image.size
            found = model.square(image)
            assert image.size == size
            return found

    for path in photos:
        of_file = model.square(path)
        assert of_file.shape == (SIDE, SIDE, 3)
        assert torch.equal(of_file, model.square(str(path)))
        assert torch.equal(of_file, model.square(path.read_bytes()))
        with Image.open(path) as image:
            whole = image.format != "JPEG" or min(image.size) < 2 * SIDE
        if whole:  # a larger JPEG is decoded smaller where its file is at hand
            assert torch.equal(opened(path), of_file)
    rng = np.random.default_rng(0)
    smooth = photo("striped", rng).resize((5, 4)).resize((400, 250), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "smooth.jpg", quality=95)
    gap = model.square(tmp_path / "smooth.jpg").int() - opened(tmp_path / "smooth.jpg").int()
    assert 0 < gap.abs().max() <= 4


def test_a_crop_is_that_of_training(trained: Path, photos: list[Path]) -> None:
    network, result = read_network(trained)
    classifier = Classifier(network, {**result, "crop": 0.6})
    files = Files(photos, torch.zeros(len(photos), dtype=torch.int64), SIDE, 0.6)
    expected = files.squares(torch.arange(len(photos))).numpy()
    assert (np.stack([classifier.square(path) for path in photos]) == expected).all()
    whole = np.stack([read_classifier(trained).square(path) for path in photos])
    assert (whole != expected).any(axis=(1, 2, 3)).all()


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(
    trained: Path, photos: list[Path], tmp_path: Path, root: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(photos[5].read_bytes()[:200])
    mixed = tmp_path / "mixed"
    (mixed / "below").mkdir(parents=True)
    (mixed / ".hidden.png").write_text("not looked at")
    (mixed / "notes.txt").write_text("not looked at")
    (mixed / "below" / "one.png").write_bytes(photos[5].read_bytes())
    (mixed / "ring").symlink_to(mixed, target_is_directory=True)
    (mixed / "linked").symlink_to(photos[0].parent, target_is_directory=True)
    named = [photos[0], tmp_path / "none.jpg", tmp_path / "empty", tmp_path / "text.png", tmp_path / "cut.png", mixed]
    long = Path("x" * 300)
    status, said, err = nshot_("predict", trained, *named, long, "--out", tmp_path / "t.csv", "--device", "cpu")
    assert status == 1
    lines = err.splitlines()
    assert [line.split(": ")[1].removeprefix("cannot read ") for line in lines] == list(map(str, [*named[1:5], long]))
    assert "No such file" in lines[0]
    assert "holds no images" in lines[1]
    assert "it is no image" in lines[2]
    linked = sorted(path.name for path in photos[0].parent.iterdir())
    files, _ = read_table(tmp_path / "t.csv")
    assert files == list(map(str, [photos[0], mixed / "below" / "one.png", *(mixed / "linked" / n for n in linked)]))
    assert len(said.splitlines()) == len(files) + 1
    found = predict(trained, named, device="cpu")
    assert set(found.unread) == set(named[1:5])
    assert found.labels == [row[1] for row in csv.reader(io.StringIO((tmp_path / "t.csv").read_text()))][1:]
    assert predict(trained, str(photos[0]), device="cpu").labels == found.labels[:1]


def test_names_that_are_no_text(trained: Path, photos: list[Path], tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(photos[5].read_bytes())
    status, said, _ = nshot_("predict", trained, os.fsdecode(name), "--out", tmp_path / "t.csv", "--device", "cpu")
    assert status == 0
    said.encode()  # any terminal takes it
    assert "caf\\udce9.png: " in said
    assert (tmp_path / "t.csv").read_bytes().splitlines()[1].startswith(name + b",")


def test_what_cannot_be_predicted(trained: Path, handed: Path, photos: list[Path], tmp_path: Path) -> None:
    assert "FOLDER: what nshot retrain or nshot export wrote" in refuse("predict")
    assert "needs IMAGES" in refuse("predict", trained)
    assert "holds no retrained network" in refuse("predict", tmp_path, photos[0])
    assert "ends in .csv" in refuse("predict", trained, photos[0], "--out", tmp_path / "t.png")
    assert "is in no folder" in refuse("predict", trained, photos[0], "--out", tmp_path / "none" / "t.csv")
    assert "(File name too long)" in refuse("predict", trained, photos[0], "--out", "x" * 300 + ".csv")
    assert "(Not a directory)" in refuse("predict", trained, photos[0], "--out", photos[0] / "t.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refuse("predict", trained, photos[0], "--out", tmp_path / "folder.csv")
    assert "device 'tpu9'" in refuse("predict", trained, photos[0], "--device", "tpu9")
    onnx = tmp_path / "onnx"
    write_folder(onnx, {"model.onnx": b""}, {"result": {}})
    assert "holds no weights for torch: export the network again with --to torch" in refuse("predict", onnx, photos[0])
    write_folder(onnx, {"weights.pt": (handed / "weights.pt").read_bytes()}, {"result": {"space": {"name": "mars"}}})
    assert "use its model.py" in refuse("predict", onnx, photos[0])
    export(trained, tmp_path / "out", "safetensors")
    (tmp_path / "out" / "weights.safetensors").write_bytes(b"")
    assert "is not what was exported" in refuse("predict", tmp_path / "out", photos[0])


# the source of functions


def test_source_holds_what_is_used_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.py").write_text(
        "import io\nimport numpy as np\nfrom pathlib import Path as P\n"
        "from collections import (\n    Counter,\n    deque,\n)\n\n"
        "BASE = 3  # why\nUNUSED = np.zeros(BASE)\nTWICE = {\n    'a': 2 * BASE,\n}\n\n\n"
        "def helper(x: P) -> P:\n    # kept\n    return x if x else main(x)\n\n\n"
        "@staticmethod\ndef main(x):\n    return helper(TWICE['a'] + x + len(Counter([x])))\n\n\n"
        "def other():\n    return io, deque\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import one

    imports, definitions = source_with_needs(one.main)
    assert imports == ["from collections import Counter", "from pathlib import Path as P"]
    text = "\n\n\n".join(definitions)
    for part in ("BASE = 3  # why", "TWICE = {\n    'a': 2 * BASE,\n}", "    # kept", "@staticmethod\ndef main"):
        assert part in text
    assert text.index("BASE = 3") < text.index("TWICE = {")
    for part in ("UNUSED", "other", "deque"):
        assert part not in text
    found: dict = {}
    exec("\n".join(imports) + "\n" + text, found)
    assert found["main"](1) == 8
