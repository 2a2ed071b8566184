"""How good a retrained network is: figures of the test part alone, beside those of trivial baselines."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from nshot.data.images import Files, Pictures
from nshot.data.sources import Dataset
from nshot.errors import UserError
from nshot.files import write_json
from nshot.search.latency import Setting, machine, measure
from nshot.training.config import space_from_dict
from nshot.training.networks import read_network
from nshot.training.run import versions
from nshot.training.runner import fabric

from .baselines import linear, majority
from .classifier import Classifier, completed
from .figures import by_class, confusion, judged

VERDICT = "verdict.json"
BATCH = 256
MISTAKES = 24  # thumbnails
THUMBNAIL = 96  # pixels
LEVEL = 0.05


def judge(
    folder: str | Path, data: Dataset, *, device: str = "auto", say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Judges a retrained network on the test part of its data, and writes ``verdict.json`` to its folder.

    Args:
        folder: what `nshot.training.retrain.retrain` or `retrain_best` wrote.
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
    _check(classifier, data)
    say(f"judging {folder} on the {len(data.test):,} test images, beside a linear classifier on pixels")
    probabilities = _probabilities(classifier.to(fabric(device).device), data.test)
    labels, said = data.test.labels.numpy(), probabilities.argmax(1).numpy()
    table = confusion(labels, said, data.classes)
    _check_tested(result, table)
    wrong = _mistakes(labels, probabilities)
    verdict = {
        "arch": result["arch"],
        "dataset": result["dataset"],
        "test": judged(labels, said, data.classes),
        "baselines": _baselines(data, said == labels, names),
        **_costs(result),
        "versions": versions(),
        "classes": by_class(table, names),
        "confusion": table.tolist(),
        "mistakes": [
            {
                "image": _name(data.test, i),
                "class": names[labels[i]],
                "said": names[said[i]],
                "probability": float(probabilities[i].max()),
            }
            for i in wrong
        ],
        "pictures": _pictures(data.test.subset(np.array(wrong, dtype=np.int64))),
    }
    write_json(folder / VERDICT, verdict)
    return verdict


def read_verdict(folder: str | Path) -> dict[str, Any] | None:
    """What `judge` wrote; None where there is nothing. Raises UserError for a broken file."""
    path = Path(folder) / VERDICT
    try:
        verdict = json.loads(path.read_text())
        missing = {"test", "baselines", "classes", "confusion", "mistakes", "pictures"} - verdict.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return verdict
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no verdict ({error}): make it again with nshot verdict {folder}") from None


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


@torch.inference_mode()
def _probabilities(classifier: Classifier, images: Pictures) -> Tensor:
    """Of all classes (N, classes), on the CPU."""
    found = []
    for start in range(0, len(images), BATCH):
        some = images.subset(np.arange(start, min(start + BATCH, len(images)))).loaded()
        found.append(classifier(some.pixels.to(classifier.scale.device))[1].cpu())
    return torch.cat(found)


def _baselines(data: Dataset, right: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    labels = data.test.labels.numpy()
    rows = {}
    for name, baseline in (("majority", majority), ("linear", linear)):
        said, facts = baseline(data)
        ours, theirs = int((right & (said != labels)).sum()), int((~right & (said == labels)).sum())
        p = float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
        if "class" in facts:
            facts["class"] = names[facts["class"]]
        rows[name] = {**judged(labels, said, data.classes), **facts, "p": p}
    return rows


def _mistakes(labels: np.ndarray, probabilities: Tensor) -> list[int]:
    """The images that the network is surest and wrong of, the surest first."""
    sure, said = (part.numpy() for part in probabilities.max(1))
    order = np.lexsort((np.arange(len(labels)), -sure))
    return [int(i) for i in order if said[i] != labels[i]][:MISTAKES]


def _name(images: Pictures, i: int) -> str:
    """An image's file, or its number among the test images."""
    return "/".join(images.paths[i].parts[-2:]) if isinstance(images, Files) else f"test image {i}"


def _pictures(images: Pictures) -> list[str]:
    """The images as the network sees them, PNG in base64."""
    from PIL import Image

    found: list[str] = []
    for pixels in images.loaded().pixels.numpy() if len(images) else ():
        picture = Image.fromarray(pixels)
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        data = io.BytesIO()
        picture.save(data, format="PNG")
        found.append(base64.b64encode(data.getvalue()).decode())
    return found
