"""Images of one's own: folders and parquet files of any classes and sizes, and what is refused or left out."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import nshot.data.reading
from helpers import refuse
from nshot import UserError
from nshot.data.images import Images
from nshot.data.sources import Dataset, load
from test_data import complaint, items, noise, png

TRAIN = ["spos", "--preset", "smoke", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
Sizes = list[tuple[int, int]]


def smooth(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A picture of (width, height) without detail, so that every way to resize it agrees."""
    return Image.fromarray(noise(1, seed, 3)[0]).resize(size, Image.Resampling.BICUBIC)


def centre(image: Image.Image, side: int) -> torch.Tensor:
    """The square in the image's middle at that size, as torch resizes it."""
    pixels = np.asarray(image)
    h, w, _ = pixels.shape
    top, left = max(0, h - w) // 2, max(0, w - h) // 2
    square = torch.from_numpy(pixels[top : top + min(h, w), left : left + min(h, w)].copy())
    return Images(square[None], torch.zeros(1)).resized(side).pixels[0]


def write(root: Path, part: str, classes: dict[str, Sizes], suffix: str = ".png") -> None:
    """Images of these sizes: ``root/part/<class>/<i>.png``."""
    for label, (name, sizes) in enumerate(classes.items()):
        (root / part / name).mkdir(parents=True, exist_ok=True)
        for i, size in enumerate(sizes):
            smooth(size, 100 * label + i + 7 * len(part)).save(root / part / name / f"{i}{suffix}")


def pets(root: Path, *parts: str) -> Path:
    """Two classes of five images of 16x16 pixels in each part."""
    for part in parts or ("train", "test"):
        write(root / "pets", part, {"dog": [(16, 16)] * 5, "cat": [(16, 16)] * 5})
    return root / "pets"


def loaded(root: Path, name: str = "imagefolder:pets", resolution: int | None = 8) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return load(name, root=root, resolution=resolution, say=said.append), said


def features(**columns: dict) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


LABELLED = features(
    photo={"_type": "Image"}, id={"_type": "Value"}, kind={"_type": "ClassLabel", "names": ["ant", "bee", "cow"]}
)


def table(labels: list, names: tuple[str, str] = ("photo", "kind"), metadata: dict | None = LABELLED) -> pa.Table:
    """Images of growing sizes from 8x16 pixels on, and their labels."""
    cells = [{"bytes": png(np.asarray(smooth((8 + i, 16), i))), "path": None} for i in range(len(labels))]
    columns = {"id": pa.array(range(len(labels))), names[0]: pa.array(cells), names[1]: pa.array(labels)}
    return pa.table(columns).replace_schema_metadata(metadata)


def shards(root: Path, **parts: pa.Table) -> Path:
    """``root/bugs/<part>-0000i-of-00002.parquet``, each part in two files."""
    (root / "bugs").mkdir(exist_ok=True)
    for part, rows in parts.items():
        half = len(rows) // 2
        for i, piece in enumerate([rows[:half], rows[half:]]):
            pq.write_table(piece, root / "bugs" / f"{part}-{i:05d}-of-00002.parquet")
    return root / "bugs"


# folders


def test_a_folder_of_images_is_a_data_set(tmp_path: Path) -> None:
    folder = pets(tmp_path, "train", "val", "test")
    for name in ("imagefolder:pets", f"imagefolder:{folder}"):
        data, said = loaded(tmp_path, name)
        assert said == []
        assert (data.classes, data.names, data.mirrors) == (2, ("cat", "dog"), True)
        for part, place in ((data.train, "train"), (data.valid, "val"), (data.test, "test")):
            assert part.labels.tolist() == [0] * 5 + [1] * 5
            assert part.labels.dtype == torch.int64
            for pixels, (name_, i) in zip(part.pixels, [(n, i) for n in ("cat", "dog") for i in range(5)], strict=True):
                stored = Image.open(folder / place / name_ / f"{i}.png")
                expected = np.asarray(stored.resize((8, 8), Image.Resampling.BILINEAR))
                assert np.array_equal(pixels.numpy(), expected)


def test_without_a_resolution_images_keep_theirs(tmp_path: Path) -> None:
    folder = pets(tmp_path)
    assert loaded(tmp_path, resolution=None)[0].test.pixels.shape == (10, 16, 16, 3)
    smooth((16, 17)).save(folder / "test" / "cat" / "9.png")
    with pytest.raises(UserError, match="has images of different sizes"):
        loaded(tmp_path, resolution=None)


