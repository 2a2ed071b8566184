"""What a run is made of, image by image: kept in its folder, so that nothing takes other images for them."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nshot.errors import UserError
from nshot.files import csv_text, shown, write_atomically

from .reading import left_out_in
from .sources import Dataset, is_own

MANIFEST = "data.csv"


class Row(NamedTuple):
    """An image of one's own: which part it went to (train, valid: it ranks subnets, test), and what it is."""

    part: str
    label: str
    name: str
    bytes: int
    digest: str
    """BLAKE2b, 64 bits (``b2sum -l 64``); empty where images are read as they are needed: then size alone tells."""


def write_manifest(folder: Path, data: Dataset) -> None:
    """Writes what a data set consists of to a run folder, a line an image, and what is known not to be used of it;
    nothing for a data set of ours."""
    rows = list(_rows(data))
    if rows:
        data.left_out.write(folder)
        write_atomically(folder / MANIFEST, csv_text([Row._fields, *rows]).encode(errors="surrogateescape"))


def check_manifest(folder: Path, data: Dataset, *, halves: bool = True, some: bool = False) -> None:
    """Raises UserError, naming what changed, where the data set is not what a run was made of; ``halves``: whether it
    matters which of the images that are learnt from ranked subnets, or, with ``some``, whether there are more of
    them, as where a split file lists some alone.

    Where images are read from disk, those that cannot be read are found out late and have a row, where memory holds
    them they have none: that is no change.

    So it does for a run of an earlier version on images of one's own, which kept no manifest: other images were held
    out then.
    """
    now = list(_rows(data))
    if not now:
        return
    path = folder / MANIFEST
    if not path.exists():
        if is_own(data.name):
            raise UserError(
                f"{folder} has no {MANIFEST}: an earlier version of nshot made it, which held out other images of "
                f"{data.name}; train again in a new --out"
            )
        return
    before = _read(path)
    if not halves:
        before, now = (
            [row._replace(part="train") if row.part == "valid" else row for row in rows] for rows in (before, now)
        )
        known = {row.name for row in before}
        now = [row for row in now if row.name in known or row.part != "train"] if some else now
    changed = _differences(*_readable(before, now, folder, data), _nameless(data))
    if changed:
        raise UserError(
            f"{data.name} is not what {folder} was made of ({'; '.join(changed)}): bring that back, or train in a new "
            "--out"
        )


def check_batches(folder: Path, data: Dataset, *, resized: bool) -> None:
    """Raises UserError where a training that goes on would be given other batches than it began with, though the images
    are the same: memory held them then, and now they are read from disk, or the other way round. Then ``resized`` crops
    are cut from another image, and what cannot be read has a place among the images or has none. Or they are rows of
    tables, which have no names to be sorted by, and these come in another order.
    """
    now, path = list(_rows(data)), folder / MANIFEST
    if not now or not path.exists():
        return
    before = _read(path)
    if _nameless(data) and _learned(before) != _learned(now):
        raise UserError(
            f"{folder} was begun with the rows of {data.name} in another order, by which its batches go: name and "
            "divide the files as they were, or train in a new --out"
        )
    held, holds = (any(row.digest for row in rows) for rows in (before, now))
    more = abs(len(before) - len(now))
    if held == holds or not (resized or more):
        return
    began, goes_on, memory = (
        ("in memory", "read from disk", "much") if held else ("read from disk", "in memory", "little")
    )
    why = "resized crops are cut from files that are read from disk" if resized else f"{more:,} cannot be read"
    raise UserError(
        f"{folder} was begun with images {began}, and now they are {goes_on}: its batches would be others, for {why}; "
        f"go on where there is as {memory} memory as then, or train in a new --out"
    )


def _rows(data: Dataset) -> Iterator[Row]:
    if data.split is not None and not is_own(data.name):  # of a set of ours the lists of a split file are all
        yield Row("split", "", *data.split)
    for part, images in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        for stored, label in zip(images.stored, images.labels[: len(images.stored)].tolist(), strict=True):
            name = data.names[label] if data.names else str(label)
            yield Row(part, name, stored.name, stored.size, stored.digest)


def _nameless(data: Dataset) -> bool:
    """Whether its images go by their content, as rows of a table do."""
    return any(stored.key == stored.digest for stored in data.train.stored[:1])


def _learned(rows: list[Row]) -> list[list[str]]:
    """The digests of what is learned from, in their order."""
    return [[row.digest for row in rows if row.part == part] for part in ("train", "valid")]


def _read(path: Path) -> list[Row]:
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
            lines = list(csv.reader(stream))
        if tuple(lines[0]) != Row._fields:
            raise ValueError("other columns")
        return [Row(part, label, name, int(size), digest) for part, label, name, size, digest in lines[1:]]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{path} is broken ({error}): train again in a new --out") from None


def _readable(before: list[Row], now: list[Row], folder: Path, data: Dataset) -> tuple[list[Row], list[Row]]:
    """The rows of a run and of its data set, but for those that the other lacks as they could not be read there; what
    has a digest was read."""
    then, here = {row.name for row in before}, {row.name for row in now}
    unread, was_unread = data.left_out.sizes, left_out_in(folder)
    return (
        [row for row in before if row.digest or row.name in here or unread.get(shown(row.name)) != row.bytes],
        [row for row in now if row.digest or row.name in then or shown(row.name) not in was_unread],
    )


def _differences(before: list[Row], now: list[Row], nameless: bool) -> list[str]:
    """What became of the images, a text a kind of change."""
    old, new = _keyed(before, nameless), _keyed(now, nameless)
    both = [key for key in new if key in old]
    replaced = {key: None for key in both if _other(old[key], new[key])}
    moved = [key for key in both if key not in replaced and old[key][:2] != new[key][:2]]
    found = {
        "added": [new[key].name for key in new if key not in old],
        "removed": [old[key].name for key in old if key not in new],
        "replaced": [new[key].name for key in replaced],
        "in another part": [new[key].name for key in moved],
    }
    return [f"{len(names):,} {what}, such as {shown(names[0])}" for what, names in found.items() if names]


def _keyed(rows: list[Row], nameless: bool) -> dict[tuple[str, int], Row]:
    """Rows by name, or by content; of those that are alike, by how many came before."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        key = row.digest if nameless else row.name
        found[key, seen[key]] = row
        seen[key] += 1
    return found


def _other(one: Row, other: Row) -> bool:
    """Whether two images of one name differ; where one of them was read from disk, as far as their sizes tell."""
    return one.bytes != other.bytes or (one.digest != other.digest and bool(one.digest and other.digest))
