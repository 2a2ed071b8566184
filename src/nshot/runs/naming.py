"""What is made of a run and kept in its folder by a name: ``<name>.json``, ``.parquet`` and ``.png``."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from nshot.errors import UserError
from nshot.files import check_length, read_json, read_stored, shown

from .folder import differences

Kind = Literal["ranking", "search", "shift"]
# An entry that the JSON of that kind alone has.
MARKS: dict[str, Kind] = {"metrics": "ranking", "best": "search", "shift": "shift"}
TAKEN = ("answer", "config", "data", "latency", "left-out", "log", "report", "result", "supernet", "verdict")

_PART = re.compile(r"part-(\d+)")


def parts_in(folder: Path) -> list[Path]:
    """The folders ``part-<i>`` of a run that is made of runs, by number."""
    found = [(match, path) for path in folder.glob("part-*") if (match := _PART.fullmatch(path.name)) and path.is_dir()]
    return [path for _, path in sorted(found, key=lambda pair: int(pair[0][1]))]


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
    if name.lower().startswith("part-"):
        raise UserError(f"name {name!r}: the runs that a run is made of are called so, choose another --name")
    if name.lower() in TAKEN or there not in (None, kind):
        what = f"a {there}" if there else "another file of a run"
        raise UserError(f"name {name!r}: {folder} keeps {what} by this name, choose another --name")


def check_same(path: Path, kind: Kind, made: dict[str, Any], *others: str) -> None:
    """Raises UserError where a file that took hours holds another of its kind, with what differs.

    Args:
        path: the JSON file, or where there will be one.
        kind: of what it holds.
        made: how this one is made: entries of the JSON.
        others: what differs besides, in words.
    """
    if kind_of(path) != kind:
        return
    try:
        there = read_json(path)
    except ValueError as error:
        remedy = "delete it, or choose another --name"
        raise UserError(f"{path} holds a {kind} that cannot be read ({error}): {remedy}") from None
    now = json.loads(json.dumps(made))
    unsaid = [key for key in now if key not in there]
    changed = [*differences({key: there.get(key) for key in now}, now), *others]
    if unsaid:
        changed = [f"of an earlier version, which did not say its {' and '.join(unsaid)}"]
    if changed:
        remedy = f"give this one a --name of its own{' (nshot auto: a new --out)' if kind == 'search' else ''}"
        raise UserError(f"{path} holds another {kind} ({'; '.join(changed)}): {remedy}")


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
