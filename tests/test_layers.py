"""Imports go down the layers of docs/design.md; import-linter reads them, the table says them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_imports_go_down() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


def test_the_design_lists_the_same_layers() -> None:
    rows = re.findall(r"^\|\s*((?:`\w+(?:/|\.py)`(?:, )?)+)\s*\|", (ROOT / "docs/design.md").read_text(), re.M)
    said = [re.findall(r"`(\w+)", row) for row in rows]
    names = [name for row in said for name in row]
    held = [layer.split(" | ") for layer in CONTRACTS[0]["layers"]]
    assert sorted(names) == sorted({name for layer in held for name in layer} & set(names))
    place = {name: i for i, layer in enumerate(held) for name in layer}
    assert [place[name] for name in names] == sorted(place[name] for name in names)
    folders = {path.parent.name for path in (ROOT / "src/nshot").glob("*/__init__.py")}
    assert folders <= set(names)


def test_no_file_is_longer_than_300_lines() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "src/nshot").rglob("*.py")}
    assert {path.name: count for path, count in lines.items() if count > 300} == {}
