"""Writes the tables of PAGES from docs/results/NAME.json, between `<!-- table: NAME -->` and `<!-- end -->`.

python benchmarks/documents.py            # rewrites what has changed
python benchmarks/documents.py --check    # says what would change, exit code 1 if anything
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import auto
import clusters
import latency
import photos
import shift
import small
import spaces
import zero_cost
from nshot.studies.summary import markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = ("results.md", "clusters.md", "pretrained.md")


def of_study(result: dict[str, Any]) -> str:
    """A study's table without its heading, which the page has."""
    return markdown(result).split("\n", 2)[2].strip()


# What writes the table of each file; a study's for those that are not named.
TABLES: dict[str, Callable[[Any], str]] = {
    "auto": auto.markdown,
    "spaces": spaces.markdown,
    "latency": latency.markdown,
    "small": small.markdown,
    "zero-cost": zero_cost.markdown,
    "shift": shift.markdown,
    "clusters": clusters.markdown,
    "photos": photos.markdown,
}


def written(page: str, results: Path) -> str:
    """The page with each of its tables made anew from the folder of results."""

    def table(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        found = json.loads((results / f"{name}.json").read_text())
        if isinstance(found, dict):
            found.pop("sha256", None)  # of what nshot wrote
        return f"{begin}{TABLES.get(name, of_study)(found)}\n{end}"

    return BLOCK.sub(table, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    changed = False
    for name in PAGES:
        path = DOCS / name
        text = path.read_text()
        new = written(text, DOCS / "results")
        if new != text:
            changed = True
            print(f"{path} {'differs from' if check else 'written from'} {DOCS / 'results'}")
            if not check:
                path.write_text(new)
    return int(check and changed)


if __name__ == "__main__":
    raise SystemExit(main())
