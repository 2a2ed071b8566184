"""Several searches in one run folder: names, what their files say, and who may write there."""

import json
import multiprocessing
import os
import re
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import nshot
from helpers import nshot_, refuse
from nshot import UserError
from nshot.files import read_json, write_atomically

AT = ["--device", "cpu", "--images", "40"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("naming") / "run"
    assert nshot_("train", "spos", "--preset", "smoke", "--epochs", "1", "--device", "cpu", "--out", run)[0] == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def found(path: Path) -> dict:
    return read_json(path)


def test_the_searches_of_the_documents_stand_side_by_side(run: Path) -> None:
    """As they are written, on fewer images and with smaller limits."""
    lines = re.findall(r"^nshot (search .+?)(?:    #.*)?$", Path("docs/commands.md").read_text(), re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        words = ["4894" if word == "0.2M" else word for word in shlex.split(line)]
        words = words[: words.index("--images")] if "--images" in words else words
        few = ["--population", "6", "--generations", "2"] if {"evolution", "nsga2"} & set(words) else []
        status, _, err = nshot_("search", run, *words[2:], *few, *AT)
        assert (status, err) == (0, "")
    names = ["search", "evolved", "front", "all"]
    assert [found(run / f"{name}.json")["search"]["method"] for name in names] == [
        "random", "evolution", "nsga2", "exhaustive"
    ]  # fmt: skip
    for name in names:
        assert pq.read_table(run / f"{name}.parquet").num_rows == found(run / f"{name}.json")["candidates"]
        assert (run / f"{name}.png").exists()
    assert nshot_("rank", run, "--benchmark", "digits", "--sample", "5", *AT)[0] == 0
    assert nshot_("report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in names)
    assert page.count("<h3>ranking</h3>") == 1
    assert "evolution, seed 0, population 6, generations 2" in page


def test_a_search_says_how_it_came_about(run: Path) -> None:
    args = ["--method", "evolution", "--population", "4", "--generations", "2", "--seed", "5", "--max-params", "9k"]
    assert nshot_("search", run, *args, *AT)[0] == 0
    said = found(run / "search.json")
    assert said["search"] == {"method": "evolution", "seed": 5, "population": 4, "generations": 2}
    assert said["limits"]["max_params"] == 9000
    assert said["score"]["images"] == said["images"] == 40
    assert said["versions"]["nshot"] == nshot.__version__
    (run / "list.json").write_text(json.dumps([[1, 1, 1, 1, 1, 1]]))
    assert nshot_("search", run, "--subnets", run / "list.json", "--name", "listed", *AT)[0] == 0
    assert found(run / "listed.json")["search"]["list"] == str(run / "list.json")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--sample", "6"], "search.sample: 5, not 6"),
        (["--sample", "5", "--seed", "1"], "search.seed: 0, not 1"),
        (["--sample", "5", "--max-params", "9k"], "limits.max_params: None, not 9000"),
        (["--sample", "5", "--by", "loss"], "by: accuracy, not loss"),
        (["--sample", "5", "--images", "50"], "score.images: 40, not 50"),
        (["--method", "exhaustive"], "search.method: random, not exhaustive"),
    ],
)
def test_the_same_search_is_made_again_and_another_refused(run: Path, other: list[str], message: str) -> None:
    assert nshot_("search", run, "--sample", "5", *AT)[0] == 0
    before = files(run)
    assert nshot_("search", run, "--sample", "5", *AT)[0] == 0
    again = {key: value for key, value in json.loads(before["search.json"]).items() if key != "sha256"}
    assert found(run / "search.json") == again
    refusal = refuse("search", run, *AT, *other)
    assert message in refusal
    assert "--name" in refusal
    assert files(run).keys() == before.keys()
    assert files(run)["search.parquet"] == before["search.parquet"]
    assert nshot_("search", run, *AT, "--sample", "6", "--name", "six")[0] == 0


def test_a_search_of_an_earlier_version_is_not_overwritten(run: Path) -> None:
    assert nshot_("search", run, "--sample", "5", *AT)[0] == 0
    said = found(run / "search.json")
    (run / "search.json").write_text(json.dumps({k: v for k, v in said.items() if k not in ("search", "score")}))
    assert "did not say its search and score" in refuse("search", run, "--sample", "5", *AT)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--sample", "6"], "of other subnets"),
        (["--subnets", "LIST"], "of other subnets"),
        (["--sample", "5", "--images", "50"], "score.images: 40, not 50"),
        (["--sample", "5", "--column", "digits_valid"], "column: digits_test, not digits_valid"),
    ],
)
def test_the_same_ranking_is_made_again_and_another_refused(run: Path, other: list[str], message: str) -> None:
    rank = ["rank", run, "--benchmark", "digits", *AT]
    assert nshot_(*rank, "--sample", "5")[0] == 0
    before, rows = files(run), pq.read_table(run / "ranking.parquet").to_pylist()
    archs = [row["arch"] for row in rows]
    for name, listed in (("same", archs), ("turned", archs[::-1])):
        (run.parent / f"{name}.json").write_text(json.dumps(listed))
    refusal = refuse(*rank, *[str(run.parent / "turned.json") if word == "LIST" else word for word in other])
    assert message in refusal
    assert "--name" in refusal
    assert files(run) == before
    assert nshot_(*rank, "--sample", "5")[0] == nshot_(*rank, "--subnets", run.parent / "same.json")[0] == 0
    assert pq.read_table(run / "ranking.parquet").to_pylist() == rows
    (run / "ranking.parquet").write_bytes(b"")
    assert nshot_(*rank, "--sample", "5")[0] == 0  # a damaged table is made again
    assert pq.read_table(run / "ranking.parquet").to_pylist() == rows


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        ".hidden",
        "-a",
        "a\nb",
        "config",
        "latency",
        "Config",
        "log",
        "part-0",
        "Part-x",
        "n" * 256,
    ],
)
@pytest.mark.parametrize("command", [["search", "--sample", "3"], ["rank", "--benchmark", "digits", "--sample", "3"]])
def test_names_that_cannot_be(run: Path, name: str, command: list[str]) -> None:
    before = files(run)
    message = refuse(command[0], run, *command[1:], f"--name={name}", *AT)
    assert message.startswith("nshot: error: name ")
    assert files(run) == before


