"""Checkpoints that survive a crash: written whole or not at all, checked when read, the two newest kept."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nshot.errors import UserError
from nshot.files import write_atomically

KEEP = 2
FORMAT = 1  # of what a checkpoint holds; those without one are of the first
_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes ``step-<step>-<digest>.pt`` (torch.load reads it) and deletes all but the newest two."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    write_atomically(path, data)
    for old in checkpoints(folder)[KEEP:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, newest first."""
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)), reverse=True)


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
        data = path.read_bytes()
        match = _NAME.fullmatch(path.name)
        if match is not None and hashlib.sha256(data).hexdigest().startswith(match[2]):
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if (written := state.get("format", 1)) > FORMAT:
                newer = f"a newer nshot wrote it (format {written}, and this one reads {FORMAT})"
                raise UserError(f"checkpoint {path} cannot be read: {newer}: go on with that")
            return step_of(path), state, corrupt
        corrupt.append(path.name)
    if corrupt:
        raise UserError(f"no intact checkpoint in {folder} ({', '.join(corrupt)} corrupt): start again in a new folder")
    return 0, None, []


def save_weights(path: Path, module: nn.Module) -> None:
    """Writes a module's weights as safetensors, atomically."""
    from safetensors.torch import save

    write_atomically(path, save({k: v.contiguous().cpu() for k, v in module.state_dict().items()}))
