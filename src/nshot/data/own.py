"""Data sets of the user's own: what becomes of their parts, and folders of images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nshot.errors import UserError
from nshot.seeding import generator

from .decode import Encoded, decode, memory_needed, stacked
from .images import Files, Images, Pictures
from .sources import Say, Source, own

# The names that a part may have, in folders and in files.
PARTS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
HELD_OUT = 5  # without a test part, one image of so many


@own.register("imagefolder")
def imagefolder(folder: Path, resolution: int | None, say: Say) -> Source:
    """``train/<class>/<images>``, with ``val`` (or ``valid``, ``validation``) and ``test`` where they are.

    Classes are the names of the folders, sorted. Images in folders below a class's belong to it; hidden files do not
    count, other files that are no images are left out, and said.
    """
    names, listed = listing(folder, say)
    count = sum(len(labels) for _, labels in listed.values())
    needed, memory = memory_needed(count, resolution)
    parts: dict[str, Pictures]
    if needed > memory:
        say(f"{folder.name}: {count:,} images are too many for the memory, so each is read when it is needed")
        parts = {part: files_of(paths, labels, resolution) for part, (paths, labels) in listed.items()}
    else:
        parts = {part: _read(folder, *both, names, resolution, say) for part, both in listed.items()}
    return assembled(parts, names, folder, say)


def listing(folder: Path, say: Say) -> tuple[list[str], dict[str, tuple[list[Path], list[int]]]]:
    """The classes of such a folder, and of each part the images and their labels. Raises UserError as `imagefolder`."""
    found = find_parts(folder, lambda name: [folder / name] if (folder / name).is_dir() else [], "{}/<class>/")
    classes = {part: _classes(paths[0]) for part, paths in found.items()}
    check_classes(classes["train"], folder)
    for part, names in classes.items():
        if names != classes["train"]:
            other = sorted(set(names) ^ set(classes["train"]))[0]
            having, lacking = ("train", part) if other in classes["train"] else (part, "train")
            raise UserError(
                f"{folder}: {found[having][0].name} has a class folder {other!r}, {found[lacking][0].name} has not: "
                "both must have the same"
            )
    files = {part: [_files(paths[0] / name) for name in classes["train"]] for part, paths in found.items()}
    return classes["train"], {
        part: _listed(found[part][0], classes["train"], some, say) for part, some in files.items()
    }


def find_parts(folder: Path, find: Callable[[str], list[Path]], shown: str) -> dict[str, list[Path]]:
    """What ``find`` has for each part's names; raises UserError for two names of one part, and where train has none."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name one under the data root (--data-root, NSHOT_DATA), or its full path")
    found: dict[str, list[Path]] = {}
    for part, names in PARTS.items():
        there = [name for name in names if find(name)]
        if len(there) > 1:
            raise UserError(f"{folder} has both {shown.format(there[0])} and {shown.format(there[1])}: keep one")
        if there:
            found[part] = find(there[0])
    if "train" not in found:
        raise UserError(f"{folder} has no {shown.format('train')}: that is where its images are expected")
    return found


def check_classes(names: Sequence[str], where: Path) -> None:
    """Raises UserError for less than two classes."""
    if len(names) < 2:
        raise UserError(f"{where} has {len(names)} class ({', '.join(names) or 'none'}): at least 2 are needed")


def assembled(parts: Mapping[str, Pictures], names: Sequence[str], where: Path, say: Say) -> Source:
    """A source of these parts; where there is no ``test``, a fixed fifth of each class's train images is held out.

    Raises:
        UserError: for a class with too few images.
    """
    learn = parts["train"]
    counts = np.bincount(learn.labels.numpy(), minlength=len(names))
    needed = 1 if "test" in parts else 2
    if counts.min() < needed:
        name = names[int(counts.argmin())]
        why = "" if needed == 1 else ", one of them to test on, for there is no test part"
        raise UserError(f"{where}: class {name!r} has {counts.min()} train images: each needs {needed}{why}")
    test = parts.get("test")
    if test is None:
        held = held_out(learn.labels.numpy(), len(names), "held-out test", lambda n: max(1, round(n / HELD_OUT)))
        say(f"{where.name}: no test part, so {held.sum():,} of {len(learn):,} train images are held out to test on")
        learn, test = learn.subset(np.flatnonzero(~held)), learn.subset(np.flatnonzero(held))
    return Source(len(names), learn, test, valid=parts.get("valid"), names=tuple(names))


def held_out(labels: np.ndarray, classes: int, purpose: str, count: Callable[[int], int]) -> np.ndarray:
    """Which images are kept from training: bool (N,), ``count(n)`` of n in a class, by a purpose the same each time."""
    held = np.zeros(len(labels), bool)
    rng = generator(0, purpose)
    for label in range(classes):
        own_ = rng.permutation(np.flatnonzero(labels == label))
        held[own_[: count(len(own_))]] = True
    return held


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """All files below the folder that are not hidden, by their path."""
    paths = (p for p in folder.rglob("*") if p.is_file())
    below = ((p.relative_to(folder), p) for p in paths)
    return [p for short, p in sorted(below) if not any(step.startswith(".") for step in short.parts)]


def files_of(paths: list[Path], labels: list[int], resolution: int | None, crop: float = 1.0) -> Files:
    """Images that are read when they are needed."""
    return Files(paths, torch.tensor(labels), resolution or 0, crop)


def _listed(folder: Path, classes: list[str], files: list[list[Path]], say: Say) -> tuple[list[Path], list[int]]:
    """The images of a part, its classes in order, and their labels."""
    images: list[Path] = []
    labels: list[int] = []
    others = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    for label, (name, some) in enumerate(zip(classes, files, strict=True)):
        own_ = [p for p in some if p.suffix.lower() in SUFFIXES]
        if not own_:
            what = f"no images among its {len(some)} files (such as {some[0].name})" if some else "no images"
            raise UserError(f"class folder {folder / name} has {what}: put some there, or take the folder away")
        images += own_
        labels += [label] * len(own_)
        others += [p for p in some if p.suffix.lower() not in SUFFIXES]
    if others:
        first = others[0].relative_to(folder).as_posix()
        where = f"{folder.parent.name}/{folder.name}"
        say(f"{where}: {len(others)} files are no images of a class and are left out (first: {first})")
    return images, labels


def _read(
    folder: Path, paths: list[Path], labels: list[int], classes: list[str], resolution: int | None, say: Say
) -> Images:
    """Those of a part that can be read, in memory."""
    part = folder / paths[0].relative_to(folder).parts[0]
    where = f"{folder.name}/{part.name}"
    encoded = [Encoded(f"{where}/{path.relative_to(part).as_posix()}", path) for path in paths]
    pixels, kept = decode(encoded, resolution, where, say)
    target = np.array(labels, np.int64)[kept]
    for label, name in enumerate(classes):
        if not (target == label).any():
            raise UserError(f"class folder {part / name} has no image that can be read: put some there")
    return Images(torch.from_numpy(stacked(pixels, folder)), torch.from_numpy(target))
