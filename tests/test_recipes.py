"""Recipes, distillation, averaged weights and bf16: each against torch by hand, and continued bit for bit."""

import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import nshot
import nshot.networks.retrain as retrain_module
from helpers import SMALL, nshot_, quiet, refuse
from nshot import UserError
from nshot.data.augment import Augment
from nshot.data.batches import TrainBatches
from nshot.data.images import Images
from nshot.data.sources import Dataset
from nshot.files import read_json
from nshot.networks.alone import make_alone
from nshot.networks.recipes import RECIPES, Recipe, completed, recipe
from nshot.networks.result import read_network
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.networks.teacher import make_teacher
from nshot.runs.checkpoint import checkpoints
from nshot.runs.log import read_log
from nshot.seeding import seeded
from nshot.spaces import Space
from nshot.supernets.config import preset
from nshot.supernets.train import train

SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
ARCH = "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|skip_connect~1|nor_conv_1x1~2|"
SUBNET = SPACE.parse(ARCH)
BATCH = 64
PLAIN = Recipe(epochs=1, batch_size=BATCH, lr=0.1)
CLI = [ARCH, "--channels", "4", "--cells", "1", "--resolution", "8", "--dataset", "digits", "--device", "cpu"]


@pytest.fixture(scope="module")
def two_steps(digits: Dataset) -> Dataset:
    """As many images as make two batches an epoch."""
    few = Images(digits.train.pixels[:BATCH], digits.train.labels[:BATCH])
    rest = Images(digits.valid.pixels[:BATCH], digits.valid.labels[:BATCH])
    return dataclasses.replace(digits, train=few, valid=rest)


