"""Which images of one's own are held out, and what a run folder says of the images that it was made of."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import nshot.data.own
from helpers import nshot_, quiet, refuse
from nshot import UserError
from nshot.data.images import Images, Stored
from nshot.data.sources import Dataset, load
from nshot.data.split import held_out
from test_data import png

SMOKE = ["train", "spos", "--preset", "smoke", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]


def picture(label: int, i: int) -> bytes:
    return png(np.random.default_rng([label, i]).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def folder(home: Path, counts: dict[str, int]) -> Path:
    """``train/<class>/<i>.png``, each of other noise."""
    for label, (name, count) in enumerate(counts.items()):
        (home / "train" / name).mkdir(parents=True)
        for i in range(count):
            (home / "train" / name / f"{i:03d}.png").write_bytes(picture(label, i))
    return home


def rows(home: Path, counts: dict[str, int], left_out: int | None = None) -> Path:
    """The same images in a parquet file, without the row ``left_out``."""
    home.mkdir(exist_ok=True)
    cells = [(picture(label, i), name) for label, (name, n) in enumerate(counts.items()) for i in range(n)]
    cells = [cell for i, cell in enumerate(cells) if i != left_out]
    table = pa.table({"image": [image for image, _ in cells], "label": [name for _, name in cells]})
    pq.write_table(table, home / "train-00000-of-00001.parquet")
    return home


def parts(data: Dataset) -> dict[str, str]:
    """By what tells an image: its part."""
    found = {}
    for part in ("train", "valid", "test"):
        found |= {stored.key: part for stored in getattr(data, part).stored}
    return found


TEN = {f"class{i}": 100 for i in range(10)}


def test_deleting_one_of_1000_files_changes_the_part_of_no_other(tmp_path: Path) -> None:
    home = folder(tmp_path / "pets", TEN)
    before = parts(load(f"imagefolder:{home}", resolution=8, say=quiet))
    assert len(before) == 1000
    # As many as an independent draw gives: a fifth, then half, five standard deviations wide.
    counts = Counter(before.values())
    assert abs(counts["test"] - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5
    assert abs(counts["valid"] - 400) < 5 * (1000 * 0.4 * 0.6) ** 0.5
    for name in ("class0/000.png", "class4/050.png", "class9/099.png"):
        (home / "train" / name).unlink()
        after = parts(load(f"imagefolder:{home}", resolution=8, say=quiet))
        assert after.keys() == before.keys() - {f"train/{name}"}
        assert all(before[key] == part for key, part in after.items())
        before = after


def test_deleting_a_row_changes_the_part_of_no_other(tmp_path: Path) -> None:
    before = parts(load(f"parquet:{rows(tmp_path / 'whole', TEN)}", resolution=8, say=quiet))
    for row in (0, 517, 999):
        after = parts(load(f"parquet:{rows(tmp_path / 'less', TEN, row)}", resolution=8, say=quiet))
        assert len(after) == 999
        assert all(before[key] == part for key, part in after.items())


def test_the_order_of_names_and_where_the_folder_lies_have_no_say(tmp_path: Path) -> None:
    here = folder(tmp_path / "here", {"a": 30, "b": 30})
    there = tmp_path / "far" / "away"
    shutil.copytree(here, there)
    (there / "train" / "a" / "0000-new.png").write_bytes(picture(7, 7))
    one, other = (parts(load(f"imagefolder:{home}", resolution=8, say=quiet)) for home in (here, there))
    assert {key: other[key] for key in one} == one


def named(count: int, labels: list[int]) -> Images:
    stored = [Stored(f"{i}.png", f"{i}.png", 1, "") for i in range(count)]
    return Images(torch.zeros(count, 1, 1, 3, dtype=torch.uint8), torch.tensor(labels), stored)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 40])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_small_class_gives_one_and_never_all(count: int, share: float) -> None:
    for purpose in map(str, range(200)):
        images = named(2 * count, [0] * count + [1] * count)
        held = held_out(images, share, purpose)
        hashes = np.array(
            [int.from_bytes(blake2b(s.key.encode(), digest_size=8, key=purpose.encode()).digest(), "little")
             for s in images.stored], float) / 2**64  # fmt: skip
        for rows_ in (range(count), range(count, 2 * count)):
            below = [i for i in rows_ if hashes[i] < share]
            lowest, highest = (pick(rows_, key=hashes.__getitem__) for pick in (min, max))
            expected = set(below or [lowest])
            if len(expected) == count:
                expected -= {highest}
            assert {i for i in rows_ if held[i]} == expected
            assert len(expected) >= (count > 1)
            assert len(expected) < count


def test_too_few_images_to_rank_on_are_an_error(tmp_path: Path) -> None:
    home = folder(tmp_path / "pets", {"a": 2, "b": 2})
    with pytest.raises(UserError, match="2 images to learn from are too few, for some of them must rank subnets"):
        load(f"imagefolder:{home}", resolution=8, say=quiet)


def test_named_sets_keep_their_split() -> None:
    """The split of the published figures, of indices: by a checksum of the labels in their order."""
    data = load("digits")
    order = torch.cat([data.train.labels, data.valid.labels, data.test.labels]).numpy().astype("<i8")
    assert blake2b(order.tobytes(), digest_size=8).hexdigest() == DIGITS


DIGITS = "8c957b8eb6b004ba"


# what a run was made of


def test_a_run_folder_names_its_images_their_parts_and_digests(tmp_path: Path) -> None:
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 30})
    (home / "train" / "cat" / 'x,y "z".png').write_bytes(picture(5, 5))
    assert nshot_(*SMOKE, "--dataset", f"imagefolder:{home}", "--out", tmp_path / "run")[0] == 0
    data = load(f"imagefolder:{home}", resolution=8, say=quiet)
    with open(tmp_path / "run" / "data.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == ["part", "label", "name", "bytes", "digest"]
    assert {row["name"]: row["part"] for row in table} == parts(data)
    for row in table:
        content = (home / row["name"]).read_bytes()
        assert row["label"] == row["name"].split("/")[1]
        assert (int(row["bytes"]), row["digest"]) == (len(content), blake2b(content, digest_size=8).hexdigest())


def _replace(home: Path) -> None:
    (home / "train" / "cat" / "000.png").write_bytes(picture(9, 9))


def _remove(home: Path) -> None:
    for i in range(3):
        (home / "train" / "cat" / f"00{i}.png").unlink()


def _add(home: Path) -> None:
    (home / "train" / "cat" / "new.png").write_bytes(picture(9, 9))


def _rename(home: Path) -> None:
    (home / "train" / "cat" / "000.png").rename(home / "train" / "cat" / "0.png")


def _rename_class(home: Path) -> None:
    (home / "train" / "cat").rename(home / "train" / "ant")


def _add_test_part(home: Path) -> None:
    shutil.copytree(home / "train", home / "test")


def _new_class(home: Path) -> None:
    (home / "train" / "emu").mkdir()
    for i in range(9):
        (home / "train" / "emu" / f"{i}.png").write_bytes(picture(9, i))


def _mend(home: Path) -> None:
    (home / "train" / "dog" / "broken.png").write_bytes(picture(3, 3))


CHANGES = [
    (_replace, "(1 replaced, such as train/cat/000.png)"),
    (_remove, "(3 removed, such as train/cat/00"),
    (_add, "(1 added, such as train/cat/new.png)"),
    (_rename, "(1 added, such as train/cat/0.png; 1 removed, such as train/cat/000.png)"),
    (_rename_class, "(20 added, such as train/ant/00"),
    (_add_test_part, "(50 added, such as test/cat/000.png; "),
    (_new_class, "(9 added, such as train/emu/"),
    (_mend, "(1 added, such as train/dog/broken.png)"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a run that was killed after its last checkpoint, and a finished one with a search."""
    home = tmp_path_factory.mktemp("made")
    pets = folder(home / "pets", {"cat": 20, "dog": 30})
    (pets / "train" / "dog" / "broken.png").write_bytes(b"x")
    for run in ("killed", "run"):
        args = [*SMOKE, "--dataset", "imagefolder:pets", "--data-root", home, "--out", home / run]
        assert nshot_(*args, "--checkpoint-every", "1")[0] == 0
    (home / "killed" / "supernet.safetensors").unlink()
    assert nshot_("search", home / "run", "--data-root", home, "--sample", "3", "--device", "cpu")[0] == 0
    return home


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_other_images_are_refused_by_what_changed(
    change: Callable[[Path], None], said: str, made: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    at = ["--data-root", home, "--device", "cpu"]
    train = [*SMOKE, "--dataset", "imagefolder:pets", "--checkpoint-every", "1", "--data-root", home]
    # As it is, all goes on; nothing but the names of the folders is looked at.
    shutil.copytree(home / "killed", home / "again")
    assert nshot_(*train, "--out", home / "again")[0] == 0
    assert nshot_("search", home / "run", *at, "--sample", "3")[0] == 0
    change(home / "pets")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for command in (
        [*train, "--out", home / "killed"],
        [*train, "--out", home / "run"],
        ["search", home / "run", *at, "--sample", "3"],
        ["rank", home / "run", *at, "--benchmark", "digits", "--column", "digits_test", "--sample", "3"],
        ["retrain", home / "run" / "search.json", *at, "--out", home / "best"],
    ):
        message = refuse(*command)
        assert "imagefolder:pets is not what " in message
        assert said in message
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert after == before


def test_rows_in_another_order_are_the_same_images(tmp_path: Path) -> None:
    home = rows(tmp_path / "bugs", {"ant": 20, "bee": 20})
    args = [*SMOKE, "--dataset", f"parquet:{home}", "--out", tmp_path / "run"]
    assert nshot_(*args)[0] == 0
    path = home / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    search = ["search", tmp_path / "run", "--sample", "3", "--device", "cpu"]
    assert nshot_(*search)[0] == 0
    pq.write_table(table.slice(1), path)
    assert "(1 removed, such as row 0 of train-00000-of-00001.parquet)" in refuse(*search)
    pq.write_table(pa.concat_tables([table, table.slice(5, 1)]), path)
    assert "(1 added, such as row 40 of train-00000-of-00001.parquet)" in refuse(*search)


def test_from_disk_sizes_alone_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    args = [*SMOKE, "--dataset", f"imagefolder:{home}", "--out", tmp_path / "run"]
    search = ["search", tmp_path / "run", "--sample", "3", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(nshot.data.own, "memory_needed", lambda count, resolution: (2, 1))
        assert nshot_(*args)[0] == 0
        assert (tmp_path / "run" / "data.csv").read_text().splitlines()[1].endswith(",")
        assert nshot_(*search)[0] == 0
    assert nshot_(*search)[0] == 0  # with more memory
    path = home / "train" / "cat" / "003.png"
    path.write_bytes(path.read_bytes() + b"x")
    assert "(1 replaced, such as train/cat/003.png)" in refuse(*search)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has memory hold the images, or has them read from disk."""

    def there_is(kind: str) -> None:
        needed = {"much": 1, "little": 3}[kind]
        monkeypatch.setattr(nshot.data.own, "memory_needed", lambda count, resolution: (needed, 2))

    return there_is


KINDS = [("much", "little"), ("little", "much")]


@pytest.mark.parametrize(("then", "now"), KINDS)
def test_what_cannot_be_read_is_no_change(then: str, now: str, tmp_path: Path, memory: Callable[[str], None]) -> None:
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    broken = [f"{kind}: 1.png" for kind in ("cat", "dog")]
    for name in broken:
        (home / "train" / name[:3] / name).write_bytes(b"none")
    run, best = tmp_path / "run", tmp_path / "best"
    train = [*SMOKE, "--checkpoint-every", "1", "--dataset", f"imagefolder:{home}", "--out", run]
    search = ["search", run, "--sample", "3", "--device", "cpu"]
    memory(then)
    assert nshot_(*train)[0] == 0
    listed = len((run / "data.csv").read_text().splitlines())
    assert listed == 1 + 40 + 2 * (then == "little")
    memory(now)
    assert nshot_(*search)[0] == 0
    short = ["--epochs", "1", "--batch-size", "4", "--device", "cpu"]
    assert nshot_("retrain", run / "search.json", *short, "--out", best)[0] == 0
    assert nshot_(*train)[0] == 0  # it is finished: there are no batches to make
    (run / "supernet.safetensors").unlink()
    said = refuse(*train)
    assert f"2 cannot be read; go on where there is as {then} memory as then" in said
    memory(then)
    assert nshot_(*train)[0] == 0
    memory(now)
    path = home / "train" / "cat" / "003.png"  # what could be read is another thing
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "such as train/cat/003.png)" in refuse(*search)
    path.unlink()
    assert "(1 removed, such as train/cat/003.png)" in refuse(*search)


@pytest.mark.parametrize(("then", "now"), KINDS)
@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_a_training_goes_on_with_the_batches_it_began_with(
    crop: str, then: str, now: str, tmp_path: Path, memory: Callable[[str], None]
) -> None:
    """Resized crops are cut from the file on disk, in memory from the square at the resolution."""
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    for path in home.rglob("*.png"):
        Image.open(path).resize((19, 16)).save(path)
    train = [*SMOKE, "--crop", crop, "--checkpoint-every", "1", "--dataset", f"imagefolder:{home}"]
    run, ends = tmp_path / "run", []
    for kind in (then, now):
        memory(kind)
        assert nshot_(*train, "--out", tmp_path / kind)[0] == 0
        ends.append(load_file(tmp_path / kind / "supernet.safetensors"))
    same = all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    (tmp_path / then).rename(run)
    (run / "supernet.safetensors").unlink()
    if same:
        assert nshot_(*train, "--out", run)[0] == 0
    else:
        assert f"go on where there is as {then} memory as then, or train in a new --out" in refuse(*train, "--out", run)
    assert same == (crop == "padded")


def test_a_run_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    args = [*SMOKE, "--dataset", f"imagefolder:{home}", "--out", tmp_path / "run"]
    assert nshot_(*args)[0] == 0
    (tmp_path / "run" / "data.csv").unlink()
    for command in (args, ["search", tmp_path / "run", "--sample", "3"]):
        assert "has no data.csv: an earlier version of nshot made it, which held out other images" in refuse(*command)
    (tmp_path / "run" / "data.csv").write_text("part,label\n")
    assert "data.csv is broken (other columns): train again" in refuse(*args)


def test_a_crash_before_the_configuration_is_written_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data.csv").write_text("half")
    assert nshot_(*SMOKE, "--dataset", f"imagefolder:{home}", "--out", tmp_path / "run")[0] == 0
    assert (tmp_path / "run" / "data.csv").read_text().startswith("part,label,name,bytes,digest\n")


def test_named_sets_have_no_list(tmp_path: Path) -> None:
    assert nshot_(*SMOKE, "--out", tmp_path / "run")[0] == 0
    assert not (tmp_path / "run" / "data.csv").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["dataset"] == "digits"


def test_parts_of_several_supernets_know_their_images(tmp_path: Path) -> None:
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    args = ["train", "fsnas", *SMOKE[2:], "--dataset", f"imagefolder:{home}", "--out", tmp_path / "run"]
    assert nshot_(*args)[0] == 0
    lists = [path.read_bytes() for path in (tmp_path / "run").rglob("data.csv")]
    assert len(lists) == 6
    assert len(set(lists)) == 1
    _replace(home)
    assert "(1 replaced, such as train/cat/000.png)" in refuse("search", tmp_path / "run", "--sample", "3")


def test_a_retraining_of_a_network_by_its_name_takes_the_images_as_they_are(made: Path, tmp_path: Path) -> None:
    """What the images were when a subnet was found says nothing of which may train it now, where it is named."""
    home = tmp_path / "home"
    shutil.copytree(made, home)
    _replace(home / "pets")
    best = json.loads((home / "run" / "search.json").read_text())
    sizes = [f"--{name}={best['space'][name]}" for name in ("channels", "cells", "resolution")]
    args = ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--data-root", home, "--out", home / "best"]
    status, _, err = nshot_("retrain", best["best"]["arch"], *sizes, "--dataset", "imagefolder:pets", *args)
    assert status == 0, err


def test_a_data_set_made_by_hand_is_not_looked_at(tmp_path: Path) -> None:
    from nshot.supernets.config import preset
    from nshot.supernets.train import train

    data = load("digits", resolution=8)
    some = replace(data, train=data.train.subset(np.arange(64)))
    base = preset("smoke")
    run = train(replace(base, epochs=1, batch_size=16), some, tmp_path / "run", device="cpu", say=quiet)
    train(replace(base, epochs=1, batch_size=16), data, run, device="cpu", say=quiet)


def test_names_of_any_bytes_are_listed_as_they_are(tmp_path: Path) -> None:
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    odd = b"caf\xe9 \n.png"
    (home / "train" / "cat" / "000.png").rename(
        Path(str(home / "train" / "cat")) / odd.decode(errors="surrogateescape")
    )
    args = [*SMOKE, "--dataset", f"imagefolder:{home}", "--out", tmp_path / "run"]
    assert nshot_(*args)[0] == 0
    assert b"train/cat/" + odd in (tmp_path / "run" / "data.csv").read_bytes()
    assert "nothing to do" in nshot_(*args)[1]
    (home / "train" / "cat" / odd.decode(errors="surrogateescape")).write_bytes(picture(9, 9))
    message = refuse(*args)
    assert "(1 replaced, such as train/cat/caf\\udce9 \\n.png)" in message


def test_images_of_another_mode_are_images(tmp_path: Path) -> None:
    """A grey image saved again in colour shows the same, and is another file."""
    home = folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    path = home / "train" / "cat" / "000.png"
    Image.new("L", (8, 8), 7).save(path)
    args = [*SMOKE, "--dataset", f"imagefolder:{home}", "--out", tmp_path / "run"]
    assert nshot_(*args)[0] == 0
    Image.new("RGB", (8, 8), (7, 7, 7)).save(path)
    assert "(1 replaced, such as train/cat/000.png)" in refuse(*args)
