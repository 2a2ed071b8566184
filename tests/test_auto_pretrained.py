"""`nshot auto` where it shrinks a pretrained network: when it does, what it says, and what comes out."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import nshot
import nshot.auto.pretrained as chosen
from helpers import SMALL, nshot_, refuse
from nshot.auto.pretrained import MODEL, Weights, at_hand, halved, trouble
from nshot.auto.trial import better, resized, same_weights
from nshot.data.sources import load
from nshot.networks.recipes import recipe
from nshot.networks.retrain import RetrainConfig
from nshot.search.limits import Limits
from nshot.spaces import space
from test_auto import folder_of

MODEL_SMALL = SMALL["timm"]["model"]
QUICK = ["--train", "--epochs", "3", "--search", "--sample", "4", "--retrain", "--epochs", "6", "--lr", "0.01"]
SIZED = nshot.space("timm", model=MODEL_SMALL, resolution=32, num_classes=2)
WHOLE = SIZED.format(tuple(d.allowed[-1] for d in SIZED.decisions))
MIDDLE = SIZED.flops(SIZED.parse(WHOLE.replace("32px", "24px")))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("data") / "photos", {"cat": 40, "dog": 40}, sides=(40,))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(timm.create_model(MODEL_SMALL).state_dict(), file)
    return file


def auto(photos: Path, out: Path, *args: Any) -> tuple[int, str, str]:
    return nshot_("auto", f"imagefolder:{photos}", "--out", out, "--device", "cpu", *args)


def test_one_command_shrinks_a_pretrained_network(photos: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "job"
    given = ["--init", weights, "--model", MODEL_SMALL, "--resolution", "32", "--max-flops", MIDDLE, *QUICK]
    status, printed, err = auto(photos, out, *given)
    assert status == 0, err
    assert {path.name for path in out.iterdir()} == {
        "supernet",
        "whole",
        "trials",
        "network",
        "handover",
        "report.html",
    }
    assert "space timm: a pretrained network is shrunk" in printed
    assert "from scratch instead: --space nasbench201" in printed
    assert re.search(r"the whole network: [\d.]+ % .* test images", printed)
    whole, best = (json.loads((out / name / "result.json").read_text()) for name in ("whole", "network"))
    assert whole["arch"].startswith("32px|1|1,1|")
    assert best["flops"] <= MIDDLE < whole["flops"]
    tried = {name: json.loads((out / "trials" / name / "result.json").read_text()) for name in ("found", "resized")}
    assert tried["resized"]["arch"] == whole["arch"].replace("32px", "24px")
    right = {name: result["test_accuracy"] for name, result in tried.items()}
    share = (right["resized"] + right["found"]) / 200
    chance = 100 * (2 * share * (1 - share) / tried["found"]["test_images"]) ** 0.5
    taken = "found" if right["found"] - right["resized"] > chance else "resized"
    assert best["arch"] == tried[taken]["arch"]
    counts = f"{right['found']:.1f} % (found) and {right['resized']:.1f} % (resized) of"
    assert counts in printed
    assert f"others: {taken} is taken" in printed
    share = best["flops"] / whole["flops"]
    assert f"the network is right on {best['test_accuracy']:.1f} % with {share:.0%} of the FLOPs" in printed
    stored = {name: json.loads((out / name / "config.json").read_text())["config"] for name in ("supernet", "network")}
    assert stored["supernet"]["strategy"] == "sandwich"
    assert stored["supernet"]["init"] == str(weights)
    network = stored["network"]
    begun = {"found": out / "supernet", "resized": out / "whole" / "network.safetensors"}[taken]
    assert (network["init"], network["teacher"], network["distill"]) == (str(begun), str(out / "whole"), 1.0)
    assert (network["recipe"]["epochs"], network["recipe"]["augment"]["mixup"]) == (6, 0.5)
    assert json.loads((out / "whole" / "config.json").read_text())["config"]["init"] == str(weights)
    recipes = [json.loads((out / name / "config.json").read_text())["config"] for name in ("whole", "trials/found")]
    assert all(
        (r["recipe"]["epochs"], r["recipe"]["augment"]["mixup"], r["teacher"]) == (2, 0.0, None) for r in recipes
    )
    status, printed, _ = auto(photos, out, *given)
    assert status == 0
    assert printed.count("is finished already: nothing to do") == 3  # no trial of what was begun


def test_chosen_for_photos_where_weights_are_at_hand(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is chosen is said before anything is done."""

    class Stop(Exception):  # noqa: N818
        pass

    def stop(*args: Any, **known: Any) -> None:
        raise Stop

    def said(*args: Any) -> str:
        lines: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr("nshot.auto.command.run_job", stop)
            patch.setattr("builtins.print", lambda line: lines.append(line))
            with pytest.raises(Stop):
                auto(photos, tmp_path / "never", *args)
        return "\n".join(lines)

    monkeypatch.setattr(chosen, "at_hand", lambda: Weights(Path("w.pth"), "of a test"))
    found = said()
    assert "by weights of a test; from scratch instead: --space nasbench201" in found
    assert "resolution 96, to which images of 40 pixels are enlarged" in found
    whole = space("timm", model=MODEL, resolution=96, num_classes=2)
    assert f"limit: {whole.flops(tuple(d.allowed[-1] for d in whole.decisions)) // 2:,} FLOPs" in found
    assert "space nasbench201:" in said("--space", "nasbench201")
    found = said("--max-params", "100k")
    assert "no pretrained network is shrunk: no subnet keeps to max params 100,000: " in found
    assert "resolution 32: the largest of 8, 16, 24, 32, 48, 64 that the images have" in found
    monkeypatch.setattr(chosen, "at_hand", lambda: None)
    found = said()
    assert "a pretrained network would serve better for photos: bring its weights" in found
    assert "--init pretrained" in found


