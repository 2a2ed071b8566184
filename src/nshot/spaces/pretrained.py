"""Weights from elsewhere: files of timm's names, or of another's whose tensors are the same in the same order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nshot.errors import UserError, first_line

WORD = "pretrained"  # in place of a file: timm's own weights
COUNTS = "num_batches_tracked"


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a checkpoint, by name; of a checkpoint, nothing but tensors is read.

    Raises:
        UserError: for a file that is neither.
    """
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise anything
        message = first_line(error) or type(error).__name__
        raise UserError(
            f"init {file}: cannot be read ({message}): name a safetensors file, a checkpoint of tensors, the folder of "
            f"a finished run, or {WORD}"
        ) from None
    for key in ("state_dict", "model"):  # what training scripts put around it
        found = found[key] if isinstance(found, Mapping) and isinstance(found.get(key), Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"init {file}: holds no weights by name: name a checkpoint of tensors")
    return dict(found)


def fitted(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], head: str, where: Path | str
) -> dict[str, Tensor]:
    """The tensors by the names that are wanted: their own, or where those are others, in the order in which they come.

    Args:
        given: by name. ``module.`` and ``net.`` before all names are left out.
        wanted: by name, for the shapes.
        head: name of the classifier, which need not be there, and may be of other classes.
        where: for messages.

    Raises:
        UserError: where they are those of another network.
    """
    for prefix in ("module.", "net."):
        if given and all(name.startswith(prefix) for name in given):
            given = {name.removeprefix(prefix): value for name, value in given.items()}
    names = [name for name in wanted if not name.endswith(COUNTS)]
    needed = [name for name in names if not name.startswith(f"{head}.")]
    if any(name not in given for name in needed):
        values = [value for name, value in given.items() if not name.endswith(COUNTS)]
        if len(values) not in (len(names), len(needed)):
            missing = next(name for name in needed if name not in given)
            raise UserError(
                f"init {where}: has no {missing}, and its {len(values)} tensors are not this network's {len(names)} by "
                "other names: name weights of the same model"
            )
        given = dict(zip(names if len(values) == len(names) else needed, values, strict=True))
    for name in needed:
        if given[name].shape != wanted[name].shape:
            sizes = f"{tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
            raise UserError(f"init {where}: its {name} is of shape {sizes}: name weights of the same model")
    return {name: given[name].float() for name in names if name in given}
