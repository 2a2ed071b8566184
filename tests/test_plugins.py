"""Spaces, methods and data sets of an outsider's own on the whole command line, by the example in examples/."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from forked import command
from helpers import nshot_
from nshot import UserError, plugins
from nshot.registry import Registry
from nshot.scores import scores
from nshot.strategies import strategies

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin.py"


def refused(*args: str | Path, cwd: Path, **variables: str) -> str:
    done = command(*args, cwd=cwd, **variables)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"nshot: error: [^\n]+\n", done.stderr)
    return done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the example, its plug-in beside it."""
    folder = tmp_path_factory.mktemp("plug")
    (folder / "mine.py").write_text(EXAMPLE.read_text())
    sizes = ["--space", "blocks", "--preset", "smoke", "--epochs", "4", "--schedule", "calr", "--ms", "first"]
    done = command("train", "fewest", "--plugin", "mine.py", *sizes, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_command_takes_it_also_in_other_processes(folder: Path) -> None:
    more = ["--plugin", "mine.py"]
    small = ["--space", "blocks", "--dataset", "stripes", "--epochs", "1"]
    lines: list[list[str]] = [
        ["search", "run", "--max-params", "1k"],
        ["retrain", "run/search.json", "--epochs", "2", "--out", "best"],
        ["report", "run"],
        ["report", "best"],
        ["benchmark", "build", *small, "--subnets", "4", "--seeds", "2", "--jobs", "2", "--out", "built"],
        ["rank", "run", "--benchmark", "built/benchmark.parquet", "--sample", "0"],
    ]
    for line in lines:
        done = command(*line, *more, cwd=folder)
        assert done.returncode == 0, (line, done.stderr)
    assert json.loads((folder / "run" / "search.json").read_text())["best"]["params"] <= 1000
    assert pq.read_table(folder / "built" / "benchmark.parquet").num_rows == 4
    assert json.loads((folder / "run" / "config.json").read_text())["plugins"] == ["mine.py"]


def test_a_run_says_which_plug_in_it_needs_and_imports_nothing(folder: Path) -> None:
    """Though a file of that name lies in the run folder, and where the command is given."""
    spy = "import pathlib; pathlib.Path('imported').touch()\n"
    (folder / "run" / "mine.py").write_text(spy)
    for words in (["report", "run"], ["search", "run"], ["rank", "run", "--benchmark", "digits"]):
        message = refused(*words, cwd=folder)
        assert "run was made with the plug-in mine.py, which is not here: --plugin mine.py" in message
    (folder / "config.json").write_text((folder / "run" / "config.json").read_text())
    message = refused("train", "fewest", "--space", "blocks", "--preset", "smoke", "--out", "run", cwd=folder)
    assert "unknown strategy 'fewest'" in message
    assert "--plugin FILE.py" in message
    assert not (folder / "imported").exists()


def test_what_is_ours_alone_needs_none(folder: Path) -> None:
    """A run that uses nothing of the plug-in does not name it, though it was there."""
    words = ["--plugin", "mine.py", "--preset", "smoke", "--epochs", "1", "--out", "spos"]
    assert command("train", "spos", *words, cwd=folder).returncode == 0
    assert "plugins" not in json.loads((folder / "spos" / "config.json").read_text())
    assert command("report", "spos", cwd=folder).returncode == 0


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without plug-ins."""
    for name, value in (("_loaded", {}), ("_current", [])):
        monkeypatch.setattr(plugins, name, value)
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "none.py': no Python file of that name; say --plugin FILE.py"),
        ("a.txt", "", "a.txt': no Python file of that name"),
        ("a-b.py", "", "a module cannot be named 'a-b'; rename the file"),
        ("json.py", "", "plug-in json.py: ImportError in line"),
        ("broken.py", "x = 1\nx = (\n", "plug-in broken.py: SyntaxError in line 2"),
        ("failing.py", "x = 1\n\nx / 0\n", "plug-in failing.py: ZeroDivisionError in line 3: division by zero"),
        ("missing.py", "import nowhere\n", "plug-in missing.py: ModuleNotFoundError in line 1"),
        (
            "taken.py",
            "from nshot.strategies import strategies\n\n\n@strategies.register('nsas')\nclass A: pass\n",
            "plug-in taken.py: ValueError in line 4: there is a strategy 'nsas' already",
        ),
    ],
)
def test_a_file_that_is_no_plug_in_is_one_line(
    name: str, text: str | None, message: str, tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    known = strategies.names()
    with pytest.raises(UserError) as error:
        _load(tmp_path / name)
    monkeypatch.setenv(plugins.VARIABLE, "")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert strategies.names() == known
    assert name == "json.py" or Path(name).stem not in sys.modules


def _load(path: Path) -> None:
    plugins.add(path)
    plugins.load()


def test_two_files_of_one_name(tmp_path: Path, fresh: None) -> None:
    """A path that is said twice, in two ways, is one file."""
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "same_name.py").write_text("")
    plugins.add(tmp_path / "a" / "same_name.py")
    plugins.add(tmp_path / "b" / ".." / "a" / "same_name.py")
    plugins.load()
    assert plugins.loaded() == ["same_name.py"]
    plugins.add(tmp_path / "b" / "same_name.py")
    with pytest.raises(UserError, match=r"another one is named same_name\.py too; rename one of them"):
        plugins.load()
    del sys.modules["same_name"]


def test_a_file_beside_it_does_not_stand_for_a_module_of_python(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "mine.py").write_text("import statistics\nassert statistics.median([1, 2, 3]) == 2\nimport beside\n")
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "elsewhere").mkdir()
    done = command("doctor", "--plugin", tmp_path / "mine.py", cwd=tmp_path / "elsewhere")
    assert (done.returncode, done.stderr) == (0, "")


def test_installed_packages_have_theirs(tmp_path: Path) -> None:
    """By an entry point; one that cannot be imported is one line, which names the package."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "their_blocks.py").write_text(EXAMPLE.read_text())
    info = site / "their_nas-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nas\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nshot.plugins]\nblocks = their_blocks\n")
    path = {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    words = ["fewest", "--space", "blocks", "--preset", "smoke", "--epochs", "1", "--out", "run"]
    done = command("train", *words, cwd=tmp_path, **path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["plugins"] == ["their-nas"]
    told = refused("search", "run", cwd=tmp_path)
    assert "the plug-in their-nas, which is not here: pip install their-nas" in told
    (site / "their_blocks.py").write_text("import nowhere")
    assert "plug-in their-nas: ModuleNotFoundError in line 1" in refused("search", "run", cwd=tmp_path, **path)


def test_names_that_are_registered_here_are_nobodys_plug_in() -> None:
    registry: Registry[int] = Registry("thing", "nshot.data")
    registry.register("mine")(1)
    assert registry["mine"] == 1
    assert "mine" not in plugins.used(["mine"])
    with pytest.raises(ValueError, match="there is a thing 'mine' already"):
        registry.register("mine")(2)
    with pytest.raises(
        UserError, match="unknown thing 'other': choose one of mine; one of your own comes with --plugin"
    ):
        registry["other"]


def test_doctor_says_what_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train-0.parquet").touch()
    out = nshot_("doctor", "--data-root", tmp_path)[1]
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith("fast path"))
    assert lines["data"] == f"{tmp_path}: cifar10; digits are embedded"
    assert lines["cores"].startswith(f"{os.cpu_count()}, ")
    monkeypatch.setenv("CXX", "no-such-compiler")
    out = nshot_("doctor", "--data-root", tmp_path / "nowhere")[1]
    assert "fast path    off: no compiler 'no-such-compiler'" in out
    assert f"data         {tmp_path / 'nowhere'} is no folder" in out


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (["cifar10/", "cifar100/", "imagenet/", "cifar-10-batches-py/", "imagenet/train/"], "none of cifar10, "),
        (["cifar-10-batches-py/data_batch_1"], "cifar10; "),
        (["cifar10/cifar-10-batches-py/data_batch_1"], "cifar10; "),
        (["cifar-100-python/train"], "cifar100; "),
        (["cifar100/train-00000-of-00001.parquet"], "cifar100; "),
        (["cifar100-backup/train", "cifar10.zip", "imagenet16/train/"], "none of cifar10, "),
        (["imagenet/train/", "imagenet/val/", "cifar10/train-0.parquet"], "cifar10, imagenet; "),
    ],
)
def test_doctor_finds_the_data_that_can_be_loaded(there: list[str], told: str, tmp_path: Path) -> None:
    """As their archives are unpacked and torchvision fetches them; no folder that is empty, or called alike."""
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    assert f"{tmp_path}: {told}" in nshot_("doctor", "--data-root", tmp_path)[1]


