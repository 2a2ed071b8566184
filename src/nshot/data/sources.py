"""Where images come from: the embedded digits, CIFAR from the torchvision layout or Hugging Face parquet."""

import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nshot.errors import UserError
from nshot.registry import Registry
from nshot.seeding import generator


@dataclass(frozen=True)
class Images:
    """Decoded images: ``pixels`` uint8 (N, H, W, 3), ``labels`` int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> "Images":
        index = torch.from_numpy(np.ascontiguousarray(indices))
        return Images(self.pixels[index], self.labels[index])

    def resized(self, resolution: int) -> "Images":
        """Antialiased bilinear resize to (resolution, resolution)."""
        if self.pixels.shape[1:3] == (resolution, resolution):
            return self
        chunks = []
        for chunk in self.pixels.split(4096):
            image = chunk.permute(0, 3, 1, 2).float()
            image = F.interpolate(image, (resolution, resolution), mode="bilinear", antialias=True)
            chunks.append(image.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
        return Images(torch.cat(chunks).contiguous(), self.labels)


@dataclass(frozen=True)
class Dataset:
    """The three parts of a data set: ``train`` fits weights, ``valid`` ranks subnets, ``test`` judges the winner."""

    name: str
    classes: int
    mirrors: bool
    """Whether an image's mirror image has the same label: if so, training flips."""
    train: Images
    valid: Images
    test: Images


@dataclass(frozen=True)
class Source:
    """A data set before its search split: what it learns from, and what it is tested on."""

    classes: int
    learn: Images
    test: Images
    mirrors: bool = True


Loader = Callable[[Path, bool], Source]
sources: Registry[Loader] = Registry("data set", "nshot.data")


def data_root(root: str | Path | None = None) -> Path:
    """The data root: the argument, else ``NSHOT_DATA``, else ``./data``."""
    return Path(root or os.environ.get("NSHOT_DATA") or "data")


def load(
    name: str,
    *,
    root: str | Path | None = None,
    split: str = "half",
    resolution: int | None = None,
    download: bool = False,
) -> Dataset:
    """A data set by name, split for the search.

    Args:
        name: one of ``sources.names()``.
        root: data root, see `data_root`.
        split: ``half``, a fixed random halving of what the set learns from; or a JSON file, relative to the root, with
            two lists of indices, ``train`` and ``valid``.
        resolution: images are resized to it.
        download: fetch the set with torchvision where it is absent.

    Raises:
        UserError: for an unknown set or split, or a missing, truncated or unfitting file.
    """
    source = sources[name](data_root(root), download)
    train, valid = _split(split, len(source.learn), data_root(root))
    parts = [source.learn.subset(train), source.learn.subset(valid), source.test]
    if resolution is not None:
        parts = [part.resized(resolution) for part in parts]
    return Dataset(name, source.classes, source.mirrors, *parts)


