"""Data sets from files the tests write, seeded augmentation and batches, and one-line errors for bad files."""

import hashlib
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from nshot import UserError
from nshot.data.augment import crop_flip, pad
from nshot.data.batches import Normalise, TrainBatches, heldout_batches
from nshot.data.images import Images
from nshot.data.sources import Dataset, Source, load

CLASSES = {"cifar10": 10, "cifar100": 100}
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
SPLIT = "nasbench201/cifar10-split.json"


def noise(count: int, seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def images(count: int = 10, size: int = 8, seed: int = 0) -> Images:
    """Images of noise, each with its position as label."""
    return Images(torch.from_numpy(noise(count, seed, size)), torch.arange(count))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_parquet(root: Path, name: str, part: str, pixels: list | np.ndarray, labels: list, shard: int = 0) -> Path:
    """The Hugging Face layout: ``img`` and ``label`` for cifar10, ``image`` and ``fine_label`` for cifar100."""
    image, label = ("img", "label") if name == "cifar10" else ("image", "fine_label")
    cells = [{"bytes": png(p) if isinstance(p, np.ndarray) else p, "path": None} for p in pixels]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {image: pa.array(cells, kind), label: pa.array(labels)}
    if name == "cifar100":
        columns["coarse_label"] = pa.array([0] * len(labels))
    path = root / name / f"{part}-{shard:05d}-of-00002.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote into the official CIFAR files: all strings are byte strings."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<i", len(data)) + data)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, 2).dump(value)
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


def batch_of(pixels: np.ndarray, labels: list, key: str = "labels") -> dict:
    """One file's dictionary: a row an image, all its reds, then all greens, then all blues."""
    planar = [[p[y, x, c] for c in range(3) for y in range(32) for x in range(32)] for p in pixels]
    return {"batch_label": "noise", "data": np.array(planar, np.uint8), key: list(labels), "coarse_labels": []}


def write_batches(root: Path, name: str, part: str, pixels: np.ndarray, labels: list) -> Path:
    """The torchvision layout; cifar10's training set is five files. Returns the last file."""
    folder = root / FOLDERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    files, key = [part], "fine_labels"
    if name == "cifar10":
        files, key = [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"], "labels"
    for file, index in zip(files, np.array_split(np.arange(len(labels)), len(files)), strict=True):
        batch = batch_of(pixels[index], [labels[i] for i in index], key)
        (folder / file).write_bytes(python2_pickle(batch))
    return folder / files[-1]


def write_cifar(root: Path, name: str, layout: str, seed: int = 1) -> dict[str, tuple[np.ndarray, list]]:
    """A tiny data set of noise: 13 images to learn from, 4 to test on; the highest class is among the labels."""
    top = CLASSES[name] - 1
    learn = [*range(9), top, 3, 3, 0]
    parts = {"train": (noise(13, seed), learn), "test": (noise(4, seed + 1), [top, 0, 7, 7])}
    for part, (pixels, labels) in parts.items():
        if layout == "torchvision":
            write_batches(root, name, part, pixels, labels)
        else:
            write_parquet(root, name, part, pixels[:3], labels[:3], shard=0)
            write_parquet(root, name, part, pixels[3:], labels[3:], shard=1)
    return parts


def items(*parts: Images) -> list[tuple[bytes, int]]:
    """Every image with its label, comparable and sorted."""
    return sorted(
        (p.numpy().tobytes(), int(y)) for part in parts for p, y in zip(part.pixels, part.labels, strict=True)
    )


def first_pixel(data: Dataset) -> list[int]:
    return data.test.pixels[0, 0, 0].tolist()


# sources


def test_digits_are_scikit_learns() -> None:
    data, truth = load("digits"), load_digits()
    parts = [data.train, data.valid, data.test]
    assert [len(part) for part in parts] == [599, 599, 599]
    assert (data.classes, data.mirrors) == (10, False)
    for part in parts:
        assert part.pixels.shape == (599, 8, 8, 3)
        assert part.pixels.dtype == torch.uint8
        assert part.pixels.max() == 255
        assert part.labels.dtype == torch.int64
        assert part.labels.unique().tolist() == list(range(10))
    sixteenths = [Images((part.pixels.float() * 16 / 255).round().byte(), part.labels) for part in parts]
    gray = torch.from_numpy(truth.images).byte()
    # Equal as multisets: the parts are disjoint and leave nothing out.
    assert items(*sixteenths) == items(Images(torch.stack([gray] * 3, dim=3), torch.from_numpy(truth.target)))


@pytest.mark.parametrize("layout", ["parquet", "torchvision"])
@pytest.mark.parametrize("name", CLASSES)
def test_cifar_decodes_in_both_layouts(name: str, layout: str, tmp_path: Path) -> None:
    parts = write_cifar(tmp_path, name, layout)
    (tmp_path / "order.json").write_text(json.dumps({"train": list(range(12)), "valid": [12]}))
    data = load(name, root=tmp_path, split="order.json")
    assert (data.classes, data.mirrors) == (CLASSES[name], True)
    learn, labels = parts["train"]
    for part, pixels, truth in [
        (data.train, learn[:12], labels[:12]),
        (data.valid, learn[12:], labels[12:]),
        (data.test, *parts["test"]),
    ]:
        assert np.array_equal(part.pixels.numpy(), pixels)
        assert part.labels.tolist() == truth
        assert part.labels.dtype == torch.int64


def test_torchvisions_folder_may_lie_under_the_data_sets_name(tmp_path: Path) -> None:
    parts = write_cifar(tmp_path / "cifar10", "cifar10", "torchvision")
    assert np.array_equal(load("cifar10", root=tmp_path).test.pixels.numpy(), parts["test"][0])


def test_data_root_is_the_argument_else_nshot_data_else_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {}
    for i, place in enumerate(["argument", "variable", "data"]):
        parts = write_cifar(tmp_path / place, "cifar10", "parquet", seed=10 * i)
        expected[place] = parts["test"][0][0, 0, 0].tolist()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NSHOT_DATA", str(tmp_path / "variable"))
    assert first_pixel(load("cifar10", root=tmp_path / "argument")) == expected["argument"]
    assert first_pixel(load("cifar10")) == expected["variable"]
    monkeypatch.delenv("NSHOT_DATA")
    assert first_pixel(load("cifar10")) == expected["data"]


def test_download_asks_torchvision_and_reads_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(root: Path, download: bool) -> None:
        assert download
        write_cifar(Path(root), "cifar100", "torchvision")

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=SimpleNamespace(CIFAR100=fetch)))
    root = tmp_path / "new" / "root"
    assert len(load("cifar100", root=root, download=True).test) == 4


