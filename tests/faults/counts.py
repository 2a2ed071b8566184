"""How many faults a test makes, and where it writes what came of them.

``NSHOT_FAULTS`` is ``full``, or a number of faults for each test; without it a test makes the few that take seconds.
``NSHOT_FAULTS_FROM`` is the first seed of tests that count seeds, so that several machines or cores share them.
``NSHOT_FAULTS_OUT`` is a folder that gets a JSON file of counts and outcomes for each test.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any


def count(few: int, full: int) -> int:
    """How many faults to make."""
    asked = os.environ.get("NSHOT_FAULTS", "")
    return full if asked == "full" else int(asked or few)


def first() -> int:
    """The first seed."""
    return int(os.environ.get("NSHOT_FAULTS_FROM", "0"))


class Outcomes:
    """What came of faults, counted by kind; the file is renewed with each, so that a test that is stopped tells too.

    Args:
        name: of the file.
    """

    def __init__(self, name: str) -> None:
        self.name, self.counts, self.facts = name, Counter[str](), {}  # type: ignore[var-annotated]

    def add(self, *kinds: str, **facts: Any) -> None:
        self.counts.update(kinds)
        self.facts |= facts
        if out := os.environ.get("NSHOT_FAULTS_OUT"):
            Path(out).mkdir(parents=True, exist_ok=True)
            told = {"outcomes": dict(sorted(self.counts.items())), **self.facts}
            (Path(out) / f"{self.name}.json").write_text(json.dumps(told, indent=2) + "\n")
