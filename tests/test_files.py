"""Images that stay on disk: the same as in memory, made by any process, ImageNet's layout, and what is refused."""

import json
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import nshot.data.own
from helpers import refuse
from nshot import UserError
from nshot.data.ahead import Ahead
from nshot.data.augment import Augment
from nshot.data.batches import TrainBatches, heldout_batches
from nshot.data.imagenet import _held_out
from nshot.data.images import Files, Images, joined
from nshot.data.sources import Dataset, load
from nshot.files import write_parquet
from nshot.networks.recipes import Recipe
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.seeding import seeded_everywhere
from nshot.supernets.config import preset
from nshot.supernets.load import load_run
from nshot.supernets.score import scored
from nshot.supernets.train import train
from test_own import write

CPU = torch.device("cpu")
SUBNET = (1, 3, 1, 2, 0, 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("data")
    sizes = [(16, 16), (20, 16), (12, 30), (9, 9)] * 8
    for part in ("train", "val", "test"):
        write(home / "zoo", part, {"ape": sizes, "bat": sizes})
    return home


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nshot.data.own, "memory_needed", lambda count, resolution: (2, 1))


def both(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Dataset]:
    """The same images in memory and as files."""
    memory = load("imagefolder:zoo", root=root, resolution=8)
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(nshot.data.own, "memory_needed", lambda count, resolution: (2, 1))
        files = load("imagefolder:zoo", root=root, resolution=8, say=said.append)
    assert said == ["zoo: 192 images are too many for the memory, so each is read when it is needed"]
    assert isinstance(memory.train, Images)
    assert isinstance(files.train, Files)
    return memory, files


def test_files_are_the_images_that_memory_would_hold(root, monkeypatch) -> None:
    memory, files = both(root, monkeypatch)
    for part in ("train", "valid", "test"):
        held, stored = getattr(memory, part), getattr(files, part)
        assert stored.side == held.side == 8
        assert torch.equal(stored.loaded().pixels, held.pixels)
        assert torch.equal(stored.labels, held.labels)
        some = np.array([5, 0, 9])
        assert torch.equal(stored.subset(some).loaded().pixels, held.pixels[some])
    assert torch.equal(joined(files.train, files.valid).loaded().pixels, joined(memory.train, memory.valid).pixels)


def test_batches_of_files_are_those_of_memory(root, monkeypatch) -> None:
    memory, files = both(root, monkeypatch)
    held, stored = (TrainBatches(data.train, 8, 3, flip=True) for data in (memory, files))
    for step in (0, 1, held.steps_per_epoch + 2):
        for one, other in zip(held(step), stored(step), strict=True):
            assert torch.equal(one, other)
    for one, other in zip(
        heldout_batches(memory.test, 10, held.normalise), heldout_batches(files.test, 10, held.normalise), strict=True
    ):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_resized_crops_are_cut_from_the_stored_image(root, monkeypatch) -> None:
    """Not from the square that it is brought to: what timm's transform makes of the file."""
    from timm.data.transforms import RandomResizedCropAndInterpolation

    _, files = both(root, monkeypatch)
    batches = TrainBatches(files.train, 4, 3, flip=False, augment=Augment(crop="resized"))
    order = torch.randperm(len(files.train), generator=_order(3))[4:8]
    crop = RandomResizedCropAndInterpolation(8, interpolation="bicubic")
    with seeded_everywhere(3, "policy", 1, CPU):
        expected = [np.asarray(crop(Image.open(files.train.paths[i]))) for i in order]
    images, labels = batches(1)
    assert torch.equal(images, batches.normalise(torch.from_numpy(np.stack(expected))))
    assert torch.equal(labels, files.train.labels[order])