def test_nothing_is_fetched_where_nobody_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model

    def never(name: str, pretrained: bool = False, **known: Any) -> Any:
        assert not pretrained
        return made(name, **known)

    monkeypatch.setattr(timm, "create_model", never)
    found = at_hand()
    assert found is not None
    assert found.init.suffix == ".pth"  # of the package
    monkeypatch.setattr(chosen, "find_spec", lambda name: None if name != "timm" else object())
    monkeypatch.setattr(chosen, "_cached", lambda: False)
    assert at_hand() is None
    monkeypatch.setattr(chosen, "_cached", lambda: True)
    found = at_hand()
    assert found is not None
    assert found.init == Path("pretrained")
    monkeypatch.setattr(chosen, "find_spec", lambda name: None)
    assert at_hand() is None


def test_limits(photos: Path) -> None:
    whole = space("timm", model=MODEL, resolution=96, num_classes=10)
    limits, why = halved(Limits(), whole)
    assert limits.max_flops == whole.flops(tuple(d.allowed[-1] for d in whole.decisions)) // 2
    assert "half of the whole network's" in why
    assert halved(Limits(max_params=9), whole) == (Limits(max_params=9), "")


def ends(classes: int) -> tuple[int, int]:
    """Of the smallest network, built: parameters, and FLOPs by torch's own count."""
    whole = chosen.space_of(MODEL, 96, classes)
    network = whole.network(tuple(d.allowed[0] for d in whole.decisions)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 96, 96))
    return sum(w.numel() for w in network.parameters()), counter.get_total_flops() // 2


