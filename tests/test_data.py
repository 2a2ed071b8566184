"""Data sets from files the tests write, seeded augmentation and batches, and one-line errors for bad files."""

import io
import json
import os
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from nshot import UserError
from nshot.data.augment import crop_flip, pad
from nshot.data.batches import Normalise, TrainBatches, heldout_batches
from nshot.data.sources import Dataset, Images, load

CLASSES = {"cifar10": 10, "cifar100": 100}
SPLIT = "nasbench201/cifar10-split.json"


def noise(count: int, seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def images(count: int = 10, size: int = 8, seed: int = 0) -> Images:
    return Images(torch.from_numpy(noise(count, seed, size)), torch.arange(count))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_parquet(root: Path, name: str, part: str, pixels: list | np.ndarray, labels: list, shard: int = 0) -> Path:
    """The Hugging Face layout: ``img`` and ``label`` for cifar10, ``image`` and ``fine_label`` for cifar100."""
    image, label = ("img", "label") if name == "cifar10" else ("image", "fine_label")
    cells = [{"bytes": p if isinstance(p, bytes) else png(p), "path": None} for p in pixels]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {image: pa.array(cells, kind), label: pa.array(labels)}
    if name == "cifar100":
        columns["coarse_label"] = pa.array([99] * len(labels))
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


def write_batches(root: Path, name: str, part: str, pixels: np.ndarray, labels: list) -> list[Path]:
    """The torchvision layout: pickles of rows of 3x32x32 planar pixels; cifar10's training set is five files."""
    rows = np.stack([np.concatenate([p[..., c].ravel() for c in range(3)]) for p in pixels])
    folder = root / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    folder.mkdir(parents=True, exist_ok=True)
    key, names = "labels", [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"]
    if name == "cifar100":
        key, names = "fine_labels", [part]
    for file, index in zip(names, np.array_split(np.arange(len(labels)), len(names)), strict=True):
        batch = {"data": rows[index], key: [int(labels[i]) for i in index], "coarse_labels": [99] * len(index)}
        stream = io.BytesIO()
        Python2Pickler(stream, 2).dump(batch)
        (folder / file).write_bytes(stream.getvalue().replace(b"numpy._core", b"numpy.core"))
    return [folder / file for file in names]


def write_cifar(root: Path, name: str, layout: str) -> dict[str, tuple[np.ndarray, list]]:
    """A tiny data set of noise: 13 images to learn from, 4 to test on."""
    top = CLASSES[name] - 1
    parts = {"train": (noise(13, 1), [*range(12), top]), "test": (noise(4, 2), [top, 0, 7, 7])}
    if name == "cifar10":
        parts["train"][1][10:12] = [3, 3]
    for part, (pixels, labels) in parts.items():
        if layout == "torchvision":
            write_batches(root, name, part, pixels, labels)
        else:  # in two shards
            write_parquet(root, name, part, pixels[:3], labels[:3], 0)
            write_parquet(root, name, part, pixels[3:], labels[3:], 1)
    return parts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a cifar10 in parquet and a split of it that keeps the order: all but one image in ``train``."""
    write_cifar(tmp_path, "cifar10", "parquet")
    (tmp_path / "order.json").write_text(json.dumps({"train": list(range(12)), "valid": [12]}))
    return tmp_path


def rows(*parts: Images) -> list[bytes]:
    return [image.numpy().tobytes() + bytes([label]) for part in parts for image, label in zip(part.pixels, part.labels)]  # fmt: skip # noqa: B905, E501


# --- sources ---


def test_digits_are_scikit_learns() -> None:
    data, truth = load("digits"), load_digits()
    parts = [data.train, data.valid, data.test]
    assert [len(part) for part in parts] == [599, 599, 599]
    for part in parts:
        assert part.pixels.shape == (599, 8, 8, 3)
        assert part.pixels.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.labels.unique().tolist() == list(range(10))
        assert part.pixels.max() == 255
    assert data.classes == 10
    assert not data.mirrors
    ours = sorted((round(float(v) * 16 / 255) for v in image.flatten()) for image in [])
    ours = sorted(
        (*(np.rint(image.numpy() * 16 / 255).astype(int).ravel().tolist()), int(label))
        for part in parts
        for image, label in zip(part.pixels, part.labels, strict=True)
    )
    gray = np.repeat(truth.images[..., None], 3, axis=3).astype(int).reshape(1797, -1)
    assert ours == sorted((*row, label) for row, label in zip(gray.tolist(), truth.target.tolist(), strict=True))