def test_resized_crops_of_files_are_mirrored_one_in_two(root, monkeypatch) -> None:
    """timm's crop of the stored image, or its mirror image."""
    from timm.data.transforms import RandomResizedCropAndInterpolation

    _, files = both(root, monkeypatch)
    resized = Augment(crop="resized")
    batches = TrainBatches(files.train, 16, 3, flip=True, augment=resized)
    crop, counts = RandomResizedCropAndInterpolation(8, interpolation="bicubic"), [0, 0]
    for step in range(batches.steps_per_epoch):
        order = torch.randperm(len(files.train), generator=_order(3))[16 * step : 16 * step + 16]
        with seeded_everywhere(3, "policy", step, CPU):
            crops = [np.asarray(crop(Image.open(files.train.paths[i]))) for i in order]
        for found, each in zip(batches(step)[0], crops, strict=True):
            sides = [batches.normalise(torch.from_numpy(side.copy())[None])[0] for side in (each, each[:, ::-1])]
            alike = [torch.equal(found, side) for side in sides]
            assert sum(alike) == 1
            counts[alike.index(True)] += 1
    assert min(counts) > sum(counts) / 4
    assert sum(counts) >= 64


def _order(seed: int) -> torch.Generator:
    from nshot.seeding import torch_generator

    return torch_generator(seed, "order", 0)


def test_a_whole_job_from_files_is_that_from_memory(root, monkeypatch, tmp_path) -> None:
    results = []
    for name, data in zip(("memory", "files"), both(root, monkeypatch), strict=True):
        base = preset("smoke")
        config = replace(base, space=base.space.with_classes(2), epochs=1, batch_size=8, dataset="imagefolder:zoo")
        run = train(config, data, tmp_path / name, device="cpu", say=lambda line: None)
        with scored(run, *load_run(run), [SUBNET], device="cpu", data=data) as (scores, _):
            losses = scores.loss.tolist()
        again = RetrainConfig(config.space, Recipe(epochs=1, batch_size=8), config.dataset)
        result = retrain(again, SUBNET, data, tmp_path / f"{name}-again", device="cpu", say=lambda line: None)
        results.append((load_file(run / "supernet.safetensors"), losses, result["test_accuracy"]))
    (weights, *figures), (others, *other_figures) = results
    assert figures == other_figures
    assert all(torch.equal(weights[key], others[key]) for key in weights)


# batches made by other processes


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(policy="randaugment", erasing=0.5, mixup=0.2)], ids=["", "timm"]
)
def test_batches_made_ahead_are_the_same(root, monkeypatch, augment: Augment) -> None:
    for data in both(root, monkeypatch):
        batches = TrainBatches(data.train, 8, 3, flip=True, augment=augment, classes=2)
        ahead = Ahead(batches, 2, 12, CPU)
        for step in (2, 3, 4, 9, 10, 11, 0):  # in order, after a gap, and back
            for one, other in zip(ahead(step), batches(step), strict=True):
                assert torch.equal(one, other)
                assert one.stride() == other.stride()


def test_a_run_with_workers_is_the_run_without(tmp_path) -> None:
    data = load("digits", resolution=8)
    config = replace(preset("smoke"), epochs=1)
    runs = [train(config, data, tmp_path / str(n), device="cpu", workers=n, say=lambda line: None) for n in (0, 2)]
    one, other = (load_file(run / "supernet.safetensors") for run in runs)
    assert all(torch.equal(one[key], other[key]) for key in one)


DYING = """
import os, signal
import torch
from nshot import UserError
from nshot.data.ahead import Ahead
from nshot.data.batches import TrainBatches
from nshot.data.sources import load

class Dying(TrainBatches):
    def __call__(self, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(step)

ahead = Ahead(Dying(load("digits", resolution=8).train, 8, 0, flip=False), 1, 5, torch.device("cpu"))
try:
    list(map(ahead, range(5)))
except BaseException as error:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # torch may raise once more until it is handled
    print(type(error).__name__, error, flush=True)
    os._exit(2 if isinstance(error, UserError) else 1)
"""


def test_a_killed_worker_is_one_line() -> None:
    """The process that makes the third batch ends as where memory runs out. In a process of its own, for torch then
    raises errors in whatever its main thread does."""
    done = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "one of 1 processes that make batches ended, perhaps for want of memory" in done.stdout


def test_workers_below_zero_are_refused(tmp_path: Path) -> None:
    said = refuse("train", "spos", "--preset", "smoke", "--workers", "-1", "--out", tmp_path / "run")
    assert "workers -1" in said
    assert not (tmp_path / "run").exists()


# shares of a batch


