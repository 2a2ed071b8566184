"""How good a network is said to be, against closed forms, brute force and scikit-learn; and what is trivial."""

import base64
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

import nshot
from helpers import nshot_, quiet, refuse
from nshot import UserError
from nshot.data.images import Images
from nshot.data.sources import Dataset, load
from nshot.files import read_json
from nshot.handover.baselines import linear, majority
from nshot.handover.export import export
from nshot.handover.figures import accuracy_of, by_class, confusion, judged
from nshot.handover.predict import predict
from nshot.handover.verdict import MISTAKES, VERDICT, judge, read_verdict, warnings_of
from nshot.networks.recipes import Recipe
from nshot.networks.result import read_network
from nshot.networks.retrain import RetrainConfig, retrain, retrain_best

ARCH = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits", resolution=8)


@pytest.fixture(scope="module")
def folder(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of digits, judged."""
    out = tmp_path_factory.mktemp("verdict") / "network"
    config = RetrainConfig(space=SPACE, recipe=Recipe(epochs=2, batch_size=64), dataset="digits")
    retrain(config, SPACE.parse(ARCH), data, out, device="cpu", say=quiet)
    judge(out, data, device="cpu", say=quiet)
    return out


def said_by(folder: Path, data: Dataset) -> torch.Tensor:
    """Probabilities of the test images, without the code under test."""
    network, result = read_network(folder)
    mean, std = (torch.tensor(result["normalise"][key]) for key in ("mean", "std"))
    with torch.no_grad():
        return network(((data.test.loaded().pixels - mean) / std).permute(0, 3, 1, 2)).softmax(1)


# figures


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (0, 30), (30, 30), (17, 45), (9712, 10000)])
def test_intervals_are_wilsons(right: int, images: int) -> None:
    z, p = 1.959963984540054, right / images
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images**2))
    found = accuracy_of(right, images)
    assert found["accuracy"] == pytest.approx(100 * p)
    assert found["low"] == pytest.approx(max(0, 100 * (middle - half)), abs=1e-9)
    assert found["high"] == pytest.approx(min(100, 100 * (middle + half)), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 7])
def test_figures_by_class_are_scikit_learns(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 200)
    said = np.where(rng.random(200) < 0.6, labels, rng.integers(0, classes, 200))
    table = confusion(labels, said, classes)
    assert (table == confusion_matrix(labels, said)).all()
    brute = [[sum(t == i and s == j for t, s in zip(labels, said, strict=True)) for j in range(classes)]
             for i in range(classes)]  # fmt: skip
    assert table.tolist() == brute
    precision, recall, _, counts = precision_recall_fscore_support(labels, said)
    rows = by_class(table, [f"class {i}" for i in range(classes)])
    np.testing.assert_allclose([row["precision"] for row in rows], 100 * precision)
    np.testing.assert_allclose([row["recall"] for row in rows], 100 * recall)
    assert [row["images"] for row in rows] == counts.tolist()
    assert [row["said"] for row in rows] == np.bincount(said, minlength=classes).tolist()
    found = judged(labels, said, classes)
    assert found["balanced_accuracy"] == pytest.approx(100 * balanced_accuracy_score(labels, said))
    assert (found["right"], found["images"]) == (int((labels == said).sum()), 200)


def test_classes_without_images_or_that_nobody_says() -> None:
    labels, said = np.array([0, 0, 0, 2]), np.array([0, 1, 0, 0])
    rows = by_class(confusion(labels, said, 4), list("abcd"))
    assert [row["recall"] for row in rows] == [pytest.approx(200 / 3), None, 0.0, None]
    assert [row["precision"] for row in rows] == [pytest.approx(200 / 3), 0.0, None, None]
    assert judged(labels, said, 4)["balanced_accuracy"] == pytest.approx((200 / 3 + 0) / 2)


# baselines


def made(pixels: np.ndarray, labels: np.ndarray, classes: int) -> Dataset:
    """A data set whose parts are the thirds of these images."""
    parts = [Images(torch.from_numpy(pixels[i::3].copy()), torch.from_numpy(labels[i::3].copy())) for i in range(3)]
    return Dataset("made", classes, False, *parts)


def test_a_linear_classifier_finds_what_is_linear_alone() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, (2, 600))
    pixels = rng.integers(0, 60, (600, 48, 48, 3))
    pixels[:, :24] += 120 * first[:, None, None, None]
    pixels[:, 24:] += 120 * second[:, None, None, None]
    pixels = pixels.astype(np.uint8)
    said, facts = linear(made(pixels, first, 2))
    assert (said == first[2::3]).all()
    assert facts["learnt_from"] == 400
    assert facts["side"] == 32
    said, _ = linear(made(pixels, first ^ second, 2))
    assert 0.2 < (said == (first ^ second)[2::3]).mean() < 0.65  # no line tells these apart


def test_the_penalty_is_chosen_on_the_validation_part_alone(data: Dataset) -> None:
    said, facts = linear(data)
    for scrambled in (data.test.labels.flip(0), torch.zeros_like(data.test.labels)):
        other = Dataset(*(data.name, 10, False, data.train, data.valid, Images(data.test.pixels, scrambled)))
        again, others = linear(other)
        assert facts == others
        assert (said == again).all()
    assert 0.92 < (said == data.test.labels.numpy()).mean() < 0.99


def test_a_linear_classifier_of_very_few_images_or_large_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    pixels[3:] = 200
    labels = np.array([0, 1, 0, 1, 0, 1])  # each part has both but for the first: 0, 1; 1, 0; 0, 1
    said, _ = linear(made(pixels, labels, 2))
    assert said.shape == (2,)
    one_class = np.array([0, 1, 0, 0, 1, 1])  # train has class 0 alone
    said, _ = linear(made(pixels, one_class, 2))
    assert said.shape == (2,)
    monkeypatch.setattr("nshot.handover.baselines.LEARN", 100)
    monkeypatch.setattr("nshot.handover.baselines.WORK", 200 * 3 * 16 * 10)
    _, facts = linear(load("digits", resolution=8))
    assert (facts["learnt_from"], facts["side"]) == (200, 4)


def test_a_sample_of_one_class_is_answered_by_it() -> None:
    """Of 40,000 images three are of the other class: samples of the parts have none of them."""
    labels = np.zeros(40_000, np.int64)
    labels[[1002, 20_000, 30_001]] = 1  # one in each part
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4, 3), dtype=np.uint8)
    said, facts = linear(made(pixels, labels, 2))
    assert facts["learnt_from"] == 10_000
    assert set(said.tolist()) == {0}


def test_the_majority_is_that_of_the_training_images() -> None:
    labels = np.array([1, 1, 0, 1, 2, 0, 2, 1, 0, 1, 1, 0])
    assert majority(made(np.zeros((12, 4, 4, 3), np.uint8), labels, 3)) == 1
    assert majority(made(np.zeros((12, 4, 4, 3), np.uint8), np.roll(labels, 1), 3)) == 0  # not the test part's


# the verdict


def test_a_verdict_is_of_the_test_images(folder: Path, data: Dataset) -> None:
    verdict = read_json(folder / VERDICT)
    assert verdict == read_verdict(folder)
    result = read_json(folder / "result.json")
    probabilities = said_by(folder, data)
    said, labels = probabilities.argmax(1), data.test.labels
    assert verdict["test"]["right"] == int((said == labels).sum())
    assert verdict["test"]["images"] == len(labels) == 599
    assert verdict["test"]["accuracy"] == pytest.approx(result["test_accuracy"])
    assert verdict["confusion"] == confusion_matrix(labels, said, labels=range(10)).tolist()
    assert [row["name"] for row in verdict["classes"]] == [str(i) for i in range(10)]
    assert (verdict["params"], verdict["flops"]) == (result["params"], result["flops"])
    assert verdict["latency_ms"] > 0
    commonest = torch.bincount(torch.cat([data.train.labels, data.valid.labels])).argmax()
    baselines = verdict["baselines"]
    assert baselines["majority"]["class"] == str(int(commonest))
    assert baselines["majority"]["right"] == int((labels == commonest).sum())
    assert baselines["majority"]["balanced_accuracy"] == pytest.approx(10)
    theirs = linear(data)[0]
    assert baselines["linear"]["right"] == int((theirs == labels.numpy()).sum())
    ours, other = (said == labels).numpy(), theirs == labels.numpy()
    b, c = int((ours & ~other).sum()), int((~ours & other).sum())
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
    assert baselines["linear"]["p"] == pytest.approx(min(1, 2 * tail))


def test_the_surest_mistakes_come_first_with_their_pictures(folder: Path, data: Dataset) -> None:
    verdict = read_verdict(folder)
    assert verdict is not None
    probabilities = said_by(folder, data)
    sure, said = probabilities.max(1)
    wrong = [i for i in range(len(said)) if said[i] != data.test.labels[i]]
    wrong.sort(key=lambda i: -float(sure[i]))
    assert len(wrong) > MISTAKES
    expected = [(f"test image {i}", str(int(data.test.labels[i])), str(int(said[i]))) for i in wrong[:MISTAKES]]
    assert [(row["image"], row["class"], row["said"]) for row in verdict["mistakes"]] == expected
    probable = [row["probability"] for row in verdict["mistakes"]]
    assert probable == pytest.approx([float(sure[i]) for i in wrong[:MISTAKES]], abs=1e-5)
    for i, coded in zip(wrong, verdict["pictures"], strict=False):
        with Image.open(io.BytesIO(base64.b64decode(coded))) as picture:
            assert (np.asarray(picture) == data.test.loaded().pixels[i].numpy()).all()


def test_what_is_no_better_than_chance_is_said_loudly(folder: Path, data: Dataset, tmp_path: Path) -> None:
    def verdict(network: float, baseline: float, p: float) -> dict[str, Any]:
        row = {"accuracy": baseline, "p": p, "class": "cat", "side": 8}
        return {"test": {"accuracy": network}, "baselines": {"majority": row, "linear": dict(row)}}

    assert warnings_of(verdict(60, 20, 0.001)) == []
    assert warnings_of(verdict(24, 20, 0.3)) == [
        "the network is not shown to be better than always 'cat' (20.00 %)",
        "the network is not shown to be better than a linear classifier on 8 px (20.00 %)",
    ]
    assert "is no better than always 'cat'" in warnings_of(verdict(18, 20, 0.001))[0]
    shutil.copytree(folder, tmp_path / "network")
    status, said, _ = nshot_("verdict", tmp_path / "network", "--device", "cpu")
    assert status == 0
    assert "WARNING: the network is no better than a linear classifier on 8 px" in said
    assert "always '" in said
    assert (tmp_path / "network" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_verdict_of_files_that_are_read_as_they_are_needed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("val", 8)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "imagenet" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (40, 50, 3)) + 120 * label
                pixels[:, [0, 1, -1, -2]] = 255 * (1 - label)  # borders that the crop takes away
                path = tmp_path / "imagenet" / part / name / f"{i:02}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    space = nshot.space("nasbench201", channels=4, cells=1, resolution=16)
    config = RetrainConfig(space=space, recipe=Recipe(epochs=4, batch_size=16), dataset="imagenet")
    data = load("imagenet", root=tmp_path, resolution=16)
    result = retrain(config, space.parse(ARCH), data, tmp_path / "out", device="cpu", say=quiet)
    assert (result["crop"], result["test_images"]) == (0.875, 16)
    verdict = judge(tmp_path / "out", data, device="cpu", say=quiet)
    assert verdict["test"]["accuracy"] == result["test_accuracy"]
    assert verdict["baselines"]["linear"]["accuracy"] == 100
    files = sorted((tmp_path / "imagenet" / "val").rglob("*.png"))
    found = predict(tmp_path / "out", files, device="cpu")
    right = [label == path.parent.name for label, path in zip(found.labels, files, strict=True)]
    assert 100 * np.mean(right) == pytest.approx(result["test_accuracy"])
    assert all(Path(row["image"]).parts[0] in ("dark", "light") for row in verdict["mistakes"])
    # The same of a network of an earlier version, which does not say how much is cut away.
    stored = read_json(tmp_path / "out" / "result.json")
    del stored["crop"], stored["test_images"]
    (tmp_path / "out" / "result.json").write_text(json.dumps(stored))
    assert torch.equal(predict(tmp_path / "out", files, device="cpu").probabilities, found.probabilities)
    export(tmp_path / "out", tmp_path / "over", "torch")
    assert torch.equal(predict(tmp_path / "over", files, device="cpu").probabilities, found.probabilities)
    assert "| test accuracy | " in (tmp_path / "over" / "README.md").read_text()


def test_of_several_the_best_is_judged(data: Dataset, tmp_path: Path) -> None:
    config = RetrainConfig(space=SPACE, recipe=Recipe(epochs=1, batch_size=64), dataset="digits")
    subnets = [SPACE.parse(ARCH), SPACE.parse(ARCH.replace("nor_conv_1x1", "none"))]
    summary = retrain_best(config, subnets, data, tmp_path / "out", device="cpu", say=quiet)
    verdict = judge(tmp_path / "out", data, device="cpu", say=quiet)
    assert verdict["arch"] == summary["arch"]
    assert verdict["test"]["accuracy"] == pytest.approx(max(summary["test_accuracies"]))


def test_other_data_is_refused(folder: Path, data: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "network"
    shutil.copytree(folder, copy)
    (copy / VERDICT).unlink()
    fewer = Dataset("digits", 10, False, data.train, data.valid, data.test.subset(np.arange(500)))
    with pytest.raises(UserError, match=r"digits is not what the network was tested on \(\d+ of 500 right, not"):
        judge(copy, fewer, device="cpu", say=quiet)
    moved = Images(data.test.loaded().pixels, data.test.labels.roll(1))
    with pytest.raises(UserError, match="is not what the network was tested on"):
        judge(copy, Dataset("digits", 10, False, data.train, data.valid, moved), device="cpu", say=quiet)
    named = Dataset("digits", 10, False, data.train, data.valid, data.test, tuple("abcdefghij"))
    with pytest.raises(UserError, match="has 10 classes, the network was trained on 10"):
        judge(copy, named, device="cpu", say=quiet)
    assert not (copy / VERDICT).exists()


def test_what_cannot_be_judged(folder: Path, tmp_path: Path) -> None:
    assert "FOLDER: what nshot retrain wrote" in refuse("verdict")
    assert "holds no retrained network" in refuse("verdict", tmp_path)
    export(folder, tmp_path / "over", "torch")
    assert "holds no retrained network" in refuse("verdict", tmp_path / "over")
    for content in ("", "[]", "{}"):
        (tmp_path / VERDICT).write_text(content)
        with pytest.raises(UserError, match=r"verdict.json is no verdict .*: make it again with nshot verdict"):
            read_verdict(tmp_path)


def test_retraining_ends_with_the_verdict(tmp_path: Path) -> None:
    out = tmp_path / "network"
    sizes = ["--channels", "4", "--cells", "1", "--resolution", "8", "--dataset", "digits", "--device", "cpu"]
    args = ["retrain", ARCH, *sizes, "--epochs", "1", "--batch-size", "64", "--out", out]
    status, said, _ = nshot_(*args)
    assert status == 0
    verdict = read_verdict(out)
    assert verdict is not None
    assert f"{verdict['test']['low']:.2f} to {verdict['test']['high']:.2f}" in said
    assert "599 test images of digits" in said
    assert f"as a page: nshot report {out}" in said
    before = (out / VERDICT).read_bytes()
    status, said, _ = nshot_(*args)
    assert status == 0
    assert "nothing to do" in said
    assert (out / VERDICT).read_bytes() == before  # not judged anew
    (out / VERDICT).unlink()  # as if it had been killed between
    assert nshot_(*args)[0] == 0
    assert (out / VERDICT).exists()