@pytest.mark.parametrize("size", [(64, 40), (40, 64), (97, 33), (16, 16), (300, 20)])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_mixed_sizes_are_resized_and_cropped_to_their_centre(
    size: tuple[int, int], suffix: str, tmp_path: Path
) -> None:
    folder = pets(tmp_path)
    path = folder / "test" / "cat" / f"{'00'}{suffix}"
    smooth(size, 3).save(path, quality=95)
    data, _ = loaded(tmp_path, resolution=16)
    expected = centre(Image.open(path), 16)
    difference = (data.test.pixels[1].int() - expected.int()).abs()  # 0.png comes before 00.*
    # A large JPEG is decoded at a smaller scale, by another filter.
    assert difference.float().mean() < (1 if suffix == ".png" else 4)


def test_a_photo_that_lies_on_its_side_is_set_upright(tmp_path: Path) -> None:
    folder = pets(tmp_path) / "test" / "cat"
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # stored with white above
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned clockwise: white to the right
    Image.fromarray(pixels).save(folder / "00.jpg", exif=turned, quality=95)
    data, _ = loaded(tmp_path, resolution=16)
    shown = data.test.pixels[1].float().mean(2)
    assert shown[:, 10:].min() > 200
    assert shown[:, :6].max() < 50


def test_a_parts_folders_may_be_nested_and_hold_hidden_files(tmp_path: Path) -> None:
    folder = pets(tmp_path)
    (folder / "train" / "cat" / "deep" / "er").mkdir(parents=True)
    (folder / "train" / "cat" / "4.png").rename(folder / "train" / "cat" / "deep" / "er" / "X.PNG")
    (folder / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (folder / "train" / ".cache").mkdir()
    data, said = loaded(tmp_path)
    assert said == []
    assert (data.train.labels == 0).sum() + (data.valid.labels == 0).sum() == 5


def test_without_a_test_folder_about_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "pets", "train", {"dog": [(8, 8)] * 200, "cat": [(8, 8)] * 11, "emu": [(8, 8)] * 2})
    data, said = loaded(tmp_path)
    assert said == [f"pets: no test part, so {len(data.test)} of 213 train images are held out to test on {NAMED}"]
    counts = data.test.labels.bincount().tolist()  # cat, dog, emu
    assert 1 <= counts[0] <= 6
    assert 23 <= counts[1] <= 57  # 40, three standard deviations of a binomial wide
    assert counts[2] == 1
    again, _ = loaded(tmp_path)
    assert items(data.test) == items(again.test)
    everything = {png(p) for p in torch.cat([part.pixels for part in (data.train, data.valid, data.test)]).numpy()}
    assert everything == {path.read_bytes() for path in (tmp_path / "pets").rglob("*.png")}


def test_noflip_says_that_mirror_images_are_something_else(tmp_path: Path) -> None:
    pets(tmp_path)
    plain, upright = loaded(tmp_path)[0], loaded(tmp_path, "imagefolder:pets:noflip")[0]
    assert (plain.mirrors, upright.mirrors) == (True, False)
    assert items(plain.test) == items(upright.test)


NAMED = "(data.csv in the run folder names them)"
LEFT_OUT = ["dog/1.png", "dog/2.png", "labels.csv", "cat/notes.txt"]