def test_shares_make_up_the_batch() -> None:
    data = load("digits", resolution=8)
    parts = [TrainBatches(data.train, 12, 3, flip=False, share=(i, 3)) for i in range(3)]
    whole = TrainBatches(data.train, 12, 3, flip=False)
    for step in (0, 1, whole.steps_per_epoch):
        shares = [part(step) for part in parts]
        assert torch.equal(torch.cat([labels for _, labels in shares]), whole(step)[1])
        assert all(images.shape == (4, 3, 8, 8) for images, _ in shares)
    assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}


# ImageNet's layout


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("root")
    write(home / "imagenet", "train", {f"n0{i}": [(64, 64)] * 20 for i in range(3)}, ".JPEG")
    write(home / "imagenet", "val", {f"n0{i}": [(64, 64), (80, 64)] for i in range(3)}, ".JPEG")
    return home


def test_imagenet_is_judged_on_val_and_ranked_on_images_of_train(imagenet: Path) -> None:
    data = load("imagenet", root=imagenet, resolution=56)
    assert (data.classes, data.names, data.mirrors) == (3, ("n00", "n01", "n02"), True)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [54, 6, 6]
    assert data.valid.labels.tolist() == [0, 0, 1, 1, 2, 2]
    train, valid, test = ({str(path) for path in part.paths} for part in (data.train, data.valid, data.test))
    assert not train & valid
    assert {path.parts[-3] for path in map(Path, train | valid)} == {"train"}
    assert {path.parts[-3] for path in map(Path, test)} == {"val"}
    again = load("imagenet", root=imagenet, resolution=56)
    assert again.valid.paths == data.valid.paths


@pytest.mark.parametrize(("images", "held"), [(600, 50), (501, 50), (499, 49), (49, 4), (10, 1), (5, 1), (2, 1)])
def test_fifty_of_each_class_of_imagenet_rank_but_a_tenth_of_few(images: int, held: int) -> None:
    """Of 600 of another class, which are mixed with them, always 50."""
    labels = np.repeat([0, 1], [images, 600])
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    found = _held_out(labels, 2)
    assert np.bincount(labels[found], minlength=2).tolist() == [held, 50]


def test_imagenet_is_tested_on_the_central_crop(imagenet: Path) -> None:
    """Resolution 56 of 64 pixels is 224 of 256: the crop needs no resizing."""
    data = load("imagenet", root=imagenet, resolution=56)
    for path, pixels in zip(data.test.paths, data.test.loaded().pixels, strict=True):
        stored = torch.from_numpy(np.asarray(Image.open(path)).copy())
        left = 4 + (stored.shape[1] - 64) // 2
        assert torch.equal(pixels, stored[4:60, left : left + 56])


def test_a_supernet_trains_on_files_in_imagenets_layout(imagenet: Path, tmp_path: Path) -> None:
    from nshot.cli import main

    run = tmp_path / "run"
    small = ["--space", "mobilenet", "--preset", "smoke", "--resolution", "32", "--epochs", "1", "--batch-size", "16"]
    status = main(["train", "spos", *small, "--dataset", "imagenet", "--crop", "resized", "--workers", "1",
                   "--data-root", str(imagenet), "--device", "cpu", "--out", str(run)])  # fmt: skip
    assert status == 0
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["space"]["num_classes"] == 3
    assert (run / "supernet.safetensors").exists()


def test_imagenet_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'imagenet' not found under .*: expected imagenet/train/<class>/ and val/"):
        load("imagenet", root=tmp_path)
    with pytest.raises(UserError, match="unpack its archives"):
        load("imagenet", root=tmp_path, download=True)
    write(tmp_path / "imagenet", "train", {"a": [(8, 8)] * 2, "b": [(8, 8)] * 2})
    with pytest.raises(UserError, match="must have the parts train and val, and no other"):
        load("imagenet", root=tmp_path)
    write(tmp_path / "imagenet", "val", {"a": [(8, 8)], "b": [(8, 8)]})
    (tmp_path / "imagenet" / "train" / "b" / "1.png").unlink()
    with pytest.raises(UserError, match="class 'b' has 1 train image: each needs 2"):
        load("imagenet", root=tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [Augment(), Augment(crop="resized")], ids=["padded", "resized"])
