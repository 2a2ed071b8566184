"""Lists of subnets in files."""

import json
from pathlib import Path

from nshot.errors import UserError

from .base import Space, Subnet


def subnets_from_file(path: str | Path, space: Space, root: Path) -> list[Subnet]:
    """Subnets of a JSON list of indices, notations or option lists; the path may be one under ``root``.

    Raises:
        UserError: for a file that is missing or no such list, or an entry that is no subnet of the space.
    """
    under_root = root / path
    try:
        entries = json.loads((under_root if under_root.exists() else Path(path)).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"subnet list {path} cannot be read ({error}): it must be a JSON list of subnets") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"subnet list {path} must be a JSON list with at least one subnet")
    return [space.check(entry) if isinstance(entry, list) else space.parse(str(entry)) for entry in entries]
