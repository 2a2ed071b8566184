"""What further readings of the code found, of kernels, spaces, files and commands."""

import csv
import dataclasses
import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import nshot
from helpers import nshot_, refuse
from nshot.cli import COMMANDS
from nshot.data import images as images_module
from nshot.data.batches import Normalise
from nshot.data.images import Files, Images, Stored
from nshot.data.manifest import check_manifest, write_manifest
from nshot.data.sources import load
from nshot.files import csv_text, read_json
from nshot.handover.predict import _listed
from nshot.search.latency import latency_of
from nshot.spaces import FewShot
from nshot.training.optimizers import adamw, sgd

SIZES = ["--channels", "4", "--cells", "1", "--resolution", "8"]
SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
SUBNET = (3, 2, 4, 1, 3, 2)
AT = ["--benchmark", "digits", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read") / "spos[calr]"
    words = ["train", "spos", "--preset", "smoke", *SIZES, "--epochs", "1", "--device", "cpu", "--out", folder]
    assert nshot_(*words)[0] == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / trained.name))


# kernels


@pytest.mark.parametrize("side", [30, 34, 50])
def test_sides_that_cannot_be_halved_twice_are_no_garbage(side: int) -> None:
    """A shape that does not fit, as torch's own operations say; sides that fit are as these."""
    supernet = nshot.space("nasbench201", channels=4, cells=1).supernet()
    with pytest.raises(RuntimeError, match="size"):
        supernet(torch.randn(4, 3, side, side), SUBNET)
    x = torch.randn(4, 3, 28, 36)
    fast = supernet(x, SUBNET)
    supernet.fast = False
    torch.testing.assert_close(fast, supernet(x, SUBNET), rtol=1e-4, atol=1e-5)


def test_no_images_have_no_logits() -> None:
    assert SPACE.supernet()(torch.empty(0, 3, 8, 8), SUBNET).shape == (0, 10)


def test_a_trace_of_a_network_is_the_network() -> None:
    network = nshot.extract(SPACE.supernet(), SUBNET).eval()
    x, other = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    traced = torch.jit.trace(network, x)
    torch.testing.assert_close(traced(other), network(other), rtol=1e-4, atol=1e-5)


def test_gradients_do_not_depend_on_torchs_default_type() -> None:
    supernet, x = SPACE.supernet(), torch.randn(8, 3, 8, 8)
    labels = torch.randint(10, (8,))

    def gradients() -> list[torch.Tensor]:
        supernet.zero_grad()
        F.cross_entropy(supernet(x, SUBNET), labels).backward()
        return [p.grad.clone() for p in supernet.parameters() if p.grad is not None]

    expected = gradients()
    torch.set_default_dtype(torch.float64)
    try:
        found = gradients()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_all_parts_of_a_few_shot_supernet_are_fast_or_none() -> None:
    few = FewShot(SPACE, [SPACE.restrict("1<-0", option).supernet() for option in ("none", "nor_conv_3x3")])
    few.fast = False
    assert not any(part.fast for part in few.parts)
    few.fast = True
    with few.differentiable():
        assert not any(part.fast for part in few.parts)
    assert all(part.fast for part in few.parts)


# optimizers


def test_zeros_for_idle_weights_stay_zeros() -> None:
    """Of several tensors at once, as on a GPU, torch's SGD writes into gradients where it need not decay."""

    def trained(foreach: bool) -> list[torch.Tensor]:
        weights = [torch.nn.Parameter(torch.arange(3.0)), torch.nn.Parameter(torch.ones(2))]
        how: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "foreach": foreach}
        optimizer = sgd(weights, idle="drift", clip=None, fast=False, **how)
        for step in range(6):
            weights[0].grad = torch.full((3,), 0.5)
            weights[1].grad = torch.ones(2) if step == 0 else None  # idle from then on
            optimizer.step()
            optimizer.zero_grad()
        return [weight.detach() for weight in weights]

    for one, other in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(one, other)


