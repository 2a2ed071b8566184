"""A network as one Python file that needs torch and Pillow alone, and safetensors where its weights are such a file:
`model.py` of a hand-over folder."""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from nshot.data.decode import fit, read, upright
from nshot.errors import UserError, first_line
from nshot.nn.depthwise import DepthwiseConv

from .embed import source_with_needs
from .figures import off
from .readme import needs

MODEL = '''"""An image classifier that needs {needs} alone.

    classes, probabilities = predict(["photo.jpg", PIL.Image.open("other.png")])

or, step by step:

    network = load()
    logits = network(preprocess("photo.jpg")[None])
"""

{imports}

ARCH = {arch!r}
DATASET = {dataset!r}  # what it was trained on
CLASSES = {classes!r}  # of the logits, in their order
SIDE, CROP = {side!r}, {crop!r}  # pixels; the share of an image's shorter side that is kept
MEAN, STD = {mean!r}, {std!r}  # a number a channel, of pixels from 0 to 255
WEIGHTS = {weights!r}
SHA256 = "{sha256}"  # of that file


def predict(images, network=None, batch=64):
    """Classes (N names) and their probabilities (N, classes) of images: paths, PIL images, or one of either."""
    if isinstance(images, (str, bytes, Path, Image.Image)):
        images = [images]
    network = load() if network is None else network
    device = next(network.parameters()).device
    found = [torch.empty(0, len(CLASSES))]
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            some = torch.stack([preprocess(image) for image in images[start : start + batch]])
            found.append(network(some.to(device)).softmax(1).cpu())
    probabilities = torch.cat(found)
    return [CLASSES[i] for i in probabilities.argmax(1)], probabilities


def load(path=None):
    """The network with its weights, ready to classify; path: of a .pt or .safetensors file, default: beside this."""
    path = Path(__file__).with_name(WEIGHTS) if path is None else Path(path)
    data = path.read_bytes()
    if path.name == WEIGHTS and hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{{path}} is not what was exported: copy it again")
    if path.suffix == ".safetensors":
        from safetensors.torch import load as read_safetensors

        weights = read_safetensors(data)
    else:
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    network = Network()
    network.load_state_dict(weights)
    return network.eval()


def preprocess(image):
    """What the network reads, float (3, SIDE, SIDE), of a path, an encoded image's bytes or a PIL image."""
    return normalise(square(image)[None])[0]


def normalise(pixels):
    """uint8 (N, H, W, 3), RGB from 0 to 255, to what the network reads: float (N, 3, H, W)."""
    scale = 1 / torch.tensor(STD, device=pixels.device)
    shift = -torch.tensor(MEAN, device=pixels.device) * scale
    return torch.addcmul(shift, pixels.float(), scale).permute(0, 3, 1, 2)


def square(image):
    """uint8 (SIDE, SIDE, 3), RGB from 0 to 255: upright, its central square resized, as in training.

    A JPEG that is given as a path or as bytes is decoded no larger than it has to be, as in training; one that PIL
    has opened already is resized from its whole size, which may differ a little.
    """
    if isinstance(image, Image.Image):
        image = upright(image)
    else:
        image = read(image if isinstance(image, bytes) else Path(image), round(SIDE / CROP))
    data = bytearray(fit(image, SIDE, CROP).tobytes())
    return torch.frombuffer(data, dtype=torch.uint8).view(SIDE, SIDE, 3)


{reading}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
{layers}

{forward}
'''
UNKNOWN = "0" * 64  # in the place of the weights' digest, which the source is made before
IMPORTED = {
    "import hashlib",
    "import io",
    "import torch",
    "from pathlib import Path",
    "from PIL import Image",
    "from torch import device, nn",
}


class SourceError(UserError):
    """A network of one's own that cannot be written as source."""