def test_files_that_cannot_be_read_are_left_out_and_named(
    augment: Augment, workers: int, root: Path, tmp_path: Path, little_memory: None
) -> None:
    """As images in memory are; where a batch wants one, the next of its class stands in."""
    shutil.copytree(root / "zoo", tmp_path / "zoo")
    broken = [f"{part}/ape/{i}.png" for part in ("train", "val", "test") for i in (1, 31)]
    for name in broken:
        path = tmp_path / "zoo" / name
        path.write_bytes(path.read_bytes()[:40])
    said: list[str] = []
    data = load("imagefolder:zoo", root=tmp_path, resolution=8, say=said.append)
    assert len(said) == 1
    batches = TrainBatches(data.train, len(data.train), 0, flip=False, augment=augment, classes=2)
    images, labels = (Ahead(batches, workers, 1, CPU) if workers else batches)(0)
    assert labels.bincount().tolist() == [32, 32]
    assert len(images) == 64
    if augment.crop == "resized":
        return

    base = preset("smoke")
    config = replace(base, space=base.space.with_classes(2), epochs=2, batch_size=8, dataset="imagefolder:zoo")
    run = train(config, data, tmp_path / "run", device="cpu", workers=workers, say=said.append)
    with scored(run, *load_run(run), [SUBNET], device="cpu", data=data) as (scores, described):
        assert described["images"] == scores.loss.shape[1] == 62
    again = RetrainConfig(config.space, Recipe(epochs=1, batch_size=8), config.dataset)
    result = retrain(again, SUBNET, data, tmp_path / "again", device="cpu", workers=workers, say=said.append)
    assert result["test_images"] == 62
    lines = [(tmp_path / name / "left-out.txt").read_text().splitlines() for name in ("run", "again")]
    assert {line.partition(":")[0] for line in lines[0]} == set(broken[:4])  # no test image was needed yet
    assert {line.partition(":")[0] for line in lines[1]} == set(broken)
    assert any("images are left out (first: train/ape/" in line for line in said)


def test_what_is_loaded_is_in_memory_once(tmp_path: Path) -> None:
    """Pixels as numpy counts them; broken files between have no place."""
    paths = [tmp_path / f"{i:02}.png" for i in range(32)]
    for i, path in enumerate(paths):
        Image.new("RGB", (64, 64), (i, 2 * i, 255 - i)).save(path)
    for i in (0, 7, 31):
        paths[i].write_bytes(b"none")
    files = Files(paths, torch.arange(32), 64)
    tracemalloc.start()
    found = files.loaded()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.5 * 32 * 64 * 64 * 3
    assert found.labels.tolist() == [i for i in range(32) if i not in (0, 7, 31)]
    assert found.pixels[:, 5, 5].tolist() == [[i, 2 * i, 255 - i] for i in found.labels.tolist()]


def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path: Path, little_memory: None) -> None:
    write(tmp_path / "zoo", "train", {"ape": [(3, 16)] * 4, "bat": [(3, 16)] * 4})
    files = load("imagefolder:zoo", root=tmp_path, resolution=16).train
    none = r"^none of \d images beside \S+/\d.png can be read \(3 pixels are too few for a resolution of 16\): replace"
    for read in (files.loaded, lambda: files.squares(torch.tensor([0])), lambda: files.wholes(torch.tensor([0]))):
        with pytest.raises(UserError, match=none):
            read()


def test_a_process_that_has_read_a_table_ends_as_it_should(tmp_path: Path) -> None:
    """pyarrow's readers left behind, which hold Python's bytes, abort a process that ends: 2 of 3 did."""
    write_parquet(tmp_path / "table.parquet", pa.table({"a": list(range(500)), "b": ["text"] * 500}))
    code = (
        "import os, sys, pathlib; from nshot.files import read_parquet; import pyarrow.parquet\n"
        "tasks = pathlib.Path('/proc/self/task'); count = lambda: len(os.listdir(tasks)) if tasks.exists() else 1\n"
        "before = count(); table = read_parquet(pathlib.Path(sys.argv[1])); assert table.num_rows == 500\n"
        "assert count() == before, (before, count())"
    )
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "table.parquet"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