def _split(split: str, count: int, root: Path) -> tuple[np.ndarray, np.ndarray]:
    if split == "half":
        order = generator(0, "search split").permutation(count)
        return np.sort(order[: count // 2]), np.sort(order[count // 2 :])
    path = root / split
    try:
        lists = json.loads(path.read_text())
        train, valid = (np.array(lists[part], dtype=np.int64) for part in ("train", "valid"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"split {split!r}: needs 'half' or a JSON file under {root} with lists 'train' and 'valid' "
            f"({type(error).__name__}: {error})"
        ) from None
    both = np.concatenate([train, valid])
    if len(np.unique(both)) != len(both) or both.min(initial=0) < 0 or both.max(initial=0) >= count:
        raise UserError(f"split {split!r}: its indices must be distinct and from 0 to {count - 1}")
    return train, valid


@sources.register("digits")
def digits(root: Path, download: bool) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels; a fixed third is the test set. Needs no files."""
    from sklearn.datasets import load_digits

    data = load_digits()
    gray = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8))
    images = Images(gray[..., None].expand(-1, -1, -1, 3).contiguous(), torch.from_numpy(data.target).long())
    order = generator(0, "digits test split").permutation(len(images))
    return Source(10, images.subset(np.sort(order[599:])), images.subset(np.sort(order[:599])), mirrors=False)


@sources.register("cifar10")
def cifar10(root: Path, download: bool) -> Source:
    """CIFAR-10: 50,000 images of 32x32 pixels to learn from, 10,000 to test on."""
    return _cifar(root, download, "cifar10", 10, "CIFAR10", "cifar-10-batches-py", b"labels", ("label",))


@sources.register("cifar100")
def cifar100(root: Path, download: bool) -> Source:
    """CIFAR-100, by its 100 fine labels."""
    labels = ("fine_label", "label")
    return _cifar(root, download, "cifar100", 100, "CIFAR100", "cifar-100-python", b"fine_labels", labels)


def _cifar(
    root: Path, download: bool, name: str, classes: int, vision: str, folder: str, key: bytes, columns: tuple[str, ...]
) -> Source:
    """CIFAR from ``root/name/{train,test}-*.parquet``, else ``root/folder`` (or ``root/name/folder``)."""
    if sorted((root / name).glob("train-*.parquet")):
        learn, test = (read_parquet(root / name, part, columns, classes) for part in ("train", "test"))
        return Source(classes, learn, test)
    homes = [home for home in (root, root / name) if (home / folder).is_dir()]
    if not homes and download:
        import torchvision

        root.mkdir(parents=True, exist_ok=True)
        getattr(torchvision.datasets, vision)(root, download=True)
        homes = [root]
    if not homes:
        raise UserError(
            f"data set {name!r} not found under {root}: expected {name}/train-*.parquet or {folder}/; "
            "set --data-root or NSHOT_DATA, or add --download"
        )
    home = homes[0] / folder
    if name == "cifar10":
        return Source(
            classes,
            _read_batches(home, [f"data_batch_{i}" for i in range(1, 6)], key),
            _read_batches(home, ["test_batch"], key),
        )
    return Source(classes, _read_batches(home, ["train"], key), _read_batches(home, ["test"], key))


class _ArraysOnly(pickle.Unpickler):
    """CIFAR's files hold dictionaries, lists, bytes and numpy arrays; anything else in one is not CIFAR."""

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR file")


def _read_batches(home: Path, files: list[str], key: bytes) -> Images:
    pixels, labels = [], []
    for file in files:
        try:
            with open(home / file, "rb") as stream:
                batch = _ArraysOnly(stream, encoding="bytes").load()
            pixels.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(np.asarray(batch[key], dtype=np.int64))
        except (OSError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
            raise UserError(f"data file {home / file} cannot be read ({error}): fetch the data set again") from None
    return Images(torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels)))


def read_parquet(folder: Path, part: str, label_columns: tuple[str, ...], classes: int) -> Images:
    """Images from Hugging Face parquet files ``part-*.parquet``: a column of encoded bytes, a column of labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(folder.glob(f"{part}-*.parquet"))
    if not files:
        raise UserError(f"no {part}-*.parquet in {folder}: fetch the data set again")
    pixels, labels = [], []
    for file in files:
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"data file {file} cannot be read ({_first_line(error)}): fetch it again") from None
        names = table.column_names
        image = next((c for c in ("img", "image") if c in names), None)
        label = next((c for c in label_columns if c in names), None)
        if image is None or label is None:
            labels_wanted = " or ".join(label_columns)
            raise UserError(
                f"data file {file} has columns {', '.join(names)}: expected img or image, and {labels_wanted}"
            )
        try:
            pixels += [_decode(entry["bytes"]) for entry in table.column(image).to_pylist()]
        except (OSError, TypeError, KeyError) as error:
            raise UserError(f"data file {file} holds an image that cannot be decoded ({_first_line(error)})") from None
        labels.append(table.column(label).to_numpy().astype(np.int64))
    target = np.concatenate(labels)
    if target.min() < 0 or target.max() >= classes:
        raise UserError(f"{folder} has labels {target.min()} to {target.max()}: expected 0 to {classes - 1}")
    if len({p.shape for p in pixels}) != 1:
        raise UserError(f"{folder} has images of different sizes: expected one size")
    return Images(torch.from_numpy(np.stack(pixels)), torch.from_numpy(target))


def _decode(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
