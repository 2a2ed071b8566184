"""Reads the images of a data set into memory, in threads, and says once what is left out, and why."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nshot.errors import Say
from nshot.files import shown, write_atomically

from .decode import fit, read, reason, too_small

LEFT_OUT = "left-out.txt"
EVERY = 10.0  # seconds between lines about the progress
DARK = 16  # of 255: the most that deep pixels come to which use 12 of 16 bits


class Stored(NamedTuple):
    """An image as its owner has it."""

    name: str
    """Its path below the data set's folder; of a parquet file, that and the row."""
    key: str
    """What its part follows from: its name, or where rows have none, its digest."""
    size: int
    """Bytes."""
    digest: str
    """BLAKE2b of its bytes, 64 bits in hexadecimal; empty where images are read only as they are needed."""


class Encoded(NamedTuple):
    """An image that is to be read: what it is called, and its file or its bytes; None: it has neither."""

    name: str
    data: Path | bytes | None


class LeftOut:
    """Images that are not used, and why: one object for all parts of a data set, which grows as files are met."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        """Bytes, where images of a list were looked at as they loaded."""
        self._others: dict[str, str] = {}
        self._said = 0
        self._written: dict[Path, int] = {}

    def add(self, name: str, why: str) -> None:
        """An image."""
        self.reasons.setdefault(shown(name), why)

    def note(self, name: str, why: str) -> None:
        """A file that was not taken for an image: it is in the list, and not counted among images."""
        self._others.setdefault(shown(name), why)

    def __contains__(self, name: str) -> bool:
        return shown(name) in self.reasons

    def __getitem__(self, name: str) -> str:
        return self.reasons[shown(name)]

    def tell(self, say: Say, where: str, total: int, *, last: bool = True) -> None:
        """One line about all, where there are some that no line has told of; before the last line, twice as many."""
        if len(self.reasons) == self._said or (len(self.reasons) < 2 * self._said and not last):
            return
        self._said = len(self.reasons)
        name, why = next(iter(self.reasons.items()))
        say(
            f"{where}: {self._said:,} of {total:,} images are left out (first: {name}: {why}); "
            f"{LEFT_OUT} in the run folder names all"
        )

    def write(self, folder: Path) -> None:
        """Adds to a run folder's list what it does not name yet."""
        path, found = folder / LEFT_OUT, {**self.reasons, **self._others}
        if len(found) == self._written.get(folder, 0):
            return
        self._written[folder] = len(found)
        before = path.read_text(errors="replace").splitlines() if path.exists() else []
        lines = dict.fromkeys([*before, *(f"{name}: {why}" for name, why in found.items())])
        if len(lines) > len(before):
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def left_out_in(folder: Path) -> set[str]:
    """The names in a run folder's list. A reason follows a colon, and names may have some: all before one counts."""
    path = folder / LEFT_OUT
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return {": ".join(parts[:i]) for parts in (line.split(": ") for line in lines) for i in range(1, len(parts))}


class Reader:
    """Decodes the parts of a data set.

    Args:
        where: names the data set in what is said.
        resolution: the shorter side is resized to it, the longer one cropped at its centre; None leaves sizes alone.
        say: takes lines for the user.
        nameless: whether an image's part follows from its content.
    """

    def __init__(self, where: str, resolution: int | None, say: Say, *, nameless: bool = False) -> None:
        self.where, self.resolution, self.say, self.nameless = where, resolution, say, nameless
        self.left_out = LeftOut()
        self.total = 0
        self._enlarged: list[str] = []
        self._dark: list[str] = []

    def __call__(self, images: Sequence[Encoded], part: str) -> tuple[list[np.ndarray], list[Stored], list[int]]:
        """Pixels of the images that can be used, uint8 (H, W, 3), how they are stored, and their positions."""
        found: list[np.ndarray] = []
        stored: list[Stored] = []
        kept: list[int] = []
        told = time.monotonic()
        self.total += len(images)
        with ThreadPoolExecutor() as threads:
            for i, one in enumerate(threads.map(lambda image: _decode(image.data, self.resolution), images)):
                if isinstance(one, str):
                    self.left_out.add(images[i].name, one)
                else:
                    kept.append(i)
                    found.append(one.pixels)
                    stored.append(self._noted(images[i].name, one))
                if time.monotonic() - told > EVERY:
                    told = time.monotonic()
                    self.say(f"{self.where}: {i + 1:,} of {len(images):,} images of {part} read")
        return found, stored, kept

    def _noted(self, name: str, one: "_Decoded") -> Stored:
        if one.side < (self.resolution or 0):
            self._enlarged.append(f"{name}, {one.side} pixels")
        if one.deep and one.pixels.max() <= DARK:
            self._dark.append(name)
        return Stored(name, one.digest if self.nameless else name, one.size, one.digest)

    def tell(self) -> None:
        """What was out of the ordinary in all parts, a line a kind."""
        self.left_out.tell(self.say, self.where, self.total)
        for names, what in (
            (self._enlarged, f"are enlarged to {self.resolution} pixels"),
            (self._dark, "have deeper pixels than 8 bits and use a sixteenth of their range: are they of fewer bits?"),
        ):
            if names:
                count = f"{len(names):,} of {self.total:,} images"
                self.say(f"{self.where}: {count} {what} (first: {shown(names[0])})")


class _Decoded(NamedTuple):
    pixels: np.ndarray
    side: int
    deep: bool
    size: int
    digest: str


def _decode(data: Path | bytes | None, resolution: int | None) -> _Decoded | str:
    """An image, or why it cannot be used."""
    if data is None:
        return "it has no bytes"
    try:
        size, digest = _digest(data)
        image = read(data, resolution)
        side, deep = image.info["side"], image.info.get("deep", False)
        if trouble := too_small(side, resolution or 0):
            return trouble
        return _Decoded(np.asarray(image if resolution is None else fit(image, resolution)), side, deep, size, digest)
    except Exception as error:  # a broken file can raise anything
        return reason(error)


def _digest(data: Path | bytes) -> tuple[int, str]:
    """How many bytes an image has, and their digest."""
    digest, size = blake2b(digest_size=8), 0
    if isinstance(data, bytes):
        digest.update(data)
        return len(data), digest.hexdigest()
    with open(data, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
