"""Strong augmentation: seeded, as its definitions say, and one line where it cannot be."""

import dataclasses
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nshot.supernets.train as train_module
from helpers import refuse
from nshot import UserError
from nshot.data.augment import Augment, cutout
from nshot.data.batches import TrainBatches
from nshot.data.images import Images
from nshot.data.sources import load
from nshot.data.strong import Strong
from nshot.runs.log import read_log
from nshot.seeding import seeded_everywhere
from nshot.supernets.config import TrainConfig, from_dict, preset, to_dict
from nshot.supernets.load import load_run
from nshot.supernets.train import train

EVERY = {
    "resized": Augment(crop="resized"),
    "autoaugment": Augment(policy="autoaugment"),
    "randaugment": Augment(policy="randaugment"),
    "erasing": Augment(erasing=0.5),
    "cutout": Augment(cutout=6),
    "mixup": Augment(mixup=0.8),
    "cutmix": Augment(cutmix=1.0),
    "all": Augment("resized", "randaugment", 0.25, 4, 0.8, 1.0),
}


def images(count: int = 32, size: int = 16) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Images(torch.from_numpy(pixels), torch.arange(count) % 4)


def batches_of(augment: Augment | None, seed: int = 0, size: int = 16, batch: int = 8) -> TrainBatches:
    return TrainBatches(images(size=size), batch, seed, flip=True, augment=augment, classes=4)


def drawn_from() -> list:
    """The state of every global generator."""
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("augment", EVERY.values(), ids=EVERY)
def test_a_batch_is_a_function_of_seed_and_step_alone(augment: Augment) -> None:
    first, again = batches_of(augment), batches_of(augment)
    forward = {step: first(step) for step in range(6)}
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = drawn_from()
    backward = {step: again(step) for step in reversed(range(6))}
    assert drawn_from() == before
    for step, (x, y) in forward.items():
        assert torch.equal(x, backward[step][0])
        assert torch.equal(y, backward[step][1])
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert x.shape == (8, 3, 16, 16)
    plain, other = batches_of(None), batches_of(augment, seed=1)
    assert any(not torch.equal(forward[step][0], plain(step)[0]) for step in forward)
    assert any(not torch.equal(forward[step][0], other(step)[0]) for step in forward)


def test_mixup_blends_images_as_it_blends_labels() -> None:
    plain, mixed = batches_of(None), batches_of(Augment(mixup=0.8))
    shares = set()
    for step in range(20):
        (x, y), (blend, share) = plain(step), mixed(step)
        other = y.flip(0)
        lam = share[torch.arange(8), y][y != other]  # where the two labels differ, what is left of the first
        assert torch.allclose(lam, lam[:1].expand_as(lam))
        expected = torch.nn.functional.one_hot(y, 4) * lam[0] + torch.nn.functional.one_hot(other, 4) * (1 - lam[0])
        torch.testing.assert_close(share, expected)
        torch.testing.assert_close(blend, x * lam[0] + x.flip(0) * (1 - lam[0]))
        shares.add(float(lam[0]))
    assert len(shares) == 20


def test_cutmix_pastes_a_rectangle_as_large_as_its_share_of_the_label() -> None:
    # 7 pixels have no margin, so no black border in which two images agree.
    plain, mixed = batches_of(None, size=7), batches_of(Augment(cutmix=1.0), size=7)
    for step in range(20):
        (x, y), (pasted, share) = plain(step), mixed(step)
        kept = (pasted == x).all(dim=1)
        assert torch.equal(torch.where(kept[:, None], x, x.flip(0)), pasted)
        differ = y != y.flip(0)
        lam = share[torch.arange(8), y][differ]
        torch.testing.assert_close(kept[differ].float().mean((1, 2)), lam)
        rows, columns = (~kept[differ][0]).nonzero(as_tuple=True)
        if len(rows):
            assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) == len(rows)


def test_with_both_a_batch_has_either() -> None:
    plain, mixed = batches_of(None), batches_of(Augment(mixup=0.8, cutmix=1.0))
    pasted = 0
    for step in range(60):
        x, blend = plain(step)[0], mixed(step)[0]
        pasted += bool(((blend == x) | (blend == x.flip(0))).all())
    assert 15 <= pasted <= 45  # of a fair coin's 60, below 1 in 5,000 outside


def test_erasing_makes_rectangles_of_noise_in_its_share_of_images() -> None:
    plain, erased = batches_of(None), batches_of(Augment(erasing=0.25))
    hit = 0
    for step in range(80):
        x, y = plain(step)[0], erased(step)[0]
        for one in (x != y).any(dim=1):
            rows, columns = one.nonzero(as_tuple=True)
            hit += len(rows) > 0
            if len(rows):
                area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
                assert area == len(rows)
                assert 0.01 * 256 <= area <= 0.4 * 256
    assert 0.18 <= hit / 640 <= 0.32  # four deviations about a quarter


