"""Scores do not depend on the order in which images lie: every scoring batch is a seeded, class-balanced mixture."""

import dataclasses
import shutil
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import nshot.data.own
from nshot.data.batches import Normalise, heldout_batches
from nshot.data.images import Files, Images
from nshot.data.manifest import write_manifest
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset, load
from nshot.ranking.evaluate import evaluate
from nshot.supernets.config import preset
from nshot.supernets.load import load_run
from nshot.supernets.score import scored
from nshot.supernets.train import train
from test_data import png


def images(counts: list[int], seed: int = 0, side: int = 8) -> Images:
    """As many images of each class, brighter from class to class, sorted by class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = rng.integers(0, 60, (len(labels), side, side, 3)) + 180 * labels[:, None, None, None] // len(counts)
    return Images(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))


@pytest.mark.parametrize("counts", [[100] * 10, [1, 700, 3, 40], [5, 5], [257], [2, 1]])
def test_every_stretch_has_each_class_in_its_share(counts: list[int]) -> None:
    given = images(counts)
    mixed = mixture(given)
    total = sum(counts)
    for start in range(0, total, max(1, total // 7)):
        stretch = Counter(mixed.labels[start : start + 50].tolist())
        length = sum(stretch.values())
        for label, count in enumerate(counts):
            assert abs(stretch[label] - length * count / total) <= 1
    assert Counter(mixed.labels.tolist()) == Counter(given.labels.tolist())


def test_a_sample_is_stratified() -> None:
    """The first 250 of a folder sorted by class were of one class alone."""
    assert Counter(mixture(images([100] * 10), 250).labels.tolist()) == dict.fromkeys(range(10), 25)


def test_the_order_of_images_makes_no_difference() -> None:
    given = images([70, 20, 110])
    shuffled = given.subset(np.random.default_rng(1).permutation(200))
    one, other = mixture(given, 90), mixture(shuffled, 90)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.pixels, other.pixels)


def test_seeds_differ() -> None:
    given = images([70, 20, 110])
    assert not torch.equal(mixture(given, seed=0).pixels, mixture(given, seed=1).pixels)
    assert torch.equal(mixture(given, seed=1).pixels, mixture(given, seed=1).pixels)


def test_files_go_by_their_names(tmp_path: Path) -> None:
    """Also where the folder lies elsewhere, and where names hold bytes that are no text."""
    found = {}
    for place in ("here", "far/away"):
        paths = []
        for i in range(30):
            path = tmp_path / place / f"class{i % 3}" / ("odd\udcff.png" if i == 4 else f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            paths.append(path)
        order = np.random.default_rng(len(place)).permutation(30)
        files = Files([paths[i] for i in order], torch.from_numpy(order % 3), 8)
        found[place] = [path.name for path in mixture(files).paths]
    assert found["here"] == found["far/away"]


@pytest.mark.parametrize(("count", "size", "sizes"), [(10, 4, [4, 3, 3]), (257, 256, [129, 128]), (8, 4, [4, 4])])
def test_batches_are_evenly_filled(count: int, size: int, sizes: list[int]) -> None:
    given = images([count])
    batches = heldout_batches(given, size, Normalise(given))
    assert [len(labels) for _, labels in batches] == sizes
    assert torch.cat([labels for _, labels in batches]).tolist() == given.labels.tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """A supernet that tells ten classes of different brightness apart, where batch statistics mislead most."""
    data = Dataset("digits", 10, False, images([60] * 10, 1), images([60] * 10, 2), images([6] * 10, 3))
    config = dataclasses.replace(preset("smoke"), epochs=3, lr=0.1)
    folder = tmp_path_factory.mktemp("bright") / "run"
    train(config, data, folder, device="cpu", say=lambda line: None)
    return folder, data


def test_scores_are_those_of_mixed_batches_however_images_lie(run: tuple[Path, Dataset]) -> None:
    folder, data = run
    config, supernet = load_run(folder)
    rng = np.random.default_rng(0)
    subnets = [config.space.sample(rng) for _ in range(50)]

    def scores(valid: Images, seed: int = 0) -> np.ndarray:
        given = Dataset(data.name, data.classes, data.mirrors, data.train, valid, data.test)
        how = {"data": given, "device": "cpu", "mixture": seed}
        with scored(folder, config, supernet, subnets, **how) as (found, described):
            assert described["mixture"] == seed
            return np.stack([found.accuracy, found.mean_loss])

    assert isinstance(data.valid, Images)
    ours = scores(data.valid)
    for order in (rng.permutation(600), np.arange(600)[::-1]):
        assert np.array_equal(scores(data.valid.subset(order)), ours)

    # Independently: three mixed batches of 200, plain torch.
    normalise = Normalise(data.train)
    mixed = mixture(data.valid)
    with torch.inference_mode():
        for j, subnet in enumerate(subnets):
            outs = [supernet(normalise(mixed.pixels[i : i + 200]), subnet) for i in (0, 200, 400)]
            loss = torch.nn.functional.cross_entropy(torch.cat(outs), mixed.labels)
            assert ours[1, j] == pytest.approx(float(loss), abs=1e-5)

    # A control: in class order the same network seems far worse; another seed of the mixture changes little.
    best = int(ours[0].argmax())
    sorted_ = evaluate(supernet, [subnets[best]], heldout_batches(data.valid, 60, normalise))
    assert sorted_.accuracy[0] < ours[0, best] - 20
    assert abs(scores(data.valid, 1)[0] - ours[0]).max() < 10


# every kind of images of one's own

CLASSES = [f"c{i}" for i in range(10)]
COUNTS = {"train": 40, "val": 60, "test": 6}
NAMES = {"as they came": lambda i: f"{i:03d}", "renamed": lambda i: f"{(i * 37) % 101:03d}x"}


def brightness(label: int, part: str, i: int) -> np.ndarray:
    rng = np.random.default_rng([label, i, *part.encode()])
    return (rng.integers(0, 60, (8, 8, 3)) + 18 * label).astype(np.uint8)


def written(home: Path, kind: str, naming: str) -> str:
    """Ten classes of different brightness in explicit parts, whose files (or rows) lie in one order or another."""
    name = NAMES[naming]
    every = [(label, i) for label in range(10) for i in range(max(COUNTS.values()))]
    if naming == "renamed":
        every = every[::-1]
    for part, count in COUNTS.items():
        cells = [(label, i, png(brightness(label, part, i))) for label, i in every if i < count]
        if kind == "parquet":
            home.mkdir(exist_ok=True)
            columns = {"image": [data for *_, data in cells], "label": [CLASSES[label] for label, *_ in cells]}
            pq.write_table(pa.table(columns), home / f"{part}-0.parquet")
            continue
        if kind == "imagenet" and part == "test":
            continue
        for label, i, data in cells:
            path = home / part / CLASSES[label] / f"{name(i)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return "imagenet" if kind == "imagenet" else f"{kind}:{home}"


def by_hand(supernet, data: Dataset, subnets: list, seed: int) -> np.ndarray:
    """Accuracy and loss (2, S) by plain torch, a subnet and a batch at a time; batches are drawn class by class."""
    pixels, labels = data.valid.loaded().pixels, data.valid.loaded().labels
    sample = data.train.loaded().pixels.double().reshape(-1, 3)
    mean, std = sample.mean(0), sample.std(0)
    x = ((pixels.double() - mean) / std).float().permute(0, 3, 1, 2)
    rows = []
    for label in range(10):
        own = [i for i in range(len(labels)) if labels[i] == label]
        key = {i: data.valid.stored[i].key.encode() for i in own}
        own.sort(key=lambda i: int.from_bytes(blake2b(key[i], digest_size=8, key=seed.to_bytes(8, "little")).digest(),
                                              "little"))  # fmt: skip
        rows.append(own)
    # Of classes of one size a mixture takes one of each in turn.
    order = torch.tensor([own[r] for r in range(len(rows[0])) for own in rows])
    parts = order.tensor_split(-(-len(order) // 256))
    found = []
    with torch.inference_mode():
        for subnet in subnets:
            logits = torch.cat([supernet(x[part], subnet) for part in parts])
            right = (logits.argmax(1) == labels[order]).float().mean()
            found.append([100 * float(right), float(torch.nn.functional.cross_entropy(logits, labels[order]))])
    return np.array(found).T


@pytest.mark.parametrize("kind", ["imagefolder", "parquet", "imagenet", "from disk"])
def test_scores_of_every_kind_are_those_of_mixed_batches(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "from disk":
        monkeypatch.setattr(nshot.data.own, "memory_needed", lambda count, resolution: (2, 1))
    layout = "imagefolder" if kind == "from disk" else kind
    loaded = {}
    for naming in NAMES:
        home = tmp_path / naming.replace(" ", "-") / "imagenet"
        home.parent.mkdir()
        name = written(home, layout, naming)
        loaded[naming] = load(name, root=home.parent, resolution=8, say=lambda line: None)
    data, other = loaded.values()
    config = dataclasses.replace(preset("smoke"), epochs=4, lr=0.1, batch_size=32, dataset=data.name)
    folder = train(config, data, tmp_path / "run", device="cpu", say=lambda line: None)
    config, supernet = load_run(folder)
    rng = np.random.default_rng(0)
    subnets = [config.space.sample(rng) for _ in range(50)]

    def scores(seed: int = 0, of: Dataset = data, run: Path = folder) -> np.ndarray:
        with scored(run, config, supernet, subnets, data=of, device="cpu", mixture=seed) as (found, _):
            return np.stack([found.accuracy, found.mean_loss])

    ours = scores()
    found = by_hand(supernet, data, subnets, 0)
    assert (
        np.abs(ours[0] - found[0]).max() <= 100 / len(data.valid) + 1e-6
    )  # a draw between two classes may go either way
    assert np.abs(ours[1] - found[1]).max() < 1e-4
    # The same images renamed or in another order, in a run of its own with the same weights.
    own = tmp_path / "own"
    (own / "x").mkdir(parents=True)
    shutil.copy(folder / "supernet.safetensors", own)
    write_manifest(own, other)
    renamed = scores(of=other, run=own)
    if kind == "parquet":  # whose rows go by their content
        assert np.array_equal(renamed, ours)
    if kind != "imagenet":  # there other images rank, for they are drawn from train by their places
        # Accuracy and loss, in the mean over the subnets: no farther than the two of nine seeds that differ most.
        seeds = np.stack([ours, *(scores(seed) for seed in range(1, 9))])
        farthest = np.abs(seeds[:, None] - seeds).mean(axis=3).max(axis=(0, 1))
        assert (np.abs(renamed - ours).mean(axis=1) <= farthest).all()
    # A control: in the order in which they lie, the best subnet seems far worse.
    best = int(ours[0].argmax())
    count = len(data.valid)
    lying = data.valid.loaded().subset(np.argsort(data.valid.labels.numpy(), kind="stable"))
    sorted_ = evaluate(supernet, [subnets[best]], heldout_batches(lying, count // 10, Normalise(data.train)))
    assert sorted_.accuracy[0] < ours[0, best] - 20


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_250_of_ten_equal_classes_are_25_of_each(kind: str, tmp_path: Path) -> None:
    data = load(written(tmp_path / "data", kind, "as they came"), resolution=8, say=lambda line: None)
    assert Counter(mixture(data.valid, 250).labels.tolist()) == dict.fromkeys(range(10), 25)
    assert Counter(mixture(data.valid, 10).labels.tolist()) == dict.fromkeys(range(10), 1)


def test_seeds_of_any_size_are_taken() -> None:
    given = images([5, 5])
    assert not torch.equal(mixture(given, seed=2**63 + 1).pixels, mixture(given, seed=2**70).pixels)
