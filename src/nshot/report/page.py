"""A run as one HTML page that needs no network: what was run, curves, rankings, the search, pictures of subnets."""

import json
import shlex
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from nshot.errors import UserError
from nshot.files import write_atomically
from nshot.training.config import TrainConfig, from_dict
from nshot.training.run import PARTS, read_config

from . import run_data
from .plots import low_end

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script>
{js}</script>
</body>
</html>
"""

SUBNET = """<div id="subnet"><p id="which"></p><div id="drawing"></div>
<dl><div><dt>accuracy</dt><dd id="accuracy"></dd></div><div><dt>loss</dt><dd id="loss"></dd></div>
<div><dt>parameters</dt><dd id="params"></dd></div><div><dt>FLOPs</dt><dd id="flops"></dd></div></dl>
<p><code id="arch"></code></p><p class="soft">Train it from scratch and hand it over:</p>
<pre id="commands"></pre></div>"""


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a run.

    Args:
        run: a folder that `nshot.training.train.train` made; parts that it does not have are said to be absent.
        out: the HTML file; default ``report.html`` in the run folder.

    Returns:
        The page's path.

    Raises:
        UserError: for a folder that is no supernet run or has broken files, and a file that cannot be written.
    """
    folder = Path(run)
    stored = read_config(folder)
    if stored.get("kind") not in ("supernet", PARTS):
        raise UserError(f"{folder} holds a {stored.get('kind')} run: name a folder that nshot train made")
    config, versions = from_dict(stored["config"]), stored.get("versions", {})
    data: dict[str, Any] = {}
    body = [
        f"<h1>{escape(folder.resolve().name)}</h1>",
        _what(config, versions),
        _curves(folder, config, data),
        _search(folder, config, data),
        _rankings(folder, config, data),
    ]
    text = PAGE.format(
        title=f"nshot: {escape(folder.resolve().name)}",
        css=_asset("page.css"),
        js=_asset("page.js"),
        body="\n".join(body),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )
    path = folder / "report.html" if out is None else Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"out {path} cannot be written ({error.strerror}): choose another file") from None
    return path


def _asset(name: str) -> str:
    return (files("nshot.report") / name).read_text(encoding="utf-8")


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{title}</h2>\n" + "\n".join(parts) + "\n</section>"


