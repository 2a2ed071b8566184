"""The command line: a whole thread on digits, help at once, and one line and status 2 for what cannot be."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

import nshot
import nshot.benchmarks.build
import nshot.cli
from forked import command
from helpers import nshot_, refuse
from nshot.benchmarks.build import BuildConfig
from nshot.benchmarks.table import write_benchmark
from nshot.runs.where import On

COMMANDS = [
    "quickstart",
    "auto",
    "train",
    "rank",
    "compare",
    "score",
    "analyse",
    "search",
    "latency",
    "retrain",
    "verdict",
    "export",
    "predict",
    "draw",
    "report",
    "benchmark",
    "study",
    "doctor",
]
SMOKE = ["spos", "--preset", "smoke", "--epochs", "1", "--device", "cpu"]
SMALL = ["--channels", "4", "--cells", "1", "--resolution", "8", "--dataset", "digits", "--device", "cpu"]
ARCH = "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"
CHILDREN = resource.RUSAGE_CHILDREN


# help


def test_help_lists_every_command() -> None:
    for args in ([], ["--help"], ["-h"]):
        status, out, err = nshot_(*args)
        assert (status, err) == (0, "")
        assert re.findall(r"^  (\w+) ", out, re.MULTILINE) == COMMANDS


def test_help_answers_at_once() -> None:
    script = "import sys; from nshot.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    before = resource.getrusage(CHILDREN)
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    after = resource.getrusage(CHILDREN)
    # Its own time, not the clock's: other tests may keep the processor busy.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_version() -> None:
    status, out, err = nshot_("--version")
    assert (status, err) == (0, "")
    assert out.startswith(f"nshot {nshot.__version__}, torch {version('torch')}, fast path o")


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (["quickstart"], ["--out", "--seed"]),
        (["train"], ["--out", "--device", "--download", "--epochs", "--lr", "--schedule", "--gamma", "--ms", "--idle"]),
        (["rank"], ["--benchmark", "--subnets", "--sample", "--column", "--images", "--device"]),
        (["score"], ["--benchmark", "--subnets", "--sample", "--run", "--ranking", "--out", "--seed"]),
        (["search"], ["--max-params", "--min-params", "--max-flops", "--by", "--sample", "--subnets"]),
        (["retrain"], ["--out", "--epochs", "--label-smoothing", "--device"]),
        (["benchmark", "build"], ["--out", "--subnets", "--seeds", "--jobs", "--epochs"]),
        (["benchmark", "import"], ["--out"]),
    ],
)
def test_help_of_a_command_lists_its_flags(command: list[str], flags: list[str]) -> None:
    status, out, _ = nshot_(*command, "--help")
    assert status == 0
    assert [flag for flag in flags if flag not in out] == []


# a whole thread


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder and what the command said."""
    run = tmp_path_factory.mktemp("cli") / "run"
    status, out, err = nshot_("train", *SMOKE, "--out", run)
    assert (status, err) == (0, "")
    return run, out


@pytest.fixture(scope="module")
def ranked(trained: tuple[Path, str]) -> str:
    status, out, err = nshot_("rank", trained[0], "--benchmark", "digits", "--sample", "60", "--device", "cpu")
    assert (status, err) == (0, "")
    return out


@pytest.fixture(scope="module")
def searched(trained: tuple[Path, str]) -> str:
    status, out, err = nshot_("search", trained[0], "--sample", "20", "--max-params", "8k", "--device", "cpu")
    assert (status, err) == (0, "")
    return out


@pytest.fixture
def run(trained: tuple[Path, str]) -> Path:
    return trained[0]


def test_train_writes_a_run_folder(run: Path, trained: tuple[Path, str]) -> None:
    stored = json.loads((run / "config.json").read_text())
    assert stored["config"]["epochs"] == 1
    assert stored["config"]["dataset"] == "digits"
    assert stored["config"]["space"] | {"channels": 4, "cells": 1, "resolution": 8} == stored["config"]["space"]
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 599 // 32
    assert 0 < last["loss"] < 10
    assert len(list(run.glob("events.out.tfevents*"))) == 1
    # Cmax counts one 3x3 of five operations, and not the classifier's bias.
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
    ones = 6 * (16 + 64 + 256)
    assert sum(w.numel() for w in load_file(run / "supernet.safetensors").values()) == space.params_range[1] + ones + 10
    assert f"nshot rank {run} --benchmark digits" in trained[1]


