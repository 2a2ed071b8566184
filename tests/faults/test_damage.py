"""One byte changed in, or the end cut off, every kind of file that nshot reads: what follows is as it would have been,
or one line says what is wrong; never a wrong number, a traceback, or a wait without end.

    NSHOT_FAULTS=full python -m pytest tests/faults/test_damage.py

damages 2,000 files, the default some of each kind. A fault is named by its kind and number: `damaged(data, kind, i)`
makes it again.
"""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import nshot_
from limits import CPU, FULL, SMOKE, Hang, within
from nshot.data.sources import load
from nshot.files import read_json, read_parquet, write_json
from nshot.studies.base import SCALES, studies
from nshot.studies.collect import Known
from test_hostile import pets, picture

COUNT, SLOW = 2000, 25
OWN = ("--dataset", "imagefolder:pets", "--data-root", "data")


def damaged(data: bytes, kind: str, i: int) -> bytes:
    """The data with a byte changed, a bit changed or the end cut off."""
    rng = np.random.default_rng([i, *kind.encode()])
    at = int(rng.integers(len(data)))
    if i % 3 == 2:
        return data[:at]
    change = int(rng.integers(1, 256)) if i % 3 else 1 << int(rng.integers(8))
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that holds everything, made by the commands; they are run in it, by relative names."""
    home, before = tmp_path_factory.mktemp("damage"), Path.cwd()
    os.chdir(home)
    pets(home / "data" / "pets")
    for path, format_ in (("0.jpg", "JPEG"), ("1.webp", "WEBP"), ("2.gif", "GIF"), ("3.bmp", "BMP"), ("4.tif", "TIFF")):
        (home / "photos").mkdir(exist_ok=True)
        picture(len(path), 24).save(home / "photos" / path, format_)
    picture(9, 24).save(home / "photos" / "5.png")
    _hub_parquet(home / "data" / "hub")
    for command in (
        ("train", "spos", *SMOKE, *CPU, "--batch-size", "256", "--out", "run"),
        ("rank", "run", "--benchmark", "digits", "--sample", "12", *CPU),
        ("search", "run", "--sample", "6", *CPU),
        ("latency", "run", "--samples", "30"),
        ("retrain", "run", "--epochs", "1", *CPU, "--out", "net"),
        ("export", "net", "--to", "torch", "--out", "given"),
        (
            "score",
            "gradnorm",
            "--run",
            "run",
            "--ranking",
            "ranking",
            "--benchmark",
            "digits",
            "--sample",
            "12",
            *CPU,
            "--out",
            "scores",
        ),
        ("benchmark", "build", "--subnets", "3", "--seeds", "2", "--epochs", "1", "--jobs", "1", "--out", "bench"),
        ("train", "spos", *SMOKE, *CPU, "--batch-size", "4", *OWN, "--out", "own"),
    ):
        status, _, said = nshot_(*command)
        assert status == 0, (command, said)
    shutil.copytree("run", "half", ignore=shutil.ignore_patterns("supernet.safetensors", "rank*", "search*"))
    Path("answered").mkdir()
    for name in ("config.json", "supernet.safetensors"):
        shutil.copy(f"run/{name}", f"answered/{name}")
    best = read_json(Path("run/search.json"))["best"]
    write_json(Path("answered/answer.json"), {"arch": best["arch"], "subnet": best["subnet"]})
    figures = [{"runs": {"0": f"run-{i}"}, "seeds": {"0": {"tau by accuracy": 0.5 + i / 100}}} for i in range(9)]
    Path("study").mkdir()
    write_json(Path("study/table-k-proxy.json"), {"rows": figures, "ceiling": {"tau by loss": 0.8}})
    pq.write_table(read_parquet(Path("bench/benchmark.parquet")).replace_schema_metadata(None), "foreign.parquet")
    Path("list.json").write_text(json.dumps(read_parquet(Path("run/ranking.parquet"))["arch"].to_pylist()))
    Path("split.json").write_text(json.dumps({"train": list(range(600)), "valid": list(range(600, 1198))}))
    yield home
    os.chdir(before)


def _hub_parquet(home: Path) -> None:
    home.mkdir(parents=True)
    for part in ("train", "test"):
        cells = []
        for i in range(16):
            path = home / f"{part}{i}.png"
            picture(i).save(path)
            cells.append({"bytes": path.read_bytes(), "path": path.name})
            path.unlink()
        table = pa.table({"image": cells, "label": [i % 2 for i in range(16)]})
        pq.write_table(table, home / f"{part}-00000-of-00001.parquet")


def page(folder: str) -> Callable[[], Any]:
    def made() -> Any:
        said = nshot_("report", folder, "--out", "page.html")
        return *said, Path("page.html").read_text() if said[0] == 0 else ""

    return made


def searched(run: str, *flags: str) -> Callable[[], Any]:
    def made() -> Any:
        said = nshot_("search", run, "--name", "again", *(flags or ("--sample", "6")), *CPU)
        if said[0]:
            return *said, None
        found = read_json(Path(run) / "again.json")
        return 0, "", "", (found["top"], read_parquet(Path(run) / "again.parquet").to_pydict())

    return made


def ranked(*flags: str) -> Callable[[], Any]:
    def made() -> Any:
        said = nshot_("rank", "run", "--name", "again", *flags, *CPU)
        if said[0]:
            return *said, None
        return 0, "", "", read_parquet(Path("run/again.parquet")).to_pydict()

    return made


def predicted(folder: str, images: str = "photos") -> Callable[[], Any]:
    def made() -> Any:
        status, out, err = nshot_("predict", folder, images, "--out", "table.csv", *CPU)
        return status, out, err, Path("table.csv").read_text() if status == 0 else None

    return made


def trained(*flags: str) -> Callable[[], Any]:
    """The weights and the log, without its times."""

    def made() -> Any:
        from nshot.runs.checkpoint import load_weights

        status, _, err = nshot_("train", "spos", *SMOKE, *CPU, *flags)
        if status:
            return status, "", err, None
        weights = load_weights(Path(flags[-1]) / "supernet.safetensors")
        return 0, "", "", {name: weight.tolist() for name, weight in weights.items()}

    return made


def scored() -> Any:
    said = nshot_(
        "score",
        "gradnorm",
        "--run",
        "run",
        "--ranking",
        "ranking",
        "--benchmark",
        "digits",
        "--sample",
        "12",
        *CPU,
        "--out",
        "scores",
    )
    return *said[:1], "", said[2], read_parquet(Path("scores/scores.parquet")).to_pydict() if said[0] == 0 else None


def built() -> Any:
    flags = ("--subnets", "3", "--seeds", "2", "--epochs", "1", "--jobs", "1", "--out", "bench")
    status, _, err = nshot_("benchmark", "build", *flags)
    if status:
        return status, "", err, None
    return 0, "", "", read_parquet(Path("bench/benchmark.parquet")).to_pydict()  # it says how far it is if it is slow


def known() -> Any:
    from nshot.errors import UserError

    try:
        return 0, "", "", Known.of(studies["table-k"], SCALES["proxy"], Path("study"))
    except UserError as error:
        return 2, "", f"nshot: error: {error}\n", None


@dataclass(frozen=True)
class Kind:
    """A kind of file: which, what reads it, the folders that this changes, and whether others can tell a damage."""

    files: str
    read: Callable[[], Any]
    changes: tuple[str, ...]
    checked: bool = True
    """Not so of what people or others wrote, which carries no digest: only that it is read or refused."""
    slow: bool = False


KINDS = {
    "config": Kind("run/config.json", searched("run"), ("run",)),
    "supernet": Kind("run/supernet.safetensors", searched("run"), ("run",)),
    "kept figures": Kind("run/.search-*.jsonl", searched("run"), ("run",)),
    "ranking": Kind("run/ranking.json", page("run"), ("run",)),
    "ranking's table": Kind("run/ranking.parquet", page("run"), ("run",)),
    "search": Kind("run/search.json", page("run"), ("run",)),
    "search's table": Kind("run/search.parquet", page("run"), ("run",)),
    "log": Kind("run/log.jsonl", page("run"), ("run",)),
    "latency": Kind("run/latency.json", searched("run", "--sample", "6", "--max-latency", "50ms"), ("run",)),
    "answer": Kind("answered/answer.json", searched("answered", "--method", "own"), ("answered",)),
    "checkpoint": Kind("half/step-*.pt", trained("--batch-size", "256", "--out", "half"), ("half",)),
    "data.csv": Kind("own/data.csv", searched("own", "--sample", "6", "--data-root", "data"), ("own",)),
    "benchmark": Kind("bench/benchmark.parquet", ranked("--benchmark", "bench/benchmark.parquet"), ("run", "bench")),
    "another's table": Kind("foreign.parquet", ranked("--benchmark", "foreign.parquet"), ("run",), checked=False),
    "list": Kind("list.json", ranked("--benchmark", "digits", "--subnets", "list.json"), ("run",), checked=False),
    "split": Kind(
        "split.json",
        trained("--batch-size", "256", "--split", "split.json", "--data-root", ".", "--out", "new"),
        ("new",),
        False,
    ),
    "result": Kind("net/result.json", predicted("net"), ("net",)),
    "network": Kind("net/network.safetensors", predicted("net"), ("net",)),
    "verdict": Kind("net/verdict.json", page("net"), ("net",)),
    "manifest": Kind("given/nshot.json", predicted("given"), ("given",)),
    "handed weights": Kind("given/weights.pt", predicted("given"), ("given",)),
    "image": Kind("photos/*", predicted("net"), ("photos",), checked=False),
    "image to train on": Kind(
        "data/pets/train/cat/*.png",
        searched("own", "--sample", "6", "--data-root", "data"),
        ("own", "data"),
        checked=False,
    ),
    "hub": Kind(
        "data/hub/*.parquet",
        trained("--batch-size", "2", "--dataset", "parquet:hub", "--data-root", "data", "--out", "new"),
        ("new", "data"),
        checked=False,
    ),
    "values": Kind("scores/values.jsonl", scored, ("scores",)),
    "trainings": Kind("bench/results.jsonl", built, ("bench",), slow=True),
    "study": Kind("study/table-k-proxy.json", known, ("study",)),
}


def counted(kind: Kind) -> range:
    """The numbers of its damages: in a full run COUNT over all kinds, of slow ones fewer."""
    slow = sum(each.slow for each in KINDS.values())
    if not FULL:
        return range(1 if kind.slow else 3)
    return range(SLOW if kind.slow else -(-(COUNT - SLOW * slow) // (len(KINDS) - slow)))


@pytest.mark.timeout(24 * 3600 if FULL else 300)
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_told_or_changes_nothing(name: str, scene: Path) -> None:
    kind = KINDS[name]
    kept = scene / ".kept"
    shutil.rmtree(kept, ignore_errors=True)
    for folder in kind.changes:
        if (scene / folder).exists():
            shutil.copytree(scene / folder, kept / folder)

    def bring_back() -> None:
        for folder in kind.changes:
            shutil.rmtree(scene / folder, ignore_errors=True)
            if (kept / folder).exists():
                shutil.copytree(kept / folder, scene / folder)

    files = sorted(scene.glob(kind.files))
    assert files, "the scene lacks it"
    undisturbed = kind.read()
    assert undisturbed[0] == 0, undisturbed[2]
    whole = {path: path.read_bytes() for path in files}
    wrong = []
    for i in counted(kind):
        bring_back()
        path = files[i // 3 % len(files)]
        path.write_bytes(damaged(whole[path], name, i))
        try:
            found = within(kind.read)
        except (Exception, SystemExit, Hang) as error:
            wrong.append(f"{i} ({path.name}): {type(error).__name__}: {str(error)[:200]}")
        else:
            if not (refused(found) or found == undisturbed or (found[0] in (0, 1) and not kind.checked)):
                wrong.append(f"{i} ({path.name}): {str(found)[:300]}")
        path.write_bytes(whole[path])
    bring_back()
    assert not wrong, "\n".join(wrong)


def refused(found: tuple[Any, ...]) -> bool:
    """In one line; a log of which lines are gone says so."""
    status, out, err, *rest = found
    told = status == 2 and err.startswith("nshot: error: ") and err.count("\n") == 1
    return told or (status == 0 and "damaged" in out + str(rest))


@pytest.mark.parametrize("form", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_a_cut_image_is_none(form: str, scene: Path, tmp_path: Path) -> None:
    picture(1, 64).save(tmp_path / f"whole{form}")
    data = (tmp_path / f"whole{form}").read_bytes()
    (tmp_path / f"cut{form}").write_bytes(data[: len(data) // 2])
    status, out, err = nshot_("predict", "net", tmp_path, *CPU)
    assert status == 1, (out, err)
    assert f"cut{form}" in err + out


def test_a_log_tells_which_lines_are_damaged(scene: Path) -> None:
    from nshot.runs.log import damaged_lines, read_log

    path = Path("run/log.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    before = read_log(path)
    line = lines[2]
    at = line.index('"loss": ') + 8
    path.write_text("".join([*lines[:2], line[:at] + ("1" if line[at] != "1" else "2") + line[at + 1 :], *lines[3:]]))
    try:
        assert (read_log(path), damaged_lines(path)) == (before[:2] + before[3:], 1)
        assert "1 line of log.jsonl is damaged and left out" in page("run")()[3]
        path.write_text(lines[0][:20])
        assert "1 line of log.jsonl is damaged and left out" in page("run")()[3]
    finally:
        path.write_text("".join(lines))


def bomb(side: int) -> bytes:
    """A black PNG of side x side pixels of one bit."""
    packed = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    data = b"".join(packed.compress(row * 1000) for _ in range(side // 1000)) + packed.flush()
    chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_an_image_bomb_is_refused_before_it_is_decoded(scene: Path, tmp_path: Path) -> None:
    """2.5 billion pixels in 400 kB: alone, in a folder to train on, and in a parquet file."""
    data = bomb(50_000)
    assert len(data) < 1_000_000
    (tmp_path / "bomb.png").write_bytes(data)
    status, out, err = within(lambda: nshot_("predict", "net", tmp_path / "bomb.png", *CPU))
    assert status == 1
    assert "bomb.png" in err + out
    assert "could be decompression bomb" in err + out
    home = pets(tmp_path / "pets")
    (home / "train" / "cat" / "bomb.jpg").write_bytes(data)  # and of a wrong ending
    (tmp_path / "hub").mkdir()
    cells = [{"bytes": (home / "train" / "cat" / f"{i}.png").read_bytes(), "path": None} for i in range(8)]
    cells.append({"bytes": data, "path": None})
    for part in ("train", "test"):
        pq.write_table(
            pa.table({"image": cells, "label": [i % 2 for i in range(9)]}), tmp_path / f"hub/{part}-0.parquet"
        )
    for name, left in (("imagefolder:pets", "train/cat/bomb.jpg: "), ("parquet:hub", "row 8 of train-0.parquet: ")):
        said: list[str] = []
        within(lambda name=name, said=said: load(name, root=tmp_path, resolution=8, say=said.append))
        assert any(left in line and "decompression bomb" in line for line in said), said
