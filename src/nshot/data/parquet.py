"""Images from Hugging Face parquet files, a column of encoded images and a column of labels: CIFAR's, and any."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nshot.errors import Say, UserError, first_line

from .columns import Columns, columns_of, holds_texts
from .decode import check_memory, read, reason, stacked
from .images import Images
from .listing import PARTS, check_classes, find_parts
from .own import assembled
from .reading import Encoded, Reader, Stored
from .sources import Source, own

if TYPE_CHECKING:
    import pyarrow as pa

Part = list[tuple[Path, Columns, "pa.Table"]]  # its files, which of their columns count, and those


@own.register("parquet")
def parquet(
    folder: Path, resolution: int | None, say: Say, *, image: str | None = None, label: str | None = None
) -> Source:
    """Files ``train-*.parquet``, with ``validation-*`` (or ``valid-*``, ``val-*``) and ``test-*`` where they are.

    They lie in the folder, or in the one folder below it that has such files, as ``data`` or that of a configuration.
    Which columns count is told by the files, see `columns_of`, or by ``image`` and ``label``. Labels that are texts are
    the names of their classes.
    """
    home = _home(folder)
    files = find_parts(home, lambda name: part_files(home, name), "{}-*.parquet")
    parts: dict[str, Part] = {part: [_opened(path, image, label) for path in paths] for part, paths in files.items()}
    every = [one for some in parts.values() for one in some]
    check_memory(sum(table.num_rows for *_, table in every), resolution, folder)
    told = every[0][1].names
    for path, columns, _ in every:
        if columns.names != told:
            raise UserError(f"{path} names other classes than {every[0][0]}: all parts must have the same")
    names = told or _names(parts["train"], folder)
    check_classes(names, folder)
    reader = Reader(folder.name, resolution, say, nameless=True)
    images = {part: _read(some, names, reader) for part, some in parts.items()}
    reader.tell()
    return assembled(images, names, folder, say, reader.left_out)


def stored_images(folder: Path, count: int, *, image: str | None = None, label: str | None = None) -> list[bytes]:
    """The first images of such a folder that have bytes, as they are stored. Raises UserError as `parquet`."""
    home = _home(folder)
    found: list[bytes] = []
    for path in find_parts(home, lambda name: part_files(home, name), "{}-*.parquet")["train"]:
        found += [cell for cell in _cells(*_opened(path, image, label)) if cell is not None]
        if len(found) >= count:
            break
    return found[:count]


def part_files(folder: Path, name: str) -> list[Path]:
    """The files of a part: ``name-*.parquet``. Raises UserError where some of a numbered set are missing."""
    found = sorted(folder.glob(f"{name}-*.parquet"))
    numbers = [re.search(r"-(\d{5})-of-(\d{5})", path.name) for path in found]
    numbered = [(int(number[1]), int(number[2])) for number in numbers if number]
    if numbered:
        count = numbered[0][1]
        if sorted(numbered) != [(i, count) for i in range(count)]:
            have = len({i for i, _ in numbered})
            raise UserError(
                f"{folder} has {have} of the {count} files {name}-*-of-{count:05d}.parquet: fetch them again"
            )
    return found


def _home(folder: Path) -> Path:
    """The folder itself, or the one below it, that has files to train on."""
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    (train,) = PARTS["train"]
    homes = [home for home in (folder, *below) if any(home.glob(f"{train}-*.parquet"))]
    if len(homes) > 1:
        named = " and ".join(home.name for home in homes)
        raise UserError(f"{folder} has {train}-*.parquet in {named}: name one of these folders, as parquet:{homes[1]}")
    return homes[0] if homes else folder


def _opened(path: Path, image: str | None, label: str | None) -> tuple[Path, Columns, "pa.Table"]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = columns_of(path, pq.read_schema(path), image, label)
        table = pq.read_table(path, columns=[columns.image, columns.label])
        table.validate(full=True)  # texts that are none would be met only where they are used
        return path, columns, table
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(f"data file {path} cannot be read ({first_line(error)}): fetch it again") from None


def _read(part: Part, names: Sequence[str], reader: Reader) -> Images:
    """The images of a part."""
    pixels: list[np.ndarray] = []
    stored: list[Stored] = []
    labels = []
    for path, columns, table in part:
        encoded = [Encoded(f"row {i} of {path.name}", data) for i, data in enumerate(_cells(path, columns, table))]
        some, as_stored, kept = reader(encoded, path.name)
        pixels += some
        stored += as_stored
        labels.append(_labels(path, columns, table, names)[kept])
    first = part[0][0]
    if not pixels:
        raise UserError(f"{first} has no images that can be read: put some there, or take the file away")
    return checked(stacked(pixels, first.parent), labels, len(names), first.parent, stored)


def _cells(path: Path, columns: Columns, table: "pa.Table") -> list[bytes | None]:
    """The encoded images of a file."""
    cells = table.column(columns.image).to_pylist()
    return [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]


def _labels(path: Path, columns: Columns, table: "pa.Table", names: Sequence[str]) -> np.ndarray:
    """The labels (N,); raises UserError where one is missing, or of no class.

    Numbers are positions among classes that the files name. Else a class goes by what it is called, in every part.
    """
    values = _values(path, columns, table)
    if columns.names:
        return values.astype(np.int64)
    places = {name: i for i, name in enumerate(names)}
    unknown = next((value for value in values if str(value) not in places), None)
    if unknown is not None:
        raise UserError(f"data file {path} has the label {str(unknown)!r}, which no image to train on has: take it out")
    return np.array([places[str(value)] for value in values], np.int64)


def _values(path: Path, columns: Columns, table: "pa.Table") -> np.ndarray:
    """The labels as they are stored, whole numbers or texts (N,); raises UserError where not all are such."""
    import pyarrow as pa

    column = table.column(columns.label)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if column.null_count or not (pa.types.is_integer(kind) or (holds_texts(kind) and not columns.names)):
        kinds = f"{kind} with {column.null_count} missing"
        wanted = "a whole number" if columns.names else "a whole number or a text"
        raise UserError(f"data file {path} has labels ({columns.label}) of type {kinds}: expected {wanted} each")
    values = column.to_pylist()
    if not pa.types.is_integer(kind):
        return np.array([str(value) for value in values], object)
    if values and max(values) >= 2**63:
        raise UserError(f"data file {path} has the label {max(values)} ({columns.label}): expected 0, 1, 2, ...")
    return np.array(values, np.int64)


def _names(train: Part, where: Path) -> tuple[str, ...]:
    """The classes of labels that nobody named: the texts in order, or the numbers 0 to the highest."""
    kinds = {values.dtype.kind for values in (_values(*one) for one in train)}
    if len(kinds) > 1:
        raise UserError(f"{where} has labels that are texts in some files and numbers in others: make them alike")
    every = np.unique(np.concatenate([_values(*one) for one in train]))
    if kinds != {"O"} and len(every) and not np.array_equal(every, np.arange(len(every))):
        if every[0] < 0:
            raise UserError(f"{where} has the label {every[0]}: expected 0, 1, 2, ... without gaps")
        gap = next(i for i, label in enumerate(every) if label != i)
        raise UserError(
            f"{where} has labels {every[0]} to {every[-1]}, but no {gap}: expected 0, 1, 2, ... without gaps"
        )
    return tuple(map(str, every))


def read_known(folder: Path, part: str, label_columns: tuple[str, ...], classes: int) -> Images:
    """Images of all files ``part-*.parquet`` of a data set that is known.

    Args:
        folder: where the files lie.
        part: ``train`` or ``test``.
        label_columns: names the label may have, the first that is there counts; images are in ``img`` or ``image``.
        classes: labels must be from 0 to below it.

    Raises:
        UserError: for a file that is missing, truncated, without the columns, or whose content does not fit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = part_files(folder, part)
    if not files:
        raise UserError(f"no {part}-*.parquet in {folder}: fetch the data set again")
    pixels, labels = [], []
    for file in files:
        try:
            table = pq.read_table(file)
            table.validate(full=True)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise UserError(f"data file {file} cannot be read ({first_line(error)}): fetch it again") from None
        names = table.column_names
        image = next((c for c in ("img", "image") if c in names), None)
        label = next((c for c in label_columns if c in names), None)
        if image is None or label is None:
            wanted = f"img or image, and {' or '.join(label_columns)}"
            raise UserError(f"data file {file} has columns {', '.join(names)}: expected {wanted}")
        try:
            pixels += [np.asarray(read(entry["bytes"], None)) for entry in table.column(image).to_pylist()]
        except Exception as error:  # a broken file can raise anything
            raise UserError(f"data file {file} holds an image that cannot be decoded ({reason(error)})") from None
        labels.append(np.array(table.column(label).to_pylist()))
    if not pixels:
        raise UserError(f"{folder} has no images in {part}-*.parquet: fetch the data set again")
    return checked(stacked(pixels, folder), labels, classes, folder)


def checked(
    pixels: np.ndarray, labels: Sequence[np.ndarray], classes: int, where: Path, stored: Sequence[Stored] = ()
) -> Images:
    """Images of uint8 (N, H, W, 3) and their labels; raises UserError where the labels do not fit."""
    target = np.concatenate(labels)
    if target.dtype.kind not in "iu" or target.shape != (len(pixels),):
        kinds = f"{len(target)} labels such as {target[:1]} of type {target.dtype} for {len(pixels)} images"
        raise UserError(f"{where} has {kinds}: expected one whole number each")
    if target.min() < 0 or target.max() >= classes:
        raise UserError(f"{where} has labels {target.min()} to {target.max()}: expected 0 to {classes - 1}")
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(target.astype(np.int64)), stored)
