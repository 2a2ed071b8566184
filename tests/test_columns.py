"""Which parquet columns are images and labels: as the schema tells; where more than one can be meant, an error."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import nshot_, refuse
from nshot import UserError
from nshot.auto.look import stored_side
from nshot.data.manifest import check_batches, check_manifest, write_manifest
from nshot.data.sources import Dataset, load
from nshot.flags import Columns
from test_data import png

SMOKE = ["train", "spos", "--preset", "smoke", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
ROWS = 48
IMAGE, KINDS = {"_type": "Image"}, {"_type": "ClassLabel", "names": ["ant", "bee", "cow"]}
VALUE = {"_type": "Value", "dtype": "int64"}
QUALITY = {"_type": "ClassLabel", "names": ["bad", "good"]}


def pictures(shade: int, bare: bool = False) -> pa.Array:
    """Images of one shade that grows by a row, as structs of bytes and path, or bare bytes."""
    data = [png(np.full((8, 8, 3), shade + i, np.uint8)) for i in range(ROWS)]
    return pa.array(data if bare else [{"bytes": one, "path": f"{i}.png"} for i, one in enumerate(data)])


def shades(data: Dataset) -> dict[int, int]:
    """The label of each image, by its shade."""
    found = {}
    for part in (data.train, data.valid, data.test):
        found |= dict(zip(part.pixels[:, 0, 0, 0].tolist(), part.labels.tolist(), strict=True))
    return found


THREE = [i % 3 for i in range(ROWS)]
TWO = [i % 2 for i in range(ROWS)]
TEXTS = [["cow", "ant", "bee"][i] for i in THREE]
COLUMNS = {
    "photo": pictures(0),
    "image": pictures(0),
    "img": pictures(0, bare=True),
    "thumbnail": pictures(100),
    "mask": pictures(100, bare=True),
    "kind": pa.array(THREE),
    "label": pa.array(THREE),
    "labels": pa.array(TWO),
    "quality": pa.array(TWO),
    "text": pa.array(TEXTS),
    "word": pa.array(TEXTS).dictionary_encode(),
    "tame": pa.array([bool(i) for i in TWO]),
    "long": pa.array(TEXTS, pa.large_string()),
    "view": pa.array(TEXTS, getattr(pa, "string_view", pa.string)()),
    "byte": pa.array(THREE, pa.int8()),
    "number": pa.array(THREE).dictionary_encode(),
    "most": pa.array([2**64 - 1 if i else 0 for i in TWO], pa.uint64()),
    "weight": pa.array([0.5] * ROWS),
}


def write(home: Path, names: list[str], told: dict | None, part: str = "train", shard: str = "00000-of-00001") -> Path:
    home.mkdir(parents=True, exist_ok=True)
    metadata = None if told is None else {b"huggingface": json.dumps({"info": {"features": told}}).encode()}
    table = pa.table({name: COLUMNS[name] for name in names}).replace_schema_metadata(metadata)
    pq.write_table(table, home / f"{part}-{shard}.parquet")
    return home


def loaded(home: Path, more: str = "") -> Dataset:
    return load(f"parquet:{home}{more}", resolution=8, say=lambda line: None)


ANT_BEE_COW = ("ant", "bee", "cow")
TOLD = [
    # columns, what the schema tells, what is named, classes, labels
    (["photo", "kind"], {"photo": IMAGE, "kind": KINDS}, "", ANT_BEE_COW, THREE),
    (["kind", "weight", "photo"], {"photo": IMAGE, "kind": KINDS}, "", ANT_BEE_COW, THREE),
    (["photo", "kind", "quality", "text"], {"photo": IMAGE, "kind": KINDS, "quality": VALUE}, "", ANT_BEE_COW, THREE),
    (["image", "label"], None, "", ("0", "1", "2"), THREE),
    (["img", "label", "quality", "text"], None, "", ("0", "1", "2"), THREE),
    (["photo", "kind"], None, "", ("0", "1", "2"), THREE),
    (["photo", "text", "weight"], None, "", ANT_BEE_COW, [ANT_BEE_COW.index(text) for text in TEXTS]),
    (["photo", "word"], None, "", ANT_BEE_COW, [ANT_BEE_COW.index(text) for text in TEXTS]),
    (["photo", "long"], None, "", ANT_BEE_COW, [ANT_BEE_COW.index(text) for text in TEXTS]),
    (["photo", "view"], None, "", ANT_BEE_COW, [ANT_BEE_COW.index(text) for text in TEXTS]),
    (["photo", "byte"], None, "", ("0", "1", "2"), THREE),
    (["photo", "number"], None, "", ("0", "1", "2"), THREE),
    (["photo", "tame"], None, "", ("False", "True"), TWO),
    (["photo", "kind"], {"photo": IMAGE, "kind": {"_type": "ClassLabel"}}, "", ("0", "1", "2"), THREE),
    (["image", "thumbnail", "kind"], {"image": IMAGE, "thumbnail": IMAGE, "kind": KINDS}, ":image=image", ANT_BEE_COW,
     THREE),
    (["image", "mask", "kind"], {"image": IMAGE, "kind": KINDS}, "", ANT_BEE_COW, THREE),
    (["photo", "kind", "quality"], {"photo": IMAGE, "kind": KINDS, "quality": QUALITY}, ":label=quality",
     ("bad", "good"), TWO),
    (["photo", "kind", "text"], {"photo": IMAGE, "kind": KINDS}, ":label=text", ANT_BEE_COW,
     [ANT_BEE_COW.index(text) for text in TEXTS]),
    (["image", "thumbnail", "label", "labels"], None, ":image=image:label=labels", ("0", "1"), TWO),
    (["image", "thumbnail", "label", "labels"], None, ":label=label:noflip:image=image", ("0", "1", "2"), THREE),
]  # fmt: skip


@pytest.mark.parametrize("case", TOLD, ids=[f"{'-'.join(case[0])}{case[2]}" for case in TOLD])
def test_columns_are_those_that_are_told(case: tuple, tmp_path: Path) -> None:
    columns, told, more, names, labels = case
    data = loaded(write(tmp_path / "bugs", columns, told), more)
    assert (data.names, data.classes) == (names, len(names))
    assert data.mirrors == (":noflip" not in more)
    assert shades(data) == dict(enumerate(labels))


def test_another_image_column_can_be_named(tmp_path: Path) -> None:
    home = write(tmp_path / "bugs", ["image", "mask", "kind"], {"image": IMAGE, "kind": KINDS})
    assert set(shades(loaded(home, ":image=mask"))) == set(range(100, 100 + ROWS))


AMBIGUOUS = [
    # columns, what the schema tells, what is named, what is said
    (["image", "thumbnail", "kind"], {"image": IMAGE, "thumbnail": IMAGE, "kind": KINDS}, "",
     "has images in image and thumbnail: say which by --image-column"),
    (["image", "thumbnail", "label"], None, "", "has images in image and thumbnail: say which by --image-column"),
    (["photo", "kind", "quality"], {"photo": IMAGE, "kind": KINDS, "quality": QUALITY}, "",
     "has labels in kind and quality: say which by --label-column"),
    (["photo", "label", "quality"], {"photo": IMAGE, "label": VALUE, "quality": QUALITY}, "",
     "has labels in quality and label: say which by --label-column"),
    (["photo", "label", "labels"], None, "", "has labels in label and labels: say which by --label-column"),
    (["photo", "kind", "quality"], None, "", "has labels in kind and quality: say which by --label-column"),
    (["photo", "weight"], None, "", "none can be the labels"),
    (["photo", "most"], None, "", "has the label 18446744073709551615 (most): expected 0, 1, 2, ..."),
    (["kind"], None, "", "has columns kind (int64): none can be the images"),
    (["photo", "kind"], None, ":label=sort", "label column 'sort' is not there: "),
    (["photo", "kind", "weight"], None, ":label=weight", "label column 'weight' cannot be the labels: "),
    (["photo", "kind"], None, ":image=kind", "image column 'kind' cannot be the images: "),
    (["photo", "kind"], None, ":image=", "must name one image column, as :image=COLUMN"),
    (["photo", "kind"], None, ":label=kind:label=kind", "must name one label column, as :label=COLUMN"),
]  # fmt: skip


@pytest.mark.parametrize("case", AMBIGUOUS, ids=[case[3] for case in AMBIGUOUS])
def test_where_more_than_one_can_be_meant_the_columns_are_listed(case: tuple, tmp_path: Path) -> None:
    columns, told, more, said = case
    home = write(tmp_path / "bugs", columns, told)
    message = refuse(*SMOKE, "--dataset", f"parquet:{home}{more}", "--out", tmp_path / "run")
    assert said in message
    assert not (tmp_path / "run").exists()


def test_flags_name_columns_and_are_part_of_the_run(tmp_path: Path) -> None:
    told = {"image": IMAGE, "thumbnail": IMAGE, "kind": KINDS, "quality": QUALITY}
    write(tmp_path / "bugs", ["image", "thumbnail", "kind", "quality"], told)
    at = ["--data-root", tmp_path]
    train = [*SMOKE, *at, "--dataset", "parquet:bugs", "--out", tmp_path / "run"]
    named = ["--image-column", "thumbnail", "--label-column", "quality"]
    status, _, err = nshot_(*train, *named)
    assert status == 0, err
    name = "parquet:bugs:image=thumbnail:label=quality"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["dataset"] == name
    # Whatever follows from the run takes the same columns, and another one is another run.
    assert nshot_("search", tmp_path / "run", *at, "--sample", "3", "--device", "cpu")[0] == 0
    again = ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--out", tmp_path / "best"]
    assert nshot_("retrain", tmp_path / "run" / "search.json", *at, *again)[0] == 0
    result = json.loads((tmp_path / "best" / "result.json").read_text())
    assert (result["dataset"], result["classes"]) == (name, ["bad", "good"])
    assert f"dataset: {name}, not parquet:bugs:image=image:label=quality" in refuse(
        *train, "--image-column", "image", "--label-column", "quality"
    )
    build = ["benchmark", "build", "--dataset", "parquet:bugs", *at, "--out", tmp_path / "table"]
    assert "label column 'sort' is not there" in refuse(*build, "--image-column", "image", "--label-column", "sort")
    assert "image column 'kind' cannot be the images" in refuse(
        "auto", "parquet:bugs", *at, "--image-column", "kind", "--label-column", "kind", "--out", tmp_path / "job"
    )


def test_folders_have_no_columns(tmp_path: Path) -> None:
    message = refuse(*SMOKE, "--dataset", "imagefolder:pets", "--image-column", "image", "--out", tmp_path / "run")
    assert "image column 'image' has no effect on data set 'imagefolder:pets:image=image': it has no columns" in message
    message = refuse(*SMOKE, "--label-column", "label", "--out", tmp_path / "run")
    assert "label=label has no effect on data set 'digits': its columns are known" in message


@pytest.mark.parametrize("below", ["", "data", "plain_text"])
def test_layouts_of_the_hub(below: str, tmp_path: Path) -> None:
    told = {"photo": IMAGE, "kind": KINDS}
    home = tmp_path / "bugs" / below
    for i in range(2):
        write(home, ["photo", "kind"], told, "train", f"{i:05d}-of-00002-a09b74b3ef9c3b56")
    write(home, ["photo", "kind"], told, "validation")
    write(home, ["photo", "kind"], told, "test")
    (tmp_path / "bugs" / ".cache").mkdir()
    (tmp_path / "bugs" / "images").mkdir()
    data = loaded(tmp_path / "bugs")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [2 * ROWS, ROWS, ROWS]


def test_of_several_configurations_one_must_be_named(tmp_path: Path) -> None:
    for name in ("plain", "small"):
        write(tmp_path / "bugs" / name, ["photo", "kind"], {"photo": IMAGE, "kind": KINDS})
    with pytest.raises(
        UserError, match=r"has train-\*.parquet in plain and small: name one of these folders, as parquet:"
    ):
        loaded(tmp_path / "bugs")
    assert loaded(tmp_path / "bugs" / "small").names == ANT_BEE_COW


@pytest.mark.parametrize("name", ["parquet", "cifar10"])
def test_missing_files_of_a_numbered_set_are_said(name: str, tmp_path: Path) -> None:
    home = write(tmp_path / "cifar10", ["image", "label"], None, shard="00001-of-00003")
    write(home, ["image", "label"], None, shard="00000-of-00003")
    with pytest.raises(UserError, match=r"has 2 of the 3 files train-\*-of-00003.parquet: fetch them again"):
        load("cifar10" if name == "cifar10" else f"parquet:{home}", root=tmp_path, say=lambda line: None)


def test_a_text_that_no_image_to_train_on_has_is_refused(tmp_path: Path) -> None:
    home = write(tmp_path / "bugs", ["photo", "text"], None)
    table = pa.table({"photo": COLUMNS["photo"], "text": pa.array(["dragon", *TEXTS[1:]])})
    pq.write_table(table, home / "test-0.parquet")
    with pytest.raises(UserError, match=r"test-0.parquet has the label 'dragon', which no image to train on has"):
        loaded(home)


def test_the_stored_size_is_that_of_the_column_that_counts(tmp_path: Path) -> None:
    """Not of a thumbnail beside it: nshot auto chooses the resolution by it."""
    sizes = {"image": (20, 30), "thumbnail": (8, 8)}
    cells = {
        name: pa.array([{"bytes": png(np.zeros((*size, 3), np.uint8)), "path": None}] * 9)
        for name, size in sizes.items()
    }
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({**cells, "label": [0, 1, 2] * 3}), tmp_path / "data" / "train-0.parquet")
    assert stored_side(f"parquet:{tmp_path}:image=image", None) == 20
    assert stored_side(f"parquet:{tmp_path}:image=thumbnail:noflip", None) == 8
    with pytest.raises(UserError, match="say which by --image-column"):
        stored_side(f"parquet:{tmp_path}", None)


@pytest.mark.parametrize("name", ["", " ", "two\nlines"])
def test_classes_are_named_by_lines_of_text(name: str, tmp_path: Path) -> None:
    (tmp_path / "bugs").mkdir()
    table = pa.table({"photo": COLUMNS["photo"], "text": pa.array([name, *TEXTS[1:]])})
    pq.write_table(table, tmp_path / "bugs" / "train-0.parquet")
    with pytest.raises(UserError, match=r"has a class named '.*': name it by a line of text"):
        loaded(tmp_path / "bugs")


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "bugs"
    home.mkdir()
    table = pa.table({"photo": COLUMNS["photo"], "text": pa.array([None, *TEXTS[1:]])})
    pq.write_table(table, home / "train-0.parquet")
    with pytest.raises(
        UserError, match=r"labels \(text\) of type string with 1 missing: expected a whole number or a text"
    ):
        loaded(home)


@pytest.mark.parametrize("texts", ["train", "test"])
def test_classes_go_by_what_they_are_called_in_every_part(texts: str, tmp_path: Path) -> None:
    """Texts in one part and numbers in another: sorted as texts, 10 comes before 2."""
    kinds = np.arange(44) % 11
    home = tmp_path / "bugs"
    home.mkdir()
    shade = {}
    for part, first in (("train", 0), ("test", 100)):
        data = pa.array([{"bytes": png(np.full((8, 8, 3), first + i, np.uint8)), "path": None} for i in range(44)])
        labels = pa.array([str(kind) for kind in kinds] if part == texts else kinds)
        pq.write_table(pa.table({"photo": data, "label": labels}), home / f"{part}-0.parquet")
        shade |= {first + i: str(kind) for i, kind in enumerate(kinds)}
    data = load(f"parquet:{home}", resolution=8, say=lambda line: None)
    assert {pixel: data.names[label] for pixel, label in shades(data).items()} == shade
    assert sorted(data.names) == sorted(map(str, range(11)))
    pq.write_table(pa.table({"photo": COLUMNS["photo"], "label": pa.array([11, *THREE[1:]])}), home / "test-0.parquet")
    with pytest.raises(UserError, match=r"test-0.parquet has the label '11', which no image to train on has"):
        load(f"parquet:{home}", resolution=8, say=lambda line: None)


def test_labels_below_zero_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bugs").mkdir()
    table = pa.table({"photo": COLUMNS["photo"], "label": pa.array([label - 1 for label in THREE])})
    pq.write_table(table, tmp_path / "bugs" / "train-0.parquet")
    with pytest.raises(UserError, match=r"has the label -1: expected 0, 1, 2, \.\.\. without gaps"):
        loaded(tmp_path / "bugs")


def test_a_picture_beside_the_tables_is_none_of_their_images(tmp_path: Path) -> None:
    """A preview, as of a data set of the hub."""
    home = write(tmp_path / "bugs", ["photo", "kind"], None)
    (home / "preview.png").write_bytes(png(np.zeros((600, 700, 3), np.uint8)))
    assert stored_side(f"parquet:{home}", None) == 8


def test_a_training_goes_on_with_rows_in_the_order_that_it_began_with(tmp_path: Path) -> None:
    """Batches go by it: the same rows in files of other names are other batches."""
    home, run = tmp_path / "bugs", tmp_path / "run"
    for folder in (home, run):
        folder.mkdir()
    table = pa.table({"photo": COLUMNS["photo"], "label": COLUMNS["kind"]})
    for name, rows in (("a", table[:24]), ("b", table[24:]), ("c", table[:0])):
        pq.write_table(rows, home / f"train-{name}.parquet")
    data = load(f"parquet:{home}", resolution=8, say=lambda line: None)
    write_manifest(run, data)
    check_batches(run, data, resized=False)
    (home / "train-a.parquet").rename(home / "train-d.parquet")
    again = load(f"parquet:{home}", resolution=8, say=lambda line: None)
    check_manifest(run, again)  # the same images, in the same parts
    with pytest.raises(UserError, match=r"begun with the rows of parquet:.* in another order"):
        check_batches(run, again, resized=False)


def test_columns_that_a_name_has_already_may_be_said_again() -> None:
    """As a search's file has them, whose network is retrained with the flags of its training."""
    named = Columns(image_column="img", label_column="kind")
    assert named.named("parquet:x:image=img") == "parquet:x:image=img:label=kind"
    assert named.named("parquet:x:noflip:label=kind:image=img") == "parquet:x:noflip:label=kind:image=img"
