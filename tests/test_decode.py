"""Every kind of image file becomes the RGB pixels that its file declares; what does not declare them is left out."""

import io
import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nshot.data.decode import read
from nshot.data.images import Files
from nshot.data.sources import load

GREY = np.array([[0, 1000, 32768, 65535], [257, 128, 129, 60000]])  # of 16 bits
EIGHT = np.floor(GREY / 65535 * 255 + 0.5).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(
    data: bytes, size: tuple[int, int], bits: int, *, white_is_zero: bool = False, kind: int = 1, turned: int = 1
) -> bytes:
    """A grey TIFF of one strip; kind: 1 unsigned, 2 signed, 3 float."""
    width, height = size
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 0, 274: turned}
    tags |= {277: 1, 278: height, 279: len(data), 339: kind}
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # where the strip begins
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + data


def packed(values: np.ndarray) -> bytes:
    """Rows of 12 bits a value, as TIFF packs them."""
    rows = []
    for row in values.tolist():
        bits = "".join(f"{value:012b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows.append(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)))
    return b"".join(rows)


def pgm(values: np.ndarray, most: int) -> bytes:
    return f"P5 {values.shape[1]} {values.shape[0]} {most}\n".encode() + values.astype(">u2").tobytes()


def profile(lightness: Callable[[tuple[int, ...]], int]) -> bytes:
    """A CMYK colour profile in which each mixture of whole inks is a grey of that lightness (0 to 255)."""
    corners = b"".join(bytes([lightness(inks), 128, 128]) for inks in itertools.product((0, 1), repeat=4))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = (
        b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4 + corners + bytes(range(256)) * 3
    )
    head = struct.pack(">4xI4s4s4s12x4s", 0x02100000, b"prtr", b"CMYK", b"Lab ", b"acsp") + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)  # D50
    start = 128 + 4 + 12
    body = struct.pack(">I4sII", 1, b"A2B0", start, len(table)) + table
    size = 128 + len(body)
    return struct.pack(">I", size) + head + bytes(124 - len(head)) + body


def srgb_grey(lightness: int) -> float:
    """The sRGB value (0 to 255) of a grey of that lightness (0 to 255), above the linear piece of either curve."""
    luminance = ((lightness / 2.55 + 16) / 116) ** 3
    return 255 * (1.055 * luminance ** (1 / 2.4) - 0.055)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, 2)


def scaled(values: np.ndarray, most: float) -> np.ndarray:
    return rgb(np.floor(values / most * 255 + 0.5).astype(np.uint8))


TEN, TWELVE = GREY >> 6, GREY >> 4
FLOATS = (GREY / 65535).astype(np.float32)
PALETTE = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
PALETTE.putpalette([0, 0, 0, 200, 100, 50, 10, 20, 30])
ICON = np.array([[[0, 0, 0, 0], [200, 100, 0, 255], [0, 0, 0, 51], [50, 60, 70, 128]]], np.uint8)
ON_WHITE = (ICON[..., :3] * (ICON[..., 3:] / 255) + 255 * (1 - ICON[..., 3:] / 255)).round()
INKS = profile(lambda inks: 128 if inks == (1, 0, 0, 0) else 255 if inks == (0, 0, 0, 0) else 60)
CYAN = Image.new("CMYK", (2, 2), (255, 0, 0, 0))

