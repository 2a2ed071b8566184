"""Checkpoints that survive a crash: written whole or not at all, checked when read, the two newest intact ones kept."""

import errno
import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nshot.errors import UserError, first_line
from nshot.files import DIGEST, read_stored, write_atomically

KEEP = 2
FORMAT = 1  # of what a checkpoint holds; those without one are of the first
_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes ``step-<step>-<digest>.pt`` (torch.load reads it) and deletes all but it and the newest other that is
    intact."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    write_atomically(path, data)
    del data  # as large as the next that is read
    kept = [path]
    for old in checkpoints(folder):
        if old != path and (len(kept) == KEEP or _intact(old) is None):
            old.unlink()
        elif old != path:
            kept.append(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, newest first."""
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name) and not p.is_dir()), reverse=True)


def step_of(path: Path) -> int:
    """How many training steps a checkpoint has behind it."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def load_newest(folder: Path) -> tuple[int, dict[str, Any] | None, list[str]]:
    """The newest intact checkpoint.

    Returns:
        How many steps it has behind it (0 without one), its state on the CPU (None without one), and the names of newer
        checkpoints that are corrupt.

    Raises:
        UserError: where there are checkpoints but none is intact, or the newest is of a later version.
    """
    corrupt: list[str] = []
    for path in checkpoints(folder):
        if (state := _read(path)) is not None:
            if (written := state.get("format", 1)) > FORMAT:
                newer = f"a newer nshot wrote it (format {written}, and this one reads {FORMAT})"
                raise UserError(f"checkpoint {path} cannot be read: {newer}: go on with that")
            return step_of(path), state, corrupt
        corrupt.append(path.name)
    if corrupt:
        raise UserError(f"no intact checkpoint in {folder} ({', '.join(corrupt)} corrupt): start again in a new folder")
    return 0, None, []


def _read(path: Path) -> dict[str, Any] | None:
    """A checkpoint's state; None where it is not what its name says, or cannot be read without running code of it."""
    if (data := _intact(path)) is None:
        return None
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # a broken pickle can raise anything
        return None
    return state if isinstance(state, dict) else None


def _intact(path: Path) -> bytes | None:
    """A checkpoint's bytes; None where it is not what its name says, or cannot be read."""
    match = _NAME.fullmatch(path.name)
    try:
        data = read_stored(path)
    except OSError:
        return None
    return data if match is not None and hashlib.sha256(data).hexdigest().startswith(match[2]) else None


def save_weights(path: Path, module: nn.Module) -> None:
    """Writes a module's weights as safetensors, atomically; those that stand under two names, twice."""
    from safetensors.torch import save

    weights: dict[str, Tensor] = {}
    stored: set[int] = set()
    for name, value in module.state_dict().items():
        value = value.contiguous().cpu()
        place = value.untyped_storage().data_ptr()
        weights[name] = value.clone() if place in stored else value
        stored.add(place)
    write_atomically(path, save(weights, {DIGEST: digest(weights)}))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a safetensors file, on the CPU; those that `save_weights` wrote are as they were written.

    Raises:
        OSError: where it cannot be read.
        ValueError: where it is no such file, or not what was written.
    """
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    try:
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            written = (file.metadata() or {}).get(DIGEST)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(first_line(error)) from None
    if written is not None and written != digest(weights):
        raise ValueError("it is not as it was written")
    return weights


def digest(weights: Mapping[str, Tensor]) -> str:
    """Of names, kinds, shapes and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
