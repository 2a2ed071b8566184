"""What is made of a run and kept in its folder by a name: ``<name>.json``, ``.parquet`` and ``.png``."""

import json
from pathlib import Path
from typing import Literal

from nshot.errors import UserError
from nshot.files import check_length, read_stored, shown

Kind = Literal["ranking", "search", "shift"]
# An entry that the JSON of that kind alone has.
MARKS: dict[str, Kind] = {"metrics": "ranking", "best": "search", "shift": "shift"}
TAKEN = ("answer", "config", "data", "latency", "left-out", "log", "report", "result", "supernet", "verdict")


def kind_of(path: Path) -> Kind | None:
    """What a JSON file of a run folder holds; None where there is none, or it is none of these."""
    try:
        found = json.loads(read_stored(path))  # whose digest is for those who read it
    except (OSError, ValueError, RecursionError):
        return None
    return next((kind for mark, kind in MARKS.items() if mark in found), None) if isinstance(found, dict) else None


def check_name(folder: Path, name: str, kind: Kind) -> None:
    """Raises UserError for a name that is no plain file name, or under which the folder keeps something else."""
    if not name or Path(name).name != name or name.startswith((".", "-")) or shown(name) != name:
        raise UserError(f"name {shown(name)!r}: must be a file name without folders, and begin with no dot or dash")
    check_length(folder / f"{name}.parquet")
    there = kind_of(folder / f"{name}.json")
    if name.lower() in TAKEN or there not in (None, kind):
        what = f"a {there}" if there else "another file of a run"
        raise UserError(f"name {name!r}: {folder} keeps {what} by this name, choose another --name")


def searches(folder: Path) -> list[Path]:
    """The JSON files of a run folder's searches; that of the default name, if there is one, first."""
    found = [path for path in sorted(folder.glob("*.json")) if kind_of(path) == "search"]
    return sorted(found, key=lambda path: path.stem != "search")


def search_in(folder: Path) -> Path | None:
    """The search of a run folder that is meant where none is named: the default, or the only one.

    Raises:
        UserError: where several have names of their own.
    """
    found = searches(folder)
    if len(found) > 1 and found[0].stem != "search":
        raise UserError(f"{folder} holds several searches, name one: {', '.join(map(str, found))}")
    return found[0] if found else None