def test_a_download_mends_what_is_half_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torchvision's own checks, with an archive that is here already."""
    import torchvision

    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    parts = write_cifar(tmp_path, "cifar10", "torchvision")
    home = tmp_path / FOLDERS["cifar10"]
    (home / "batches.meta").write_bytes(python2_pickle({"label_names": [str(i) for i in range(10)]}))
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(home, arcname=home.name)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in (archive, *home.iterdir())}
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "tgz_md5", sums[archive.name])
    monkeypatch.setattr(kind, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums["batches.meta"]})
    (home / "data_batch_4").write_bytes((home / "data_batch_4").read_bytes()[:100])
    (home / "test_batch").unlink()
    assert "data_batch_4 cannot be read" in (said := complaint(tmp_path))
    assert "add --download" in said
    assert np.array_equal(load("cifar10", root=tmp_path, download=True).test.pixels.numpy(), parts["test"][0])
    archive.unlink()  # what is whole is fetched no more
    assert len(load("cifar10", root=tmp_path, download=True).test) == len(parts["test"][0])


def test_processes_that_start_together_fetch_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Semaphore(1)

    def fetch(root: Path, download: bool) -> None:
        assert inside.acquire(blocking=False), "two at once"
        if not (Path(root) / FOLDERS["cifar100"]).exists():
            time.sleep(0.3)
            write_cifar(Path(root), "cifar100", "torchvision")
            made.append(root)
        inside.release()

    made: list[Path] = []
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=SimpleNamespace(CIFAR100=fetch)))
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: load("cifar100", root=tmp_path, download=True), range(3)))
    assert [len(data.test) for data in found] == [4, 4, 4]
    assert made == [tmp_path]


