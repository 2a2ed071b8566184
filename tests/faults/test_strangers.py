"""A folder from a stranger: nothing in it is executed, nothing is written outside it, nothing of it is a script of a
page or a command of a terminal, and no command waits for ever."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from helpers import nshot_
from limits import CPU, FULL, SMOKE, within
from nshot.files import read_json, read_parquet, write_json, write_parquet
from test_hostile import pets
from test_report import browser  # noqa: F401 (a fixture)

MARK = "window.pwned"
HTML = f"""'"><script>{MARK}=1</script><img src=x onerror="{MARK}=2"><svg onload={MARK}=3></script><!--"""
AS_NAME = f"<img src=x onerror={MARK}=4><script>{MARK}=5<"  # a file's name has no slash
CLASSES = [HTML.replace("/", "∕"), "`</code>", "a\u202eb", "=1+1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a ranking, a search and a latency table, a retrained network, and a hand-over."""
    home = tmp_path_factory.mktemp("made")
    run, net = home / "run", home / "net"
    for command in (
        ("train", "spos", *SMOKE, *CPU, "--batch-size", "256", "--out", run),
        ("rank", run, "--benchmark", "digits", "--sample", "12", *CPU),
        ("search", run, "--sample", "6", *CPU),
        ("latency", run, "--samples", "30"),
        ("retrain", run, "--epochs", "1", *CPU, "--out", net),
        ("export", net, "--to", "torch", "safetensors", "--out", home / "given"),
    ):
        status, _, said = nshot_(*command)
        assert status == 0, (command, said)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def commands(home: Path) -> list[tuple[Any, ...]]:
    """One of each that reads or writes such a folder."""
    (home / "photos").mkdir(exist_ok=True)
    run, net, given = home / "run", home / "net", home / "given"
    return [
        ("train", "spos", *SMOKE, *CPU, "--batch-size", "256", "--out", run),
        ("rank", run, "--benchmark", "digits", "--sample", "12", *CPU),
        ("search", run, "--sample", "6", *CPU),
        ("search", run, "--sample", "5", "--name", "other", "--max-latency", "50ms", *CPU),
        ("latency", run),
        ("compare", run, "--", home / "other run"),
        ("report", run),
        ("draw", run, "--out", home / "picture.svg"),
        ("retrain", run, "--epochs", "1", *CPU, "--out", net),
        ("verdict", net, *CPU),
        ("report", net),
        ("predict", net, home / "photos", *CPU),
        ("export", net, "--to", "torch", "--out", given),
        ("predict", given, home / "photos", *CPU),
        ("train", "fsnas", *SMOKE, *CPU, "--batch-size", "256", "--out", home / "parts"),
    ]


def run_all(home: Path) -> list[tuple[int, str, str]]:
    """What all commands say; none ends in any other way than it may."""
    said = []
    for command in commands(home):
        found = within(lambda command=command: nshot_(*command))
        assert found[0] in (0, 1, 2), command
        assert found[0] != 2 or re.search(r"(^|\n)nshot: error: [^\n]+\n$", found[2]), (command, found)
        said.append(found)
    return said


# Code


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_no_pickle_is_run_whichever_file_it_is(home: Path) -> None:
    mark = home.parent / "run-by-a-pickle"
    bomb = pickle.dumps({"model": Bomb(mark)}, protocol=2)
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(Bomb(mark / "no" / "such"), protocol=2))  # it would go off
    state = torch_bomb(mark)
    for data in (bomb, state, npz_bomb(mark))[: None if FULL else 2]:
        for path in sorted(home.rglob("*")):
            if path.is_file() and "tfevents" not in path.name:
                path.write_bytes(data)
        for path in (home / "run").glob("step-*.pt"):
            path.unlink()
        (home / "run" / f"step-00000003-{hashlib.sha256(data).hexdigest()[:16]}.pt").write_bytes(data)
        run_all(home)
        assert not mark.exists()