def test_what_train_names_next_can_be_run(tmp_path: Path) -> None:
    """The embedded benchmark is of 8 pixels: no truth for others."""
    status, out, _ = nshot_("train", *SMOKE, "--resolution", "16", "--out", tmp_path / "run")
    assert (status, "--benchmark" in out) == (0, False)
    assert f"nshot search {tmp_path / 'run'}" in out
    said = refuse("rank", tmp_path / "run", "--benchmark", "digits", "--device", "cpu")
    assert "is of networks of resolution 8, the run's are of resolution 16: name one of the run's sizes" in said


def test_train_again_has_nothing_to_do(run: Path) -> None:
    status, out, _ = nshot_("train", *SMOKE, "--out", run)
    assert status == 0
    assert "finished already: nothing to do" in out


def test_rank_writes_the_ranking(run: Path, ranked: str) -> None:
    summary = json.loads((run / "ranking.json").read_text())
    assert (summary["subnets"], summary["images"], summary["column"]) == (60, 599, "digits_test")
    for row in summary["metrics"].values():
        assert -1 <= row["low"] <= row["tau_inf"] <= row["high"] <= 1
        assert f"{row['tau']:.3f} │ {row['tau_inf']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in ranked
    assert summary["score"] == {"version": 2, "images": 599, "batch": 256, "mixture": 0, "calibration": 0}
    assert pq.read_table(run / "ranking.parquet").num_rows == 60
    assert (run / "ranking.png").read_bytes().startswith(b"\x89PNG")


def test_search_writes_the_pick(run: Path, searched: str) -> None:
    result = json.loads((run / "search.json").read_text())
    assert result["limits"]["max_params"] == 8000
    assert (result["candidates"], len(result["top"])) == (20, 10)
    assert all(row["params"] <= 8000 for row in result["top"])
    assert result["best"]["accuracy"] == max(row["accuracy"] for row in result["top"])
    assert f"{result['best']['accuracy']:.2f}" in searched
    assert f"nshot retrain {run / 'search.json'} --out" in searched


def test_retrain_hands_over_a_network(run: Path, searched: str, tmp_path: Path) -> None:
    out = tmp_path / "network"
    options = ["--epochs", "1", "--batch-size", "64", "--device", "cpu", "--out", out]
    status, said, _ = nshot_("retrain", run / "search.json", *options)
    assert status == 0
    best = json.loads((run / "search.json").read_text())["best"]
    result = json.loads((out / "result.json").read_text())
    assert (result["arch"], result["params"], result["flops"]) == (best["arch"], best["params"], best["flops"])
    assert 0 <= result["test_accuracy"] <= 100
    weights = load_file(out / "network.safetensors")
    learnt = [w for key, w in weights.items() if not re.search("running|num_batches", key)]
    assert sum(w.numel() for w in learnt) == best["params"]
    assert f"{result['test_accuracy']:.2f} %" in said