def test_what_is_no_image_or_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = pets(tmp_path)
    (folder / "train" / "cat" / "notes.txt").write_text("x")
    (folder / "train" / "labels.csv").write_text("x")
    whole = (folder / "train" / "dog" / "0.png").read_bytes()
    (folder / "train" / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "dog" / "2.png").write_bytes(b"")
    data, said = loaded(tmp_path)
    assert len(data.train) + len(data.valid) == 8
    assert said[0] == "pets: 2 files are no images of a class and are left out (first: train/labels.csv)"
    assert said[1].startswith("pets: 2 of 20 images are left out (first: train/dog/1.png: ")
    assert said[1].endswith("); left-out.txt in the run folder names all")
    assert len(said) == 2
    data.left_out.write(tmp_path)
    lines = (tmp_path / "left-out.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"train/{name}" for name in LEFT_OUT]


def test_images_below_the_resolution_are_enlarged_and_counted(tmp_path: Path) -> None:
    pets(tmp_path)
    data, said = loaded(tmp_path, resolution=64)
    assert data.train.pixels.shape[1:] == (64, 64, 3)
    assert said == ["pets: 20 of 20 images are enlarged to 64 pixels (first: train/cat/0.png, 16 pixels)"]
    few = "16 pixels are too few for a resolution of 68"
    with pytest.raises(UserError, match=rf"train/cat has no image that can be read \(0.png: {few}\)"):
        loaded(tmp_path, resolution=68)


def test_images_far_below_the_resolution_are_left_out_in_one_line(tmp_path: Path) -> None:
    folder = pets(tmp_path)
    for i in range(3):
        smooth((40, 1)).save(folder / "test" / "cat" / f"tiny{i}.png")
    data, said = loaded(tmp_path)
    few = "1 pixels are too few for a resolution of 8"
    first = f"first: test/cat/tiny0.png: {few}"
    assert said == [f"pets: 3 of 23 images are left out ({first}); left-out.txt in the run folder names all"]
    assert len(data.test) == 10


def test_slow_reading_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets(tmp_path)
    monkeypatch.setattr(nshot.data.reading, "EVERY", -1.0)
    assert "pets: 7 of 10 images of train read" in loaded(tmp_path)[1]


# parquet


@pytest.mark.parametrize("valid", [None, "valid", "validation"])
def test_parquet_of_any_columns_classes_and_sizes(valid: str | None, tmp_path: Path) -> None:
    parts = {"train": table([2, 0, 1, 1, 0, 2, 2]), "test": table([1, 0, 2])}
    shards(tmp_path, **parts, **({valid: table([0, 2, 1])} if valid else {}))
    data, said = loaded(tmp_path, "parquet:bugs")
    assert (data.classes, data.names, said) == (3, ("ant", "bee", "cow"), [])
    assert data.test.labels.tolist() == [1, 0, 2]
    if valid:
        assert data.train.labels.tolist() == [2, 0, 1, 1, 0, 2, 2]
        assert data.valid.labels.tolist() == [0, 2, 1]
    else:
        assert len(data.train) + len(data.valid) == 7
    expected = centre(smooth((10, 16), 2), 8)
    assert (data.test.pixels[2].int() - expected.int()).abs().float().mean() < 1


@pytest.mark.parametrize("names", [("image", "label"), ("img", "labels")])
@pytest.mark.parametrize("metadata", [None, {b"huggingface": b"{"}, {b"huggingface": b'{"info": []}'}])
def test_parquet_without_metadata_goes_by_names_and_labels(
    names: tuple[str, str], metadata: dict | None, tmp_path: Path
) -> None:
    shards(tmp_path, train=table([1, 0, 3, 2, 2, 1, 0, 3], names, metadata), test=table([3, 0], names, metadata))
    data, _ = loaded(tmp_path, "parquet:bugs")
    assert (data.classes, data.names) == (4, ("0", "1", "2", "3"))


def test_parquet_images_may_be_plain_bytes_and_some_unreadable(tmp_path: Path) -> None:
    stored = [png(noise(1, i, 8)[0]) for i in range(6)]
    rows = pa.table({"image": pa.array([*stored[:5], b"no image", None]), "label": [0, 1, 0, 1, 0, 1, 1]})
    (tmp_path / "bugs").mkdir()
    pq.write_table(rows, tmp_path / "bugs" / "train-0.parquet")
    data, said = loaded(tmp_path, "parquet:bugs")
    assert said[0].startswith("bugs: 2 of 7 images are left out (first: row 5 of train-0.parquet: it is no image")
    assert said[1] == f"bugs: no test part, so {len(data.test)} of 5 train images are held out to test on {NAMED}"
    assert sorted(data.test.labels.unique().tolist()) == [0, 1]


# what cannot be


def _empty(folder: Path) -> None:
    (folder / "train" / "emu").mkdir()


def _texts(folder: Path) -> None:
    _empty(folder)
    (folder / "train" / "emu" / "a.txt").write_text("x")


def _broken(folder: Path) -> None:
    write(folder, "train", {"emu": []})
    write(folder, "test", {"emu": [(16, 16)]})
    (folder / "train" / "emu" / "a.png").write_text("x")


def _one_class(folder: Path) -> None:
    for part in ("train", "test"):
        for path in (folder / part / "dog").iterdir():
            path.unlink()
        (folder / part / "dog").rmdir()


def _no_train(folder: Path) -> None:
    (folder / "train").rename(folder / "training")


def _no_classes(folder: Path) -> None:
    for part in ("train", "test"):
        (folder / part).rename(folder / f"old-{part}")
        (folder / part).mkdir()
        smooth((16, 16)).save(folder / part / "a.png")


def _one_image(folder: Path) -> None:
    (folder / "test").rename(folder / "old")
    write(folder, "train", {"emu": [(16, 16)]})


BAD_FOLDERS = [
    (_empty, "train has a class folder 'emu', test has not"),
    (lambda folder: write(folder, "test", {"emu": [(9, 9)]}), "test has a class folder 'emu', train has not"),
    (lambda folder: (_empty(folder), (folder / "test" / "emu").mkdir()), "train/emu has no images: put some there"),
    (lambda folder: (_texts(folder), (folder / "test" / "emu").mkdir()), "no images among its 1 files (such as a.txt)"),
    (_broken, "train/emu has no image that can be read"),
    (_one_class, "has 1 class (cat): at least 2"),
    (_no_classes, "has 0 class"),
    (_no_train, "has no train/<class>/"),
    (_one_image, "class 'emu' has 1 train images: each needs 2, one of them to test on"),
    (lambda folder: (pets(folder.parent, "val"), pets(folder.parent, "valid")), "has both val/<class>/ and valid/"),
]


@pytest.mark.parametrize(("spoil", "expected"), BAD_FOLDERS, ids=[text for _, text in BAD_FOLDERS])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_written(spoil, expected: str, tmp_path: Path) -> None:
    spoil(pets(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    args = ["--data-root", tmp_path, "--out", tmp_path / "run"]
    assert expected in refuse("train", *TRAIN, "--dataset", "imagefolder:pets", *args)
    assert sorted(tmp_path.rglob("*")) == before


BAD_NAMES = [
    (["--dataset", "imagefolder:cats"], "no folder "),
    (["--dataset", "imagefolder:"], "data set 'imagefolder:' names no folder"),
    (["--dataset", "imagefolder"], "unknown data set 'imagefolder': choose one of"),
    (["--dataset", "images:pets"], "unknown kind of data set 'images': choose one of imagefolder, parquet"),
    (["--dataset", "imagefolder:pets", "--download"], "download has no effect on data set 'imagefolder:pets'"),
    (["--dataset", "parquet:pets"], "has no train-*.parquet"),
    (["--dataset", "parquet:cats"], "no folder "),
]


@pytest.mark.parametrize(("args", "expected"), BAD_NAMES, ids=[" ".join(args) for args, _ in BAD_NAMES])
def test_a_name_that_names_nothing_is_refused(args: list[str], expected: str, tmp_path: Path) -> None:
    pets(tmp_path)
    assert expected in refuse("train", *TRAIN, "--data-root", tmp_path, "--out", tmp_path / "run", *args)
    assert not (tmp_path / "run").exists()


def test_a_split_file_does_not_go_with_a_validation_folder(tmp_path: Path) -> None:
    pets(tmp_path, "train", "val", "test")
    said = complaint(tmp_path, "imagefolder:pets", split="s.json")
    assert said == "split 's.json': imagefolder:pets has a validation part of its own, leave --split out"


def test_more_images_than_the_memory_holds_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, train=table([0, 1, 2] * 6))
    said = complaint(tmp_path, "parquet:bugs", resolution=1_000_000)
    assert "18 images at resolution 1000000 take about 378000 GB" in said
    assert "choose a smaller --resolution" in said


BAD_PARQUET = [
    ({"train": table([0, 1, 2, 3])}, "has labels 0 to 3: expected 0 to 2"),
    ({"train": table([0, 1, 2, 0]), "test": table([-1, -1])}, "has labels -1 to -1: expected 0 to 2"),
    ({"train": table([0, 0, 2, 2])}, "class 'bee' has 0 train images"),
    ({"train": table(["ant", "bee"])}, "labels (kind) of type string"),
    ({"train": table([0, None])}, "of type int64 with 1 missing"),
    ({"train": table([0.0, 1.0])}, "labels (kind) of type double"),
    ({"train": table([0, 0], metadata=None)}, "has labels in id and kind: say which by --label-column"),
    ({"train": table([0, 0], ("image", "label"), None)}, "has 1 class (0): at least 2"),
    ({"train": table([0, 2, 0], ("image", "label"), None)}, "has labels 0 to 2, but no 1"),
    ({"train": table([1, 2, 3], ("image", "label"), None)}, "has labels 1 to 3, but no 0"),
    ({"train": table([0])[:0]}, "has no images that can be read"),
    (
        {"train": table([0, 1, 2]), "test": table([0], ("image", "label"), None)},
        "names other classes than",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "expected"), BAD_PARQUET, ids=[text for _, text in BAD_PARQUET])
def test_parquet_that_cannot_be_is_refused(parts: dict, expected: str, tmp_path: Path) -> None:
    shards(tmp_path, **parts)
    args = ["--data-root", tmp_path, "--out", tmp_path / "run"]
    assert expected in refuse("train", *TRAIN, "--dataset", "parquet:bugs", *args)
    assert not (tmp_path / "run").exists()


def test_parquet_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = next(shards(tmp_path, train=table([0, 1, 2])).iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    assert f"data file {path} cannot be read" in complaint(tmp_path, "parquet:bugs")
