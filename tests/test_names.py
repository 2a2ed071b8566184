"""Names that users give: too long, with spaces, or like a flag."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

import nshot
from helpers import SMALL, nshot_, refuse
from nshot.files import typed
from nshot.report.run_data import retrain_flags
from nshot.supernets.config import TrainConfig

LONG = "n" * 256
SPACE = nshot.space("nasbench201", **SMALL["nasbench201"])
ARCH = SPACE.format((3,) * 6)
SIZES = ["--channels", "4", "--cells", "1", "--resolution", "8", "--dataset", "digits", "--device", "cpu"]
QUICK = ["--epochs", "1", "--batch-size", "64", "--warmup", "0"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a retrained network, under plain names."""
    folder = tmp_path_factory.mktemp("names")
    train = ["train", "spos", "--preset", "smoke", "--epochs", "1", "--device", "cpu"]
    assert nshot_(*train, "--out", folder / "run")[0] == 0
    assert nshot_("retrain", ARCH, *SIZES, *QUICK, "--out", folder / "best")[0] == 0
    return folder


@pytest.mark.parametrize(
    "args",
    [
        ["train", "spos", "--preset", "smoke", "--out", LONG],
        ["train", "spos", "--preset", "smoke", "--out", f"new/{LONG}/run"],
        ["train", "spos", "--preset", "smoke", "--init", LONG, "--out", "new"],
        ["train", "spos", "--preset", "smoke", "--split", LONG, "--out", "new"],
        ["train", "spos", "--preset", "smoke", "--dataset", f"imagefolder:{LONG}", "--out", "new"],
        ["train", "spos", "--dataset", "cifar10", "--data-root", LONG, "--out", "new"],
        ["rank", LONG, "--benchmark", "digits"],
        ["rank", "run", "--benchmark", f"{LONG}.parquet"],
        ["rank", "run", "--benchmark", "digits", "--subnets", LONG],
        ["search", LONG],
        ["search", "run", "--subnets", LONG],
        ["latency", LONG],
        ["retrain", f"{LONG}.json", "--out", "new"],
        ["retrain", ARCH, *SIZES, *QUICK, "--out", LONG],
        ["retrain", ARCH, *SIZES, *QUICK, "--teacher", LONG, "--out", "new"],
        ["verdict", LONG],
        ["export", LONG, "--out", "new"],
        ["export", "best", "--out", LONG],
        ["predict", LONG, "a.png"],
        ["predict", "best", "best", "--out", f"{LONG}.csv"],
        ["draw", f"{LONG}.json"],
        ["draw", ARCH, "--out", f"{LONG}.svg"],
        ["report", LONG],
        ["report", "run", "--out", f"{LONG}.html"],
        ["report", "run", "--out", f"new/{LONG}.html"],
        ["draw", ARCH, "--out", f"new/{LONG}.svg"],
        ["export", "best", "--out", f"new/{LONG}"],
        ["predict", "best", "best", "--out", f"new/{LONG}.csv"],
        ["compare", LONG, "--", "run"],
        ["auto", "digits", "--out", LONG],
        ["auto", f"imagefolder:{LONG}", "--out", "new"],
        ["quickstart", "--out", LONG],
        ["benchmark", "build", *SIZES[:-2], "--subnets", "2", "--seeds", "1", "--out", LONG],
        ["benchmark", "import", LONG, "--out", "new.parquet"],
        ["study", "table-j", "--preset", "smoke", "--seeds", "1", "--runs", LONG],
    ],
    ids=lambda args: " ".join(word.replace(LONG, "LONG").replace(ARCH, "ARCH") for word in args),
)
def test_a_name_of_more_than_255_bytes_is_one_line(
    args: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    message = refuse(*args)
    assert re.search(
        "256 bytes|26\\d bytes|too long|longer|cannot be read|no run folder|is no|in no folder", message
    ), message
    assert sorted(path.name for path in home.iterdir()) == ["best", "run"]


def test_a_path_longer_than_the_system_takes_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    path = "/".join(["n" * 200] * 30)
    assert "too long" in (message := refuse("rank", path, "--benchmark", "digits")) or "longer than" in message


@pytest.mark.parametrize("name", ["plain", "two words", "it's", "-dash", "$HOME", "a;b", "ü"])
def test_what_is_printed_next_can_be_typed(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", "spos", "--preset", "smoke", "--epochs", "1", "--device", "cpu", f"--out={name}"]
    shutil.copytree(home / "run", name)
    said = nshot_(*train)[1]
    few = ["--sample", "3", "--images", "20", "--device", "cpu"]
    assert nshot_(*command(said), *few)[0] == 0
    status, said, _ = nshot_("search", typed_back(name), *few)
    assert status == 0
    assert nshot_(*command(said, NEW_FOLDER="out"), *QUICK, "--device", "cpu")[0] == 0
    shutil.move("out", f"{name}2")
    status, said, _ = nshot_("verdict", typed_back(f"{name}2"), "--device", "cpu")
    assert status == 0
    assert nshot_(*command(said))[0] == 0


def command(said: str, **named: str) -> list[str]:
    """The arguments of the command that the output ends with, as a shell takes it."""
    text = said.rstrip().rpartition("nshot ")[2]
    return [named.get(word, word) for word in shlex.split(text)]


def typed_back(path: str) -> str:
    (word,) = shlex.split(typed(path))
    return word


def test_flags_of_the_page_keep_a_data_set_with_spaces_last() -> None:
    """The page takes it off where it shows how to draw."""
    flags = retrain_flags(TrainConfig(space=SPACE, dataset="imagefolder:my pets"))
    assert shlex.split(flags)[-2:] == ["--dataset", "imagefolder:my pets"]
    (pattern,) = re.findall(
        r"flags\.replace\(/(.+)/, \"\"\)", (Path(nshot.__file__).parent / "report/page.js").read_text()
    )
    assert shlex.split(re.sub(pattern, "", flags)) == shlex.split(flags)[:-2]
