"""`nshot auto`: what it sees, what it chooses, and that its phases are those of the single commands."""

import html
import json
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nshot
import nshot.auto.job as job_module
from helpers import nshot_, refuse
from nshot.auto.look import Look, epochs_for, look, resolution_for, stored_side
from nshot.auto.plan import SIDES, STEPS, batch_size, plan
from nshot.data.sources import load
from nshot.files import read_json
from nshot.runs import progress
from nshot.runs.stopping import Stopped
from nshot.search.latency import Setting, fitted, latency_of
from nshot.search.limits import Limits
from nshot.supernets.load import load_run

QUICK = ["--train", "--epochs", "4", "--search", "--sample", "12", "--retrain", "--epochs", "6", "--lr", "0.05"]


def folder_of(root: Path, counts: dict[str, int], sides: tuple[int, ...] = (12,), noise: bool = False) -> Path:
    """Images of one brightness a class, or of noise alone, in turn of these shorter sides and a longer one."""
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        place = root / "train" / name
        place.mkdir(parents=True)
        for i in range(count):
            side = sides[i % len(sides)]
            pixels = rng.integers(0, 256, (side, side + 3, 3))
            if not noise:
                pixels = np.clip(pixels * 0.3 + 80 * label, 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("data") / "pets", {"cat": 50, "dog": 50, "hen": 50})


def test_the_page_of_an_unfinished_job_names_the_job(done: tuple[Path, str], pets: Path, tmp_path: Path) -> None:
    """Never a command that would make one of its folders otherwise, for the job would refuse that."""
    job = shutil.copytree(done[0], tmp_path / "a job")
    for left, gone in (
        ("network", ["network/result.json"]),
        ("search", ["supernet/search.json"]),
        ("supernet", ["supernet/supernet.safetensors"]),
    ):
        for name in gone:
            (job / name).unlink()
        assert nshot_("report", job)[0] == 0
        page = html.unescape((job / "report.html").read_text())
        again = f"nshot auto imagefolder:{pets} --out '{job}' [the same options]"
        assert page.count(again) == ["network", "search", "supernet"].index(left) + 1
        assert not re.search(r"nshot (train|search|retrain) .*a job", page)