def source_of(network: nn.Module, result: dict[str, Any], weights_file: str) -> tuple[str, dict[str, Tensor]]:
    """Source of a module that computes the same from image files on, and its weights by that module's names. Where it
    says the digest of the file that these go to, it has `UNKNOWN`.

    Args:
        network: in evaluation mode.
        result: of its retraining.
        weights_file: name of the file that the weights go to.

    Raises:
        SourceError: where torch.fx cannot follow the network, or what is written is not it: a layer that does not print
            all that makes it, names that are one with dots and underscores alike.
    """
    try:
        source, weights = _written(network, result, weights_file)
        _check(source, weights, network, result["space"]["resolution"])
    except SourceError:
        raise
    except Exception as error:  # of whatever the network does
        raise SourceError(f"a network of space {result['space']['name']} has no source ({first_line(error)})") from None
    return source, weights


def _check(source: str, weights: dict[str, Tensor], network: nn.Module, side: int) -> None:
    """Raises SourceError where what is written computes something else than the network."""
    made: dict[str, Any] = {}
    exec(compile(source, "model.py", "exec"), made)
    own = made["Network"]()
    own.load_state_dict(weights)
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = network(images), own.eval()(images)
    if (difference := off(found, expected)) is not None:
        raise SourceError(f"the network's source would compute other logits, by {difference:.2e}")


def _written(network: nn.Module, result: dict[str, Any], weights_file: str) -> tuple[str, dict[str, Tensor]]:
    """Source and weights, as `source_of` has them."""
    graph, layers, tensors = _traced(network)
    lines = [f"        self.{_flat(name)} = nn.{_made(layer)}" for name, layer in layers.items()]
    lines += [
        f"        self.register_buffer({_flat(name)!r}, torch.empty({tuple(t.shape)}, dtype={t.dtype}))"
        for name, t in tensors.items()
    ]
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = _flat(node.target)
    code = graph.python_code("self").src.replace("torch._C._nn.avg_pool2d", "nn.functional.avg_pool2d")
    imports, reading = source_with_needs(read, upright, fit)
    text = MODEL.format(
        imports=_sorted(IMPORTED.union(imports)),
        arch=result["arch"],
        dataset=result["dataset"],
        classes=result["classes"],
        side=result["space"]["resolution"],
        crop=result["crop"],
        weights=weights_file,
        needs=needs([weights_file]),
        sha256=UNKNOWN,
        reading="\n\n\n".join(reading),
        layers="\n".join(lines),
        forward="\n".join("    " + line if line else "" for line in code.strip().splitlines()),
        **result["normalise"],
    )
    held = {**network.state_dict(), **tensors}  # some tensors, such as tables of indices, are in no state
    return text, {flat: held[name].detach() for flat, name in _names(layers, tensors).items()}


def weight_names(network: nn.Module) -> dict[str, str]:
    """By the names that `source_of` gives weights: those that the network has for them."""
    return _names(*_traced(network)[1:])


def _names(layers: dict[str, nn.Module], tensors: dict[str, Tensor]) -> dict[str, str]:
    inside = {f"{_flat(name)}.{key}": f"{name}.{key}" for name, layer in layers.items() for key in layer.state_dict()}
    return inside | {_flat(name): name for name in tensors}


def _traced(network: nn.Module) -> tuple[fx.Graph, dict[str, nn.Module], dict[str, Tensor]]:
    """What the network computes, and by their names its layers and the tensors of its own that it computes with."""
    network = copy.deepcopy(network)  # tracing names constants anew each time, and leaves them on it
    graph = _Layers().trace(network)
    layers: dict[str, nn.Module] = {}
    tensors: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            layers[node.target] = network.get_submodule(node.target)
        elif node.op == "get_attr":
            owner, _, name = node.target.rpartition(".")
            tensors[node.target] = getattr(network.get_submodule(owner), name)
    return graph, layers, tensors


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


def _sorted(imports: set[str]) -> str:
    """Lines of import, those of the standard library first."""
    others = sorted(
        (line for line in imports if line.split()[1].split(".")[0] in ("torch", "PIL", "numpy")), key=str.lower
    )
    return "\n".join([*sorted(imports.difference(others)), "", *others])