def test_no_pickle_is_run_where_all_else_is_as_it_should_be(home: Path) -> None:
    """A checkpoint by its right name, and weights that the manifest knows."""
    mark = home.parent / "run-by-a-pickle"
    for data in (torch_bomb(mark), pickle.dumps(Bomb(mark), protocol=2), npz_bomb(mark))[: None if FULL else 1]:
        run, given = home / "run", home / "given"
        for path in [*run.glob("step-*.pt"), run / "supernet.safetensors"]:
            path.unlink(missing_ok=True)
        (run / f"step-00000003-{hashlib.sha256(data).hexdigest()[:16]}.pt").write_bytes(data)
        (given / "weights.pt").write_bytes(data)
        manifest = read_json(given / "nshot.json")
        manifest["files"]["weights.pt"] = hashlib.sha256(data).hexdigest()
        write_json(given / "nshot.json", manifest)
        status, _, err = nshot_("train", "spos", *SMOKE, *CPU, "--batch-size", "256", "--out", run)
        assert (status, "no intact checkpoint" in err) == (2, True)
        status, _, err = nshot_("predict", given, home, *CPU)
        assert (status, "holds no network that this version can read" in err) == (2, True), err
        run_all(home)
        assert not mark.exists()


@pytest.mark.parametrize("kind", ["npz", "torch", "pickle"])
def test_no_pickle_is_run_of_a_kept_scoring(kind: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted ranking has kept is scored anew where it cannot be read."""
    from nshot.benchmarks import rank as rank_module
    from nshot.supernets import heldout

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    rank = ("rank", "run", "--benchmark", "digits", "--sample", "12", *CPU)
    with monkeypatch.context() as patched:
        patched.setattr(rank_module, "write_ranking", interrupted)
        with pytest.raises(KeyboardInterrupt):
            nshot_(*rank, "--name", "again")
    (kept,) = (home / "run").glob(".scores-*/*.npz")
    mark = home.parent / "run-by-a-pickle"
    bombs = {"npz": npz_bomb, "torch": torch_bomb, "pickle": lambda mark: pickle.dumps(Bomb(mark), protocol=2)}
    if kind == "npz":
        (home / "bomb.npz").write_bytes(npz_bomb(mark / "no" / "such"))
        with pytest.raises(FileNotFoundError), np.load(home / "bomb.npz", allow_pickle=True) as bomb:  # it would go off
            bomb["correct"]
    kept.write_bytes(bombs[kind](mark))
    scored: list[int] = []
    plain = heldout.evaluate
    monkeypatch.setattr(
        heldout, "evaluate", lambda *given, **more: scored.append(len(given[1])) or plain(*given, **more)
    )
    status, _, err = nshot_(*rank, "--name", "again")
    assert (status, mark.exists()) == (0, False), err
    assert sum(scored) == len({tuple(row) for row in read_scores(home, "again")}) > 5
    assert read_scores(home, "again") == read_scores(home, "ranking")


def read_scores(home: Path, name: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in read_parquet(home / "run" / f"{name}.parquet").to_pylist()]


def torch_bomb(mark: Path) -> bytes:
    import io

    import torch

    buffer = io.BytesIO()
    torch.save({"model": Bomb(mark), "format": 1}, buffer)
    return buffer.getvalue()


def npz_bomb(mark: Path) -> bytes:
    import io

    buffer = io.BytesIO()
    one = np.array([Bomb(mark)], dtype=object)
    np.savez(buffer, correct=one, loss=one, seconds=one)
    return buffer.getvalue()


CODE = "__import__('os').mkdir({mark!r})"


@pytest.mark.parametrize("slot", ["crop", "mean", "std", "classes", "arch", "dataset", "resolution", "folder"])
def test_no_text_of_a_result_becomes_code_of_a_handed_over_module(slot: str, home: Path) -> None:
    mark = home.parent / "run-by-a-module"
    code = CODE.format(mark=str(mark))
    triple = f'"""\n{code}\n"""'
    result = read_json(home / "net" / "result.json")
    for text in (code, triple, f"'\n{code}\n#")[: None if FULL else 1]:
        values: dict[str, Any] = {
            "crop": {"crop": text},
            "mean": {"normalise": {**result["normalise"], "mean": text}},
            "std": {"normalise": {**result["normalise"], "std": [text] * 3}},
            "classes": {"classes": [text, *map(str, range(1, 10))]},
            "arch": {"arch": text},
            "dataset": {"dataset": text},
            "resolution": {"space": {**result["space"], "resolution": text}},
            "folder": {"folder": "../../elsewhere"},
        }
        write_json(home / "net" / "result.json", {**result, **values[slot]})
        shutil.rmtree(home / "out", ignore_errors=True)
        status, _, err = nshot_("export", home / "net", "--to", "torch", "--out", home / "out")
        assert status == (0 if slot in ("classes", "dataset") else 2), err
        if status == 0:
            script = "import model; model.predict([model.Image.new('RGB', (9, 9))])"
            subprocess.run([sys.executable, "-c", script], cwd=home / "out", check=True)
        assert not mark.exists()


def test_weights_that_were_changed_are_told_by_the_module_itself(home: Path) -> None:
    script = "import model, sys; model.load(*sys.argv[1:])"
    for name in ("weights.pt", "weights.safetensors"):
        command = [sys.executable, "-c", script, *([name] if name != "weights.pt" else [])]
        assert subprocess.run(command, cwd=home / "given", capture_output=True).returncode == 0
    data = (home / "given" / "weights.pt").read_bytes()
    (home / "given" / "weights.pt").write_bytes(data[:3000] + bytes([data[3000] ^ 1]) + data[3001:])
    done = subprocess.run([sys.executable, "-c", script], cwd=home / "given", capture_output=True, text=True)
    assert "weights.pt is not what was exported" in done.stderr


# Paths


SPOS = ("train", "spos", *SMOKE, *CPU, "--batch-size", "256", "--out", "run")
OFTEN = ("train", "spos", *SMOKE[:4], "--log-every", "2", *SMOKE[6:], *CPU, "--batch-size", "256", "--out", "run")
OWN = ("train", "spos", *SMOKE, *CPU, "--batch-size", "4", "--dataset", "imagefolder:pets", "--data-root", "data",
       "--out", "own")  # fmt: skip
GDAS = ("train", "gdas", *SMOKE, *CPU, "--batch-size", "256", "--out", "own")
RANK = ("rank", "run", "--benchmark", "digits", "--sample", "12", *CPU)
SEARCH = ("search", "run", "--sample", "6", *CPU)
TIMED = ("search", "run", "--sample", "5", "--name", "other", "--max-latency", "50ms", *CPU)
LATENCY = ("latency", "run", "--samples", "30")
RETRAIN = ("retrain", "run", "--epochs", "1", *CPU, "--out", "net")
VERDICT = ("verdict", "net", *CPU)
EXPORT = ("export", "net", "--to", "torch", "safetensors", "--out", "given")
PREDICT = ("predict", "net", "data/pets/test", *CPU, "--out", "table.csv")
SHIFT = ("analyse", "shift", "run", "--images", "8", "--paths", "16", *CPU)
DANGLING, THERE = "dangling", "there"
BOTH = (DANGLING, THERE)

WRITES: list[tuple[tuple[str, ...], list[str], tuple[str, ...], list[str]]] = [
    # a command, what it writes, links to what lead from there, and what is not there when it begins
    (SPOS, ["run/log.jsonl", "run/.lease"], BOTH, ["run/supernet.safetensors"]),
    (SPOS, ["run/supernet.safetensors"], (DANGLING,), ["run/supernet.safetensors"]),
    (OFTEN, ["run/config.json"], (THERE,), ["run/supernet.safetensors"]),
    (OWN, ["own/data.csv"], BOTH, ["own/*", "own/.*"]),
    (OWN, ["own/left-out.txt"], BOTH, ["own/supernet.safetensors", "own/left-out.txt"]),
    (GDAS, ["own/answer.json"], BOTH, ["own/supernet.safetensors"]),
    (RANK, ["run/ranking.json", "run/ranking.parquet", "run/ranking.png", "run/.ranking.lease"], BOTH, []),
    (SEARCH, ["run/search.json", "run/search.parquet", "run/search.png", "run/.search.lease"], BOTH, []),
    (SEARCH, ["run/.search-*.jsonl"], BOTH, []),
    (LATENCY, ["run/.latency.lease"], BOTH, ["run/latency.json"]),
    (LATENCY, ["run/latency.json"], (DANGLING,), ["run/latency.json"]),
    (TIMED, ["run/latency.json"], (THERE,), []),
    (("report", "run"), ["run/report.html"], BOTH, []),
    (("report", "net"), ["net/report.html"], BOTH, []),
    (("draw", "run", "--out", "picture.svg"), ["picture.svg"], BOTH, []),
    (RETRAIN, ["net/network.safetensors", "net/log.jsonl"], BOTH, ["net/result.json"]),
    (RETRAIN, ["net/result.json"], (DANGLING,), ["net/result.json"]),
    (VERDICT, ["net/verdict.json", "net/confusion.png"], BOTH, []),
    (EXPORT, ["given/model.py", "given/weights.pt", "given/README.md", "given/nshot.json"], (THERE,), []),
    (EXPORT, ["given/.model.py.new", "given/.weights.pt.new", "given/.README.md.new"], BOTH, []),
    (EXPORT, ["given/nshot.json"], (DANGLING,), ["given/*"]),
    (PREDICT, ["table.csv"], BOTH, []),
    (SHIFT, ["run/shift.json", "run/shift.png"], BOTH, []),
]
FOLLOWED = "is a link, and nothing is written outside"
REFUSED = {  # what is written again and again under its name, and so cannot give way
    **{(output, kind): FOLLOWED for _, outputs, kinds, _ in WRITES for output in outputs for kind in kinds
       if output.endswith(".lease")},
    ("run/.search-*.jsonl", DANGLING): "cannot be written (Too many levels of symbolic links)",
}  # fmt: skip
ONE_BY_ONE = [
    pytest.param(words, output, kind, gone, id=f"{words[0]}-{output}-{kind}")
    for words, outputs, kinds, gone in WRITES
    for output in outputs
    for kind in kinds
]  # a second or two each


@pytest.mark.parametrize(("words", "output", "kind", "gone"), ONE_BY_ONE if FULL else ONE_BY_ONE[::3])
def test_nothing_is_written_through_a_link(
    words: tuple[str, ...], output: str, kind: str, gone: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file that a command writes is a link to one outside already, one that is there or one that would be made, and
    all else is as it should be: the link gives way to the file, or the command says why it ends."""
    for name, value in (("CALLS", 1), ("SECONDS", 0), ("ROUNDS", 1), ("CHECKS", 5)):  # of a measurement
        monkeypatch.setattr(f"nshot.search.latency.{name}", value)
    pets(home / "data" / "pets")
    (home / "data" / "pets" / "train" / "cat" / "0.png").write_bytes(b"no image")
    if words in (OWN, GDAS):
        assert nshot_(*words)[0] == 0
    path = next(iter(home.glob(output)), home / output)
    for pattern in gone:
        for file in home.glob(pattern):
            file.unlink()
    content = path.read_bytes() if path.is_file() else b"precious"
    path.unlink(missing_ok=True)
    target = home.parent / "outside" / "target"
    target.parent.mkdir()
    if kind == THERE:
        target.write_bytes(content)
    path.symlink_to(target)
    before = snapshot(target.parent)
    status, _, err = within(lambda: nshot_(*words))
    assert snapshot(target.parent) == before
    if said := REFUSED.get((output, kind)):
        assert (status, said in err) == (2, True), err
        return
    assert status == 0, err
    assert not path.is_symlink()
    assert path.is_file() != path.name.endswith(".new")  # these take other names


def test_nothing_is_written_in_a_folder_that_a_link_leads_to(home: Path) -> None:
    outside = home.parent / "outside"
    outside.mkdir()
    (home / "parts").mkdir()
    for i in range(5):
        (home / "parts" / f"part-{i}").symlink_to(outside)
    assert nshot_("train", "fsnas", *SMOKE, *CPU, "--batch-size", "256", "--out", home / "parts")[0] == 2
    shutil.rmtree(home / "parts")
    assert nshot_("train", "fsnas", *SMOKE, *CPU, "--batch-size", "256", "--out", home / "parts")[0] == 0
    for name in ("supernet", "network", "handover"):
        shutil.rmtree(home / "whole", ignore_errors=True)
        (home / "whole").mkdir()
        (home / "whole" / name).symlink_to(outside)
        pets(home / "data" / "pets") if not (home / "data").exists() else None
        status, _, err = nshot_("auto", "imagefolder:pets", "--data-root", home / "data", "--out", home / "whole")
        assert status == 2
        assert f"{home / 'whole' / name} is a link, and nothing is written outside" in err
    assert snapshot(outside) == {}


def test_a_kept_scoring_that_is_a_link_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nshot.supernets import score

    outside = home.parent / "outside"
    outside.mkdir()
    kept: list[Path] = []
    store = score.PartialScores
    monkeypatch.setattr(score, "PartialScores", lambda folder: kept.append(folder) or store(folder))
    rank = ("rank", home / "run", "--benchmark", "digits", "--sample", "12", "--name", "again", *CPU)
    assert nshot_(*rank)[0] == 0
    kept[0].symlink_to(outside)
    status, _, err = nshot_(*rank)
    assert (status, "is a link, and nothing is written outside" in err) == (2, True)
    assert snapshot(outside) == {}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/b", "..", ".", "", "-x", ".hidden", "a\0b", "a\nb", "con/../x", "a" * 300, "config"]
)
@pytest.mark.parametrize("command", [("rank", "--benchmark", "digits"), ("search", "--sample", "2")])
def test_a_name_that_leads_elsewhere_is_refused(name: str, command: tuple[str, ...], home: Path) -> None:
    before = snapshot(home)
    status, _, err = nshot_(command[0], home / "run", *command[1:], f"--name={name}", *CPU)
    assert (status, err.count("\n")) == (2, 1), err
    after = snapshot(home)
    assert {path: data for path, data in after.items() if "lease" not in path} == before


