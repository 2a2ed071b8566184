"""Hands a retrained network over: a model that needs nothing of nshot, as PyTorch source and weights, or ONNX."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from nshot.errors import UserError, extra
from nshot.files import make_folder, write_atomically
from nshot.nn.depthwise import DepthwiseConv

from .networks import read_network

Format = Literal["torch", "safetensors", "onnx"]
OPSET = 18

HEADER = '''"""{arch}

{params:,} parameters, {flops:,} multiply-accumulates of one image, test accuracy {accuracy:.2f} % on {dataset}.

    network = load("{weights}")
    logits = network(normalise(pixels))    # pixels: uint8 (N, {side}, {side}, 3), as images are read
"""

import torch{imported}
from torch import device, nn

MEAN, STD = {mean}, {std}  # a number a channel, of pixels from 0 to 255
{classes}

def normalise(pixels):
    """uint8 (N, H, W, 3) to what the network reads: float (N, 3, H, W)."""
    scaled = (pixels.float() - torch.tensor(MEAN, device=pixels.device)) / torch.tensor(STD, device=pixels.device)
    return scaled.permute(0, 3, 1, 2)


def load(path):
    """The network with its weights, ready to classify."""
    network = Network()
    network.load_state_dict({read})
    return network.eval()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
'''


def export(folder: str | Path, to: Format, out: str | Path) -> list[Path]:
    """Writes a retrained network to a folder: ``model.py`` and ``weights.pt``, safetensors, or ONNX.

    Args:
        folder: what `nshot.training.retrain.retrain` wrote.
        to: the format. ``torch``: source that imports torch alone. ``safetensors``: the weights by the names of that
            source. ``onnx``: a graph for any number of images, checked against torch in onnxruntime.
        out: the folder to write.

    Returns:
        The files.

    Raises:
        UserError: for a folder that holds no network, an unknown format, or ONNX without its packages.
    """
    if to not in get_args(Format):
        raise UserError(f"unknown format {to!r}: choose one of {', '.join(get_args(Format))}")
    network, result = read_network(folder)
    writers: dict[str, Callable[[nn.Module, dict[str, Any], Path], list[Path]]] = {
        "torch": _torch,
        "safetensors": _safetensors,
        "onnx": _onnx,
    }
    return writers[to](network, result, Path(out))


def _torch(network: nn.Module, result: dict[str, Any], out: Path) -> list[Path]:
    source, weights = source_of(network, result, "weights.pt", read="torch.load(path, weights_only=True)")
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return _write(out, {"model.py": source.encode(), "weights.pt": buffer.getvalue()})


def _safetensors(network: nn.Module, result: dict[str, Any], out: Path) -> list[Path]:
    from safetensors.torch import save

    imported = "\nfrom safetensors.torch import load_file"
    source, weights = source_of(network, result, "weights.safetensors", read="load_file(path)", imported=imported)
    data = save({name: w.contiguous() for name, w in weights.items()})
    return _write(out, {"model.py": source.encode(), "weights.safetensors": data})


def _write(out: Path, files: dict[str, bytes]) -> list[Path]:
    make_folder(out)
    for name, data in files.items():
        write_atomically(out / name, data)
    return [out / name for name in files]


def _onnx(network: nn.Module, result: dict[str, Any], out: Path) -> list[Path]:
    onnxruntime = extra("onnxruntime", "onnx", "format 'onnx'")
    extra("onnxscript", "onnx", "format 'onnx'")  # torch's exporter needs it
    side = result["space"]["resolution"]
    images = torch.randn(3, 3, side, side)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network, (images[:2],), str(path), input_names=["images"], output_names=["logits"], opset_version=OPSET,
            dynamo=True, dynamic_shapes=({0: torch.export.Dim("images")},), external_data=False, verbose=False,
        )  # fmt: skip
        data = path.read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images)
    (logits,) = session.run(None, {"images": images.numpy()})
    difference = float((torch.from_numpy(logits) - expected).abs().max())
    if not difference < 1e-4 * max(1.0, float(expected.abs().max())):
        raise UserError(f"onnxruntime's logits differ from torch's by {difference:.2e}: the network is not exported")
    return _write(out, {"model.onnx": data})


def source_of(
    network: nn.Module, result: dict[str, Any], weights_file: str, *, read: str, imported: str = ""
) -> tuple[str, dict[str, Tensor]]:
    """Source of a module that computes the same, and its weights by that module's names.

    Args:
        network: in evaluation mode.
        result: of its retraining, for what the source says of itself.
        weights_file: name of the file that the weights go to.
        read: an expression of ``path`` that gives them back.
        imported: what that needs besides torch, a line of its own.
    """
    graph = _Layers().trace(network)
    layers: dict[str, nn.Module] = {}
    tensors: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            layers[_flat(node.target)] = network.get_submodule(node.target)
        elif node.op == "get_attr":
            owner, _, name = node.target.rpartition(".")
            tensors[_flat(node.target)] = getattr(network.get_submodule(owner), name)
        else:
            continue
        node.target = _flat(node.target)
    lines = [f"        self.{name} = nn.{_made(layer)}" for name, layer in layers.items()]
    lines += [
        f"        self.register_buffer({name!r}, torch.empty({tuple(t.shape)}, dtype={t.dtype}))"
        for name, t in tensors.items()
    ]
    code = graph.python_code("self").src.replace("torch._C._nn.avg_pool2d", "nn.functional.avg_pool2d")
    forward = "\n".join("    " + line if line else "" for line in code.strip().splitlines())
    weights = {f"{name}.{key}": w for name, layer in layers.items() for key, w in layer.state_dict().items()}
    weights |= {name: t.detach() for name, t in tensors.items()}
    head = HEADER.format(
        arch=result["arch"],
        params=result["params"],
        flops=result["flops"],
        accuracy=result["test_accuracy"],
        dataset=result["dataset"],
        side=result["space"]["resolution"],
        weights=weights_file,
        read=read,
        imported=imported,
        classes=f"CLASSES = {result['classes']}  # of the logits, in their order\n" if "classes" in result else "",
        **result["normalise"],
    )
    return f"{head}" + "\n".join(lines) + "\n\n" + forward + "\n", weights


class _Layers(fx.Tracer):
    """Traces down to layers of torch's, and to those that only train in another way."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DepthwiseConv) or super().is_leaf_module(m, module_qualified_name)


def _made(layer: nn.Module) -> str:
    """The call that makes a layer of torch's: what it prints, without what only newer versions know."""
    made = f"Conv2d({layer.extra_repr()})" if isinstance(layer, DepthwiseConv) else repr(layer)
    return made.replace(", bias=True", "") if isinstance(layer, nn.BatchNorm2d) else made


def _flat(target: Any) -> str:
    """A name for what lies deep in the network."""
    return str(target).replace(".", "_").replace("-", "_")
