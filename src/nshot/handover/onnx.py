"""A classifier as ONNX: from pixels to probabilities, with what its user has to know in the file's metadata."""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from nshot.errors import UserError, extra

from .classifier import Classifier
from .figures import off
from .readme import steps

ONNX = "model.onnx"
OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def onnx_of(classifier: Classifier) -> bytes:
    """The file: input ``images``, uint8 (N, side, side, 3), RGB; outputs ``logits`` and ``probabilities``.

    Raises:
        UserError: without the packages, or where onnxruntime's answers are not torch's.
    """
    onnx, _, onnxruntime = (extra(package, "onnx", "format 'onnx'") for package in PACKAGES)
    side = classifier.side
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX
        torch.onnx.export(
            classifier, (images[:2],), str(path), input_names=["images"], output_names=["logits", "probabilities"],
            opset_version=OPSET, dynamo=True, dynamic_shapes=({0: torch.export.Dim("images")},), external_data=False,
            verbose=False,
        )  # fmt: skip
        model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata(classifier))
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected, _ = classifier(images)
    logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    if (difference := off(logits, expected)) is not None:
        raise UserError(f"onnxruntime's logits differ from torch's by {difference:.2e}: the network is not exported")
    return data


def metadata(classifier: Classifier) -> dict[str, str]:
    """What the file says of itself: JSON where it is no plain text."""
    result = classifier.result
    return {
        "classes": json.dumps(result["classes"]),
        "input": f"images: uint8 (N, {classifier.side}, {classifier.side}, 3), RGB, from 0 to 255, not normalised",
        "outputs": f"logits and probabilities: float32 (N, {len(result['classes'])}), in the order of the classes",
        "preprocessing": json.dumps(steps(result)),
        "side": str(classifier.side),
        "crop": str(result["crop"]),
        "opset": str(OPSET),
        "arch": result["arch"],
        "dataset": json.dumps(result["dataset"]),
        "test_accuracy": str(result["test_accuracy"]),
        "params": str(result["params"]),
        "flops": str(result["flops"]),
        "nshot": version("nshot"),
    }