def test_adamw_does_not_count_the_steps_of_frozen_weights() -> None:
    module = torch.nn.Linear(2, 2)
    optimizer = adamw(module, idle="drift", clip=None, lr=0.1, weight_decay=0.0)
    module.weight.requires_grad_(False)
    for _ in range(3):
        module(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    counted = {name: optimizer.state[p].get("step", 0) for name, p in module.named_parameters()}
    assert (int(counted["weight"]), int(counted["bias"])) == (0, 3)


def test_graphs_are_not_captured_of_frozen_weights(run: Path, tmp_path: Path) -> None:
    at = ["--preset", "smoke", *SIZES, "--epochs", "3", "--init", run, "--out", tmp_path / "never"]
    assert "graphs are captured with the gradients of all weights" in refuse(
        "train", "spos", *at, "--frozen", "1", "--graphs", "on"
    )


# spaces, latency


def test_whole_ratios_are_read_back() -> None:
    space = nshot.space("autoformer", widths=(16,), depths=(1,), heads=(1,), ratios=(3, 4), patch=4, resolution=8)
    for subnet in space.subnets():
        assert space.parse(space.format(subnet)) == subnet


def test_more_samples_than_a_space_has_are_all_of_it(tmp_path: Path) -> None:
    space = nshot.space(
        "autoformer", widths=(16, 20), depths=(1,), heads=(1, 2), ratios=(2, 3), patch=4, resolution=8, head_dim=8
    )
    (tmp_path / "run").mkdir()
    many = space.size + 5
    for _ in range(2):  # made, and read
        table = latency_of(tmp_path / "run", space, samples=many, by=lambda *given: 1.0, say=lambda line: None)
        assert table.table["samples"] == space.size
    with pytest.raises(nshot.UserError, match="delete it to measure anew"):
        latency_of(tmp_path / "run", space, samples=space.size - 1, by=lambda *given: 1.0, say=lambda line: None)


# files and commands


def test_a_place_that_may_not_be_entered_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(args: list[str]) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/secret/run")

    monkeypatch.setitem(COMMANDS, "draw", command)
    assert refuse("draw").startswith("nshot: error: /secret/run: Permission denied; choose a place that you may read")


def test_a_damaged_result_is_one_line_of_retrain_too(tmp_path: Path) -> None:
    words = ["retrain", "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", *SIZES, "--dataset", "digits"]
    command = [*words, "--epochs", "1", "--device", "cpu", "--out", tmp_path / "best"]
    assert nshot_(*command)[0] == 0
    file = tmp_path / "best" / "result.json"
    before = read_json(file)
    for damage in (file.read_bytes().replace(b"params", b"parans", 1), b"{}", b"[1]", b""):
        file.write_bytes(damage)
        assert "delete it, and the same command makes it again" in refuse(*command)
    file.unlink()
    assert nshot_(*command)[0] == 0
    assert read_json(file) == before


@pytest.mark.parametrize("name", ["a\rb", "a\nb", 'a"b', "a,b", "plain"])
def test_names_with_ends_of_lines_are_read_back(name: str, tmp_path: Path) -> None:
    rows = [["file", "class"], [name, "x"]]
    assert list(csv.reader(io.StringIO(csv_text(rows), newline=""))) == rows
    for label in ("cat", "dog"):
        (tmp_path / "pets" / "train" / label).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (8, 8), (i, 9, 9)).save(tmp_path / "pets" / "train" / label / f"{name}{i}.png")
    data = load(f"imagefolder:{tmp_path / 'pets'}", resolution=8)
    write_manifest(tmp_path, data)
    check_manifest(tmp_path, data)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders")
def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.jpg")
    assert dict(_listed(tmp_path)) == {tmp_path / "a.png": "", tmp_path / "b.jpg": "it is no file"}
    assert dict(_listed(tmp_path / "b.jpg")) == {tmp_path / "b.jpg": "it is no file"}
    assert dict(_listed(tmp_path / "none.png")) == {tmp_path / "none.png": ""}  # who reads it says that


@pytest.mark.parametrize("closed", ["", "sub"])
def test_a_folder_that_may_not_be_read_is_said(closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own right to read is not taken away from root, so the system's answer is made up."""
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).touch()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if Path(path) == tmp_path / closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = {tmp_path / closed: "Permission denied"}
    assert dict(_listed(tmp_path)) == (found if not closed else {tmp_path / "a.png": "", **found})