def _absent(what: str, command: str) -> str:
    return f'<p class="absent">{what}</p>\n<pre>{escape(command)}</pre>'


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Of cells that are HTML already; a head that begins with - is left out on narrow screens."""
    wide = [' class="wide"' if name.startswith("-") else "" for name in head]
    cells = [f"<th{hide}>{name.removeprefix('-')}</th>" for name, hide in zip(head, wide, strict=True)]
    lines = ["".join(f"<td{hide}>{cell}</td>" for cell, hide in zip(row, wide, strict=True)) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{''.join(cells)}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _pairs(values: dict[str, str]) -> str:
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items()) + "</dl>"


def _what(config: TrainConfig, versions: dict[str, str]) -> str:
    options = config.options
    method = [config.strategy, *(["CaLR"] if options.schedule == "calr" else []), *(["MS"] if options.ms else [])]
    line = (
        f"{' + '.join(method)} in the space {config.space.name} ({config.space.size:,} subnets) on {config.dataset}, "
        f"{config.epochs} epochs, seed {config.seed}."
    )
    made = "Made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    return _section(
        "What was run",
        f"<p>{escape(line)}</p>",
        _pairs(run_data.described(config)),
        f'<p class="soft">{escape(made)}</p>',
    )


def _curves(run: Path, config: TrainConfig, data: dict[str, Any]) -> str:
    data["curves"] = run_data.curves(run)
    todo = run_data.unfinished(run)
    again = f"nshot train {config.strategy} --out {shlex.quote(str(run))} [the same options]"
    open_ = _absent("The training is not finished; the command that began it continues it:", again)
    if not data["curves"]:
        return _section("Training", open_ if todo else '<p class="absent">The run has no log.jsonl.</p>')
    titles = {"loss": "training loss", "lr": "learning rate"}
    charts = [
        f'<div><h3>{titles[name]}</h3><div class="chart" data-curve="{name}"></div></div>' for name in data["curves"]
    ]
    names = [name for name, _ in data["curves"]["loss"]]
    parts = f'<p class="soft">A line each: {", ".join(map(escape, names))}.</p>' if len(names) > 1 else ""
    return _section("Training", open_ if todo else "", parts, f'<div class="pair">{"".join(charts)}</div>')


def _rankings(run: Path, config: TrainConfig, data: dict[str, Any]) -> str:
    found = run_data.rankings(run)
    data["rankings"] = []
    if not found:
        command = run_data.ranking_command(run, config)
        return _section("Ranking", _absent("The run's subnets are not ranked. This ranks them:", command))
    parts = []
    for i, (name, summary, rows) in enumerate(found):
        shown = run_data.some(rows)
        points = np.array([[row["accuracy"], row["true"]] for row in shown])
        low = np.array([low_end(points[:, 0]), low_end(points[:, 1])])
        far = int((points < low).any(axis=1).sum())
        data["rankings"].append({"points": np.maximum(points, low).round(3).tolist()})
        line = f"{len(rows):,} subnets, {summary['images']:,} images, against "
        line += f"{summary['column']} of {summary['benchmark']}"
        line += f"; {len(shown):,} are shown" if len(shown) < len(rows) else ""
        line += f"; {far} further off lie on the border" if far else ""
        table = _table(
            ["score", "Kendall's tau", "95 % over images", "Spearman", "-tau, best 10 %"],
            [
                [
                    score,
                    f"{m['tau']:.3f}",
                    f"{m['low']:.3f} to {m['high']:.3f}",
                    _number(m["spearman"]),
                    _number(m["top_tau"]),
                ]
                for score, m in summary["metrics"].items()
            ],
        )
        text = f"<h3>{escape(name)}</h3><p>{escape(line)}.</p>{table}"
        parts.append(f'<div class="pair"><div>{text}</div><div class="chart" data-ranking="{i}"></div></div>')
    return _section("Ranking", *parts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _search(run: Path, config: TrainConfig, data: dict[str, Any]) -> str:
    search = run_data.read_search(run)
    if search is None:
        command = f"nshot search {shlex.quote(str(run))}"
        return _section("Search", _absent("No subnet was searched. This searches the best:", command))
    everything = run_data.evaluated(run, config.space, search)
    whole = run_data.fronts(everything)
    rows = run_data.thinned(everything, {0, *whole["params"], *whole["flops"], *range(len(search["top"]))})
    fronts = run_data.fronts(rows)
    first = [0, *fronts["params"], *fronts["flops"]]
    data["search"] = {
        "rows": [{key: row[key] for key in ("arch", "accuracy", "loss", "params", "flops")} for row in rows],
        "fronts": fronts,
        "best": 0,
        "drawings": run_data.pictures(config.space, rows, first),
        "flags": run_data.retrain_flags(config),
    }
    shown = f"; {len(rows):,} are shown" if len(rows) < len(everything) else ""
    line = (
        f"{len(everything):,} subnets were evaluated on {search['images']:,} images, "
        f"{run_data.limits_text(search)}{shown}. The best by {search['by']}: "
        f"{rows[0]['accuracy']:.2f} %, {rows[0]['params']:,} parameters, {rows[0]['flops']:,} FLOPs."
    )
    plot = (
        '<p><button data-cost="params" aria-pressed="true">parameters</button> '
        '<button data-cost="flops" aria-pressed="false">FLOPs</button></p><div class="chart" id="plot"></div>'
        '<p class="key"><span style="--swatch: #0072b2">evaluated</span>'
        '<span style="--swatch: #d55e00">Pareto front</span>'
        '<span style="--swatch: white; --edge: 2px solid #202124">best</span></p>'
        '<p class="soft">Point at a subnet to see it, click to keep it.</p>'
    )
    return _section(
        "Search", f"<p>{escape(line)}</p>", f'<div class="pair"><div>{plot}</div>{SUBNET}</div>', _front(rows, fronts)
    )


def _front(rows: list[dict[str, Any]], fronts: dict[str, list[int]]) -> str:
    head = ["", "accuracy %", "-loss", "parameters", "FLOPs"]
    body = [
        [
            f'<button data-show="{i}">show</button>',
            f"{rows[i]['accuracy']:.2f}",
            f"{rows[i]['loss']:.3f}",
            f"{rows[i]['params']:,}",
            f"{rows[i]['flops']:,}",
        ]
        for i in fronts["params"]
    ]
    return f"<h3>The Pareto front of accuracy and parameters</h3>{_table(head, body)}"
