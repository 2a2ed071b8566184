"""Encoded images to pixels of one size, decoded in threads as they are loaded."""

import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nshot.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # none that runs a program to be read
ENLARGED = 4  # a side that would have to grow by more holds too little to learn from
EVERY = 10.0  # seconds between lines about the progress
COPIES = 7  # bytes that retraining takes for each value of a pixel, at its peak


class Encoded(NamedTuple):
    """An image as it is stored: what it is called, and its file or its bytes."""

    name: str
    data: Path | bytes | None


class _Decoded(NamedTuple):
    pixels: np.ndarray | None
    side: int
    trouble: str


def decode(
    images: Sequence[Encoded], resolution: int | None, where: str, say: Callable[[str], None]
) -> tuple[list[np.ndarray], list[int]]:
    """Pixels of the images that can be read, and their positions; what is left out or enlarged is said.

    Args:
        images: what to read.
        resolution: the shorter side is resized to it, the longer one cropped at its centre; None leaves sizes alone.
        where: names the images in what is said.
        say: takes lines for the user.

    Returns:
        uint8 (H, W, 3) each, upright and in RGB (alpha is dropped), and the positions of those in ``images``.

    Raises:
        UserError: for an image that is much smaller than the resolution.
    """
    found: list[_Decoded] = []
    told = time.monotonic()
    with ThreadPoolExecutor() as threads:
        for one in threads.map(lambda image: _decode(image.data, resolution), images):
            if one.pixels is not None:
                check_size(images[len(found)].name, one.side, resolution or 0)
            found.append(one)
            if time.monotonic() - told > EVERY:
                told = time.monotonic()
                say(f"{where}: {len(found):,} of {len(images):,} images read")
    bad = [i for i, one in enumerate(found) if one.pixels is None]
    if bad:
        first = f"{images[bad[0]].name}: {found[bad[0]].trouble}"
        say(f"{where}: {len(bad)} of {len(images):,} images cannot be read and are left out (first: {first})")
    small = [i for i, one in enumerate(found) if one.pixels is not None and one.side < (resolution or 0)]
    if small:
        first = f"{images[small[0]].name}, {found[small[0]].side} pixels"
        say(f"{where}: {len(small)} of {len(images):,} images are enlarged to {resolution} pixels (first: {first})")
    good = [i for i, one in enumerate(found) if one.pixels is not None]
    return [pixels for pixels, _, _ in found if pixels is not None], good


def check_size(name: str | Path, side: int, resolution: int) -> None:
    """Raises UserError for an image that is much smaller than the resolution."""
    if side * ENLARGED < resolution:
        raise UserError(
            f"{name} is {side} pixels small: too few for a resolution of {resolution}; "
            "take it out, or choose a smaller --resolution"
        )


def stacked(pixels: Sequence[np.ndarray], where: Path | str) -> np.ndarray:
    """Images (N, H, W, 3); raises UserError where they are of different sizes."""
    if len({p.shape for p in pixels}) != 1:
        raise UserError(f"{where} has images of different sizes: expected one size")
    return np.stack(pixels)


def memory_needed(count: int, resolution: int | None, copies: int = COPIES) -> tuple[int, int]:
    """Bytes that so many images take, and bytes that this machine has."""
    return copies * 3 * count * (resolution or 0) ** 2, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(count: int, resolution: int | None, where: Path | str, copies: int = COPIES) -> None:
    """Raises UserError for more images than this machine's memory can hold."""
    needed, memory = memory_needed(count, resolution, copies)
    if needed > memory:
        raise UserError(
            f"{where}: {count:,} images at resolution {resolution} take about {needed / 1e9:.0f} GB, this machine has "
            f"{memory / 1e9:.0f}: choose a smaller --resolution, or fewer images"
        )


def _decode(data: Path | bytes | None, resolution: int | None) -> _Decoded:
    from PIL import UnidentifiedImageError

    if data is None:
        return _Decoded(None, 0, "it has no bytes")
    try:
        image = read(data, resolution)
    except UnidentifiedImageError:
        return _Decoded(None, 0, "no image")
    except Exception as error:  # a broken file can raise anything
        return _Decoded(None, 0, str(error).partition("\n")[0] or type(error).__name__)
    side = image.info["side"]
    return _Decoded(np.asarray(image if resolution is None else fit(image, resolution)), side, "")


def read(data: Path | bytes, resolution: int | None) -> "Image":
    """An image, upright and in RGB, its shorter side in ``info["side"]``; raises whatever a broken file does.

    Where a resolution is given, one that is larger may come smaller than it is stored, but not below that.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as stored:
        side = min(stored.size)
        if resolution is not None:
            stored.draft("RGB", (resolution, resolution))  # JPEG is decoded no larger than it has to be
        image = upright(stored)
    image.info["side"] = side
    return image


def upright(image: "Image") -> "Image":
    """An image that is open already, turned as its camera says, in RGB."""
    from PIL import ImageOps

    return _rgb(ImageOps.exif_transpose(image))


def fit(image: "Image", side: int, crop: float = 1.0) -> "Image":
    """The central square of that share of the shorter side, resized to (side, side)."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR, bleed=(1 - crop) / 2)


def _rgb(image: "Image") -> "Image":
    if image.mode == "F":
        raise ValueError("its pixels are floats")
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip to 255
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    elif image.mode == "P":
        image = image.convert("RGBA")  # else Pillow warns of palettes with transparency
    return image.convert("RGB")