TRUE = {
    "PNG of 16 bits": (saved(Image.fromarray(GREY.astype(np.uint16)), "PNG"), rgb(EIGHT)),
    "TIFF of 16 bits": (tiff(GREY.astype("<u2").tobytes(), (4, 2), 16), rgb(EIGHT)),
    "TIFF of 16 bits, white is zero": (
        tiff(GREY.astype("<u2").tobytes(), (4, 2), 16, white_is_zero=True),
        scaled(65535 - GREY, 65535),
    ),
    "TIFF of 16 bits, turned": (
        tiff(GREY.astype("<u2").tobytes(), (4, 2), 16, turned=6),
        np.rot90(rgb(EIGHT), -1),
    ),
    "TIFF of 12 bits": (tiff(packed(TWELVE), (4, 2), 12), scaled(TWELVE, 4095)),
    "PGM of 10 bits": (pgm(TEN, 1023), scaled(TEN, 1023)),
    "PGM of 12 bits": (pgm(TWELVE, 4095), scaled(TWELVE, 4095)),
    "PGM of 16 bits": (pgm(GREY, 65535), rgb(EIGHT)),
    "PPM of 10 bits": (b"P6 2 1 1023\n" + struct.pack(">6H", 1023, 0, 512, 1, 2, 1000), [[[255, 0, 128], [0, 0, 249]]]),
    "TIFF of floats": (saved(Image.fromarray(FLOATS), "TIFF"), scaled(FLOATS.astype(np.float64), 1)),
    "TIFF of floats, white is zero": (
        tiff(FLOATS.astype("<f4").tobytes(), (4, 2), 32, kind=3, white_is_zero=True),
        scaled(1 - FLOATS.astype(np.float64), 1),
    ),
    "PNG of 1 bit": (
        saved(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "PNG"),
        [[[0] * 3, [255] * 3]],
    ),
    "TIFF of 8 bits, white is zero": (tiff(bytes([0, 200]), (2, 1), 8, white_is_zero=True), [[[255] * 3, [55] * 3]]),
    "RGBA": (saved(Image.fromarray(ICON), "PNG"), ON_WHITE),
    "RGBA as WebP": (saved(Image.fromarray(ICON), "WEBP", lossless=True, exact=True), ON_WHITE),
    "grey with alpha": (
        saved(Image.fromarray(np.array([[[0, 0], [200, 255], [0, 51]]], np.uint8), "LA"), "PNG"),
        [[[255] * 3, [200] * 3, [204] * 3]],
    ),
    "palette": (saved(PALETTE, "PNG"), [[[0, 0, 0], [200, 100, 50], [10, 20, 30]]]),
    "palette with a transparent colour": (
        saved(PALETTE, "PNG", transparency=0),
        [[[255] * 3, [200, 100, 50], [10, 20, 30]]],
    ),
    "palette with transparent shares": (
        saved(PALETTE, "PNG", transparency=b"\x00\xff\x33"),
        [[[255] * 3, [200, 100, 50], [206, 208, 210]]],
    ),
    "GIF with a transparent colour": (
        saved(PALETTE, "GIF", transparency=1),
        [[[0, 0, 0], [255] * 3, [10, 20, 30]]],
    ),
    "RGB with a transparent colour": (
        saved(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), "PNG", transparency=(1, 2, 3)),
        [[[255] * 3, [4, 5, 6]]],
    ),
    "grey with a transparent value": (
        saved(Image.fromarray(np.array([[7, 8]], np.uint8)), "PNG", transparency=7),
        [[[255] * 3, [8] * 3]],
    ),
    "CMYK with a profile, TIFF": (saved(CYAN, "TIFF", icc_profile=INKS), np.full((2, 2, 3), srgb_grey(128))),
    "CMYK with a profile, JPEG": (
        saved(CYAN, "JPEG", quality=100, icc_profile=INKS),
        np.full((2, 2, 3), srgb_grey(128)),
    ),
}


@pytest.mark.parametrize("kind", TRUE)
def test_pixels_are_those_that_the_file_declares(kind: str) -> None:
    data, expected = TRUE[kind]
    image = read(data, None)
    assert image.mode == "RGB"
    found, wanted = np.asarray(image).astype(int), np.asarray(expected)
    assert found.shape == wanted.shape
    # Whole values must be exact; where colours are mixed or computed they are rounded in more than one step.
    assert np.abs(found - wanted).max() <= (0 if wanted.dtype == np.uint8 or wanted.dtype == int else 1)


