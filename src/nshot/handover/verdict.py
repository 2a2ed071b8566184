"""How good a retrained network is: figures of the test part alone, beside those of trivial baselines."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest

from nshot.data.images import Pictures
from nshot.data.manifest import check_manifest
from nshot.data.sources import Dataset
from nshot.errors import Say, UserError
from nshot.files import read_json, shown, typed, write_json
from nshot.networks.result import RESULT, read_network
from nshot.runs.folder import versions
from nshot.search.latency import Setting, machine, measure
from nshot.spaces import space_from_dict
from nshot.training.device import fabric

from .baselines import linear, majority
from .classifier import Classifier, completed
from .figures import by_class, confusion, judged

VERDICT = "verdict.json"
BATCH = 256
MISTAKES = 24  # thumbnails
THUMBNAIL = 96  # pixels
LEVEL = 0.05


def judge(folder: str | Path, data: Dataset, *, device: str = "auto", say: Say = print) -> dict[str, Any]:
    """Judges a retrained network on the test part of its data, and writes ``verdict.json`` to its folder.

    Args:
        folder: what `nshot.networks.retrain.retrain` or `retrain_best` wrote.
        data: what it was trained and tested on.
        device: auto, cpu, cuda or mps; the latency is the CPU's.
        say: takes lines for the user.

    Returns:
        What verdict.json holds: ``test`` (see `judged`), the same for each of the ``baselines`` with ``p``, how
        probable so large a difference to the network is by chance (McNemar's exact test on the same images),
        ``params``, ``flops``, ``latency_ms``, ``classes`` (see `by_class`), ``confusion`` (rows: true), the most
        confident ``mistakes`` and their ``pictures``.

    Raises:
        UserError: for a folder that holds no network, or other data than it was tested on.
    """
    folder = Path(folder)
    network, result = read_network(folder)
    classifier = Classifier(network.requires_grad_(False), completed(result))
    names = classifier.classes
    check_manifest(folder / result.get("folder", ""), data, halves=False)
    _check(classifier, data)
    say(f"judging {folder} on the {len(data.test):,} test images, beside a linear classifier on pixels")
    labels, said, mistakes = _tested(classifier.to(fabric(device).device), data.test)
    table = confusion(labels, said, data.classes)
    _check_tested(result, table)
    verdict = {
        "arch": result["arch"],
        "dataset": result["dataset"],
        "test": judged(labels, said, data.classes),
        "baselines": _baselines(data, labels, said, names),
        **_costs(result),
        "versions": versions(),
        "classes": by_class(table, names),
        "confusion": table.tolist(),
        "mistakes": [
            {"image": one.image, "class": names[one.label], "said": names[one.said], "probability": one.probability}
            for one in mistakes
        ],
        "pictures": [_picture(one.pixels) for one in mistakes],
    }
    write_json(folder / VERDICT, verdict)
    return verdict


def read_verdict(folder: str | Path) -> dict[str, Any] | None:
    """What `judge` wrote of the network that is there; None where it is nothing. Raises UserError for a broken file."""
    path = Path(folder) / VERDICT
    try:
        verdict = read_json(path)
        missing = {"test", "baselines", "classes", "confusion", "mistakes", "pictures"} - verdict.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        of = {key: verdict.get(key) for key in ("arch", "dataset")}
        known = read_json(path.parent / RESULT) if (path.parent / RESULT).exists() else of
        return verdict if of == {key: known.get(key) for key in of} else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no verdict ({error}): make it again with nshot verdict {typed(folder)}") from None


def warnings_of(verdict: dict[str, Any]) -> list[str]:
    """What has to be said loudly: that the network is not shown to be better than what needs none."""
    said = []
    for name, row in verdict["baselines"].items():
        ahead = verdict["test"]["accuracy"] > row["accuracy"]
        if not ahead or row["p"] > LEVEL:
            how = "is not shown to be better than" if ahead else "is no better than"
            said.append(f"the network {how} {baseline_name(name, row)} ({row['accuracy']:.2f} %)")
    return said


def baseline_name(name: str, row: dict[str, Any]) -> str:
    """A baseline in words."""
    return f"always {row['class']!r}" if name == "majority" else f"a linear classifier on {row['side']} px"


def _check(classifier: Classifier, data: Dataset) -> None:
    names, own = classifier.classes, list(data.names) or [str(i) for i in range(data.classes)]
    if names != own:
        other = sorted(set(names) ^ set(own)) or own
        raise UserError(
            f"{data.name} has {len(own)} classes, the network was trained on {len(names)} (such as {other[0]!r}, which "
            "only one of them has): judge it on the data that it was trained on"
        )


def _check_tested(result: dict[str, Any], table: np.ndarray) -> None:
    """Raises UserError where what is right is not, but for rounding, what retraining counted."""
    images = int(table.sum())
    tested = result.get("test_images", images)
    right = round(result["test_accuracy"] * images / 100)
    if tested == images and abs(int(table.trace()) - right) <= max(2, images // 100):
        return
    now, then = f"{table.trace():,} of {images:,} right", f"{result['test_accuracy']:.2f} % of {tested:,}"
    raise UserError(
        f"{result['dataset']} is not what the network was tested on ({now}, not {then}): retrain it on the new data"
    )


def _costs(result: dict[str, Any]) -> dict[str, Any]:
    """Parameters and FLOPs, and the latency here."""
    space, setting = space_from_dict(result["space"]), Setting()
    return {
        "params": result["params"],
        "flops": result["flops"],
        "latency_ms": measure(space, space.check(result["subnet"]), setting),
        "latency": {**machine(), "threads": setting.threads, "batch": setting.batch},
    }


class _Mistake(NamedTuple):
    """An image that the network is sure and wrong of."""

    image: str
    label: int
    said: int
    probability: float
    pixels: np.ndarray


@torch.inference_mode()
def _tested(classifier: Classifier, images: Pictures) -> tuple[np.ndarray, np.ndarray, list[_Mistake]]:
    """Labels (N,) of the images, what the network says of them (N,), and the surest mistakes, the surest first."""
    labels, said = [], []
    mistakes: list[_Mistake] = []
    for start in range(0, len(images), BATCH):
        some = images.subset(np.arange(start, min(start + BATCH, len(images)))).loaded(none=True)
        if not len(some):
            continue
        sure, best = (each.cpu() for each in classifier(some.pixels.to(classifier.scale.device))[1].max(1))
        labels.append(some.labels)
        said.append(best)
        for i in (best != some.labels).nonzero().flatten().tolist():
            name = shown(some.stored[i].name) if some.stored else f"test image {start + i}"
            pixels = some.pixels[i].numpy().copy()  # not the batch that it lies in
            mistakes.append(_Mistake(name, int(some.labels[i]), int(best[i]), float(sure[i]), pixels))
        mistakes = sorted(mistakes, key=lambda one: -one.probability)[:MISTAKES]
    return torch.cat(labels).numpy(), torch.cat(said).numpy(), mistakes


def _baselines(data: Dataset, labels: np.ndarray, ours: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Of each baseline what `judged` says, what it was made of, and ``p``."""
    commonest = majority(data)
    said, facts = linear(data)
    answers = {
        "majority": (np.full_like(labels, commonest), {"class": names[commonest]}),
        "linear": (said, facts),
    }
    return {
        name: {**judged(labels, said, data.classes), **facts, "p": _by_chance(ours == labels, said == labels)}
        for name, (said, facts) in answers.items()
    }


def _by_chance(one: np.ndarray, other: np.ndarray) -> float:
    """How probable it is that two who are equally often right differ so much: McNemar's exact test, two-sided."""
    better, worse = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _picture(pixels: np.ndarray) -> str:
    """An image as the network sees it, PNG in base64."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return base64.b64encode(data.getvalue()).decode()