@pytest.fixture(scope="module")
def teacher_folder(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    config = RetrainConfig(SPACE, Recipe(epochs=4, batch_size=BATCH), "digits", seed=9)
    retrain(config, SUBNET, digits, out, device="cpu", say=quiet)
    return out


def config_of(recipe: Recipe = PLAIN, **options: Any) -> RetrainConfig:
    return RetrainConfig(SPACE, recipe, "digits", **options)


def trained(config: RetrainConfig, data: Dataset, out: Path) -> dict[str, Tensor]:
    retrain(config, SUBNET, data, out, device="cpu", say=quiet)
    return load_file(out / "network.safetensors")


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def cross_entropy(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(network(x), y)


def by_hand(
    config: RetrainConfig, data: Dataset, rates: list[float], loss: Loss = cross_entropy
) -> list[dict[str, Tensor]]:
    """The weights after each step of a plain torch loop at these learning rates."""
    recipe = config.recipe
    learn = Images(torch.cat([data.train.pixels, data.valid.pixels]), torch.cat([data.train.labels, data.valid.labels]))
    batches = TrainBatches(learn, BATCH, config.seed, flip=data.mirrors, augment=recipe.augment, classes=10)
    with seeded(config.seed, "init"):
        network = SPACE.network(SUBNET).to(memory_format=torch.channels_last)
    weights, decay = network.parameters(), recipe.weight_decay
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        plain = [weight for weight in weights if weight.dim() > 1]  # convolutions and the classifier, without bias
        flat = [weight for weight in network.parameters() if weight.dim() == 1]
        optimizer = torch.optim.AdamW([{"params": plain, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}])
    else:
        optimizer = torch.optim.SGD(weights, 1.0, recipe.momentum, weight_decay=decay, nesterov=recipe.nesterov)
    states = []
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss(network, *batches(step)).backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        states.append(copy.deepcopy(network.state_dict()))
    return states


COSINE = [0.1, 0.05]  # of two steps: (1 + cos(0)) / 2 and (1 + cos(π / 2)) / 2


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


# recipes


def test_recipes_are_what_the_papers_say() -> None:
    assert recipe("cifar") == Recipe()
    imagenet = recipe("imagenet")
    assert (imagenet.epochs, imagenet.warmup, imagenet.nesterov, imagenet.schedule) == (480, 5, True, "cosine")
    assert (imagenet.weight_decay, imagenet.label_smoothing, imagenet.augment.mixup) == (4e-5, 0.1, 0.2)
    assert imagenet.augment.policy == "autoaugment"
    assert imagenet.augment.erasing > 0
    assert dataclasses.replace(imagenet, batch_size=1024).base_lr == pytest.approx(0.4)
    darts = recipe("darts")
    assert (darts.batch_size, darts.lr, darts.weight_decay, darts.augment) == (96, 0.025, 3e-4, Augment(cutout=16))
    assert (darts.epochs, darts.clip, darts.nesterov) == (200, 5.0, False)
    vit, supernet = recipe("autoformer"), nshot.space("autoformer").presets["paper"]  # alone as in its supernet
    for name in ("optimizer", "lr", "weight_decay", "warmup", "label_smoothing", "drop_path"):
        assert getattr(vit, name) == supernet["config"][name]
    assert (vit.epochs, vit.lr_batch) == (supernet["epochs"]["spos"], supernet["config"]["batch_size"])
    assert vit.augment == Augment(**supernet["augment"])
    with pytest.raises(UserError, match="unknown recipe 'bogus': choose one of cifar, imagenet, darts, autoformer"):
        recipe("bogus")


CHANGES = ["none", "calr", "calr, own", "warmup", "lr_batch", "clip", "plain momentum", "adamw"]


def eq_4(space: Space) -> float:
    """γ of the subnet, γ' = 4."""
    c, (low, high) = space.params(SUBNET), space.params_range
    omega = -(4 - 1 / 4) / (math.log(high) - math.log(low))
    return omega * math.log(c) + 1 / 4 - omega * math.log(high)


@pytest.mark.parametrize("change", CHANGES)
def test_the_schedule_and_optimizer_are_those_of_the_recipe(change: str, two_steps: Dataset, tmp_path: Path) -> None:
    gamma, own = eq_4(nshot.space("nasbench201")), eq_4(SPACE)  # the smoke preset's sizes stand for the paper's
    assert gamma > 0.8
    assert own > gamma + 0.3
    options, rates = {
        "none": ({}, COSINE),
        "calr": ({"schedule": "calr"}, [0.1, 0.1 * 0.5**gamma]),
        "calr, own": ({"schedule": "calr", "complexity_of": "own"}, [0.1, 0.1 * 0.5**own]),
        "warmup": ({"warmup": 1}, [0.1 / 2, 0.05]),
        "lr_batch": ({"lr_batch": 16}, [0.4, 0.2]),
        "clip": ({"clip": 0.5}, COSINE),
        "adamw": ({"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.1}, [0.001, 0.0005]),
        "plain momentum": ({"nesterov": False, "momentum": 0.7, "weight_decay": 0.1}, COSINE),
    }[change]
    config = config_of(dataclasses.replace(PLAIN, **options))  # type: ignore[arg-type]
    got = trained(config, two_steps, tmp_path / "run")
    expected = by_hand(config, two_steps, rates)  # type: ignore[arg-type]
    assert difference(got, expected[-1]) < 1e-5
    if change != "none":
        assert difference(got, by_hand(config_of(), two_steps, COSINE)[-1]) > 1e-3


def test_augmented_batches_and_smoothing_are_trained_on(two_steps: Dataset, tmp_path: Path) -> None:
    augment = Augment(erasing=0.5, cutout=3, mixup=0.8, cutmix=1.0)
    config = config_of(dataclasses.replace(PLAIN, label_smoothing=0.1, augment=augment))

    def loss(network: nn.Module, x: Tensor, shares: Tensor) -> Tensor:
        assert shares.shape == (BATCH, 10)
        return -((0.9 * shares + 0.01) * network(x).log_softmax(1)).sum(1).mean()

    assert difference(trained(config, two_steps, tmp_path / "run"), by_hand(config, two_steps, COSINE, loss)[-1]) < 1e-5


def test_ema_keeps_the_moving_average(two_steps: Dataset, tmp_path: Path) -> None:
    config = config_of(dataclasses.replace(PLAIN, ema=0.75))
    first, second = by_hand(config, two_steps, COSINE)
    expected = {key: 0.75 * first[key] + 0.25 * second[key] for key in first}
    got = trained(config, two_steps, tmp_path / "run")
    counted = {key for key in got if "num_batches" in key}  # whole numbers, which nothing reads
    assert difference(*({k: v for k, v in each.items() if k not in counted} for each in (got, expected))) < 1e-5
    network, result = read_network(tmp_path / "run")  # the average is what is tested
    mean, std = (torch.tensor(result["normalise"][key]) for key in ("mean", "std"))
    with torch.no_grad():
        logits = network(((two_steps.test.pixels - mean) / std).permute(0, 3, 1, 2))
    right = (logits.argmax(1) == two_steps.test.labels).float().mean()
    assert result["test_accuracy"] == pytest.approx(100 * float(right), abs=0.35)


def test_an_average_has_the_tables_of_its_network() -> None:
    """What is tested computes what its weights compute in a new network, which has tables of its own."""
    space = nshot.space("autoformer", **SMALL["autoformer"])
    subnet = space.sample(np.random.default_rng(0))
    alone = make_alone(space, subnet, Recipe(ema=0.9), 0)
    for _ in range(5):
        with torch.no_grad():
            for weight in alone.network.parameters():
                weight += 0.01
        alone.average.update_parameters(alone.plain)
    fresh = space.network(subnet)
    fresh.load_state_dict(alone.kept.state_dict())
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(alone.kept.eval()(x), fresh.eval()(x))


def test_bf16_is_torchs_autocast(two_steps: Dataset, tmp_path: Path) -> None:
    config = config_of(precision="bf16-mixed")

    def loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x)
        assert logits.dtype == torch.bfloat16
        return F.cross_entropy(logits.float(), y)

    got = trained(config, two_steps, tmp_path / "run")
    assert all(w.dtype == torch.float32 for key, w in got.items() if "num_batches" not in key)
    assert difference(got, by_hand(config, two_steps, COSINE, loss)[-1]) < 1e-5
    assert difference(got, by_hand(config, two_steps, COSINE)[-1]) > 1e-4


# distillation


def test_distillation_is_the_weighted_sum_of_two_cross_entropies(
    two_steps: Dataset, teacher_folder: Path, tmp_path: Path
) -> None:
    config = config_of(
        dataclasses.replace(PLAIN, label_smoothing=0.1), teacher=str(teacher_folder), distill=0.3
    )  # fmt: skip
    teacher, result = read_network(teacher_folder)
    learn = torch.cat([two_steps.train.pixels, two_steps.valid.pixels]).float().reshape(-1, 3)
    own_std, own_mean = torch.std_mean(learn, dim=0)
    its_mean, its_std = (torch.tensor(result["normalise"][key]) for key in ("mean", "std"))
    assert (own_std - its_std).abs().max() > 0.1  # they do not see the images alike

    def loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1) * own_std + own_mean
        with torch.no_grad():
            p = teacher(((pixels - its_mean) / its_std).permute(0, 3, 1, 2)).softmax(1)
        logits = network(x)
        soft = -(p * logits.log_softmax(1)).sum(1).mean()
        return 0.7 * F.cross_entropy(logits, y, label_smoothing=0.1) + 0.3 * soft

    got = trained(config, two_steps, tmp_path / "run")
    assert difference(got, by_hand(config, two_steps, COSINE, loss)[-1]) < 1e-5
    assert difference(got, by_hand(config, two_steps, COSINE)[-1]) > 1e-3


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_teacher_can_be_a_checkpoint_of_a_timm_model(suffix: str, digits: Dataset, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=10).eval()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(network.state_dict(), path)
    else:
        save_file(network.state_dict(), path)
    batches = TrainBatches(digits.train, BATCH, 0, flip=False)
    teacher = make_teacher(f"test_resnet:{path}", 1.0, digits, batches.normalise)
    pixels = digits.train.pixels[:16]
    mean, std = (torch.tensor(network.default_cfg[key]) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network(((pixels / 255 - mean) / std).permute(0, 3, 1, 2)).softmax(1)
    torch.testing.assert_close(teacher.probabilities(batches.normalise(pixels)), expected, rtol=1e-4, atol=1e-5)
    images, target = teacher.taught(batches, 0.0)(3)  # with a share of 1 the labels are the teacher's
    torch.testing.assert_close(target, teacher.probabilities(images))


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ("bogus_net", "teacher bogus_net: neither a folder of a retrained network nor a model of timm's"),
        ("test_resne", "similar: test_resnet"),
        ("test_resnet:nowhere.pt", "teacher test_resnet:nowhere.pt: cannot be loaded"),
        ("{empty}", "holds no retrained network"),
        ("{broken}", "cannot be loaded"),
        ("test_resnet", "teacher test_resnet: cannot be loaded"),  # its pretrained weights, without a network
    ],
)
def test_a_teacher_that_is_not_to_be_had(
    teacher: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    named = teacher.format(empty=tmp_path / "empty", broken=f"test_resnet:{tmp_path / 'broken.pt'}")
    assert expected in refuse("retrain", *CLI, "--epochs", "1", "--out", tmp_path / "out", "--teacher", named)
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_other_classes_is_refused(teacher_folder: Path, digits: Dataset) -> None:
    fewer = dataclasses.replace(digits, classes=7)
    batches = TrainBatches(digits.train, BATCH, 0, flip=False)
    with pytest.raises(UserError, match="it knows 10 classes, and digits has 7"):
        make_teacher(str(teacher_folder), 0.5, fewer, batches.normalise)


# a killed retraining


ALL = Recipe(
    epochs=1, batch_size=BATCH, warmup=1, label_smoothing=0.1, ema=0.9, clip=1.0,
    augment=Augment("resized", "autoaugment", 0.25, 2, 0.8, 1.0),
)  # fmt: skip


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_killed_retraining_continues_bit_for_bit(
    precision: Any, digits: Dataset, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(ALL, teacher=str(teacher_folder), precision=precision, checkpoint_every=5, log_every=3)
    whole = trained(config, digits, tmp_path / "whole")
    steps = retrain_module.fit_steps

    def dying(*args: Any, **options: Any) -> Any:
        for step, loss in steps(*args, **options):
            if step == 12:
                raise KeyboardInterrupt
            yield step, loss

    with monkeypatch.context() as patched:
        patched.setattr(retrain_module, "fit_steps", dying)
        with pytest.raises(KeyboardInterrupt):
            trained(config, digits, tmp_path / "again")
    assert not (tmp_path / "again" / "result.json").exists()
    again = trained(config, digits, tmp_path / "again")
    assert difference(whole, again) == 0
    losses = [[line["loss"] for line in read_log(tmp_path / name / "log.jsonl")] for name in ("whole", "again")]
    assert losses[0] == losses[1]
    results = [read_json(tmp_path / name / "result.json") for name in ("whole", "again")]
    assert results[0] == results[1]


def test_a_retraining_goes_on_with_the_teacher_that_it_began_with(
    two_steps: Dataset, teacher_folder: Path, tmp_path: Path
) -> None:
    teacher, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(teacher_folder, teacher)
    config = config_of(teacher=str(teacher), checkpoint_every=1)
    before = trained(config, two_steps, run)
    for name in ("result.json", "network.safetensors"):
        (run / name).unlink()
    assert difference(trained(config, two_steps, run), before) == 0
    (run / "result.json").unlink()
    other = RetrainConfig(SPACE, PLAIN, "digits", seed=1)
    shutil.rmtree(teacher)
    retrain(other, SUBNET, two_steps, teacher, device="cpu", say=quiet)
    with pytest.raises(
        UserError, match=r"holds another run \(teacher: other content than it had\): choose a new --out, or the same"
    ):
        trained(config, two_steps, run)
    stored = read_json(run / "config.json")
    was = blake2b((teacher_folder / "network.safetensors").read_bytes(), digest_size=8).hexdigest()
    assert stored.pop("contents") == {"teacher": was}
    stored["config"]["teacher_weights"] = was
    stored.pop("sha256", None)
    (run / "config.json").write_text(json.dumps(stored))  # as an earlier version wrote it
    with pytest.raises(UserError, match="teacher: other content than it had"):
        trained(config, two_steps, run)
    shutil.rmtree(teacher)
    shutil.copytree(teacher_folder, teacher)
    trained(config, two_steps, run)


def test_a_teacher_may_have_moved(two_steps: Dataset, teacher_folder: Path, tmp_path: Path) -> None:
    """The same weights teach, wherever they lie by now; the folder then says where."""
    teacher, elsewhere, run = tmp_path / "teacher", tmp_path / "moved" / "there", tmp_path / "run"
    shutil.copytree(teacher_folder, teacher)
    before = trained(config_of(teacher=str(teacher), checkpoint_every=1), two_steps, run)
    for name in ("result.json", "network.safetensors"):
        (run / name).unlink()
    elsewhere.parent.mkdir()
    teacher.rename(elsewhere)
    config = config_of(teacher=str(elsewhere), checkpoint_every=1)
    assert difference(trained(config, two_steps, run), before) == 0
    assert read_json(run / "config.json")["config"]["teacher"] == str(elsewhere)


@pytest.mark.parametrize("what", ["retrain", "train"])
def test_images_of_another_side_than_the_spaces_are_refused(what: str, digits: Dataset, tmp_path: Path) -> None:
    """A hand-over folder would bring images to a side that the network was not trained at."""
    said = r"resolution 16: the images of digits are of 8 pixels, load them with resolution=16"
    smoke = preset("smoke")
    config = dataclasses.replace(smoke, space=dataclasses.replace(smoke.space, resolution=16))
    how = {"device": "cpu", "say": quiet}
    starts = {
        "train": lambda: train(config, digits, tmp_path / "run", **how),
        "retrain": lambda: retrain(RetrainConfig(config.space, PLAIN), SUBNET, digits, tmp_path / "run", **how),
    }
    with pytest.raises(UserError, match=said):
        starts[what]()
    assert not (tmp_path / "run").exists()


def test_a_retraining_of_an_earlier_version_is_known(two_steps: Dataset, tmp_path: Path) -> None:
    """What it did not write is taken as the default, and what differs is still refused."""
    before = trained(config_of(), two_steps, tmp_path / "run")
    stored = read_json(tmp_path / "run" / "config.json")
    del stored["config"]["recipe"]["optimizer"], stored["config"]["recipe"]["augment"]["cutout"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"recipe\.optimizer: sgd, not adamw"):
        trained(config_of(dataclasses.replace(PLAIN, optimizer="adamw")), two_steps, tmp_path / "run")
    assert difference(trained(config_of(), two_steps, tmp_path / "run"), before) == 0


def test_a_retraining_by_calr_of_an_earlier_version_keeps_its_own_complexity(
    two_steps: Dataset, tmp_path: Path
) -> None:
    """Its folder does not say whose counts; a preset's sizes would be the paper's now, at other rates."""
    space = preset("smoke").space
    own = dataclasses.replace(PLAIN, schedule="calr", complexity_of="own")
    config = RetrainConfig(space, own, "digits", checkpoint_every=1)
    runs = {name: tmp_path / name for name in ("own", "paper", "old")}
    retrain(config, SUBNET, two_steps, runs["own"], device="cpu", say=quiet)
    now = dataclasses.replace(config, recipe=dataclasses.replace(own, complexity_of=None))
    retrain(now, SUBNET, two_steps, runs["paper"], device="cpu", say=quiet)
    stored = {name: read_json(runs[name] / "config.json") for name in ("own", "paper")}
    assert [stored[name]["config"]["recipe"]["complexity_of"] for name in stored] == ["own", "paper"]
    shutil.copytree(runs["own"], runs["old"])
    del stored["own"]["config"]["recipe"]["complexity_of"]
    (runs["old"] / "config.json").write_text(json.dumps(stored["own"]))
    for name in ("result.json", "network.safetensors"):
        (runs["old"] / name).unlink()
    checkpoints(runs["old"])[0].unlink()  # the newest: the last step is to do
    with pytest.raises(UserError, match=r"recipe\.complexity_of: own, not paper"):
        retrain(now, SUBNET, two_steps, runs["old"], device="cpu", say=quiet)
    retrain(config, SUBNET, two_steps, runs["old"], device="cpu", say=quiet)
    weights = {name: load_file(run / "network.safetensors") for name, run in runs.items()}
    assert difference(weights["old"], weights["own"]) == 0
    assert difference(weights["old"], weights["paper"]) > 0


def test_a_size_that_a_space_has_got_since_is_at_its_default() -> None:
    """What a space's configuration lacks, where builds and retrainings keep it."""
    space = nshot.space("mobilenet", width=0.5, strides=(1,) * 7).restrict("stage0.layer0", "MB3_3x3")
    stored = {
        "space": space.to_dict(),
        "recipe": dataclasses.asdict(Recipe()),
        "dataset": "digits",
    }
    old = json.loads(json.dumps(stored))
    del old["space"]["repeats"], old["space"]["norm"]
    assert json.loads(json.dumps(completed(old))) == json.loads(json.dumps(stored))


# the command line


@pytest.mark.parametrize("name", sorted({*RECIPES} - {"tune"}))  # which is for given weights: test_tuning.py
def test_a_recipe_is_named_and_flags_override_it(name: str, tmp_path: Path) -> None:
    flags = ["--recipe", name, "--epochs", "5", "--batch-size", "64", "--cutout", "2", "--policy", "none"]
    flags += ["--drop-path", "0", "--auxiliary", "0"]  # this space has neither
    out = tmp_path / "out"
    assert nshot_("retrain", *CLI, "--out", out, *flags, "--epochs", "1", "--warmup", "0")[0] == 0
    stored = read_json(out / "config.json")["config"]["recipe"]
    expected = dataclasses.asdict(recipe(name)) | {
        "epochs": 1,
        "batch_size": 64,
        "warmup": 0,
        "drop_path": 0.0,
        "auxiliary": 0.0,
    }
    expected["augment"] |= {"cutout": 2, "policy": "none"}
    assert stored == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--recipe", "bogus"], "unknown recipe 'bogus': choose one of cifar, imagenet, darts"),
        (["--recipe", "darts"], "cutout 16: must not exceed the 8 pixels"),
        (["--warmup", "201"], "warmup 201: must not exceed the 200 epochs"),
        (["--ema", "1"], "ema 1.0"),
        (["--clip", "0"], "clip 0"),
        (["--lr-batch", "-1"], "lr_batch -1"),
        (["--schedule", "linear"], "linear"),
        (["--precision", "16"], "16"),
        (["--distill", "0.2"], "distill 0.2 has no effect without --teacher"),
        (["--optimizer", "adamw", "--momentum", "0.5"], "momentum 0.5 has no effect with --optimizer adamw"),
        (["--distill", "0", "--teacher", "x"], "distill 0.0: must be above 0, up to 1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(flags: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in refuse("retrain", *CLI, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


# the recipe that belongs to a space


class AskedError(Exception):
    """What would be retrained."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RetrainConfig]:
    """The configuration that a command line comes to, without training it."""

    def stop(config: RetrainConfig, *args: object, **kwargs: object) -> None:
        raise AskedError(config)

    monkeypatch.setattr(retrain_module, "retrain_best", stop)

    def ask(*args: str | Path) -> RetrainConfig:
        with pytest.raises(AskedError) as called:
            nshot_("retrain", *args, "--out", "never")
        return called.value.args[0]

    return ask


def a_search(folder: Path, space: Space, dataset: str, name: str = "search") -> Path:
    """What nshot search writes, of the space's first subnet."""
    arch = space.format(next(space.subnets()))
    best = {"arch": arch, "subnet": [], "accuracy": 1.0, "loss": 1.0, "params": 1, "flops": 1}
    found = {"space": space.to_dict(), "dataset": dataset, "best": best, "top": [best]}
    (folder / f"{name}.json").write_text(json.dumps(found))
    return folder / f"{name}.json"


@pytest.mark.parametrize(
    ("name", "optimizer", "lr", "epochs"),
    [
        ("nasbench201", "sgd", 0.1, 200),
        ("mobilenet", "sgd", 0.1, 200),
        ("darts", "sgd", 0.025, 200),
        ("autoformer", "adamw", 5e-4, 500),
    ],
)
def test_a_search_is_retrained_by_the_recipe_of_its_space(
    name: str, optimizer: str, lr: float, epochs: int, asked: Callable[..., RetrainConfig], tmp_path: Path
) -> None:
    space = nshot.space(name, **SMALL[name])
    path = a_search(tmp_path, space, "digits")
    for choice in (path, tmp_path):  # the file, or the folder that it lies in
        config = asked(choice)
        assert (config.recipe.optimizer, config.recipe.lr, config.recipe.epochs) == (optimizer, lr, epochs)
        assert config.recipe.augment.cutout <= space.resolution // 2
        assert (config.space, config.dataset) == (space, "digits")
    named = asked(path, "--recipe", "cifar")
    assert named.recipe == Recipe()
    assert asked(path, "--lr", "0.5").recipe == dataclasses.replace(config.recipe, lr=0.5)
    arch = space.format(next(space.subnets()))
    assert asked(arch, "--space", name, *flags_of(name), "--dataset", "digits").recipe.optimizer == optimizer


def test_a_cutout_fits_the_resolution_that_is_used(asked: Callable[..., RetrainConfig]) -> None:
    """DARTS's is 16 of 32 pixels: half of the side at most, unless it is named."""
    space = nshot.space("darts")
    words = [space.format(space.sample(np.random.default_rng(0))), "--space", "darts"]
    for flags, cutout in (
        (["--resolution", "16"], 8),
        (["--resolution=20"], 10),
        (["--resolution", "64"], 16),
        ([], 16),
        (["--resolution", "16", "--cutout", "12"], 12),
    ):
        assert asked(*words, *flags, "--dataset", "digits").recipe.augment.cutout == cutout


def flags_of(name: str) -> list[str]:
    """The small sizes as flags."""
    words = []
    for key, value in SMALL[name].items():
        if key != "num_classes":
            words += [f"--{key.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return [*words, "--cutout", "0"]


def test_a_folder_with_several_named_searches_asks_which(tmp_path: Path, asked: Callable[..., RetrainConfig]) -> None:
    assert "has no search.json" in refuse("retrain", tmp_path, "--out", tmp_path / "out")
    first = a_search(tmp_path, SPACE, "digits", "first")
    assert asked(tmp_path).space == SPACE
    a_search(tmp_path, SPACE, "digits", "second")
    assert f"name one: {first}, " in refuse("retrain", tmp_path, "--out", tmp_path / "out")
    other = nshot.space("nasbench201", channels=6, cells=1, resolution=8)
    a_search(tmp_path, other, "digits")
    assert asked(tmp_path).space == other  # that of the default name
