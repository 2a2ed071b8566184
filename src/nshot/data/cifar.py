"""CIFAR-10 and CIFAR-100, from torchvision's folders or from Hugging Face parquet files."""

import os
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from nshot.errors import Say, UserError

from .images import Images
from .parquet import checked, read_known
from .sources import Source, sources

AGAIN = "add --download, which fetches what is damaged, or copy the data set again"
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}  # torchvision's


@sources.register("cifar10")
def cifar10(root: Path, download: bool, say: Say) -> Source:
    """CIFAR-10: 50,000 images of 32x32 pixels to learn from, 10,000 to test on."""
    home = _fetched(root, "cifar10", "CIFAR10" if download else None)
    if _has_parquet(home):
        return _from_parquet(home, 10, ("label",))
    learn = [home / f"data_batch_{i}" for i in range(1, 6)]
    return Source(10, _read_batches(learn, b"labels", 10), _read_batches([home / "test_batch"], b"labels", 10))


@sources.register("cifar100")
def cifar100(root: Path, download: bool, say: Say) -> Source:
    """CIFAR-100, by its 100 fine labels."""
    home = _fetched(root, "cifar100", "CIFAR100" if download else None)
    if _has_parquet(home):
        return _from_parquet(home, 100, ("fine_label", "label"))
    parts = (_read_batches([home / part], b"fine_labels", 100) for part in ("train", "test"))
    return Source(100, *parts)  # type: ignore[arg-type]


def find_home(root: Path, name: str) -> Path | None:
    """Where the data set lies: ``root/name`` with parquet files, else torchvision's folder under the root or under
    ``root/name``; None where there is none, or an empty one."""
    if _has_parquet(root / name):
        return root / name
    homes = [home / FOLDERS[name] for home in (root, root / name)]
    return next((home for home in homes if home.is_dir() and any(home.iterdir())), None)


def _has_parquet(folder: Path) -> bool:
    return any(folder.glob("train-*.parquet"))


def _from_parquet(folder: Path, classes: int, labels: tuple[str, ...]) -> Source:
    return Source(classes, read_known(folder, "train", labels, classes), read_known(folder, "test", labels, classes))


def _fetched(root: Path, name: str, download: str | None) -> Path:
    """Where the data set lies; torchvision's folder where it is absent or not whole is fetched by that class."""
    home = find_home(root, name)
    if download is not None and (home is None or not _has_parquet(home)):
        where = root if home is None else home.parent
        _fetch(where, name, download)
        home = where / FOLDERS[name]
    if home is None:
        raise UserError(
            f"data set {name!r} not found under {root}: expected {name}/train-*.parquet or {FOLDERS[name]}/; "
            "set --data-root or NSHOT_DATA, or add --download"
        )
    return home


def _fetch(home: Path, name: str, kind: str) -> None:
    """Has torchvision's class fetch what is missing or damaged by its checksums; of several processes one at a time,
    after which the others find it."""
    import torchvision

    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f".{name}.lock") if os.access(home, os.W_OK) else nullcontext():
            getattr(torchvision.datasets, kind)(home, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"data set {name!r} cannot be fetched to {home} ({error}): try again, or copy it") from None


class _ArraysOnly(pickle.Unpickler):
    """CIFAR's files hold dictionaries, lists, bytes and numpy arrays; anything else in one is not CIFAR."""

    allowed = (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.numeric", "_frombuffer"),
        ("_codecs", "encode"),
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR file")


def _read_batches(files: list[Path], key: bytes, classes: int) -> Images:
    pixels, labels = [], []
    for file in files:
        try:
            with open(file, "rb") as stream:
                batch: Any = _ArraysOnly(stream, encoding="bytes").load()
            data, label = np.asarray(batch[b"data"]), np.asarray(batch[key])
            planar = data.reshape(-1, 3, 32, 32)
        except Exception as error:  # a broken pickle can raise anything
            message = f"{type(error).__name__}: {error}"
            raise UserError(f"data file {file} cannot be read ({message}): {AGAIN}") from None
        if data.dtype != np.uint8:
            raise UserError(f"data file {file} has pixels of type {data.dtype}: expected uint8; {AGAIN}")
        pixels.append(planar.transpose(0, 2, 3, 1))
        labels.append(label)
    return checked(np.concatenate(pixels), labels, classes, files[0].parent)
