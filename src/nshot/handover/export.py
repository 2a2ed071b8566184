"""Hands a retrained network over: a folder with it as PyTorch source and weights, safetensors and ONNX."""

import io
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save

from nshot.errors import Say, UserError
from nshot.networks.result import read_network

from .classifier import PT, SAFETENSORS, Classifier, completed
from .folder import check_own, write_folder
from .onnx import ONNX, PACKAGES, onnx_of
from .readme import readme
from .source import UNKNOWN, SourceError, source_of

Format = Literal["torch", "safetensors", "onnx"]


def export(folder: str | Path, out: str | Path, to: Format | Sequence[Format] = (), *, say: Say = print) -> list[Path]:
    """Writes a retrained network to a folder that needs nothing of nshot.

    Args:
        folder: what `nshot.networks.retrain.retrain` wrote.
        out: the folder to write: a new or an empty one, or one that an earlier export wrote.
        to: which formats; default: all, ONNX where its packages are installed. ``torch``: ``model.py``, which needs
            torch and Pillow alone, and ``weights.pt``; ``safetensors``: the weights as safetensors, with a ``model.py``
            that needs that package too where there are no others; ``onnx``: a graph from pixels to probabilities for
            any number of images, checked against torch in onnxruntime.
        say: takes lines for the user.

    Returns:
        The files.

    Raises:
        UserError: for a folder that holds no network, an unknown format, ONNX without its packages, a network of one's
            own that has no source where that is asked for, or a folder to write that holds files of anyone else.

    Example:
        >>> files = nshot.export(folder, out, to="torch", say=lambda line: None)  # folder: what nshot retrain wrote
        >>> sorted(path.name for path in files)
        ['README.md', 'model.py', 'nshot.json', 'weights.pt']
    """
    formats = [to] if isinstance(to, str) else list(to)
    for name in formats:
        if name not in get_args(Format):
            raise UserError(f"unknown format {name!r}: choose of {', '.join(get_args(Format))}")
    network, result = read_network(folder)
    check_own(Path(out))
    if not formats:
        formats = list(get_args(Format))
        missing = [package for package in PACKAGES if find_spec(package) is None]
        if missing:
            formats.remove("onnx")
            say(f"{ONNX} is left out, for it needs {', '.join(missing)}: pip install 'nshot[onnx]'")
    classifier = Classifier(network.requires_grad_(False), completed(result))
    try:
        files = _files(classifier, formats)
    except SourceError as error:
        if to or "onnx" not in formats:
            raise SourceError(f"{error}: it can be handed over by --to onnx alone") from None
        say(f"model.py and the weights by its names are left out: {error}")
        files = _files(classifier, ["onnx"])
    files["README.md"] = readme(classifier.result, list(files)).encode()
    return write_folder(Path(out), files, {"result": classifier.result})


def _files(classifier: Classifier, formats: Sequence[str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if "torch" in formats or "safetensors" in formats:
        stored = PT if "torch" in formats else SAFETENSORS
        source, weights = source_of(classifier.network, classifier.result, stored)
        files["model.py"] = b""  # the first of all, once the weights are known
        if "torch" in formats:
            buffer = io.BytesIO()
            torch.save(weights, buffer)
            files[PT] = buffer.getvalue()
        if "safetensors" in formats:
            files[SAFETENSORS] = save({name: w.contiguous() for name, w in weights.items()})
        files["model.py"] = source.replace(UNKNOWN, sha256(files[stored]).hexdigest()).encode()
    if "onnx" in formats:
        files[ONNX] = onnx_of(classifier)
    return files