def test_names_in_a_manifest_lead_nowhere(home: Path) -> None:
    """An export deletes what an earlier one left: of names, those that lie in the folder itself."""
    precious = home.parent / "precious"
    precious.write_text("precious")
    manifest = read_json(home / "given" / "nshot.json")
    digest = hashlib.sha256(b"precious").hexdigest()
    for name in ("../../precious", str(precious), "../precious"):
        for key in ("files", "before"):
            manifest[key][name] = digest
    write_json(home / "given" / "nshot.json", manifest)
    for to in ("safetensors", "torch"):
        assert nshot_("export", home / "net", "--to", to, "--out", home / "given")[0] == 0
        assert precious.read_text() == "precious"


def test_names_in_a_list_of_images_lead_nowhere(home: Path) -> None:
    pets(home / "data" / "pets")
    flags = ("--dataset", "imagefolder:pets", "--data-root", home / "data")
    assert nshot_("train", "spos", *SMOKE, *CPU, "--batch-size", "4", *flags, "--out", home / "own")[0] == 0
    listed = (home / "own" / "data.csv").read_text()
    (home / "own" / "data.csv").write_text(listed.replace("train/cat/", "../../../etc/"))
    status, _, err = nshot_("search", home / "own", "--sample", "2", "--data-root", home / "data", *CPU)
    assert (status, "is not what" in err) == (2, True), err


