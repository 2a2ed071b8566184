"""Scores do not depend on the order in which images lie: every scoring batch is a seeded, class-balanced mixture."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from nshot.data.batches import Normalise, heldout_batches
from nshot.data.images import Files, Images
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset
from nshot.ranking.evaluate import evaluate
from nshot.training.config import preset
from nshot.training.run import load_run
from nshot.training.score import score_run
from nshot.training.train import train


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
    import dataclasses

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
        found, described = score_run(folder, config, supernet, subnets, data=given, device="cpu", mixture=seed)
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
