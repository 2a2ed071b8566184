"""What docs say is what their JSON says: tables are made anew and compared, and each quoted tau must stand in one."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = ["README.md", "docs/results.md", "docs/performance.md", "docs/clusters.md"]


def documents(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "benchmarks" / "documents.py"), *args]
    return subprocess.run(command, capture_output=True, text=True)


def test_tables_are_those_of_the_results() -> None:
    done = documents(ROOT, "--check")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run python benchmarks/documents.py"


def test_every_table_of_the_results_page_is_made_from_json() -> None:
    """None is written by hand."""
    made = re.sub(r"<!-- table: \S+ -->\n.*?<!-- end -->", "", (DOCS / "results.md").read_text(), flags=re.DOTALL)
    assert [line for line in made.splitlines() if line.startswith("|")] == []
    assert made != (DOCS / "results.md").read_text()


@pytest.mark.parametrize("change", ["page", "json"])
def test_a_table_that_differs_is_found_and_mended(change: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    shutil.copytree(DOCS, tmp_path / "docs")
    page, source = tmp_path / "docs" / "results.md", tmp_path / "docs" / "results" / "spaces.json"
    if change == "page":
        page.write_text(page.read_text().replace("| autoformer | 50 ", "| autoformer | 51 ", 1))
    else:
        source.write_text(source.read_text().replace('"epochs": 50', '"epochs": 52', 1))
    before = page.read_text()
    assert documents(tmp_path, "--check").returncode == 1
    assert page.read_text() == before
    assert documents(tmp_path).returncode == 0
    assert f"| autoformer | {50 if change == 'page' else 52} " in page.read_text()
    assert documents(tmp_path, "--check").returncode == 0


def taus(value: Any, within: bool = False) -> list[float]:
    """The numbers that stand anywhere below a key that speaks of tau."""
    if isinstance(value, dict):
        return [
            tau for key, each in value.items() for tau in taus(each, within or re.search(r"\btaus?\b", key) is not None)
        ]
    if isinstance(value, list):
        return [tau for each in value for tau in taus(each, within)]
    return [float(value)] if within and isinstance(value, int | float) else []


def quoted(text: str) -> list[str]:
    """Numbers of two or three digits after 0. in the sentences that speak of tau, but for tables and commands."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    prose = " ".join(line for line in text.splitlines() if not line.startswith("|"))
    sentences = [sentence for sentence in re.split(r"(?<=[.:;])\s", prose) if re.search(r"\btaus?\b", sentence)]
    return [found for sentence in sentences for found in re.findall(r"(?<![\d.])[-+]?0\.\d{2,3}(?!\d)", sentence)]


def stands(quote: str, known: list[float]) -> bool:
    digits = len(quote.split(".")[1])
    return any(f"{number:.{digits}f}" == quote.lstrip("+") for number in known)


@pytest.mark.parametrize("page", PAGES)
def test_every_quoted_tau_stands_in_a_result(page: str) -> None:
    paths = sorted((DOCS / "results").glob("*.json"))
    known = taus({path.stem: json.loads(path.read_text()) for path in paths})
    missing = [quote for quote in quoted((ROOT / page).read_text()) if not stands(quote, known)]
    assert missing == []


def test_a_tau_that_was_made_up_is_found() -> None:
    text = "It ranks with a tau of 0.913, not -0.25.\n\n| tau | 0.111 |\n\n```\ntau 0.222\n```\nA size of 0.333."
    assert quoted(text) == ["0.913", "-0.25"]
    assert taus({"a": {"tau of loss": {"low": 0.9}, "ms": 0.1}, "taut": 2.0, "taus": [1]}) == [0.9, 1.0]
    assert stands("0.913", [0.9128])
    assert not stands("0.913", [0.9122, -0.913])
