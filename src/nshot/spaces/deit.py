"""Weights of DeiT (Touvron et al., ICML 2021), by timm's names, as those of an AutoFormer supernet."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nshot.errors import UserError
from nshot.nn.regions import part_of

from .pretrained import WORD, fitted, read_weights

TINY = "deit_tiny_patch16_224"
IMAGENET = tuple(255 * v for v in (0.485, 0.456, 0.406)), tuple(255 * v for v in (0.229, 0.224, 0.225))
OUTSIDE = {
    "token": "cls_token",
    "position": "pos_embed",
    "embedding": "patch_embed.proj",
    "norm": "norm",
    "classifier": "head",
}
INSIDE = {"norm1": "norm1", "attention.qkv": "attn.qkv", "attention.project": "attn.proj", "norm2": "norm2",
          "expand": "mlp.fc1", "contract": "mlp.fc2"}  # fmt: skip


def deit_weights(source: str, whole: nn.Module, supernet: nn.Module, head_dim: int) -> dict[str, Tensor]:
    """DeiT's weights by the supernet's names, of a part of the ``whole`` its leading slices; without the classifier
    where it is of other classes.

    Positions of another number of patches are interpolated, as timm does.

    Raises:
        UserError: for weights that cannot be had, or are of another network.
    """
    own, sizes = whole.state_dict(), {name: value.shape for name, value in supernet.state_dict().items()}
    names = {name: _timms(name) for name in own}
    given = _published() if source == WORD else read_weights(Path(source))
    if "pos_embed" in given and given["pos_embed"].dim() == 3:
        given["pos_embed"] = _positions(given["pos_embed"], own["position"].shape[1])
    wanted = {timms: own[name] for name, timms in names.items()}
    wanted = dict(sorted(wanted.items(), key=lambda item: _rank(item[0])))  # as in timm's state dict
    found = fitted(given, wanted, "head", source)
    weights = {name: found[timms] for name, timms in names.items() if timms in found}
    weights = {name: value for name, value in weights.items() if value.shape == own[name].shape}
    turned = {name: _rows(value, head_dim) if ".qkv." in name else value for name, value in weights.items()}
    return {name: part_of(turned[name], tuple(size)) for name, size in sizes.items() if name in turned}


def _timms(name: str) -> str:
    """timm's name of one of the supernet's weights."""
    part, _, key = name.rpartition(".")
    if not part:
        return OUTSIDE[name]
    if part in OUTSIDE:
        return f"{OUTSIDE[part]}.{key}"
    _, layer, inside = part.split(".", 2)
    return f"blocks.{layer}.{INSIDE[inside]}.{key}"


def _rank(name: str) -> tuple[int, int]:
    """Where it stands among timm's: tokens, patches, layers, norm, head; within a layer as `INSIDE` has them."""
    if name.startswith("blocks."):
        _, layer, inside = name.split(".", 2)
        return 3, 6 * int(layer) + next(i for i, part in enumerate(INSIDE.values()) if inside.startswith(part))
    place = next(i for i, start in enumerate(OUTSIDE.values()) if name.startswith(start))
    return (place if place < 3 else place + 1), 0


def _rows(value: Tensor, dim: int) -> Tensor:
    """Rows of queries, keys and values in turn, from all queries, then all keys, then all values."""
    heads = value.shape[0] // (3 * dim)
    return value.view(3, heads, dim, *value.shape[1:]).permute(1, 2, 0, *range(3, value.dim() + 2)).reshape(value.shape)


def _positions(given: Tensor, tokens: int) -> Tensor:
    """Of the class token, and of as many patches."""
    if given.shape[1] == tokens:
        return given
    old, new = round((given.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    if old * old + 1 != given.shape[1]:
        raise UserError(f"init: positions of {given.shape[1]} tokens are none of a class token and a square of patches")
    grid = given[:, 1:].float().view(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (new, new), mode="bicubic", antialias=True)
    return torch.cat([given[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _published() -> dict[str, Tensor]:
    from .timm_blocks import published

    return published(TINY)