UNTRUE = {
    "TIFF of 10 bits": (tiff(bytes(10), (4, 2), 10), "it is no image that can be read"),
    "TIFF of signed 16 bits": (
        tiff(np.array([[-5, 7]], "<i2").tobytes(), (2, 1), 16, kind=2),
        "signed integers of 16 bits",
    ),
    "TIFF of 32 bits": (tiff(np.array([[5, 2**31]], "<u4").tobytes(), (2, 1), 32), "integers of 32 bits"),
    "TIFF of signed 32 bits": (saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "signed integers of 32 bits"),
    "TIFF of floats beyond 1": (saved(Image.fromarray(FLOATS * 255), "TIFF"), "its pixels are not from 0 to 1"),
    "TIFF of floats below 0": (saved(Image.fromarray(FLOATS - 0.1), "TIFF"), "its pixels are not from 0 to 1"),
    "TIFF of no numbers": (saved(Image.fromarray(FLOATS * np.nan), "TIFF"), "its pixels are not from 0 to 1"),
    "TIFF with one that is no number": (
        saved(Image.fromarray(np.where(FLOATS == 1, np.nan, FLOATS).astype(np.float32)), "TIFF"),
        "its pixels are not from 0 to 1",
    ),
    "PNG of 16 bits with a transparent value": (
        saved(Image.fromarray(GREY.astype(np.uint16)), "PNG", transparency=1000),
        "one of its grey values of 16 bits is transparent",
    ),
    "CMYK without a profile": (saved(CYAN, "JPEG"), "it is CMYK without a colour profile"),
    "CMYK with a broken profile": (saved(CYAN, "JPEG", icc_profile=b"no profile"), "cannot open profile"),
    "half of a PNG": (saved(Image.fromarray(ICON), "PNG")[:60], ""),
    "half of a JPEG": (saved(Image.effect_noise((64, 64), 50), "JPEG")[:900], "image file is truncated"),
    "no bytes": (b"", "it is no image that can be read"),
    "text": (b"no image", "it is no image that can be read"),
    "an image too large to be meant": (
        saved(Image.new("1", (20000, 20000)), "PNG"),
        "exceeds limit",
    ),
}


@pytest.mark.parametrize("kind", UNTRUE)
def test_what_cannot_be_read_truly_is_left_out_and_named(kind: str, tmp_path: Path) -> None:
    data, why = UNTRUE[kind]
    for part, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        (tmp_path / part / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / part / name / f"{i}.png")
    (tmp_path / "train" / "cat" / "odd.tif").write_bytes(data)
    said: list[str] = []
    found = load(f"imagefolder:{tmp_path}", resolution=8, say=said.append)
    assert len(found.train) + len(found.valid) == 6
    assert len(said) == 1
    assert "1 of 13 images are left out (first: train/cat/odd.tif: " in said[0]
    assert why in found.left_out["train/cat/odd.tif"]
    # Read from disk as it is needed, it ends the same way: another of its class stands in, and it is named.
    paths = sorted((tmp_path / "train" / "cat").iterdir())
    files = Files(paths, torch.zeros(4, dtype=torch.int64), 8)
    at = [path.name for path in paths].index("odd.tif")
    stands_in, first = files.squares(torch.tensor([at, 0]))
    assert torch.equal(stands_in, first)  # odd.tif is the last, so the first comes after it
    assert why in files.left_out[str(paths[at])]
    assert len(files.loaded()) == 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_the_camera_says(orientation: int, kind: str) -> None:
    shown = np.zeros((16, 32, 3), np.uint8)
    shown[:8, :16], shown[:8, 16:], shown[8:, :16] = 255, 160, 80  # four shades, one a quarter
    # How a camera held in each way stores what it sees (Exif 2.3, tag 274: which edge the rows and columns are).
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown),
        7: np.rot90(shown, 2).transpose(1, 0, 2),
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = np.asarray(read(saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options), None))
    assert np.abs(found.astype(int) - shown).max() <= (2 if kind == "JPEG" else 0)


def test_deep_pixels_that_use_little_of_their_range_are_said(tmp_path: Path) -> None:
    """Scanners write 12 bits into files that declare 16, which nothing tells from a dark image."""
    for part, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        (tmp_path / part / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8), 4095 if i else 65535, np.uint16)).save(tmp_path / part / name / f"{i}.png")
    said: list[str] = []
    load(f"imagefolder:{tmp_path}", resolution=8, say=said.append)
    assert said == [
        f"{tmp_path.name}: 8 of 12 images have deeper pixels than 8 bits and use a sixteenth of their range: are they "
        "of fewer bits? (first: train/cat/1.png)"
    ]