def test_the_real_cifar10_with_nas_bench_201s_split() -> None:
    root = Path(os.environ.get("NSHOT_DATA") or "data")
    if not (list(root.glob("cifar10/train-*.parquet")) and (root / SPLIT).exists()):
        pytest.skip(f"no cifar10 and {SPLIT} under {root}: set NSHOT_DATA")
    data = load("cifar10", root=root, split=SPLIT, resolution=16)
    assert data.train.pixels.shape == data.valid.pixels.shape == (25_000, 16, 16, 3)
    assert data.test.pixels.shape == (10_000, 16, 16, 3)
    # CIFAR-10's own figures: balanced classes, and the means that everyone normalises with.
    assert torch.cat([data.train.labels, data.valid.labels]).bincount().tolist() == [5000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    means = torch.cat([data.train.pixels, data.valid.pixels]).double().mean((0, 1, 2)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)


# split and resolution


def test_half_is_a_fixed_halving(tmp_path: Path) -> None:
    parts = write_cifar(tmp_path, "cifar10", "parquet")
    data = load("cifar10", root=tmp_path)
    assert [len(data.train), len(data.valid)] == [6, 7]
    learn, labels = parts["train"]
    assert items(data.train, data.valid) == items(Images(torch.from_numpy(learn), torch.tensor(labels)))
    again = load("cifar10", root=tmp_path)
    assert torch.equal(data.train.pixels, again.train.pixels)
    assert torch.equal(data.valid.labels, again.valid.labels)
    mixed = load("digits")
    assert (mixed.train.labels.bincount() - mixed.valid.labels.bincount()).abs().max() < 30  # not split by order


def test_a_json_file_splits_in_its_own_order(tmp_path: Path) -> None:
    learn, labels = write_cifar(tmp_path, "cifar10", "parquet")["train"]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "mine.json").write_text('{"train": [12, 0, 5], "valid": [3, 9], "note": "uneven"}')
    data = load("cifar10", root=tmp_path, split="splits/mine.json")
    assert np.array_equal(data.train.pixels.numpy(), learn[[12, 0, 5]])
    assert data.train.labels.tolist() == [labels[12], labels[0], labels[5]]
    assert np.array_equal(data.valid.pixels.numpy(), learn[[3, 9]])


@pytest.mark.parametrize("resolution", [16, 20, 48])
def test_resizing_is_pillows_antialiased_bilinear(resolution: int) -> None:
    before = images(5, size=32)
    after = before.resized(resolution)
    assert after.pixels.shape == (5, resolution, resolution, 3)
    assert after.pixels.dtype == torch.uint8
    assert torch.equal(after.labels, before.labels)
    pillow = [
        np.asarray(Image.fromarray(p.numpy()).resize((resolution, resolution), Image.Resampling.BILINEAR))
        for p in before.pixels
    ]
    assert np.abs(after.pixels.numpy().astype(int) - np.stack(pillow).astype(int)).max() <= 1


def test_resizing_keeps_a_constant_image_constant() -> None:
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [7, 128, 250]], dtype=torch.uint8)
    flat = Images(colours[:, None, None].expand(-1, 32, 32, -1), torch.arange(3))
    assert torch.equal(flat.resized(16).pixels, colours[:, None, None].expand(-1, 16, 16, -1))


def test_load_resizes_every_part(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "parquet")
    data = load("cifar10", root=tmp_path, resolution=16)
    assert {part.pixels.shape[1:] for part in (data.train, data.valid, data.test)} == {(16, 16, 3)}


# augmentation


