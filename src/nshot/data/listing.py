"""What lies in a folder of images: parts, classes, and the files of each."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nshot.errors import Say, UserError
from nshot.files import shown

from .reading import LeftOut, Stored

# The names that a part may have, in folders and in files.
PARTS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")


class Listed(NamedTuple):
    """The images of a part, class by class: files, labels, and how they are stored."""

    paths: list[Path]
    labels: list[int]
    stored: list[Stored]


def listing(folder: Path, left_out: LeftOut, say: Say) -> tuple[list[str], dict[str, Listed]]:
    """The classes of a folder ``part/<class>/<images>``, and what each part has of them.

    Files that are no images by their names go to ``left_out``, and are said.

    Raises:
        UserError: for parts or classes that do not fit, and a folder that cannot be read.
    """
    found = find_folders(folder)
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
    others: list[str] = []
    parts = {part: _listed(folder, paths[0], classes["train"], others) for part, paths in found.items()}
    for name in others:
        left_out.note(name, "no image by its name, or no file")
    if others:
        first = shown(others[0])
        say(f"{folder.name}: {len(others):,} files are no images of a class and are left out (first: {first})")
    return classes["train"], parts


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, by their names. Raises UserError where it cannot be read."""
    return sorted(path for path, size in _walk(folder) if size is not None)


def find_folders(folder: Path) -> dict[str, list[Path]]:
    """The folder of each part; raises UserError as `find_parts`."""
    return find_parts(folder, lambda name: [folder / name] if (folder / name).is_dir() else [], "{}/<class>/")


def find_parts(folder: Path, find: Callable[[str], list[Path]], wanted: str) -> dict[str, list[Path]]:
    """What ``find`` has for each part's names; raises UserError for two names of one part, and where train has none."""
    if not folder.is_dir():
        raise UserError(
            f"no folder {shown(folder)}: name one under the data root (--data-root, NSHOT_DATA), or its full path"
        )
    found: dict[str, list[Path]] = {}
    for part, names in PARTS.items():
        there = [name for name in names if find(name)]
        if len(there) > 1:
            raise UserError(f"{folder} has both {wanted.format(there[0])} and {wanted.format(there[1])}: keep one")
        if there:
            found[part] = find(there[0])
    if "train" not in found:
        raise UserError(f"{folder} has no {wanted.format('train')}: that is where its images are expected")
    return found


def check_classes(names: Sequence[str], where: Path) -> None:
    """Raises UserError for less than two classes, and for a name that is no line of text."""
    for name in names:
        if not name.strip() or shown(name) != name:
            raise UserError(f"{where} has a class named {shown(name)!r}: name it by a line of text")
    if len(names) < 2:
        raise UserError(f"{where} has {len(names)} class ({', '.join(names) or 'none'}): at least 2 are needed")


def _classes(part: Path) -> list[str]:
    names = sorted(entry.name for entry in _entries(part) if _is_folder(entry))
    for name in names:
        if shown(name) != name:
            raise UserError(f"class folder {shown(part / name)} has a name that is no text: rename it")
    return names


def _listed(folder: Path, part: Path, classes: list[str], others: list[str]) -> Listed:
    """The images of a part; files that are none go to ``others``."""
    others += [f"{part.name}/{entry.name}" for entry in _entries(part) if not _is_folder(entry)]
    found = Listed([], [], [])
    for label, name in enumerate(classes):
        some = sorted(_walk(part / name), key=lambda one: one[0].relative_to(part))
        images = [one for one in some if one[1] is not None]
        rest = [one[0] for one in some if one[1] is None]
        if not images:
            what = f"no images among its {len(rest)} files (such as {shown(rest[0].name)})" if rest else "no images"
            raise UserError(f"class folder {part / name} has {what}: put some there, or take the folder away")
        for path, size in images:
            short = path.relative_to(folder).as_posix()
            found.paths.append(path)
            found.labels.append(label)
            found.stored.append(Stored(short, short, size or 0, ""))
        others += [path.relative_to(folder).as_posix() for path in rest]
    return found


def _walk(folder: Path) -> Iterator[tuple[Path, int | None]]:
    """All that lies below a folder and is not hidden, links followed; with its bytes where it is an image."""
    above = {_identity(one) for one in (folder, *folder.absolute().parents)}
    todo = [(folder, above)]
    while todo:
        here, above = todo.pop()
        for entry in _entries(here):
            path = here / entry.name
            if _is_folder(entry):
                if _identity(path) in above:
                    raise UserError(f"{shown(path)} is a link to a folder that it lies in: take it away")
                todo.append((path, above | {_identity(path)}))
            else:
                yield path, _size(entry) if path.suffix.lower() in SUFFIXES else None


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """What is not hidden in a folder. Raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"folder {shown(folder)} cannot be read ({error.strerror}): mend it, or take it away") from None


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(entry: "os.DirEntry[str]") -> int | None:
    """Bytes of a file; None of what is none: a broken link, a pipe."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError:
        return None


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
