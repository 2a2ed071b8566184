"""Lists of subnets in files."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nshot.errors import UserError
from nshot.files import read_stored

from .base import Space, Subnet

ORDERS = ("released", "nats")
"""Orders in which numbers name subnets: that of the paper's released code, and that of the official benchmark's files,
which only a table imported from those knows."""
Numbered = Mapping[str, Mapping[int, Subnet]]
"""By order: the subnet of each number."""


def subnets_from_file(path: str | Path, space: Space, root: Path, numbered: Numbered | None = None) -> list[Subnet]:
    """Subnets of a JSON list of notations, option lists (indices of options, as `Space.decisions` has them) or numbers.

    A number has no meaning without its order: ``released:12`` in the list, or ``released:FILE`` for all its numbers.

    Args:
        path: the file, or one under ``root``; an order and a colon before it are that of its numbers.
        space: what they are subnets of.
        root: data root.
        numbered: orders besides those that the space itself knows, such as ``Benchmark.numbered``.

    Raises:
        UserError: for a file that is missing or no such list, or an entry that is no subnet of the space.
    """
    order, _, file = str(path).partition(":")
    if order not in ORDERS or not file:
        order, file = "", str(path)
    under_root = root / file
    try:
        entries = json.loads(read_stored(under_root if under_root.exists() else Path(file)))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"subnet list {file} cannot be read ({error}): it must be a JSON list of subnets") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"subnet list {file} must be a JSON list with at least one subnet")
    try:
        return [_subnet(entry, order, space, numbered or {}) for entry in entries]
    except UserError as error:
        raise UserError(f"subnet list {file}: {error}") from None


def _subnet(entry: Any, order: str, space: Space, numbered: Numbered) -> Subnet:
    if isinstance(entry, list):
        return space.check(entry)
    text = str(entry).strip()
    text = f"{order}:{text}" if order and re.fullmatch("[0-9]+", text) else text
    named = re.fullmatch(r"(\w+):([0-9]{1,9})", text)
    if named is None or named[1] not in numbered:
        return space.parse(text)
    known = numbered[named[1]]
    if int(named[2]) not in known:
        raise UserError(f"{text!r}: the benchmark numbers {len(known)} subnets, from {min(known)} to {max(known)}")
    return space.check(known[int(named[2])])