def test_options_reach_the_configuration(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--schedule", "calr", "--gamma", "3", "--ms", "last", "--lr", "0.1", "--clip", "None", "--no-nesterov"]
    assert (
        nshot_("train", *SMOKE, "--out", out, "--space=nasbench201", "--channels", "2", "--seed", "7", *flags)[0] == 0
    )
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["options"] | {"schedule": "calr", "gamma": 3, "ms": "last"} == config["options"]
    expected: dict[str, Any] = {"lr": 0.1, "clip": None, "nesterov": False, "seed": 7, "batch_size": 32}
    assert config | expected == config
    assert config["space"]["channels"] == 2


def test_benchmark_build_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(nshot.benchmarks.build, "build", lambda *args, **options: seen.append((args, options)))
    flags = ["--subnets", "3", "--seeds", "2", "--epochs", "4", "--channels", "8", "--jobs", "2"]
    assert nshot_("benchmark", "build", "--out", tmp_path, "--data-root", tmp_path, *flags)[0] == 0
    [((config, out), options)] = seen
    assert (out, options) == (tmp_path, {"root": tmp_path, "on": On(jobs=2)})
    expected = BuildConfig()
    assert (config.subnets, config.seeds, config.recipe.epochs, config.space.channels) == (3, 2, 4, 8)
    assert asdict(config.recipe) | {"epochs": expected.recipe.epochs} == asdict(expected.recipe)


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 75)])
def test_a_signal_to_stop_says_how_to_continue(name: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    monkeypatch.setitem(nshot.cli.COMMANDS, "train", lambda args: signal.raise_signal(number))
    assert nshot_("train") == (status, "", f"nshot: stopped by {name}; the same command continues\n")
    assert signal.getsignal(number) == before


# what cannot be


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["bogus"], "'bogus': choose one of quickstart, auto, train"),
        (["--bogus"], "'--bogus': choose one of"),
        (["rank"], "RUN: a folder that nshot train made"),
        (["search", "--sample", "3"], "RUN: a folder that nshot train made"),
        (["retrain"], "SUBNET: its notation, released:N, largest, or a search.json"),
        (["train", "spos", "--preset"], "--preset needs a value"),
        (["benchmark", "nonsense"], "'nonsense': choose one of build, import"),
        (["benchmark", "import"], "FILE: an official"),
        (["train", "spos", "--preset", "smoke"], "--out"),
        (["rank", "run"], "--benchmark"),
    ],
)
def test_a_command_that_is_none_is_refused(
    args: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refuse(*args)
    assert not list(tmp_path.iterdir())


# (what follows ``train spos --preset smoke``, what the message must say)
TRAIN = [
    (["--preset", "bogus"], "preset 'bogus': choose one of paper, deep, long, proxy, smoke"),
    (["--space", "bogus"], "space 'bogus': choose one of autoformer, darts, mobilenet, nasbench201"),
    (["--dataset", "bogus"], "data set 'bogus': choose one of cifar10, cifar100, digits"),
    (["--schedule", "foo"], "'foo' for argument '--schedule'. Expected one of ('cosine', 'calr'"),
    (["--schedule", "calr", "--gamma", "0"], "gamma 0"),
    (["--schedule", "calr", "--gamma", "0.25"], "gamma 0.25: γ' is the largest decay ratio and must be at least 1"),
    (["--schedule", "calr", "--gamma", "0.25"], "did you mean 4?"),
    (["--gamma", "3"], "gamma 3.0 has no effect without --schedule calr"),
    (["--schedule", "power", "--power", "nan"], "power nan"),
    (["--ms", "nonsense"], "'nonsense' of space nasbench201: choose one of 1<-0"),
    (["--batch-size", "100000"], "batch_size 100000: must be from 1 to the 599 training images"),
    (["--batch-size", "0"], "batch_size 0"),
    (["--epochs", "0"], "epochs 0: must be at least 1"),
    (["--epochs", "1.5"], "--epochs: invalid literal for int() with base 10: '1.5'"),
    (["--lr", "-1"], "lr -1.0: must be above 0"),
    (["--lr", "nan"], "lr nan"),
    (["--lr", "inf"], "lr inf"),
    (["--clip", "nan"], "clip nan"),
    (["--momentum", "2"], "momentum 2.0: must be from 0 to below 1"),
    (["--momentum", "0"], "momentum 0 with nesterov: add --no-nesterov"),
    (["--weight-decay", "nan"], "weight_decay nan"),
    (["--seed", "-1"], "seed -1"),
    (["--resolution", "7"], "resolution 7: must be a multiple of 4"),
    (["--channels", "0"], "channels 0"),
    (["--idle", "sleep"], "'sleep'"),
    (["--precision", "8-bit"], "'8-bit'"),
    (["--split", "no.json"], "'no.json'"),
    (["--dataset", "cifar10"], "'cifar10' not found under"),
    (["--device", "abc"], "'abc'"),
    (["--bogus", "1"], "--bogus"),
    (["--epoch", "1"], "similar: --epochs"),
]


@pytest.mark.parametrize(("args", "expected"), TRAIN, ids=[" ".join(args) for args, _ in TRAIN])
def test_a_training_that_cannot_be_is_refused(args: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    preset = [] if args[0] == "--preset" else ["--preset", "smoke"]
    said = refuse("train", "spos", *preset, "--data-root", tmp_path / "root", "--out", tmp_path / "out", *args)
    assert expected in said
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "root").iterdir())


def test_an_unknown_strategy_is_refused(tmp_path: Path) -> None:
    said = refuse("train", "bogus", "--preset", "smoke", "--out", tmp_path / "out")
    assert f"strategy 'bogus': choose one of {', '.join(nshot.list_strategies())}" in said
    assert not (tmp_path / "out").exists()