def test_cutout_is_a_square_about_any_pixel_cut_off_at_the_border() -> None:
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(2000, 3, 8, 8)
    holes = {bytes(hole.byte().numpy()) for hole in cutout(ones, 4, generator)[:, 0]}
    expected = set()
    for centre in ((y, x) for y in range(8) for x in range(8)):
        hole = np.ones((8, 8), np.uint8)
        for y in range(centre[0] - 2, centre[0] + 2):
            for x in range(centre[1] - 2, centre[1] + 2):
                if 0 <= y < 8 and 0 <= x < 8:
                    hole[y, x] = 0
        expected.add(hole.tobytes())
    assert holes == expected


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_policies_are_timms(policy: str) -> None:
    """The same operations on the images of the plain batch, drawn by timm from generators seeded alike."""
    from timm.data.auto_augment import auto_augment_transform, rand_augment_transform

    plain, augmented = batches_of(None), batches_of(Augment(policy=policy))  # type: ignore[arg-type]
    mean, std = torch.tensor(plain.normalise.mean), torch.tensor(plain.normalise.std)
    hparams = {"translate_const": 7, "img_mean": tuple(round(m) for m in plain.normalise.mean)}
    transform = (
        auto_augment_transform("original", hparams)
        if policy == "autoaugment"
        else rand_augment_transform("rand-m9-mstd0.5-inc1", hparams)
    )
    for step in range(4):
        pixels = (plain(step)[0].permute(0, 2, 3, 1) * std + mean).round().byte().numpy()
        with seeded_everywhere(0, "policy", step, torch.device("cpu")):
            expected = np.stack([np.asarray(transform(Image.fromarray(p))) for p in pixels])
        got = (augmented(step)[0].permute(0, 2, 3, 1) * std + mean).round().byte().numpy()
        assert (got == expected).all()


# training


def killed_and_resumed(config: TrainConfig, out: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    steps = train_module.train_steps

    def dying(*args, **options):
        for step, loss in steps(*args, **options):
            if step == at:
                raise KeyboardInterrupt
            yield step, loss

    data = load("digits", resolution=8)
    with monkeypatch.context() as patched:
        patched.setattr(train_module, "train_steps", dying)
        with pytest.raises(KeyboardInterrupt):
            train(config, data, out, device="cpu", say=lambda line: None)
    return train(config, data, out, device="cpu", say=lambda line: None)


def test_an_augmented_training_continues_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augment = Augment("resized", "randaugment", 0.25, 2, 0.8, 1.0)
    config = dataclasses.replace(
        preset("smoke"), epochs=1, augment=augment, label_smoothing=0.1, log_every=4, checkpoint_every=5
    )
    whole = train(config, load("digits", resolution=8), tmp_path / "whole", device="cpu", say=lambda line: None)
    again = killed_and_resumed(config, tmp_path / "again", 13, monkeypatch)
    assert [line["loss"] for line in read_log(again / "log.jsonl")] == [
        line["loss"] for line in read_log(whole / "log.jsonl")
    ]
    weights, others = load_run(whole)[1].state_dict(), load_run(again)[1].state_dict()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    assert load_run(whole)[0] == config.resolved()


def test_a_configuration_of_before_there_was_augmentation_can_be_read() -> None:
    values = json.loads(json.dumps(to_dict(preset("smoke"))))
    del values["augment"], values["label_smoothing"]
    assert from_dict(values) == preset("smoke").resolved()


def test_the_paper_presets_have_the_augmentation_of_their_space() -> None:
    autoformer = preset("paper", "spos", "autoformer")
    assert autoformer.augment == Augment("resized", "randaugment", 0.25, 0, 0.8, 1.0)
    assert autoformer.label_smoothing == 0.1
    for name in ("proxy", "smoke"):
        assert preset(name, "spos", "autoformer").augment == Augment()
    assert preset("paper").augment == Augment()


# what cannot be


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--policy", "bogus"], "bogus"),
        (["--crop", "centre"], "centre"),
        (["--erasing", "1.5"], "erasing 1.5: must be from 0 to 1"),
        (["--mixup", "-1"], "mixup -1.0: must be 0 or more"),
        (["--cutmix", "inf"], "cutmix inf"),
        (["--cutout", "9"], "cutout 9: must not exceed the 8 pixels"),
        (["--mixup", "1", "--batch-size", "33"], "batch_size 33: mixup and cutmix pair the images"),
        (["--label-smoothing", "1"], "label_smoothing 1.0"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused(flags: list[str], expected: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert expected in refuse("train", "spos", "--preset", "smoke", "--device", "cpu", "--out", out, *flags)
    assert not out.exists()


def test_without_timm_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "timm":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    for augment in (Augment(mixup=1), Augment(policy="autoaugment"), Augment(erasing=0.1), Augment(crop="resized")):
        with pytest.raises(UserError, match=re.escape("needs timm: pip install 'nshot[timm]'")):
            batches_of(augment)
    batches_of(Augment(cutout=4))(0)  # ours
    said = refuse("train", "spos", "--preset", "smoke", "--device", "cpu", "--out", tmp_path / "out", "--mixup", "1")
    assert "augmentation needs timm: pip install 'nshot[timm]'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("policy", ["randaugment", "autoaugment"])
def test_a_policy_has_no_operation_that_fails_or_blackens(policy: str) -> None:
    """Each alone, 500 times: magnitudes reach 10 in one of 40 draws, where timm's posterize keeps none of 8 bits."""
    strong = Strong(Augment(policy=policy), side=8, mean=[200.0] * 3, classes=2, seed=0)
    (drawn,) = strong._single
    operations = drawn.ops if policy == "randaugment" else [op for pair in drawn.policy for op in pair]
    image = Image.new("RGB", (8, 8), (200, 210, 220))
    with seeded_everywhere(0, "operations", 0, torch.device("cpu")):
        for operation in operations:
            operation.prob = 1.0
            assert all(np.asarray(operation(image)).any() for _ in range(500)), operation.name
