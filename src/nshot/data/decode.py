"""Encoded images to pixels of one size: what is read, and how; Pillow's part is copied into what is handed over."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nshot.errors import UserError, first_line

from .memory import memory_here, processes_here

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # none that runs a program to be read
ENLARGED = 4  # a side that would have to grow by more holds too little to learn from
COPIES = 7  # bytes that retraining takes for each value of a pixel, at its peak


def too_small(side: int, resolution: int) -> str:
    """Why an image of this shorter side is left out at a resolution; empty where it is not."""
    return f"{side} pixels are too few for a resolution of {resolution}" if side * ENLARGED < resolution else ""


def stacked(pixels: Sequence[np.ndarray], where: Path | str) -> np.ndarray:
    """Images (N, H, W, 3); raises UserError where they are of different sizes."""
    if len({p.shape for p in pixels}) != 1:
        raise UserError(f"{where} has images of different sizes: expected one size")
    return np.stack(pixels)


def memory_needed(count: int, resolution: int | None, copies: int = COPIES) -> tuple[int, int]:
    """Bytes that so many images take, in all processes that train together here, and bytes that there are."""
    return processes_here() * copies * 3 * count * (resolution or 0) ** 2, memory_here()


def check_memory(count: int, resolution: int | None, where: Path | str, copies: int = COPIES) -> None:
    """Raises UserError for more images than the memory can hold."""
    needed, memory = memory_needed(count, resolution, copies)
    if needed > memory:
        each, fewer = (f" in {n} processes", ", fewer processes") if (n := processes_here()) > 1 else ("", "")
        raise UserError(
            f"{where}: {count:,} images at resolution {resolution} take about {needed / 1e9:.0f} GB{each}, and there "
            f"are {memory / 1e9:.0f} of memory here: choose a smaller --resolution{fewer}, or fewer images"
        )


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words, of whatever a decoder raised."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no image that can be read"
    return getattr(error, "strerror", None) or first_line(error) or type(error).__name__


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
    """An image that is open already, turned as its camera says, in RGB.

    Deeper pixels than 8 bits are scaled by the depth that the file declares (floats: from 0 to 1), what is transparent
    lies on white, CMYK goes by its colour profile; what does not say what its pixels mean raises ValueError.
    """
    from PIL import ImageOps

    white, inverted = _white(image), getattr(image, "tag_v2", {}).get(262) == 0  # Pillow inverts 8 bits alone
    turned = ImageOps.exif_transpose(image)
    if white is not None:
        return _shallow(turned, white, inverted)
    if turned.mode == "CMYK":
        return _from_cmyk(turned)
    if turned.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in turned.info:
        return _on_white(turned)
    return turned.convert("RGB")


def _white(image: "Image") -> float | None:
    """What white is in an image whose pixels are deeper than 8 bits; None for others."""
    if image.mode == "F":
        return 1.0
    if not image.mode.startswith("I"):
        return None
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(258, (16,))[0], tags.get(339, (1,))[0] == 2
    if bits > 16 or signed:
        raise ValueError(
            f"its pixels are {'signed ' if signed else ''}integers of {bits} bits: what white is, is not said"
        )
    if "transparency" in image.info:
        raise ValueError("one of its grey values of 16 bits is transparent")
    return 2.0**bits - 1


def _shallow(image: "Image", white: float, inverted: bool) -> "Image":
    """One channel of 0 to ``white`` as RGB; ``inverted``: as ``white`` to 0."""
    from PIL import Image

    image = image.convert("F")
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # no number where any pixel is none
    if not all(0 <= value <= white for value in (*image.getextrema(), mean)):
        raise ValueError(f"its pixels are not from 0 to {white:.0f}")
    scale, shift = (-255 / white, 255.5) if inverted else (255 / white, 0.5)  # the half: `convert` rounds down
    image = image.point(lambda value: value * scale + shift).convert("L").convert("RGB")
    image.info["deep"] = True
    return image


def _from_cmyk(image: "Image") -> "Image":
    """By the colour profile that lies in the file: without one, nobody knows its colours."""
    from PIL import ImageCms

    if not image.info.get("icc_profile"):
        raise ValueError("it is CMYK without a colour profile")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    # Colours that both can show stay as they are; the other intents move them.
    intent, srgb = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, profile, srgb, intent, outputMode="RGB")
    assert found is not None  # as it is not done in place
    return found


def _on_white(image: "Image") -> "Image":
    """What is transparent, on white."""
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def fit(image: "Image", side: int, crop: float = 1.0) -> "Image":
    """The central square of that share of the shorter side, resized to (side, side)."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR, bleed=(1 - crop) / 2)