RETRAIN = [
    (["bogus"], "'bogus' is no nasbench201 subnet"),
    (["released:15625"], "subnet index 15625: nasbench201 has 0 to 15624"),
    (["12"], "'12': a number needs its order; write released:12"),
    (["nats:12"], "'nats:12': only a table that nshot benchmark import made knows the official order"),
    (["no.json"], "no.json is no search result"),
    ([ARCH, "--epochs", "0"], "epochs 0"),
    ([ARCH, "--batch-size", "100000"], "batch_size 100000: must be from 1 to the 1198"),
    ([ARCH, "--lr", "nan"], "lr nan"),
    ([ARCH, "--momentum", "2"], "momentum 2.0"),
    ([ARCH, "--momentum", "0"], "momentum 0 with nesterov"),
    ([ARCH, "--weight-decay", "-1"], "weight_decay -1.0"),
    ([ARCH, "--label-smoothing", "1"], "label_smoothing 1.0"),
    ([ARCH, "--seed", "-1"], "seed -1"),
    ([ARCH, "--space", "bogus"], "space 'bogus'"),
    ([ARCH, "--dataset", "cifar100"], "'cifar100' not found under"),
    ([ARCH, "--device", "abc"], "'abc'"),
]


@pytest.mark.parametrize(("args", "expected"), RETRAIN, ids=[" ".join(args[-2:]) for args, _ in RETRAIN])
def test_a_retraining_that_cannot_be_is_refused(args: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in refuse("retrain", args[0], *SMALL, "--data-root", tmp_path, "--out", tmp_path / "out", *args[1:])
    assert not list(tmp_path.iterdir())


BUILD = [
    (["--jobs", "0"], "jobs 0: must be at least 1"),
    (["--subnets", "0"], "subnets 0: must be at least 1"),
    (["--seeds", "-2"], "seeds -2: must be at least 1"),
    (["--dataset", "bogus"], "data set 'bogus'"),
    (["--epochs", "0"], "epochs 0"),
]


@pytest.mark.parametrize(("args", "expected"), BUILD, ids=[" ".join(args) for args, _ in BUILD])
def test_a_benchmark_that_cannot_be_is_refused(args: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in refuse("benchmark", "build", "--out", tmp_path / "out", *args)
    assert not (tmp_path / "out").exists()


def test_an_import_of_nothing_is_refused(tmp_path: Path) -> None:
    said = refuse("benchmark", "import", tmp_path / "no.pth", "--out", tmp_path / "t.parquet")
    assert f"{tmp_path / 'no.pth'} not found" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("named", ["nats:{list}", "released:{list}"])
def test_numbers_of_a_list_are_read_in_the_order_that_is_said(named: str, run: Path, tmp_path: Path) -> None:
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
    official = [(3, 3, 3, 3, 3, 3), (0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0)]
    accuracies = {"digits_test": np.array([90.0, 20.0, 10.0])}
    write_benchmark(tmp_path / "table.parquet", space, official, accuracies, {}, order="nats")
    (tmp_path / "list.json").write_text("[1, 0]")
    order = named.format(list=tmp_path / "list.json")
    args = [
        "--benchmark",
        tmp_path / "table.parquet",
        "--subnets",
        order,
        "--name",
        f"listed-{named[:4]}",
        "--device",
        "cpu",
    ]
    assert nshot_("rank", run, *args)[0] == 0
    ranked = pq.read_table(run / f"listed-{named[:4]}.parquet").to_pydict()
    expected = [official[1], official[0]] if named.startswith("nats") else [(0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0)]
    assert ranked["arch"] == [space.format(subnet) for subnet in expected]
    args[3] = tmp_path / "list.json"
    assert "list.json: '1': a number needs its order" in refuse("rank", run, *args)
    assert "'nats:1': only a table" in refuse("search", run, "--subnets", f"nats:{tmp_path / 'list.json'}")


@pytest.mark.parametrize("text", ["12", "nats:12"])
def test_a_picture_of_a_number_without_its_order_is_refused(text: str, tmp_path: Path) -> None:
    assert f"'{text}': " in refuse("draw", text, "--out", tmp_path / "out.svg")
    assert not list(tmp_path.iterdir())
    assert nshot_("draw", "released:12", "--out", tmp_path / "out.svg")[0] == 0


RANK_AND_SEARCH = [
    (["rank", "--benchmark", "bogus"], "benchmark 'bogus' not found"),
    (["rank", "--benchmark", "nasbench201"], "benchmark 'nasbench201' not found"),
    (["rank", "--benchmark", "digits", "--column", "c"], "no column 'c': choose one of digits_valid, digits_test"),
    (["rank", "--benchmark", "digits", "--images", "1"], "images 1: must be from 2 to the 599"),
    (["rank", "--benchmark", "digits", "--sample", "-1"], "sample -1"),
    (["rank", "--benchmark", "digits", "--subnets", "no.json"], "no.json"),
    (["rank", "--benchmark", "digits", "--name", "a/b"], "'a/b'"),
    (
        ["rank", "--benchmark", "digits", "--subnets", "l.json", "--sample", "5"],
        "sample 5 has no effect with --subnets",
    ),
    (["rank", "--benchmark", "digits", "--device", "abc"], "'abc'"),
    (["search", "--max-params", "10"], "no subnet keeps to max params 10: space nasbench201"),
    (["search", "--max-params", "abc"], "quantity 'abc': write a number above 0"),
    (["search", "--max-flops", "-5M"], "quantity '-5M'"),
    (["search", "--sample", "0"], "sample 0"),
    (["search", "--seed", "-1"], "seed -1"),
    (["search", "--images", "100000"], "images 100000: must be from 2 to the 599"),
    (["search", "--by", "size"], "'size'"),
    (["search", "--population", "8"], "population 8 has no effect without --method evolution or nsga2"),
    (["search", "--method", "evolution", "--sample", "9"], "sample 9 has no effect without --method random"),
    (["search", "--method", "evolution", "--objectives", "loss", "flops"], "has no effect without --method nsga2"),
    (
        ["search", "--method", "nsga2", "--objectives", "loss", "beauty"],
        "objectives loss, beauty: name two or more of accuracy, loss",
    ),
    (["search", "--method", "nsga2", "--subnets", "no.json"], "a list is scored whole"),
    (["search", "--subnets", "no.json"], "no.json"),
    (["search", "--device", "abc"], "'abc'"),
]


@pytest.mark.parametrize(("args", "expected"), RANK_AND_SEARCH, ids=[" ".join(args) for args, _ in RANK_AND_SEARCH])
def test_a_ranking_or_search_that_cannot_be_is_refused(
    args: list[str], expected: str, run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.json", "supernet.safetensors"):
        shutil.copy(run / name, copy)
    (tmp_path / "root").mkdir()
    assert expected in refuse(args[0], copy, "--data-root", tmp_path / "root", *args[1:])
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "supernet.safetensors"]


@pytest.mark.parametrize("command", [["rank", "--benchmark", "digits"], ["search"]])
def test_a_folder_that_is_no_run_is_refused(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for place in ("folder", "file", "missing"):
        said = refuse(command[0], tmp_path / place, *command[1:])
        assert f"{tmp_path / place} is no run folder" in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
@pytest.mark.parametrize("command", [["rank", "--benchmark", "digits"], ["search"], ["report"]])
def test_a_broken_configuration_is_refused(command: list[str], text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert f"{tmp_path / 'config.json'} is broken (" in refuse(command[0], tmp_path, *command[1:])


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda", "device 'cuda': torch finds no such GPU on this machine, leave --device out"),
        ("mps", "device 'mps': torch finds no such GPU on this machine, leave --device out"),
        ("tpu", "unknown device 'tpu': choose one of auto, cpu, cuda, mps"),
    ],
)
def test_a_device_that_is_not_there_is_said_plainly(
    device: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    message = refuse("train", "--preset", "smoke", "--out", tmp_path / "run", "--device", device)
    assert message == f"nshot: error: {said}\n"
    assert not (tmp_path / "run").exists()


def test_a_terminal_without_greek_letters_and_folders_that_are_no_text(tmp_path: Path) -> None:
    train = [sys.executable, "-m", "nshot.cli", "train", "--preset", "smoke", "--schedule", "calr", "--epochs", "1"]
    ascii_ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run([*train, "--device", "cpu", "--out", tmp_path / "run"], env=ascii_, capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"C(\\u03b1) is that of" in run.stdout
    assert "caf\\udce9 has a name that is no text: choose another" in refuse(
        *train[3:], "--device", "cpu", "--out", tmp_path / "caf\udce9"
    )


@pytest.mark.parametrize("args", [["--help"], ["train", "spos", "--help"]])
def test_a_reader_that_has_enough_ends_a_command_quietly(args: list[str]) -> None:
    """As ``nshot train --help | true`` does: nobody reads what it prints."""
    command = [sys.executable, "-m", "nshot.cli", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_without_a_compiler_it_says_so_in_one_line_and_goes_on(tmp_path: Path) -> None:
    without = {"CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path / "empty")}
    done = command("train", "spos", "--preset", "smoke", "--epochs", "1", "--out", "run", cwd=tmp_path, **without)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert re.match(r"nshot: fast path is off, its kernels cannot be built: .*no-such-compiler", line)
    assert (tmp_path / "run" / "supernet.safetensors").exists()
