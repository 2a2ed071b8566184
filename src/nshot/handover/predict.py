"""Classes and probabilities of image files, by a retrained network."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nshot.data.listing import SUFFIXES
from nshot.errors import UserError, unwritable
from nshot.files import csv_text, write_atomically
from nshot.training.device import fabric

from .classifier import Classifier, read_classifier

Best = list[tuple[str, float]]
"""The most probable classes of an image, the best first, at most three, with their probabilities."""
BATCH = 64  # images that are judged at once


@dataclass(frozen=True)
class Predictions:
    """What a network says of image files: ``probabilities`` float (N, classes) of ``files``, in their order."""

    classes: list[str]
    """All that there are, in the order of the probabilities."""
    files: list[Path]
    probabilities: Tensor
    unread: dict[Path, str]
    """Why a file could not be read, or a folder has no images."""

    @property
    def labels(self) -> list[str]:
        """The most probable class of each file."""
        return [self.classes[i] for i in self.probabilities.argmax(1)]


def predict(
    folder: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    device: str = "auto",
    each: Callable[[Path, Best | str], None] = lambda path, said: None,
) -> Predictions:
    """What a retrained network says of images.

    Args:
        folder: what ``nshot retrain`` or ``nshot export`` wrote.
        images: files, and folders, whose images are taken by their endings, those in folders below too.
        device: auto, cpu, cuda or mps.
        each: is told of each file, as soon as it is known, the most probable classes or why it cannot be read.

    Raises:
        UserError: for a folder that holds no network, or a device that is not to be had.

    Example:
        >>> found = nshot.predict(folder, [image])  # folder: what nshot retrain wrote, or nshot export
        >>> found.probabilities.shape, round(float(found.probabilities.sum()), 4)  # (images, classes)
        (torch.Size([1, 10]), 1.0)
        >>> found.unread
        {}
    """
    classifier = read_classifier(folder).to(fabric(device).device)
    named = [images] if isinstance(images, str | Path) else images
    files: list[Path] = []
    found = [torch.empty(0, len(classifier.classes))]
    unread: dict[Path, str] = {}
    for path, said in predictions(classifier, map(Path, named)):
        if isinstance(said, str):
            unread[path] = said
            each(path, said)
        else:
            files.append(path)
            found.append(said[None])
            best = said.topk(min(3, len(said)))
            each(path, [(classifier.classes[i], p) for p, i in zip(*map(Tensor.tolist, best), strict=True)])
    return Predictions(classifier.classes, files, torch.cat(found), unread)


def predictions(classifier: Classifier, images: Iterable[Path]) -> Iterator[tuple[Path, Tensor | str]]:
    """Of each image the probabilities (classes,), on the CPU, or why it cannot be read; see `predict`."""
    files: list[tuple[Path, str]] = [pair for path in images for pair in _listed(path)]
    device = classifier.scale.device
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        squares = iter(classifier.squares([path for path, trouble in some if not trouble]))
        read = [trouble or next(squares) for _, trouble in some]
        pixels = [torch.from_numpy(one.copy()) for one in read if not isinstance(one, str)]
        with torch.inference_mode():
            said = iter(classifier(torch.stack(pixels).to(device))[1].cpu() if pixels else ())
        for (path, _), one in zip(some, read, strict=True):
            yield path, one if isinstance(one, str) else next(said)


def check_table(path: Path) -> None:
    """Raises UserError for a name that no table can be written to."""
    if path.suffix != ".csv":
        raise UserError(f"out {str(path)!r}: name a file that ends in .csv")
    try:
        path.stat()
        what = "is a folder" if path.is_dir() else ""
    except FileNotFoundError:
        what = "" if path.absolute().parent.is_dir() else "is in no folder"
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
    if what:
        raise UserError(f"out {path} {what}: choose another file")


def write_table(path: Path, found: Predictions) -> None:
    """A row a file: its name, class, that one's probability, and the probabilities of all classes."""
    rows: list[list[str]] = [["file", "class", "probability", *(f"p({name})" for name in found.classes)]]
    for file, label, row in zip(found.files, found.labels, found.probabilities.tolist(), strict=True):
        rows.append([str(file), label, f"{max(row):.6f}", *(f"{value:.6f}" for value in row)])
    try:
        write_atomically(path, csv_text(rows).encode(errors="surrogateescape"))  # names as the disk has them
    except OSError as error:
        raise unwritable(path, error, "choose another file") from None


def _listed(path: Path) -> Iterator[tuple[Path, str]]:
    """A file, or the images of a folder; with what is wrong with it."""
    if not os.path.isdir(path):  # which takes names that are too long for a folder
        yield path, _no_file(path)
        return
    count = 0
    seen: set[str] = set()
    closed: list[OSError] = []
    for folder, below, files in os.walk(path, onerror=closed.append, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        for name in sorted(files) if real not in seen else ():
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                count += 1
                yield Path(folder, name), _no_file(Path(folder, name))
        seen.add(real)
    for error in closed:
        yield Path(error.filename), error.strerror or "it cannot be read"
    if not count and not closed:
        yield path, "it holds no images"


def _no_file(path: Path) -> str:
    """What is wrong with a pipe or a device, which would be waited for; nothing with what is not there, or a file."""
    return "" if os.path.isfile(path) or not os.path.exists(path) else "it is no file"
