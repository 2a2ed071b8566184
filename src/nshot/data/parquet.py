"""Images from Hugging Face parquet files: a column of encoded bytes, a column of labels."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nshot.errors import UserError

from .sources import Images


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
            wanted = f"img or image, and {' or '.join(label_columns)}"
            raise UserError(f"data file {file} has columns {', '.join(names)}: expected {wanted}")
        try:
            pixels += [_decode(entry["bytes"]) for entry in table.column(image).to_pylist()]
        except (OSError, TypeError, KeyError) as error:
            raise UserError(f"data file {file} holds an image that cannot be decoded ({_first_line(error)})") from None
        labels.append(np.array(table.column(label).to_pylist()))
    if not pixels:
        raise UserError(f"{folder} has no images in {part}-*.parquet: fetch the data set again")
    if len({p.shape for p in pixels}) != 1:
        raise UserError(f"{folder} has images of different sizes: expected one size")
    return checked(np.stack(pixels), labels, classes, folder)


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
