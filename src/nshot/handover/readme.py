"""The README.md of a hand-over folder: what lies there, how good it is, how it is used."""

import re
from collections.abc import Sequence
from typing import Any

from nshot.files import shown

from .figures import accuracy_of

WHAT = {
    "model.py": "the network in one file that needs {needs} alone",
    "weights.pt": "its weights, tensors by name",
    "weights.safetensors": "its weights as safetensors (`load('weights.safetensors')`)",
    "model.onnx": "the network from pixels to probabilities as ONNX, opset 18, for any number of images",
}
PYTHON = """## In Python
```python
import model                              # in this folder, or with it on sys.path

network = model.load()
classes, probabilities = model.predict(["photo.jpg", "other.png"], network)
logits = network(model.preprocess("photo.jpg")[None])    # step by step; reads float (N, 3, {side}, {side})
```
"""
ONNX = """## With ONNX Runtime
The input `images` is uint8 (N, {side}, {side}, 3), RGB from 0 to 255: the normalisation is in the graph. Names of the
classes (JSON), sizes and the steps below are in the file's metadata too. {square}Pillow alone makes these pixels of
images in RGB, as in training:
```python
import json, numpy, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
image = Image.open("photo.jpg")
image.draft("RGB", ({draft}, {draft}))    # a large JPEG is decoded no larger than it has to be, as in training
image = ImageOps.exif_transpose(image).convert("RGB")
image = ImageOps.fit(image, ({side}, {side}), Image.Resampling.BILINEAR, bleed={bleed})
logits, probabilities = session.run(None, {{"images": numpy.asarray(image)[None]}})
```
"""


def steps(result: dict[str, Any]) -> list[str]:
    """What is done to an image before the network, in order."""
    side, crop = result["space"]["resolution"], result["crop"]
    kept = "" if crop == 1 else f" {crop:.4g} of"
    return [
        f"decode a JPEG at the least of 1/8, 1/4, 1/2 of its size that has {_least(result)} pixels a side, if any does "
        "(Pillow's `draft`)",
        "turn it upright as its EXIF orientation says",
        "bring it to RGB of 8 bits: transparent parts onto white, deeper pixels scaled by the depth of the file",
        f"cut its central square of{kept} the shorter side",
        f"resize that to {side} x {side}: bilinear, antialiased (Pillow's BILINEAR)",
        f"subtract {_numbers(result, 'mean')} and divide by {_numbers(result, 'std')}, a number for each of R, G, B "
        "from 0 to 255",
    ]


def readme(result: dict[str, Any], files: Sequence[str]) -> str:
    """The text.

    Args:
        result: of the retraining.
        files: that lie beside it.
    """
    side = result["space"]["resolution"]
    parts = [
        "# An image classifier\n",
        f"{len(result['classes'])} classes, images of {side} x {side} pixels, trained by nshot on "
        f"{_code(result['dataset'])}.\n",
        "| | |\n| --- | --- |",
        f"| test accuracy | {tested(result)} |",
        f"| parameters | {result['params']:,} |",
        f"| FLOPs (multiply-accumulates of one image) | {result['flops']:,} |",
        f"\nArchitecture: {_code(result['arch'])}\n",
        "\n".join(f"- `{name}`: {WHAT[name].format(needs=needs(files))}" for name in files) + "\n",
    ]
    does = []
    if "model.py" in files:
        parts.append(PYTHON.format(side=side))
        does.append("`model.preprocess` does it all.")
    if "model.onnx" in files:
        square = "`model.square` makes these pixels of any image file. " if "model.py" in files else ""
        bleed = round((1 - result["crop"]) / 2, 6)
        parts.append(ONNX.format(side=side, bleed=bleed, draft=_least(result), square=square))
        does.append("The ONNX graph does the last step.")
    parts.append(f"## What is done to an image\n{' '.join(does)}\n")
    parts.append("\n".join(f"{i}. {step}" for i, step in enumerate(steps(result), start=1)) + "\n")
    parts.append("## Classes\nIn the order of the logits:\n")
    parts.append("\n".join(f"{i}. {_code(name)}" for i, name in enumerate(result["classes"])) + "\n")
    return "\n".join(parts)


def needs(files: Sequence[str]) -> str:
    """The packages that model.py needs to read its weights, the first of these files that are some."""
    return "torch and Pillow" if "weights.pt" in files else "torch, Pillow and safetensors"


def tested(result: dict[str, Any]) -> str:
    """The test accuracy with its interval, for people."""
    if "test_images" not in result:  # of an earlier version
        return f"{result['test_accuracy']:.2f} %"
    images = result["test_images"]
    found = accuracy_of(round(result["test_accuracy"] * images / 100), images)
    tried = len(result.get("test_accuracies", ()))
    best = f"; the best of {tried} by these images, so too good" if tried else ""
    return f"{found['accuracy']:.2f} % of {images:,} images (95 %: {found['low']:.2f} to {found['high']:.2f}{best})"


def _least(result: dict[str, Any]) -> int:
    """Pixels that a side must have for its central square not to be enlarged."""
    return round(result["space"]["resolution"] / result["crop"])


def _numbers(result: dict[str, Any], key: str) -> str:
    return ", ".join(f"{value:.4f}" for value in result["normalise"][key])


def _code(text: str) -> str:
    """A name as it is, whatever it has in it."""
    plain = shown(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    return f"{fence} {plain} {fence}" if len(fence) > 1 else f"{fence}{plain}{fence}"