def test_a_search_and_a_ranking_do_not_take_each_others_name(run: Path) -> None:
    rank = ["rank", run, "--benchmark", "digits", "--sample", "5", *AT]
    assert nshot_(*rank)[0] == nshot_("search", run, "--sample", "3", *AT)[0] == 0
    before = files(run)
    assert "keeps a ranking by this name" in refuse("search", run, "--sample", "3", "--name", "ranking", *AT)
    assert "keeps a search by this name" in refuse(*rank, "--name", "search")
    assert files(run) == before


def test_names_as_long_as_can_be(run: Path) -> None:
    name = "n" * (255 - len(".parquet"))
    assert nshot_("search", run, "--sample", "3", "--name", name, *AT)[0] == 0
    assert (run / f"{name}.json").exists()


def test_a_named_search_is_drawn(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert nshot_("search", run, "--sample", "3", "--name", name, *AT)[0] == 0
        if name == "one":
            assert nshot_("draw", run, "--out", tmp_path / "a.svg")[0] == 0
    assert "name one: " in refuse("draw", run, "--out", tmp_path / "b.svg")
    assert nshot_("draw", run / "two.json", "--out", tmp_path / "b.svg")[0] == 0


# who may write


def write_often(path: Path, letter: bytes) -> None:
    for _ in range(300):
        write_atomically(path, letter * 100_000)
    os._exit(0)


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Each has a temporary file of its own: what is there is always one's or the other's, whole."""
    path = tmp_path / "file"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=write_often, args=(path, letter)) for letter in (b"a", b"b")]
    for child in children:
        child.start()
    seen = set()
    while any(child.is_alive() for child in children):
        if path.exists():
            seen.add(path.read_bytes())
    assert [child.exitcode for child in children] == [0, 0]
    assert seen <= {b"a" * 100_000, b"b" * 100_000}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# processes of torchrun


@pytest.mark.parametrize(
    "command",
    [
        ["rank", "RUN", "--benchmark", "digits"],
        ["search", "RUN"],
        ["latency", "RUN"],
        ["retrain", "RUN/search.json", "--out", "RUN/out"],
        ["auto", "digits", "--out", "RUN/out"],
        ["quickstart", "--out", "RUN/out"],
    ],
)
def test_what_is_not_shared_out_is_refused_by_the_first_process_alone(
    run: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(run)
    monkeypatch.setenv("WORLD_SIZE", "2")
    args = [word.replace("RUN", str(run)) for word in command]
    monkeypatch.setenv("RANK", "1")
    assert nshot_(*args) == (0, "", "")  # torchrun ends all when one fails: the first must have said why
    monkeypatch.setenv("RANK", "0")
    assert "2 processes: nshot " + command[0] in refuse(*args)
    assert files(run) == before


def test_a_script_of_several_processes_is_refused_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nshot.benchmarks.rank import rank_run
    from nshot.search.limits import Limits
    from nshot.search.pick import search_run

    monkeypatch.setenv("WORLD_SIZE", "2")
    for call in (lambda: rank_run(run, "digits"), lambda: search_run(run, Limits())):
        with pytest.raises(UserError, match="2 processes: "):
            call()


def test_rankings_of_the_documents_stand_side_by_side() -> None:
    """Of one run: each after the first has a name of its own."""
    lines = re.findall(r"^nshot rank (runs/ours .+?)(?:    #.*)?$", Path("docs/commands.md").read_text(), re.MULTILINE)
    names = [line.partition("--name ")[2].split(" ")[0] or "ranking" for line in lines]
    assert len(names) == len(set(names)) > 1
