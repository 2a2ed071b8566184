"""Images from Hugging Face parquet files, a column of encoded bytes and a column of labels: CIFAR's, and any."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nshot.errors import UserError

from .decode import Encoded, check_memory, decode, stacked
from .images import Images
from .own import assembled, check_classes, find_parts
from .sources import Say, Source, own

if TYPE_CHECKING:
    import pyarrow as pa


@own.register("parquet")
def parquet(folder: Path, resolution: int | None, say: Say) -> Source:
    """Files ``train-*.parquet``, with ``validation-*`` (or ``valid-*``, ``val-*``) and ``test-*`` where they are.

    The columns and the names of the classes are those that the schema's ``huggingface`` metadata tells; without it the
    columns must be named ``image`` or ``img``, and ``label`` or ``labels``.
    """
    files = find_parts(folder, lambda name: sorted(folder.glob(f"{name}-*.parquet")), "{}-*.parquet")
    tables = {part: [(path, _table(path)) for path in paths] for part, paths in files.items()}
    check_memory(sum(table.num_rows for some in tables.values() for _, table in some), resolution, folder)
    told = _class_names(*tables["train"][0])
    for path, table in (pair for some in tables.values() for pair in some):
        if _class_names(path, table) != told:
            raise UserError(f"{path} names other classes than {files['train'][0]}: all parts must have the same")
    names = told or _numbered([_labels(path, table) for path, table in tables["train"]], folder)
    check_classes(names, folder)
    parts = {part: _read(some, len(names), resolution, say) for part, some in tables.items()}
    return assembled(parts, names, folder, say)


def _read(tables: Sequence[tuple[Path, "pa.Table"]], classes: int, resolution: int | None, say: Say) -> Images:
    """The images of a part."""
    pixels: list[np.ndarray] = []
    labels = []
    for path, table in tables:
        images = table.column(_columns(path, table)[0]).to_pylist()
        stored = [image.get("bytes") if isinstance(image, dict) else image for image in images]
        encoded = [Encoded(f"row {i} of {path.name}", data) for i, data in enumerate(stored)]
        some, kept = decode(encoded, resolution, path.name, say)
        pixels += some
        labels.append(_labels(path, table)[kept])
    folder = tables[0][0].parent
    if not pixels:
        raise UserError(f"{tables[0][0]} has no images that can be read: put some there, or take the file away")
    return checked(stacked(pixels, folder), labels, classes, folder)


def _columns(path: Path, table: "pa.Table") -> tuple[str, str]:
    """The names of the column of images and of the column of labels."""
    told = _features(table)
    names = table.column_names
    images = [c for c in names if told.get(c, {}).get("_type") == "Image"] or [
        c for c in ("image", "img") if c in names
    ]
    labels = [c for c in names if told.get(c, {}).get("_type") == "ClassLabel"]
    labels = [c for c in ("label", "labels") if c in (labels or names)] or labels
    if not images or not labels:
        wanted = "image or img, and label or labels"
        raise UserError(f"data file {path} has columns {', '.join(names)}: expected {wanted}")
    return images[0], labels[0]


def _features(table: "pa.Table") -> dict[str, dict[str, Any]]:
    """What the library that wrote the file says of its columns."""
    stored = (table.schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(stored)["info"]["features"] if stored else {}
        return {name: told for name, told in features.items() if isinstance(told, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # such metadata is a help, nothing more


def _class_names(path: Path, table: "pa.Table") -> tuple[str, ...]:
    """The classes that the file itself names, if any."""
    return tuple(map(str, _features(table).get(_columns(path, table)[1], {}).get("names", ())))


def _labels(path: Path, table: "pa.Table") -> np.ndarray:
    """The labels (N,); raises UserError where they are not all whole numbers."""
    import pyarrow as pa

    name = _columns(path, table)[1]
    column = table.column(name)
    if not pa.types.is_integer(column.type) or column.null_count:
        kinds = f"{column.type} with {column.null_count} missing"
        raise UserError(f"data file {path} has labels ({name}) of type {kinds}: expected a whole number each")
    return column.to_numpy().astype(np.int64)


def _numbered(labels: Sequence[np.ndarray], where: Path) -> tuple[str, ...]:
    """The classes of labels that nobody named: 0 to the highest."""
    every = np.unique(np.concatenate(labels))
    if len(every) and not np.array_equal(every, np.arange(len(every))):
        gap = next(i for i, label in enumerate(every) if label != i)
        raise UserError(
            f"{where} has labels {every[0]} to {every[-1]}, but no {gap}: expected 0, 1, 2, ... without gaps"
        )
    return tuple(map(str, every))


def _table(file: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"data file {file} cannot be read ({_first_line(error)}): fetch it again") from None


def read_parquet(folder: Path, part: str, label_columns: tuple[str, ...], classes: int) -> Images:
    """Images of all files ``part-*.parquet``.

    Args:
        folder: where the files lie.
        part: ``train`` or ``test``.
        label_columns: names the label may have, the first that is there counts; images are in ``img`` or ``image``.
        classes: labels must be from 0 to below it.

    Raises:
        UserError: for a file that is missing, truncated, without the columns, or whose content does not fit.
    """
    files = sorted(folder.glob(f"{part}-*.parquet"))
    if not files:
        raise UserError(f"no {part}-*.parquet in {folder}: fetch the data set again")
    pixels, labels = [], []
    for file in files:
        table = _table(file)
        names = table.column_names
        image = next((c for c in ("img", "image") if c in names), None)
        label = next((c for c in label_columns if c in names), None)
        if image is None or label is None:
            wanted = f"img or image, and {' or '.join(label_columns)}"
            raise UserError(f"data file {file} has columns {', '.join(names)}: expected {wanted}")
        try:
            pixels += [_decode(entry["bytes"]) for entry in table.column(image).to_pylist()]
        except (OSError, TypeError, KeyError) as error:
            raise UserError(f"data file {file} holds an image that cannot be decoded ({_first_line(error)})") from None
        labels.append(np.array(table.column(label).to_pylist()))
    if not pixels:
        raise UserError(f"{folder} has no images in {part}-*.parquet: fetch the data set again")
    return checked(stacked(pixels, folder), labels, classes, folder)


def checked(pixels: np.ndarray, labels: Sequence[np.ndarray], classes: int, where: Path) -> Images:
    """Images of uint8 (N, H, W, 3) and their labels; raises UserError where the labels do not fit."""
    target = np.concatenate(labels)
    if target.dtype.kind not in "iu" or target.shape != (len(pixels),):
        kinds = f"{len(target)} labels such as {target[:1]} of type {target.dtype} for {len(pixels)} images"
        raise UserError(f"{where} has {kinds}: expected one whole number each")
    if target.min() < 0 or target.max() >= classes:
        raise UserError(f"{where} has labels {target.min()} to {target.max()}: expected 0 to {classes - 1}")
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(target.astype(np.int64)))


def _decode(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
