"""Hostile and odd folders of images: one line of error, or the right number of images; never a traceback."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers import nshot_, refuse
from nshot.auto.look import stored_side
from nshot.data.sources import load
from test_data import png

SMOKE = ["train", "spos", "--preset", "smoke", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
EACH = 12  # images of each of two classes in each of train and test


def picture(i: int, side: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8))


def pets(home: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (home / part / name).mkdir(parents=True)
            for i in range(EACH):
                picture(i).save(home / part / name / f"{i}.png")
    return home


def linked_folder(home: Path) -> None:
    (home / "train" / "cat").rename(home.parent / "elsewhere")
    (home / "train" / "cat").symlink_to(home.parent / "elsewhere")


def linked_below(home: Path) -> None:
    (home.parent / "elsewhere").mkdir()
    for i in range(5):
        picture(50 + i).save(home.parent / "elsewhere" / f"{i}.png")
    (home / "train" / "cat" / "more").symlink_to(home.parent / "elsewhere")


def linked_files(home: Path) -> None:
    for i in range(3):
        (home / "train" / "cat" / f"link{i}.png").symlink_to(home / "train" / "cat" / "0.png")


def loop(home: Path) -> None:
    (home / "train" / "cat" / "again").symlink_to(home / "train" / "cat")


def loop_above(home: Path) -> None:
    (home / "train" / "cat" / "all").symlink_to(home)


def loop_of_two(home: Path) -> None:
    for name in ("a", "b"):
        (home.parent / name).mkdir()
    (home.parent / "a" / "b").symlink_to(home.parent / "b")
    (home.parent / "b" / "a").symlink_to(home.parent / "a")
    (home / "train" / "cat" / "a").symlink_to(home.parent / "a")


def link_to_itself(home: Path) -> None:
    (home / "train" / "cat" / "me.png").symlink_to(home / "train" / "cat" / "me.png")


def broken_links(home: Path) -> None:
    for i in range(2):
        (home / "train" / "cat" / f"gone{i}.png").symlink_to(home / "nowhere.png")


def broken_class(home: Path) -> None:
    (home / "train" / "emu").symlink_to(home / "nowhere")


def pipe(home: Path) -> None:
    os.mkfifo(home / "train" / "cat" / "pipe.png")


def folder_like_an_image(home: Path) -> None:
    (home / "train" / "cat" / "folder.png").mkdir()
    picture(77).save(home / "train" / "cat" / "folder.png" / "inside.png")


def no_text(home: Path) -> None:
    place = os.fsencode(home / "train" / "cat")
    for i, name in enumerate((b"caf\xe9.png", b"line\nbreak.png", b"tab\t.png", "\u3000ü🐱.png".encode())):
        with open(place + b"/" + name, "wb") as stream:
            stream.write(png(np.asarray(picture(60 + i))))


def broken_no_text(home: Path) -> None:
    with open(os.fsencode(home / "train" / "cat") + b"/0\xe9\n.png", "wb") as stream:
        stream.write(b"broken")


def class_no_text(home: Path) -> None:
    for part in ("train", "test"):
        os.rename(home / part / "cat", os.fsencode(home / part) + b"/caf\xe9")


def class_of_two_lines(home: Path) -> None:
    for part in ("train", "test"):
        (home / part / "cat").rename(home / part / "cat\nfish")


def classes_of_any_script(home: Path) -> None:
    for part in ("train", "test"):
        (home / part / "cat").rename(home / part / '猫\u3000と, "é"\u200d🐱')


def long_names(home: Path) -> None:
    picture(70).save(home / "train" / "cat" / f"{'x' * 250}.png")


def hidden(home: Path) -> None:
    (home / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (home / "train" / "cat" / "._0.png").write_bytes(b"x")  # what macOS leaves beside a file
    (home / "train" / ".ipynb_checkpoints").mkdir()
    (home / ".git").mkdir()


def macos_archive(home: Path) -> None:
    shutil.copytree(home / "train", home / "__MACOSX" / "train")


def empty_files(home: Path) -> None:
    for i in range(3):
        (home / "train" / "cat" / f"empty{i}.png").write_bytes(b"")


def half_files(home: Path) -> None:
    for i in range(3):
        path = home / "train" / "cat" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:-200])


def web_pages(home: Path) -> None:
    for i in range(3):
        (home / "train" / "cat" / f"page{i}.jpg").write_text("<!DOCTYPE html><html>403 Forbidden</html>")


def other_formats(home: Path) -> None:
    """What a camera or a program leaves, which is no image to us; and PostScript, which would be run to be read."""
    (home / "train" / "cat" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (home / "train" / "cat" / "b.svg").write_text("<svg/>")
    (home / "train" / "cat" / "c.mp4").write_bytes(b"\0")
    (home / "train" / "cat" / "d.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


def wrong_suffixes(home: Path) -> None:
    (home / "train" / "cat" / "0.png").rename(home / "train" / "cat" / "0.jpg")
    picture(80).save(home / "train" / "cat" / "1.png", "WEBP")
    (home / "train" / "cat" / "2.png").rename(home / "train" / "cat" / "2.PNG")


def two_pictures_in_one(home: Path) -> None:
    """Phones write JPEGs with a second picture behind the first; GIFs and TIFFs have many: the first counts."""
    picture(1).save(home / "train" / "cat" / "phone.jpg", "MPO", save_all=True, append_images=[picture(2)])
    picture(1).save(home / "train" / "cat" / "many.gif", save_all=True, append_images=[picture(2)])
    picture(1).save(home / "train" / "cat" / "pages.tif", save_all=True, append_images=[picture(2)])


def bombs(home: Path) -> None:
    Image.new("1", (20000, 20000)).save(home / "train" / "cat" / "bomb.png")
    bomb = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    (home / "train" / "cat" / "bomb.bmp").write_bytes(bomb)


def tiny(home: Path) -> None:
    for i in range(4):
        picture(i, 1).save(home / "train" / "cat" / f"pixel{i}.png")


def extreme_shapes(home: Path) -> None:
    Image.new("RGB", (3000, 8)).save(home / "train" / "cat" / "wide.png")
    Image.new("RGB", (8, 3000)).save(home / "train" / "cat" / "high.jpg")


def no_images(home: Path) -> None:
    for path in (home / "train" / "cat").iterdir():
        path.write_bytes(b"x")


def empty_class(home: Path) -> None:
    for part in ("train", "test"):
        (home / part / "emu").mkdir()


def images_without_class(home: Path) -> None:
    for i in range(3):
        picture(i).save(home / "train" / f"{i}.png")


def flat(home: Path) -> None:
    shutil.rmtree(home / "test")
    for path in (home / "train").rglob("*.png"):
        path.rename(home / "train" / f"{path.parent.name}-{path.name}")
    for name in ("cat", "dog"):
        (home / "train" / name).rmdir()


def file_for_a_folder(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("x")


def file_for_a_part(home: Path) -> None:
    shutil.rmtree(home / "test")
    (home / "test").write_text("x")


def case_of_classes(home: Path) -> None:
    (home / "test" / "cat").rename(home / "test" / "Cat")


def many_classes(home: Path) -> None:
    for i in range(300):
        (home / "train" / f"class{i:03d}").mkdir()
        for j in range(2):
            picture(i + j).save(home / "train" / f"class{i:03d}" / f"{j}.png")
    shutil.rmtree(home / "test")


def one_each(home: Path) -> None:
    shutil.rmtree(home / "test")
    for name in ("cat", "dog"):
        for i in range(1, EACH):
            (home / "train" / name / f"{i}.png").unlink()


ALL = 4 * EACH
# What is done to the folder; how many images are used, how many are left out, and of which a line must tell.
COUNTED = [
    (linked_folder, ALL, 0, ""),
    (linked_below, ALL + 5, 0, ""),
    (linked_files, ALL + 3, 0, ""),
    (link_to_itself, ALL, 1, "1 files are no images of a class and are left out (first: train/cat/me.png)"),
    (broken_links, ALL, 2, "2 files are no images of a class and are left out (first: train/cat/gone"),
    (broken_class, ALL, 1, "1 files are no images of a class and are left out (first: train/emu)"),
    (pipe, ALL, 1, "1 files are no images of a class and are left out (first: train/cat/pipe.png)"),
    (folder_like_an_image, ALL + 1, 0, ""),
    (no_text, ALL + 4, 0, ""),
    (broken_no_text, ALL, 1, "1 of 49 images are left out (first: train/cat/0\\udce9\\n.png: it is no image"),
    (classes_of_any_script, ALL, 0, ""),
    (long_names, ALL + 1, 0, ""),
    (hidden, ALL, 0, ""),
    (macos_archive, ALL, 0, ""),
    (empty_files, ALL, 3, "3 of 51 images are left out (first: train/cat/empty0.png: it is no image that can be read)"),
    (half_files, ALL - 3, 3, "3 of 48 images are left out (first: train/cat/0.png: "),
    (web_pages, ALL, 3, "3 of 51 images are left out (first: train/cat/page0.jpg: it is no image that can be read)"),
    (other_formats, ALL, 4, "3 files are no images of a class and are left out (first: train/cat/a.heic)"),
    (wrong_suffixes, ALL, 0, ""),
    (two_pictures_in_one, ALL + 3, 0, ""),
    (bombs, ALL, 2, "2 of 50 images are left out (first: train/cat/bomb.bmp: "),
    (tiny, ALL, 4, "4 of 52 images are left out (first: train/cat/pixel0.png: 1 pixels are too few for a"),
    (extreme_shapes, ALL + 2, 0, ""),
    (images_without_class, ALL, 3, "3 files are no images of a class and are left out (first: train/"),
    (file_for_a_part, ALL // 2, 0, "no test part, so "),
    (many_classes, 2 * EACH + 600, 0, "no test part, so "),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "used", "left_out", "line"), COUNTED, ids=[row[0].__name__ for row in COUNTED])
def test_what_can_be_used_is_counted(
    spoil: Callable[[Path], None], used: int, left_out: int, line: str, tmp_path: Path
) -> None:
    spoil(pets(tmp_path / "pets"))
    if spoil is not many_classes:  # a class of two has none to rank on
        status, out, err = nshot_(
            *SMOKE, "--data-root", tmp_path, "--dataset", "imagefolder:pets", "--out", tmp_path / "run"
        )
        assert (status, err) == (0, "")
        assert line in out
        out.encode()  # any terminal takes it
        listed = tmp_path / "run" / "left-out.txt"
        assert len(listed.read_text().splitlines() if listed.exists() else []) == left_out
    said: list[str] = []
    data = load("imagefolder:pets", root=tmp_path, resolution=8, say=said.append)
    assert len(data.train) + len(data.valid) + len(data.test) == used
    assert any(line in text for text in said) or not line
    assert not any("\n" in text for text in said)
    assert len(said) == (1 if line else 0) + (spoil is other_formats)


def test_the_stored_size_is_known_through_links(tmp_path: Path) -> None:
    linked_folder(pets(tmp_path / "pets"))
    shutil.rmtree(tmp_path / "pets" / "train" / "dog")
    shutil.rmtree(tmp_path / "pets" / "test")
    assert stored_side("imagefolder:pets", tmp_path) == 16


REFUSED = [
    (loop, "train/cat/again is a link to a folder that it lies in: take it away"),
    (loop_above, "train/cat/all is a link to a folder that it lies in: take it away"),
    (loop_of_two, "train/cat/a/b/a is a link to a folder that it lies in: take it away"),
    (class_no_text, "train/caf\\udce9 has a name that is no text: rename it"),
    (class_of_two_lines, "train/cat\\nfish has a name that is no text: rename it"),
    (no_images, "train/cat has no image that can be read (0.png: it is no image that can be read): put some there"),
    (empty_class, "train/emu has no images: put some there, or take the folder away"),
    (flat, "has 0 class (none): at least 2 are needed"),
    (file_for_a_folder, "no folder "),
    (case_of_classes, "test has a class folder 'Cat', train has not: both must have the same"),
    (one_each, "class 'cat' has 1 train images: each needs 2, one of them to test on"),
]


@pytest.mark.parametrize(("spoil", "expected"), REFUSED, ids=[row[0].__name__ for row in REFUSED])
def test_what_cannot_be_is_one_line(spoil: Callable[[Path], None], expected: str, tmp_path: Path) -> None:
    spoil(pets(tmp_path / "pets"))
    command = [*SMOKE, "--data-root", tmp_path, "--dataset", "imagefolder:pets", "--out", tmp_path / "run"]
    message = refuse(*command)
    assert expected in message
    message.encode()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["imagefolder:caf\udce9", "imagefolder:two\nlines", "parquet:\udcff"])
def test_a_folder_whose_name_is_no_text_is_one_line(name: str, tmp_path: Path) -> None:
    assert "has a name that is no text: rename the folder" in refuse(*SMOKE, "--dataset", name, "--out", tmp_path / "r")


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every folder may be read, so the system's answer is made up."""
    pets(tmp_path / "pets")
    scandir = os.scandir

    def refused(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    message = refuse(*SMOKE, "--data-root", tmp_path, "--dataset", "imagefolder:pets", "--out", tmp_path / "run")
    assert "train/dog cannot be read (Permission denied): mend it, or take it away" in message


def text_for_an_image(home: Path) -> None:
    pq.write_table(pa.table({"image": ["a.png"] * 9, "label": [0, 1, 2] * 3}), home / "train-0.parquet")


def paths_without_bytes(home: Path) -> None:
    cells = [{"bytes": None, "path": f"{i}.png"} for i in range(9)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [0, 1, 2] * 3}), home / "train-0.parquet")


def no_parquet(home: Path) -> None:
    (home / "train-0.parquet").write_text("x")


def other_name(home: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), home / "all.parquet")


TABLES = [
    (text_for_an_image, "has columns image (string), label (int64): none can be the images"),
    (paths_without_bytes, "has no images that can be read"),
    (no_parquet, "train-0.parquet cannot be read"),
    (other_name, "has no train-*.parquet: that is where its images are expected"),
]


@pytest.mark.parametrize(("make", "expected"), TABLES, ids=[row[0].__name__ for row in TABLES])
def test_parquet_that_cannot_be_is_one_line(make: Callable[[Path], None], expected: str, tmp_path: Path) -> None:
    (tmp_path / "bugs").mkdir()
    make(tmp_path / "bugs")
    assert expected in refuse(*SMOKE, "--data-root", tmp_path, "--dataset", "parquet:bugs", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
