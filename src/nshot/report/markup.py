"""The parts that pages are made of: one HTML file with its style, script and data, which asks a network for nothing."""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from nshot.errors import unwritable
from nshot.files import write_atomically

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src '{ours}'; img-src data:; base-uri 'none';
  form-action 'none'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script>{js}</script>
</body>
</html>
"""


def write_page(path: Path, title: str, body: Sequence[str], data: dict[str, Any]) -> Path:
    """Writes a page: a title, sections that are HTML already, and what its script draws.

    Raises:
        UserError: for a file that cannot be written.
    """
    script = "\n" + _asset("page.js")
    ours = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = PAGE.format(
        ours=f"sha256-{ours}",  # the one script that a browser runs, whatever else the page comes to hold
        title=f"nshot: {escape(title)}",
        css=_asset("page.css"),
        js=script,
        body="\n".join([f"<h1>{escape(title)}</h1>", *body]),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode(errors="backslashreplace"))  # names may hold bytes that are no text
    except OSError as error:
        raise unwritable(path, error, "choose another file") from None
    return path


def _asset(name: str) -> str:
    return (files("nshot.report") / name).read_text(encoding="utf-8")


def section(title: str, *parts: str) -> str:
    """A titled part of a page; title and parts are HTML already."""
    return f"<section><h2>{title}</h2>\n" + "\n".join(parts) + "\n</section>"


def absent(what: str, command: str) -> str:
    """What is not there, and the command that makes it."""
    return f'<p class="absent">{what}</p>\n<pre>{escape(command)}</pre>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """Of cells that are HTML already; a head that begins with - is left out on narrow screens."""
    wide = [' class="wide"' if name.startswith("-") else "" for name in head]
    cells = [f"<th{hide}>{name.removeprefix('-')}</th>" for name, hide in zip(head, wide, strict=True)]
    lines = ["".join(f"<td{hide}>{cell}</td>" for cell, hide in zip(row, wide, strict=True)) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{''.join(cells)}</tr></thead><tbody>\n{body}\n</tbody></table>"


def pairs(values: dict[str, str]) -> str:
    """Names and values, of plain text."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items()) + "</dl>"


def charts(
    curves: dict[str, list[tuple[str, list[Any]]]], data: dict[str, Any], prefix: str = "", damage: str = ""
) -> str:
    """Charts of `run_data.curves`, whose lines ``data`` takes by names beginning so; and what they lack."""
    titles = {"loss": "training loss", "lr": "learning rate"}
    data.setdefault("curves", {}).update({prefix + name: lines for name, lines in curves.items()})
    drawn = [
        f'<div><h3>{titles[name]}</h3><div class="chart" data-curve="{prefix}{name}"></div></div>' for name in curves
    ]
    names = [name for name, _ in curves["loss"]]
    each = f'<p class="soft">A line each: {", ".join(map(escape, names))}.</p>' if len(names) > 1 else ""
    lacking = f'<p class="absent">{escape(damage)}</p>' if damage else ""
    return f'{each}{lacking}<div class="pair">{"".join(drawn)}</div>'