def test_what_is_no_file_is_not_waited_for(home: Path) -> None:
    """A pipe in the place of any file that a command reads: nobody will ever write to it."""
    files = [path for path in home.rglob("*") if path.is_file() and path.suffix not in (".png", ".html")]
    for path in files:
        path.unlink()
        os.mkfifo(path)
    run_all(home)


# Pages and terminals


def hostile(home: Path) -> tuple[Path, Path]:
    """A run and a network whose every text is HTML, wherever a reader takes any text."""
    (run := home / AS_NAME).mkdir()
    shutil.copytree(home / "run", run, dirs_exist_ok=True)
    for name in ("ranking", "search"):
        for path in run.glob(f"{name}.*"):
            path.rename(run / f"{name}{AS_NAME}{path.suffix}")
    spoil(run / "config.json", lambda v: v["versions"].update({HTML: HTML}) or v["config"].update(dataset=HTML))
    ranking = {"benchmark": HTML, "column": HTML, "list": HTML}
    spoil(
        run / f"ranking{AS_NAME}.json", lambda v: v.update(ranking) or v["metrics"].update({HTML: v["metrics"]["loss"]})
    )
    search = {"by": HTML, "limits": {HTML: 3}, "search": {"method": HTML, HTML: HTML}, "dataset": HTML}
    spoil(run / f"search{AS_NAME}.json", lambda v: v.update(search))
    table = read_parquet(run / f"search{AS_NAME}.parquet")
    write_parquet(run / f"search{AS_NAME}.parquet", table.append_column(HTML, pa.array([HTML] * len(table))))
    net = home / "net"
    status, _, said = nshot_("verdict", net, *CPU)
    assert status == 0, said
    names = [*CLASSES, *map(str, range(4, 10))]
    spoil(net / "result.json", lambda v: v.update(dataset=HTML, classes=names))
    spoil(net / "config.json", lambda v: v["versions"].update({HTML: HTML}) or v["config"].update({HTML: HTML}))

    def judged(verdict: dict[str, Any]) -> None:
        verdict["dataset"] = HTML
        verdict["pictures"] = [HTML for _ in verdict["pictures"]]
        for row, name in zip(verdict["classes"], names, strict=True):
            row["name"] = name
        for row in verdict["mistakes"]:
            row |= {"image": HTML, "class": HTML, "said": HTML}
        verdict["baselines"]["majority"]["class"] = HTML

    spoil(net / "verdict.json", judged)
    return run, net