@pytest.fixture(scope="module")
def done(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("auto") / "job"
    status, printed, err = auto(pets, out)
    assert (status, err) == (0, "")
    return out, printed


def auto(data: Path, out: Path, *args: str) -> tuple[int, str, str]:
    return nshot_("auto", f"imagefolder:{data}", "--out", out, "--device", "cpu", *args, *QUICK)


# the job


def test_one_command_leads_from_images_to_what_runs_elsewhere(done: tuple[Path, str]) -> None:
    out, printed = done
    assert {path.name for path in out.iterdir()} == {"supernet", "network", "handover", "report.html"}
    assert {"model.py", "weights.pt", "model.onnx"} <= {path.name for path in (out / "handover").iterdir()}
    assert re.search(r"about \d+ s \(training \d+ s, search \d+ s, retraining \d+ s\) and \d+\.\d GiB", printed)
    assert "resolution 8: the largest of 8, 16, 24, 32, 48, 64 that the images have" in printed
    result = json.loads((out / "network" / "result.json").read_text())
    best = json.loads((out / "supernet" / "search.json").read_text())["best"]
    assert result["arch"] == best["arch"]
    assert result["test_accuracy"] > 90  # a brightness a class
    verdict = json.loads((out / "network" / "verdict.json").read_text())
    assert verdict["test"]["accuracy"] == pytest.approx(result["test_accuracy"])
    assert f"{verdict['test']['images']} test images of" in printed
    assert set(verdict["baselines"]) == {"majority", "linear"}


def test_its_phases_are_the_single_commands(done: tuple[Path, str], pets: Path, tmp_path: Path) -> None:
    """The supernet, the search and the network are bit for bit theirs."""
    out, _ = done
    config = json.loads((out / "supernet" / "config.json").read_text())["config"]
    sizes = [f"--{name}={config['space'][name]}" for name in ("channels", "cells", "resolution")]
    train = ["--preset", "proxy", "--schedule", "calr", "--ms", "first", "--epochs", "4", "--batch-size", "16"]
    run, best = tmp_path / "run", tmp_path / "best"
    data = ["--dataset", f"imagefolder:{pets}", "--device", "cpu"]
    assert nshot_("train", "spos", *train, *sizes, *data, "--out", run)[0] == 0
    assert nshot_("search", run, "--sample", "12", "--device", "cpu")[0] == 0
    recipe = json.loads((out / "network" / "config.json").read_text())["config"]["recipe"]
    flags = [f"--{name.replace('_', '-')}={recipe[name]}" for name in ("epochs", "batch_size", "lr", "label_smoothing")]
    flags += ["--policy", recipe["augment"]["policy"], "--device", "cpu"]
    assert nshot_("retrain", run / "search.json", *flags, "--out", best)[0] == 0
    for name in ("supernet/supernet.safetensors", "network/network.safetensors"):
        single = (run if "supernet/" in name else best) / name.split("/")[1]
        assert (out / name).read_bytes() == single.read_bytes()
    assert (
        json.loads((out / "supernet" / "search.json").read_text())["best"]["arch"]
        == json.loads((run / "search.json").read_text())["best"]["arch"]
    )


def test_a_job_that_is_done_is_not_done_again(done: tuple[Path, str], pets: Path) -> None:
    out, _ = done
    weights = [out / "supernet" / "supernet.safetensors", out / "network" / "network.safetensors"]
    before = [path.stat().st_mtime_ns for path in weights]
    status, printed, _ = auto(pets, out)
    assert status == 0
    assert printed.count("is finished already: nothing to do") == 2
    assert "this will take" not in printed
    assert [path.stat().st_mtime_ns for path in weights] == before


@pytest.mark.parametrize("phase", ["train", "search_run", "retrain_best", "export"])
def test_a_job_that_was_killed_goes_on(
    phase: str, done: tuple[Path, str], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        raise Stopped(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(job_module, phase, killed)
        assert auto(pets, tmp_path / "job")[0] == 130
    assert auto(pets, tmp_path / "job")[0] == 0
    for name in ("supernet/supernet.safetensors", "network/network.safetensors", "handover/weights.pt"):
        assert (tmp_path / "job" / name).read_bytes() == (done[0] / name).read_bytes()


def test_other_options_in_the_same_folder_are_refused(done: tuple[Path, str], pets: Path) -> None:
    message = refuse("auto", f"imagefolder:{pets}", "--out", done[0], "--device", "cpu", "--seed", "1", *QUICK)
    assert "seed: 0, not 1" in message


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--max-params", "10"], "no subnet keeps to max params 10"),
        (["--max-flops", "1k"], "no subnet keeps to max FLOPs 1,000"),
        (["--max-params", "many"], "quantity 'many'"),
        (["--space", "nasbench"], "unknown space 'nasbench'"),
        (["--resolution", "10"], "resolution 10: must be a multiple of 4"),
        (["--epochs", "3"], "--epochs"),
        (["--train", "--epochs", "0"], "epochs 0"),
        (["--search", "--sample", "0"], "sample 0"),
        (["--retrain", "--warmup", "9", "--epochs", "3"], "warmup 9"),
        (["--train", "--dataset", "cifar10"], "dataset cifar10 after --train"),
        (["--train", "--resolution", "16"], "resolution 16 after --train"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    args: list[str], expected: str, pets: Path, tmp_path: Path
) -> None:
    message = refuse("auto", f"imagefolder:{pets}", "--out", tmp_path / "job", "--device", "cpu", *args)
    assert expected in message
    assert not (tmp_path / "job").exists()


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a made-up machine a network takes a millisecond and one more for each thousand of its parameters."""

    def ms(space: nshot.spaces.Space, subnet: nshot.spaces.Subnet, setting: Setting) -> float:
        return 1 + space.network_params(space.canonical(subnet)) / 1e3

    monkeypatch.setattr(job_module, "fitted", partial(fitted, by=ms))


@pytest.mark.usefixtures("timed")
def test_a_latency_that_no_network_has_is_refused_before_anything_is_trained(pets: Path, tmp_path: Path) -> None:
    args = ["auto", f"imagefolder:{pets}", "--out", tmp_path / "job", "--device", "cpu"]
    assert "no subnet keeps to max latency 1.1 ms" in refuse(*args, "--max-latency", "1.1ms")
    assert not (tmp_path / "job").exists()


@pytest.mark.usefixtures("timed")
def test_the_search_keeps_to_the_latencies_that_were_checked(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(run: Path, limits: Limits, *args: object, **kwargs: object) -> None:
        table = read_json(run / "latency.json")
        assert table["base_ms"] > 1
        assert (latency_of(run, load_run(run)[0].space).table, limits.max_latency) == (table, 1e4)
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(job_module, "search_run", stopped)
    assert auto(pets, tmp_path / "job", "--max-latency", "10s")[0] == 130


def test_no_data_is_one_line(tmp_path: Path) -> None:
    assert "no folder" in refuse("auto", f"imagefolder:{tmp_path / 'nothing'}", "--out", tmp_path / "job")
    assert "names no folder" in refuse("auto", "imagefolder:", "--out", tmp_path / "job")
    assert "unknown data set 'pets'" in refuse("auto", "pets", "--out", tmp_path / "job")
    assert "nshot auto needs DATA" in refuse("auto")


def test_what_is_no_better_than_chance_is_said_loudly(tmp_path: Path) -> None:
    """Labels of noise, one class larger than the others: no network can know more than which."""
    data = folder_of(tmp_path / "noise", {"a": 60, "b": 30, "c": 30}, noise=True)
    status, printed, _ = auto(data, tmp_path / "job")
    assert status == 0
    supernet, *network = (line for line in printed.splitlines() if line.startswith("WARNING"))
    assert printed.index(supernet) < printed.index("[2/4]")  # before it is searched
    share = int(re.search(r"saying the largest class always \((\d+) %\)", supernet)[1])
    assert 40 <= share <= 60  # half of all images, and about half of those that are learnt from
    assert network


@pytest.mark.parametrize(
    ("phase", "flag"), [("", "--max-latency"), ("--train", "--epochs"), ("--search", "--sample"), ("--retrain", "--lr")]
)
def test_help_needs_no_data(phase: str, flag: str) -> None:
    status, printed, _ = nshot_("auto", "imagefolder:nowhere", *filter(None, [phase]), "--help")
    assert status == 0
    assert flag in printed


# what is seen


def test_what_is_seen_is_what_is_there(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", {"a": 40, "b": 8, "c": 10}, sides=(20, 30, 40))
    (root / "test" / "a").mkdir(parents=True)
    shutil.copy(root / "train" / "a" / "0.png", root / "test" / "a" / "again.png")
    for name in "bc":
        (root / "test" / name).mkdir()
        Image.new("RGB", (20, 23), (9, 9, 9)).save(root / "test" / name / "new.png")
    name = f"imagefolder:{root}"
    assert stored_side(name, None) == 20 + 10  # the middle of 20, 30, 40 in turn
    seen = look(load(name, resolution=24, say=lambda line: None), 30)
    assert (seen.classes, seen.train + seen.valid, seen.test, seen.least, seen.most) == (3, 58, 3, 8, 40)
    assert seen.repeated == 1
    assert seen.majority == pytest.approx(40 / 58)
    text = "\n".join(seen.lines())
    assert "8 to 40 images" in text
    assert "1 of 3 test images are in another part too" in text


def test_pictures_outside_the_parts_are_not_looked_at(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", {"a": 4, "b": 8}, sides=(20,))
    (root / "originals").mkdir()
    for i in range(40):
        Image.new("RGB", (300, 400)).save(root / "originals" / f"{i}.png")
    assert stored_side(f"imagefolder:{root}", None) == 20


def test_images_whose_files_tell_no_size_need_a_resolution(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a loader of one's own."""
    monkeypatch.setattr("nshot.auto.command.stored_side", lambda name, root: 0)
    said = refuse("auto", f"imagefolder:{pets}", "--out", tmp_path / "job")
    assert "its files do not tell how large its images are: say --resolution" in said
    assert not (tmp_path / "job").exists()
    assert "shorter side" not in sized(100, side=0).lines()[0]


def test_a_balanced_set_without_repetition_is_not_warned_of(pets: Path) -> None:
    seen = look(load(f"imagefolder:{pets}", resolution=8, say=lambda line: None), 12)
    assert seen.repeated == 0
    assert len(seen.lines()) == 1


# what is chosen


def sized(count: int, side: int = 32) -> Look:
    return Look("imagefolder:x", 10, count // 2, count - count // 2, 100, side, count // 10, count // 10)


@pytest.mark.parametrize("count", [20, 33, 200, 360, 3_600, 50_000, 1_000_000])
def test_trainings_are_as_long_as_the_steps_ask(count: int) -> None:
    chosen = plan(sized(count), Limits(), "nasbench201", 32)
    steps = chosen.train.epochs * (sized(count).train // chosen.train.batch_size)
    assert STEPS[0] <= steps
    an_epoch = sized(count).train // chosen.train.batch_size
    assert steps <= STEPS[1] + an_epoch
    assert 1 <= chosen.train.batch_size <= count // 2
    assert 1 <= chosen.recipe.batch_size <= count
    assert (chosen.recipe.augment.policy == "randaugment") == (count < 5_000)


def test_a_recipe_keeps_its_cutout_where_few_images_want_more() -> None:
    """DARTS's, of a side of 16 on images of 32 pixels; half of smaller ones."""
    for side, cutout in ((32, 16), (24, 12), (48, 16)):
        augment = plan(sized(500, side), Limits(), "darts", side).recipe.augment
        assert (augment.policy, augment.cutout) == ("randaugment", cutout)


def test_few_images_have_small_batches() -> None:
    assert [batch_size(count) for count in (1, 7, 16, 180, 256, 400, 512, 10**6)] == [1, 7, 16, 16, 32, 32, 64, 64]
    assert epochs_for(180, 16, (4_000, 20_000), 40) == 364  # ceil(4000 / 11)
    assert epochs_for(10**6, 64, (4_000, 20_000), 40) == 2  # ceil(20000 / 15625)
    assert epochs_for(12_800, 64, (4_000, 20_000), 40) == 40


@pytest.mark.parametrize(
    ("side", "chosen"), [(1, 8), (8, 8), (15, 8), (16, 16), (31, 24), (32, 32), (63, 48), (64, 64), (4000, 64)]
)
def test_resolution_is_what_images_have(side: int, chosen: int) -> None:
    assert resolution_for(side, SIDES) == chosen


@pytest.mark.parametrize("most", [20_000, 100_000, 300_000, 500_000, 1_000_000, 1_500_000, 10**9])
def test_a_limit_of_parameters_lies_in_the_space_that_is_chosen(most: int) -> None:
    space = plan(sized(1000), Limits(max_params=most), "nasbench201", 32).train.space
    low, high = (sum(w.numel() for w in space.network((i,) * 6).parameters()) for i in (0, 3))
    assert low <= most
    assert high >= min(most, 1_524_272)


def test_parameters_are_printed_as_the_networks_have_them() -> None:
    """Affine norms too: a limit that only these reach keeps a space its size."""
    small = nshot.space("nasbench201", channels=8, cells=1, resolution=32, num_classes=10)
    low, high = (sum(w.numel() for w in small.network((i,) * 6).parameters()) for i in (0, 3))
    assert high > small.params_range[1]
    chosen = plan(sized(1000), Limits(max_params=high), "nasbench201", 32)
    assert chosen.train.space.sizes() == small.sizes()
    assert any(f"{low:,} to {high:,} parameters" in reason for reason in chosen.reasons)


def test_the_same_data_give_the_same_plan() -> None:
    assert plan(sized(500), Limits(), "nasbench201", 32) == plan(sized(500), Limits(), "nasbench201", 32)
    other = plan(sized(500, 64), Limits(), "mobilenet", 64)
    assert other.train.space.name == "mobilenet"
    assert other.recipe == plan(sized(500), Limits(), "nasbench201", 32).recipe


# progress where there is no bar


def test_progress_is_said_where_output_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Progress("training", 100, start=10, unit=2) as bar:
        for second in range(90):
            now = float(second + 1)
            bar.advance()
            bar.show(loss=1.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training: 41 of 100, loss 1.500, 2 images/s, 1.0 min left",
        "training: 72 of 100, loss 1.500, 2 images/s, 0.5 min left",
    ]


def test_the_page_of_a_job_has_the_network_and_the_supernet(done: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = done
    page = (out / "report.html").read_text()
    assert page.index("Hand it over") < page.index("What was run")
    assert nshot_("report", out, "--out", tmp_path / "again.html")[0] == 0
    assert (tmp_path / "again.html").read_text() == page
    shutil.copytree(out / "supernet", tmp_path / "half" / "supernet")
    assert nshot_("report", tmp_path / "half")[0] == 0
    half = (tmp_path / "half" / "report.html").read_text()
    assert "Hand it over" not in half
    assert "What was run" in half