def windows(image: np.ndarray, margin: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop of the padded image, plain and mirrored: its bytes to (top, left, mirrored)."""
    h, w, _ = image.shape
    padded = np.pad(image, [(margin, margin), (margin, margin), (0, 0)])
    found = {}
    for top in range(2 * margin + 1):
        for left in range(2 * margin + 1):
            crop = padded[top : top + h, left : left + w]
            found[crop.tobytes()] = (top, left, False)
            found[crop[:, ::-1].tobytes()] = (top, left, True)
    return found


def crops(flip: bool, seed: int = 0, margin: int = 2) -> list[tuple[int, int, bool]]:
    """Where each of 600 crops of three images comes from; a crop that comes from nowhere is a KeyError."""
    source = noise(3, size=6)
    index = torch.arange(600) % 3
    generator = torch.Generator().manual_seed(seed)
    batch = crop_flip(pad(torch.from_numpy(source), margin), index, margin, flip, generator)
    assert batch.shape == (600, 6, 6, 3)
    assert batch.dtype == torch.uint8
    known = [windows(image, margin) for image in source]
    return [known[i][crop.numpy().tobytes()] for i, crop in zip(index.tolist(), batch, strict=True)]


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    found = crops(flip=True)
    offsets = [(top, left) for top, left, _ in found]
    assert set(offsets) == {(top, left) for top in range(5) for left in range(5)}
    assert max(offsets.count(offset) for offset in set(offsets)) < 60  # 24 each on average
    assert 250 < sum(mirrored for _, _, mirrored in found) < 350


def test_nothing_is_mirrored_without_flip() -> None:
    assert not any(mirrored for _, _, mirrored in crops(flip=False))


def test_crops_depend_on_the_generator_alone() -> None:
    assert crops(flip=True, seed=3) == crops(flip=True, seed=3)
    assert crops(flip=True, seed=3) != crops(flip=True, seed=4)


# batches


def test_normalise_gives_every_channel_zero_mean_and_unit_variance() -> None:
    source = images(50)
    scaled = Images((source.pixels.float() * torch.tensor([0.2, 0.5, 1.0])).byte(), source.labels)
    x = Normalise(scaled)(scaled.pixels)
    assert x.shape == (50, 3, 8, 8)
    assert x.dtype == torch.float32
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert x.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-3)


def test_normalise_survives_a_constant_channel() -> None:
    blank = Images(torch.full((4, 8, 8, 3), 9, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    assert torch.equal(Normalise(blank)(blank.pixels), torch.zeros(4, 3, 8, 8))


def test_a_training_batch_is_a_function_of_seed_and_step() -> None:
    def batches(seed: int = 5) -> TrainBatches:
        return TrainBatches(images(), 3, seed, flip=True)

    orderly, jumping = batches(), batches()
    forwards = [orderly(step) for step in range(9)]
    for step in [8, 0, 4, 4, 7, 1, 3, 2, 6, 5]:
        torch.manual_seed(step)  # torch's global generator has no say
        before = torch.get_rng_state()
        x, y = jumping(step)
        assert torch.equal(x, forwards[step][0])
        assert torch.equal(y, forwards[step][1])
        assert torch.equal(torch.get_rng_state(), before)
    assert any(not torch.equal(batches(6)(step)[1], forwards[step][1]) for step in range(3))


def test_an_epoch_visits_each_image_at_most_once() -> None:
    batches = TrainBatches(images(10), 3, 0, flip=False)
    assert batches.steps_per_epoch == 3
    epochs = [torch.cat([batches(3 * epoch + i)[1] for i in range(3)]).tolist() for epoch in range(20)]
    assert {len(set(epoch)) for epoch in epochs} == {9}
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert {label for epoch in epochs for label in epoch} == set(range(10))


def test_training_batches_are_normalised_channels_last_floats() -> None:
    batches = TrainBatches(images(60, size=4), 20, 0, flip=True)  # 4 pixels have no margin, so no black border
    epoch = [batches(step)[0] for step in range(3)]
    for x in epoch:
        assert x.shape == (20, 3, 4, 4)
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
    x = torch.cat(epoch)
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert x.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-3)


def test_training_crops_by_an_eighth_of_the_resolution() -> None:
    source = images(4, size=16)
    batches = TrainBatches(source, 4, 0, flip=True)
    scale, shift = batches.normalise.scale, batches.normalise.shift
    torch.testing.assert_close(torch.tensor(batches.normalise.std), 1 / scale)
    torch.testing.assert_close(torch.tensor(batches.normalise.mean), -shift / scale)
    known = [windows(image.numpy(), 2) for image in source.pixels]
    found = set()
    for step in range(50):
        x, y = batches(step)
        pixels = ((x.permute(0, 2, 3, 1) - shift) / scale).round().byte()
        found |= {known[i][p.numpy().tobytes()] for i, p in zip(y.tolist(), pixels, strict=True)}
    assert {(top, left) for top, left, _ in found} == {(top, left) for top in range(5) for left in range(5)}
    assert {mirrored for _, _, mirrored in found} == {True, False}


def test_heldout_batches_keep_all_images_in_order() -> None:
    source = images(10)
    pairs = heldout_batches(source, 4, Normalise(source))
    assert [len(y) for _, y in pairs] == [4, 3, 3]
    assert torch.cat([y for _, y in pairs]).tolist() == list(range(10))
    pixels = source.pixels.double()
    expected = (pixels - pixels.mean((0, 1, 2))) / pixels.reshape(-1, 3).std(0)
    x = torch.cat([x for x, _ in pairs])
    assert torch.allclose(x.double(), expected.permute(0, 3, 1, 2), atol=1e-4)


@pytest.mark.parametrize("size", [0, -3, 11])
def test_a_batch_size_that_cannot_be_is_an_error(size: int) -> None:
    with pytest.raises(UserError, match=rf"batch_size {size}: must be from 1 to the 10 training"):
        TrainBatches(images(10), size, 0, flip=False)
    with pytest.raises(UserError, match=rf"batch_size {size}: must be from 1 to the 10 held-out"):
        heldout_batches(images(10), size, Normalise(images(10)))


# errors


def complaint(root: Path, name: str = "cifar10", **options: object) -> str:
    """The one line that loading ends with."""
    with pytest.raises(UserError) as error:
        load(name, root=root, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unknown_data_set_is_named_with_the_known_ones(tmp_path: Path) -> None:
    own = "imagefolder:FOLDER, parquet:FOLDER"
    known = f"choose one of cifar10, cifar100, digits, imagenet, or images of your own by {own}"
    assert complaint(tmp_path, "mnist") == f"unknown data set 'mnist': {known}"


@pytest.mark.parametrize("name", CLASSES)
def test_a_missing_data_set_says_where_it_was_sought_and_how_to_get_it(name: str, tmp_path: Path) -> None:
    said = complaint(tmp_path, name)
    assert all(text in said for text in (repr(name), str(tmp_path), "--download", "NSHOT_DATA", FOLDERS[name]))
    assert not list(tmp_path.iterdir())


def test_a_failing_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def fetch(root: Path, download: bool) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=SimpleNamespace(CIFAR10=fetch)))
    assert "Name or service not known" in complaint(tmp_path, download=True)


GOOD = png(noise(1)[0])
BAD_PARQUET = [
    pytest.param([GOOD, GOOD], ["cat", "dog"], "labels such as", id="text label"),
    pytest.param([], pa.array([], pa.int64()), "no images", id="no images"),
    pytest.param([GOOD, GOOD], [3, 10], "labels 3 to 10: expected 0 to 9", id="label too high"),
    pytest.param([GOOD, GOOD], [-1, 3], "labels -1 to 3: expected 0 to 9", id="negative label"),
    pytest.param([GOOD, GOOD], [1, None], "labels", id="null label"),
    pytest.param([GOOD, b"not an image"], [1, 2], "cannot be decoded", id="text for an image"),
    pytest.param([GOOD, GOOD[:500]], [1, 2], "cannot be decoded", id="cut image"),
    pytest.param([GOOD, None], [1, 2], "cannot be decoded", id="null image"),
    pytest.param([GOOD, png(noise(1, size=16)[0])], [1, 2], "different sizes", id="two sizes"),
]


@pytest.mark.parametrize(("pixels", "labels", "expected"), BAD_PARQUET)
def test_bad_parquet_is_named(pixels: list, labels: list, expected: str, tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "parquet")
    for shard in range(2):
        path = write_parquet(tmp_path, "cifar10", "train", pixels, labels, shard)
    said = complaint(tmp_path)
    assert expected in said
    assert str(path.parent) in said


def test_a_truncated_parquet_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "parquet")
    path = sorted((tmp_path / "cifar10").glob("train-*"))[1]
    whole = path.read_bytes()
    for length in (0, 3, 200, len(whole) - 5):
        path.write_bytes(whole[:length])
        assert f"data file {path} cannot be read" in complaint(tmp_path)


def test_a_parquet_without_the_columns_is_named_with_those_it_has(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "parquet")
    path = tmp_path / "cifar10" / "train-00000-of-00002.parquet"
    pq.write_table(pa.table({"picture": [1], "label": [2]}), path)
    said = complaint(tmp_path)
    assert all(text in said for text in (str(path), "picture, label", "img or image"))


def test_training_parquet_without_test_parquet_is_an_error(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "parquet")
    for path in (tmp_path / "cifar10").glob("test-*"):
        path.unlink()
    assert f"no test-*.parquet in {tmp_path / 'cifar10'}" in complaint(tmp_path)


class Intruder:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", CLASSES)
def test_a_pickle_that_asks_for_code_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    write_cifar(tmp_path, name, "torchvision")
    path = write_batches(tmp_path, name, "train", noise(5), [0, 1, 2, 3, 4])
    path.write_bytes(pickle.dumps({b"data": Intruder(tmp_path / "made"), b"labels": [], b"fine_labels": []}))
    said = complaint(tmp_path, name)
    assert str(path) in said
    assert f"{os.mkdir.__module__}.mkdir" in said
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())  # the trap does work
    assert (tmp_path / "made").exists()


def test_a_truncated_or_missing_pickle_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "torchvision")
    path = tmp_path / FOLDERS["cifar10"] / "data_batch_3"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 20):
        path.write_bytes(whole[:length])
        assert f"data file {path} cannot be read" in complaint(tmp_path)
    path.unlink()
    assert f"data file {path} cannot be read" in complaint(tmp_path)


BAD_BATCHES = [
    pytest.param([1, 2], id="a list"),
    pytest.param(batch_of(noise(2), [1]), id="fewer labels than images"),
    pytest.param(batch_of(noise(2), [1, 10]), id="label too high"),
    pytest.param(batch_of(noise(2), [-1, 2]), id="negative label"),
    pytest.param({"data": np.zeros((2, 3072), np.uint8)}, id="no labels"),
    pytest.param({"labels": [1, 2]}, id="no data"),
    pytest.param({"data": np.zeros((2, 3000), np.uint8), "labels": [1, 2]}, id="another image size"),
]


@pytest.mark.parametrize("content", BAD_BATCHES)
def test_a_pickle_of_something_else_is_named(content: object, tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "torchvision")
    path = tmp_path / FOLDERS["cifar10"] / "data_batch_3"
    path.write_bytes(python2_pickle(content))
    assert str(path.parent) in complaint(tmp_path)


BAD_SPLITS = [
    pytest.param("{", "JSON file", id="no JSON"),
    pytest.param("[[0], [1]]", "JSON file", id="a list"),
    pytest.param('{"train": [0, 1]}', "'valid'", id="no valid"),
    pytest.param('{"train": [0, 1], "valid": [null]}', "whole numbers", id="null"),
    pytest.param('{"train": [0, 1], "valid": [[2], [3, 4]]}', "whole numbers", id="ragged"),
    pytest.param('{"train": [0, 1, 2], "valid": [2, 3]}', "must be distinct", id="in both parts"),
    pytest.param('{"train": [0, 1, 1], "valid": [3]}', "must be distinct", id="twice"),
    pytest.param('{"train": [0, 13], "valid": [3]}', "whole numbers from 0 to 12", id="too high"),
    pytest.param('{"train": [0, -1], "valid": [3]}', "whole numbers from 0 to 12", id="negative"),
    pytest.param('{"train": 0, "valid": [3]}', "s.json", id="a number for a list"),
    pytest.param('{"train": [[0], [1]], "valid": [3]}', "s.json", id="nested"),
    pytest.param('{"train": [1e40], "valid": [3]}', "s.json", id="huge"),
    pytest.param('{"train": [0.5, 1.7], "valid": [3]}', "s.json", id="fractions"),
    pytest.param('{"train": [], "valid": []}', "s.json", id="empty"),
]


@pytest.mark.parametrize(("text", "expected"), BAD_SPLITS)
def test_a_bad_split_file_is_named(text: str, expected: str, tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "parquet")
    (tmp_path / "s.json").write_text(text)
    said = complaint(tmp_path, split="s.json")
    assert "s.json" in said
    assert expected in said


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    said = complaint(tmp_path, "digits", split="thirds")
    assert all(text in said for text in ("'thirds'", "half", str(tmp_path / "thirds")))


def test_a_resolution_of_nothing_is_an_error(tmp_path: Path) -> None:
    assert "0" in complaint(tmp_path, "digits", resolution=0)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), r"\(4, 3, 8, 8\): must be"),
        (torch.zeros(4, 8, 8, 3), torch.zeros(4, dtype=torch.int64), "pixels are torch.float32"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.zeros(4), "labels are torch.float32"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64), r"must be torch.int64 \(4,\)"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4), "from 0 to 3: must be from 0 to 2"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4) - 1, "from -1 to 2: must be from 0 to 2"),
    ],
)
def test_arrays_of_an_outsiders_data_set_are_checked(pixels: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    good = Images(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), torch.arange(3))
    assert Source(3, good, good).classes == 3
    with pytest.raises(UserError, match=message):
        Source(3, good, Images(pixels, labels))