def spoil(path: Path, change: Callable[[Any], Any]) -> None:
    values = read_json(path)
    change(values)
    write_json(path, values)


def test_no_text_of_a_folder_is_a_script_of_its_page(home: Path, browser: Any) -> None:  # noqa: F811
    for folder in hostile(home):
        status, _, err = nshot_("report", folder)
        assert status == 0, err
        page = folder / "report.html"
        assert MARK in page.read_text()  # it is there, as text
        browser.get(page.as_uri())
        assert browser.execute_script(f"return {MARK}") is None
        assert browser.find_elements("css selector", "svg polyline"), (
            folder,
            browser.get_log("browser"),
        )  # our own script has run
        foreign = "return [...document.querySelectorAll('script')].map((each) => each.textContent)"
        assert all(MARK not in text or text.startswith("{") for text in browser.execute_script(foreign))
        assert browser.execute_script("return document.querySelectorAll('[onerror], [onload]').length") == 0


def test_a_browser_runs_our_script_alone(home: Path, browser: Any) -> None:  # noqa: F811
    """Whatever HTML a page came to hold, its policy would not let it run, ask a network or send a form."""
    assert nshot_("report", home / "run")[0] == 0
    page = home / "run" / "report.html"
    text = page.read_text()
    attack = (
        f'<script>{MARK}=1</script><img src=x onerror="{MARK}=2"><svg onload="{MARK}=3"></svg>'
        f'<a id=link href="javascript:{MARK}=4">a</a><script src="data:text/javascript,{MARK}=5"></script>'
        f'<iframe srcdoc="<script>parent.pwned=6</script>"></iframe><base href="https://example.com/">'
        f'<object data="data:text/html,<script>parent.pwned=7</script>"></object>'
        f'<form id=form action="data:text/html,sent"><button id=send>send</button></form>'
    )
    page.write_text(text.replace("</h1>", f"</h1>{attack}", 1))
    browser.get(page.as_uri())
    address = browser.current_url
    for name in ("link", "send"):
        browser.execute_script(f"document.getElementById('{name}').click()")
    assert browser.execute_script(f"return {MARK}") is None
    assert browser.current_url == address
    assert browser.execute_script("return document.baseURI").startswith("file:")
    assert browser.find_elements("css selector", "svg polyline")
    said = " ".join(line["message"] for line in browser.get_log("browser"))
    assert said.count("Content Security Policy") >= 6