@pytest.mark.parametrize(("given", "told"), [("onnx", "onnx version"), ("none", "no: onnx missing")])
def test_doctor_knows_the_extras(given: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import nshot.doctor as module

    monkeypatch.setattr(module, "requires", lambda name: ["torch>=2", 'onnx>=1; extra == "onnx"', 'x; extra == "dev"'])
    monkeypatch.setattr(module, "_installed", lambda package: given == package)
    monkeypatch.setattr(module, "version", lambda package: "version")
    out = nshot_("doctor")[1]
    assert f"onnx         {told}" in out
    assert "\nx " not in out
    assert "\ndev " not in out


def test_a_plug_in_that_failed_can_be_mended(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same process, as in a notebook: names that it had registered before it failed are free again."""
    text = "from nshot.scores import scores\n\n@scores.register('halfway')\ndef halfway(*given): return 1.0\n"
    file = tmp_path / "mended_later.py"
    file.write_text(text + "1 / 0\n")
    for _ in range(2):
        with pytest.raises(UserError, match=r"plug-in mended_later\.py: ZeroDivisionError in line 5"):
            _load(file)
    file.write_text(text)
    try:
        _load(file)
        assert "halfway" in scores.names()
    finally:
        scores._items.pop("halfway", None)
        sys.modules.pop("mended_later", None)


def test_the_first_look_up_may_come_from_several_threads() -> None:
    code = (
        "import nshot\nfrom concurrent.futures import ThreadPoolExecutor as Pool\n"
        "with Pool(8) as pool: print(set(pool.map(lambda i: nshot.space('nasbench201').size, range(8))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("{15625}", "")


def test_a_package_may_have_several_entry_points(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "twopkg").mkdir(parents=True)
    (site / "twopkg" / "__init__.py").touch()
    for name in "ab":
        text = f"from nshot.scores import scores\n\n@scores.register('from_{name}')\ndef mine(*given): return 1.0\n"
        (site / "twopkg" / f"{name}.py").write_text(text)
    info = site / "two-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: two\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nshot.plugins]\none = twopkg.a\nmore = twopkg.b\n")
    code = "from nshot import plugins; from nshot.scores import scores; print(scores.names(), plugins._loaded['two'])"
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=path)
    assert "'from_a', 'from_b'" in done.stdout, done.stderr
    assert done.stdout.count("from_a") == done.stdout.count("from_b") == 2


def test_what_a_mended_plug_in_imports_runs_again(tmp_path: Path, fresh: None) -> None:
    (tmp_path / "helper_of_it.py").write_text(
        "from nshot.scores import scores\n\n@scores.register('helped')\ndef helped(*given): return 1.0\n"
    )
    file = tmp_path / "with_helper.py"
    file.write_text("import helper_of_it\n1 / 0\n")
    with pytest.raises(UserError, match=r"plug-in with_helper\.py: ZeroDivisionError in line 2"):
        _load(file)
    file.write_text("import helper_of_it\n")
    try:
        _load(file)
        assert "helped" in scores.names()
    finally:
        scores._items.pop("helped", None)
        for name in ("with_helper", "helper_of_it"):
            sys.modules.pop(name, None)