def test_limits_are_those_of_the_datas_classes() -> None:
    """A classifier of a thousand classes alone has more parameters than all of a small network."""
    (few, _), (many, _) = ends(2), ends(1000)
    between = Limits(max_params=(few + many) // 2)
    assert trouble(between, 96, 2) == ""
    assert f"comes nearest with {many:,} parameters" in trouble(between, 96, 1000)


def test_limits_that_only_the_smallest_network_keeps_to() -> None:
    """Both at once; a FLOP less, and there is none."""
    params, flops = ends(10)
    assert trouble(Limits(max_params=params, max_flops=flops), 96, 10) == ""
    assert "FLOPs" in trouble(Limits(max_params=params, max_flops=flops - 1), 96, 10)


def test_what_is_refused(photos: Path, weights: Path, tmp_path: Path) -> None:
    at = ["auto", f"imagefolder:{photos}", "--out", tmp_path / "never"]
    assert "leave out --space darts" in refuse(*at, "--init", weights, "--space", "darts")
    assert "has no effect without --init" in refuse(*at, "--model", MODEL_SMALL)
    assert "name weights of the same model" in refuse(*at, "--init", weights)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(("right", "taken"), [((50, 50), "resized"), ((74, 50), "resized"), ((75, 50), "found")])
def test_a_trial(right: tuple[int, int], taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search's best is taken where it is better by more than chance makes of 30 images, which is 24.5 % here; there
    may be fewer images than the recipe's batches have."""
    digits = load("digits", resolution=32)
    data = replace(digits, train=digits.train.subset(np.arange(21)), valid=digits.valid.subset(np.arange(30)))
    space = SIZED.with_classes(10)
    found = tuple(d.allowed[0] for d in space.decisions)
    seen: dict[str, tuple[Any, ...]] = {}

    def stub(config: RetrainConfig, subnet: Any, images: Any, out: Path, **given: Any) -> dict[str, Any]:
        seen[out.name] = config, subnet, images
        return {"test_accuracy": dict(zip(("found", "resized"), right, strict=True))[out.name]}

    monkeypatch.setattr("nshot.auto.trial.retrain", stub)
    monkeypatch.setattr("nshot.auto.trial.begin_with", lambda run, space: None)
    file = tmp_path / "w.safetensors"
    itself = RetrainConfig(space, recipe("tune"), "digits", init=file)
    config = replace(itself, init=tmp_path, teacher="whole", recipe=replace(recipe("tune"), epochs=99))
    said: list[str] = []
    chosen = better(config, itself, found, Limits(), data, tmp_path, {"say": said.append})
    assert chosen == seen[taken][1]
    assert (seen["found"][1], seen["resized"][1]) == (found, tuple(d.allowed[-1] for d in space.decisions))
    for used, _, images in seen.values():
        assert (used.recipe.batch_size, used.recipe.epochs, used.teacher) == (21, recipe("tune").epochs, None)
        assert (len(images.train), len(images.valid), len(images.test)) == (21, 0, 30)
    assert [seen[name][0].init for name in ("found", "resized")] == [tmp_path, file]  # the supernet's, or given ones
    assert said[-1].startswith(f"tuned on 21 images they are right on {right[0]}.0 % (found)")
    whole = seen["resized"][1]
    assert better(config, itself, whole, Limits(), data, tmp_path, {"say": said.append}) == whole  # nothing to try
    assert better(config, itself, found, Limits(max_flops=1), data, tmp_path, {"say": said.append}) == found


def test_only_on_smaller_images_a_network_has_the_weights_of_the_whole() -> None:
    space = nshot.space("timm", model=MODEL_SMALL, resolution=64, sides=(32, 40, 64), num_classes=4)
    whole, (at,) = [d.allowed[-1] for d in space.decisions], space.couples
    for i, decision in enumerate(space.decisions):
        for option in decision.allowed[:-1]:
            assert same_weights(space, (*whole[:i], option, *whole[i + 1 :])) == (i == at)


def test_the_whole_network_on_smaller_images() -> None:
    space = nshot.space("timm", model=MODEL_SMALL, resolution=64, sides=(32, 40, 64), num_classes=4)
    whole = tuple(d.allowed[-1] for d in space.decisions)
    flops = [space.flops((*whole[:-1], side)) for side in range(3)]
    for most, side in ((flops[2], 2), (flops[2] - 1, 1), (flops[1] - 1, 0), (flops[0], 0)):
        assert resized(space, Limits(max_flops=most)) == (*whole[:-1], side)
    assert resized(space, Limits(max_flops=flops[0] - 1)) is None
    assert resized(space, Limits(max_params=space.params(whole) - 1)) is None
    one = nshot.space("timm", model=MODEL_SMALL, resolution=64, sides=(64,), num_classes=4)
    assert resized(one, Limits()) == tuple(d.allowed[-1] for d in one.decisions)
    assert resized(one, Limits(max_flops=flops[2] - 1)) is None
