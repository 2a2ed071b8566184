"""A run is a folder that says what it is: configuration, versions, data. It can be copied to another machine."""

import json
import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from nshot import plugins
from nshot.data.manifest import check_manifest, write_manifest
from nshot.data.sources import Dataset
from nshot.errors import UserError
from nshot.files import read_json, write_json


def versions() -> dict[str, str]:
    """What the run was made with."""
    from importlib.metadata import version

    return {"nshot": version("nshot"), "torch": torch.__version__, "python": platform.python_version()}


def read_config(folder: Path) -> dict[str, Any]:
    """The whole of a run's config.json. Raises UserError where there is none or it is broken."""
    try:
        stored = read_json(folder / "config.json")
        if not isinstance(stored, dict):
            raise ValueError("no JSON object")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is no run folder: it has no config.json (make one with nshot train --out)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} is broken ({error}): start again in a new folder") from None
    plugins.check(map(str, stored.get("plugins", [])), str(folder))
    return stored


Completed = Callable[[dict[str, Any]], dict[str, Any]]


def claim(
    folder: Path,
    kind: str,
    config: dict[str, Any],
    *,
    free: Collection[str] = (),
    finished: bool = False,
    completed: Completed = lambda stored: stored,
    facts: dict[str, Any] | None = None,
    data: Dataset | None = None,
    processes: int | None = None,
    contents: Mapping[str, str] | None = None,
) -> bool:
    """Makes the folder a run of this configuration and these data, or checks that it is one.

    Args:
        folder: the run folder, locked.
        kind: what it is a run of.
        config: JSON-able, everything that determines the run.
        free: entries of the configuration that may change; the folder then takes the new ones, unless ``finished``.
        finished: whether the folder has what it was made for.
        completed: adds to a stored configuration what the version that wrote it did not know.
        facts: what follows from the configuration and a reader wants to know, kept in a new run's config.json.
        data: what it is made of.
        processes: how many train it together, where it depends on that; those of earlier versions do not say it.
        contents: digests of what entries of the configuration name (weights), by entry: the same may lie elsewhere by
            now, as where folders were moved, and other weights are another run. Earlier versions kept none.

    Returns:
        Whether the folder was such a run before.

    Raises:
        UserError: where the folder is another run, with what differs.
    """
    if not (folder / "config.json").exists():
        if data is not None:
            write_manifest(folder, data)
        found: dict[str, Any] = {"facts": facts} if facts else {}
        if names := plugins.used(_texts(config)):
            found["plugins"] = names
        found |= {} if processes is None else {"processes": processes}
        found |= {"contents": dict(contents)} if contents else {}
        write_json(folder / "config.json", {"kind": kind, "config": config, **found, "versions": versions()})
        return False
    stored = read_config(folder)
    known = stored.get("config", {})
    before = {"kind": stored.get("kind"), **(completed(known) if stored.get("kind") == kind else known)}
    before = json.loads(json.dumps(before))
    now = {"kind": kind, **json.loads(json.dumps(config))}  # as JSON gives it back: tuples are lists
    kept, here = _kept(stored), contents or {}
    moved = [key for key, digest in here.items() if kept.get(key) == digest]
    changed = differences({**before, **{key: now[key] for key in (*free, *moved) if key in now}}, now)
    changed += [f"{key}: other content than it had" for key in here if kept.get(key, here[key]) != here[key]]
    if data is not None and all(line.startswith("space.num_classes: ") for line in changed):
        check_manifest(folder, data)  # which says more than how many classes there are now
    if changed:
        remedy = _remedy({"kind": "", **known}, before, now, {*free, *moved})
        raise UserError(f"{folder} holds another run ({'; '.join(changed)}): {remedy}")
    began = stored.get("processes", processes)
    if began != processes and not finished:
        raise UserError(
            f"{folder} was begun by {began} processes, and now they are {processes}: batch norms are of each one's "
            f"share of a batch, so start {began}, or a new run with --sync-bn on, which goes on with any number"
        )
    if (before != now or kept != here) and not finished:
        found = {"contents": dict(here)} if here else {}
        write_json(folder / "config.json", {**stored, "config": config, **found})
    return True


def _kept(stored: dict[str, Any]) -> dict[str, str]:
    """The contents that a run's config.json keeps; earlier versions kept a teacher's weights in the configuration."""
    kept, known = stored.get("contents"), stored.get("config", {})
    if isinstance(kept, dict):
        return kept
    weights = known.get("teacher_weights")
    return {"teacher": weights} if weights and ":" not in str(known.get("teacher")) else {}  # a folder, not NAME:FILE


def _texts(values: Any) -> Iterator[str]:
    """All texts in nested dicts and lists."""
    if isinstance(values, str):
        yield values
    for value in values.values() if isinstance(values, dict) else values if isinstance(values, list | tuple) else ():
        yield from _texts(value)


def _remedy(known: dict[str, Any], before: dict[str, Any], now: dict[str, Any], free: Collection[str]) -> str:
    """How such a run goes on: of what has become an option since, a newer default has to be told off."""
    names = [(name, was) for name, was, _ in differing(before, now) if name not in free]
    if not names or any(_holds(known, name.split(".")) for name, _ in names):
        return "choose a new --out, or the same options"
    return f"an earlier version began it, which goes on with {' '.join(_flag(name, was) for name, was in names)}"


def _holds(values: Any, path: list[str]) -> bool:
    return isinstance(values, dict) and path[0] in values and (not path[1:] or _holds(values[path[0]], path[1:]))


def _flag(name: str, value: Any) -> str:
    flag = name.rsplit(".", 1)[-1].replace("_", "-")
    return f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag} {value}"


def differing(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The entries that two configurations have not alike: dotted name, value in one, value in the other."""
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            yield from differing(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}", left, right


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What differs between two configurations, as ``name: a, not b``."""
    return [f"{name}: {left}, not {right}" for name, left, right in differing(a, b)]
