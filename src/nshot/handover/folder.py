"""A hand-over folder: files that a manifest names, so that no file of anyone else is ever written over."""

import os
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nshot.errors import UserError, unwritable
from nshot.files import check_folder, json_bytes, make_folder, read_json, read_stored, write_atomically

MANIFEST = "nshot.json"


def is_handed_over(folder: Path) -> bool:
    """Whether this is a hand-over folder."""
    return os.path.isfile(folder / MANIFEST)


def check_own(folder: Path) -> None:
    """Raises UserError for a folder that holds anything but what an export left there, as it left it.

    Hidden files and what Python compiles do not count.
    """
    check_folder(folder)
    manifest = read_manifest(folder) if is_handed_over(folder) else {"files": {}, "before": {}}
    for path in _files(folder):
        known = [manifest[key][path.name] for key in ("files", "before") if path.name in manifest[key]]
        if not known:
            raise UserError(f"out {folder} holds {path.name!r}, which no export wrote: choose a new or an empty folder")
        if not path.is_file() or _digest(path.read_bytes()) not in known:
            raise UserError(f"out {folder}: {path.name!r} was changed since it was exported: choose a new folder")


def write_folder(folder: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> list[Path]:
    """Writes the files and a manifest that has the facts and names them; what an earlier export left beside goes.

    All contents are on the disk before the first file takes its name, and the manifest knows the earlier ones too, so
    that a crash between leaves a folder that is still known to be an export's.

    Raises:
        UserError: as `check_own`, and where the folder cannot be written.
    """
    check_own(folder)
    before = {path.name: _digest(path.read_bytes()) for path in _files(folder)}
    made = {"nshot": version("nshot"), **facts, "files": {name: _digest(data) for name, data in files.items()}}
    manifest = json_bytes({**made, "before": before})
    make_folder(folder)
    try:
        for name, data in files.items():
            write_atomically(folder / f".{name}.new", data)
        write_atomically(folder / MANIFEST, manifest)
        for name in files:
            (folder / f".{name}.new").replace(folder / name)
        for name in before.keys() - files.keys():
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(folder, error, "choose another folder") from None
    finally:
        for name in files:
            (folder / f".{name}.new").unlink(missing_ok=True)
    return [folder / name for name in (*files, MANIFEST)]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a hand-over folder. Raises UserError where it is broken."""
    try:
        manifest = read_json(folder / MANIFEST)
        if not all(isinstance(manifest[key], dict) for key in ("files", "before", "result")):
            raise TypeError("it names no files")
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST} is no manifest of an export ({error}): choose another folder") from None


def read_file(folder: Path, name: str) -> bytes:
    """A file of a hand-over folder. Raises UserError where it is not what was exported."""
    try:
        data = read_stored(folder / name)
    except OSError as error:
        raise UserError(f"{folder / name} cannot be read ({error.strerror}): export the network again") from None
    if _digest(data) != read_manifest(folder)["files"].get(name):
        raise UserError(f"{folder / name} is not what was exported: export the network again")
    return data


def _files(folder: Path) -> list[Path]:
    """What lies in the folder and counts."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.name not in (MANIFEST, "__pycache__") and not path.name.startswith(".")]


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