def test_no_text_of_a_folder_is_a_command_of_a_terminal(home: Path) -> None:
    escape = "\x1b]0;owned\x07\x1b[2J\r"
    (home / "photos").mkdir()
    from test_hostile import picture

    picture(1).save(home / "photos" / f"a{escape[:8].replace('/', '')}.png")
    result = read_json(home / "net" / "result.json")
    write_json(home / "net" / "result.json", {**result, "classes": [f"{escape}{i}" for i in range(10)]})
    for name in ("run/config.json", "run/ranking.json", "run/search.json", "run/latency.json"):
        spoil(home / name, lambda values: in_every_text(values, escape))
    for status, out, err in run_all(home):
        odd = {c for c in out + err if unicodedata.category(c) == "Cc"} - {"\n"}
        assert not odd, (status, out, err)


def in_every_text(values: Any, text: str) -> None:
    """Adds the text to every text inside, keys apart."""
    for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        if isinstance(value, dict | list):
            in_every_text(value, text)
        elif isinstance(value, str):
            values[key] = value + text


def test_a_readme_shows_names_as_they_are(home: Path) -> None:
    spoil(home / "net" / "result.json", lambda v: v.update(classes=[*CLASSES, *map(str, range(4, 10))], dataset=HTML))
    assert nshot_("export", home / "net", "--to", "torch", "--out", home / "out")[0] == 0
    text = (home / "out" / "README.md").read_text()
    plain = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)  # what a reader takes for Markdown
    assert "<" not in plain
    assert json.dumps(HTML)[1:-1].replace('\\"', '"') in text


@pytest.fixture(autouse=True)
def _no_prompt() -> Iterator[None]:
    """No command may ask: there is nobody to answer."""
    before, sys.stdin = sys.stdin, open(os.devnull)  # noqa: SIM115
    yield
    sys.stdin.close()
    sys.stdin = before