def test_statistics_do_not_depend_on_whether_memory_holds_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i:02}.png" for i in range(30)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    stored = tuple(Stored(path.name, path.name, path.stat().st_size, "") for path in paths)
    files = Files(paths, torch.zeros(30, dtype=torch.long), 8, stored=stored)
    memory = files.loaded()
    monkeypatch.setattr(images_module, "SAMPLE", 7)
    one, other = Normalise(files), Normalise(memory)
    assert (one.mean, one.std) == (other.mean, other.std)
    named = Images(memory.pixels, memory.labels)  # a set of ours: of all, as before
    assert len(named.sample()) == 30


def test_labels_that_are_texts_here_and_numbers_there(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "png")
    for i, labels in enumerate(([0, 1, 0, 1], ["a", "b", "a", "b"])):
        cells = [{"bytes": stream.getvalue(), "path": None}] * 4
        pq.write_table(pa.table({"image": cells, "label": labels}), tmp_path / f"train-{i}.parquet")
    words = ["train", "spos", "--preset", "smoke", "--dataset", f"parquet:{tmp_path}", "--out", tmp_path / "never"]
    assert "labels that are texts in some files and numbers in others" in refuse(*words)


def test_names_in_brackets_are_names(run: Path) -> None:
    status, printed, _ = nshot_("rank", run, *AT, "--sample", "8")
    assert status == 0
    assert "│ spos[calr]" in printed


def test_the_page_has_the_tau_that_its_interval_is_of(run: Path) -> None:
    assert nshot_("rank", run, *AT, "--sample", "30", "--images", "64")[0] == 0
    assert nshot_("report", run)[0] == 0
    row = read_json(run / "ranking.json")["metrics"]["accuracy"]
    page = (run / "report.html").read_text()
    cells = "".join(f"<td>{text}</td>" for text in (f"{row['tau']:.3f}", f"{row['tau_inf']:.3f}"))
    assert f"{cells}<td>{row['low']:.3f} to {row['high']:.3f}</td>" in page.replace("\n", "")


def test_a_run_whose_scores_are_all_equal_has_nothing_to_compare(run: Path) -> None:
    assert nshot_("rank", run, *AT, "--sample", "8")[0] == 0
    found = {key: value for key, value in read_json(run / "ranking.json").items() if key != "sha256"}
    found["metrics"]["accuracy"]["tau"] = None
    (run / "ranking.json").write_text(json.dumps(found))
    other = shutil.copytree(run, run.parent / "other")
    said = refuse("compare", run, "--", other, "--score", "accuracy")
    assert said.endswith("its subnets have all the same accuracy, which orders none: it has no tau to compare\n")


def test_flags_without_effect_are_refused(tmp_path: Path) -> None:
    words = ["score", "params", *AT, "--dataset", "digits", "--out", tmp_path / "never"]
    assert "ranking 'other' has no effect without --run" in refuse(*words, "--ranking", "other")
    assert "--device" in refuse("doctor", "--device", "cuda")
    train = ["train", "spos", "--preset", "smoke", "--download", "--out", tmp_path / "never"]
    assert "download has no effect on data set 'digits'" in refuse(*train)


def test_subnets_that_are_all_alike_are_not_far_off(run: Path) -> None:
    from nshot.report.plots import _panel, scatter

    assert nshot_("rank", run, *AT, "--sample", "8")[0] == 0
    from nshot.benchmarks.rank import rank_run

    ranking, truth = rank_run(run, "digits", sample=8, device="cpu")
    alike = dataclasses.replace(ranking, accuracy=np.full(8, 10.0))
    from matplotlib.figure import Figure

    panel = Figure().subplots()
    _panel(panel, "title", alike, truth)
    assert not any("further off" in text.get_text() for text in panel.texts)
    assert scatter(run / "alike.png", {"one": alike}, truth).exists()


@pytest.mark.parametrize("batched", [None, True])
def test_nesterov_without_decay_leaves_gradients_as_they_are(batched: bool | None) -> None:
    """PA&DA and Pi-NAS read them after the step. As on a GPU, or from its checkpoint: with torch's batched step."""
    weights = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    optimizer = sgd(weights, idle="rest", clip=None, fast=False, lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=True)
    state = optimizer.state_dict()
    state["param_groups"][0]["foreach"] = batched
    optimizer.load_state_dict(state)
    given = [torch.randn(3) for _ in weights]
    for _ in range(2):
        for weight, grad in zip(weights, given, strict=True):
            weight.grad = grad.clone()
        optimizer.step()
        assert all(w.grad is not None and w.grad.equal(g) for w, g in zip(weights, given, strict=True))
