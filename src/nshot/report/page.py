"""A run as one HTML page that needs no network: what was run, curves, rankings, the search, pictures of subnets."""

import shlex
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from nshot.errors import UserError
from nshot.files import check_length, typed
from nshot.runs.folder import read_config
from nshot.supernets.config import TrainConfig, from_dict
from nshot.supernets.load import PARTS

from . import run_data
from .markup import absent, charts, pairs, section, table, write_page
from .network_page import is_retrained, network_sections
from .plots import low_end

SUPERNET, NETWORK = "supernet", "network"  # folders of a whole job

SUBNET = """<div id="subnet"><p id="which"></p><div id="drawing"></div>
<dl><div><dt>accuracy</dt><dd id="accuracy"></dd></div><div><dt>loss</dt><dd id="loss"></dd></div>
<div><dt>parameters</dt><dd id="params"></dd></div><div><dt>FLOPs</dt><dd id="flops"></dd></div></dl>
<p><code id="arch"></code></p><p class="soft">Train it from scratch and hand it over:</p>
<pre id="commands"></pre></div>"""


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a supernet run, of a retrained network, or of a whole job.

    Args:
        run: a folder that `nshot.supernets.train.train` made, or `nshot.networks.retrain.retrain`, or ``nshot auto``;
            parts that it does not have are said to be absent.
        out: the HTML file; default ``report.html`` in the folder.

    Returns:
        The page's path.

    Raises:
        UserError: for a folder that is neither or has broken files, and a file that cannot be written.
    """
    folder = Path(run)
    if out is not None:
        check_length(Path(out))
    data: dict[str, Any] = {}
    try:
        if is_job(folder):
            body = job_sections(folder, data)
        else:
            body = (network_sections if is_retrained(folder) else run_sections)(folder, data)
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of a file that is no work of ours
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder} holds a file that no version of nshot writes ({what}): take it away") from None
    return write_page(folder / "report.html" if out is None else Path(out), folder.resolve().name, body, data)


def is_job(folder: Path) -> bool:
    """Whether this is what ``nshot auto`` made: a supernet's folder, and a network's once there is one."""
    return (folder / SUPERNET / "config.json").exists() and not (folder / "config.json").exists()


def job_sections(folder: Path, data: dict[str, Any]) -> list[str]:
    """What a page says of a whole job: the network that came out, then the supernet that it was found with.

    What is missing the job itself makes: a search or a training of its folders by other options it would refuse.
    """
    network, supernet = folder / NETWORK, folder / SUPERNET
    name = shlex.quote(read_config(supernet)["config"]["dataset"])
    job = f"nshot auto {name} --out {typed(folder)} [the same options]"
    return [
        *(network_sections(network, data, job) if is_retrained(network) else []),
        *run_sections(supernet, data, job),
    ]


def run_sections(folder: Path, data: dict[str, Any], job: str = "") -> list[str]:
    """What a page says of a supernet run; ``data`` takes what its script draws. ``job`` is the command that goes on
    with it, where it is part of a whole job.

    Raises:
        UserError: for a folder that is no supernet run, or has broken files.
    """
    stored = read_config(folder)
    if stored.get("kind") not in ("supernet", PARTS):
        raise UserError(f"{folder} holds a {stored.get('kind')} run: name one that nshot train or nshot retrain made")
    config = from_dict(stored["config"])
    return [
        _what(config, stored.get("versions", {})),
        _curves(folder, config, data, job),
        _search(folder, config, data, job),
        _rankings(folder, config, data),
    ]


def _what(config: TrainConfig, versions: dict[str, str]) -> str:
    options = config.options
    method = [config.strategy, *(["CaLR"] if options.schedule == "calr" else []), *(["MS"] if options.ms else [])]
    line = (
        f"{' + '.join(method)} in the space {config.space.name} ({config.space.size:,} subnets) on {config.dataset}, "
        f"{config.epochs} epochs, seed {config.seed}."
    )
    made = "Made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    return section(
        "What was run",
        f"<p>{escape(line)}</p>",
        pairs(run_data.described(config)),
        f'<p class="soft">{escape(made)}</p>',
    )


def _curves(run: Path, config: TrainConfig, data: dict[str, Any], job: str) -> str:
    curves = run_data.curves(run)
    todo = run_data.unfinished(run, config)
    again = job or f"nshot train {config.strategy} --out {typed(run)} [the same options]"
    open_ = absent("The training is not finished; the command that began it continues it:", again)
    if not curves:
        lacking = run_data.damage(run) or "The run has no log.jsonl."
        return section("Training", open_ if todo else f'<p class="absent">{lacking}</p>')
    return section("Training", open_ if todo else "", _skipped(run), charts(curves, data, damage=run_data.damage(run)))


def _skipped(run: Path) -> str:
    """How many steps were skipped, where any were."""
    found = {name: steps for name, steps in run_data.skipped(run).items() if steps}
    each = ", ".join(f"{steps:,}" if len(found) == 1 else f"{steps:,} of {name}" for name, steps in found.items())
    why = "their loss or gradient was not finite (--diverging skip)"
    return f"<p>Steps that were skipped: {escape(each)}; {why}.</p>" if found else ""


def _rankings(run: Path, config: TrainConfig, data: dict[str, Any]) -> str:
    found = run_data.rankings(run)
    data["rankings"] = []
    if not found:
        command = run_data.ranking_command(run, config)
        return section("Ranking", absent("The run's subnets are not ranked. This ranks them:", command))
    parts = []
    for i, (name, summary, rows) in enumerate(found):
        shown = run_data.some(rows)
        points = np.array([[row["accuracy"], row["true"]] for row in shown])
        low = np.array([low_end(points[:, 0]), low_end(points[:, 1])])
        far = int((points < low).any(axis=1).sum())
        data["rankings"].append({"points": np.maximum(points, low).round(3).tolist()})
        line = f"{len(rows):,} subnets, {summary['images']:,} images, against "
        line += f"{summary['column']} of {summary['benchmark']}"
        line += f"; {summary['ceiling']}" if summary["ceiling"] else ""
        line += f"; {len(shown):,} are shown" if len(shown) < len(rows) else ""
        line += f"; {far} further off lie on the border" if far else ""
        figures = table(
            ["score", "Kendall's tau", "at ∞ images", "its 95 %", "Spearman", "-tau, best 10 %"],
            [
                [
                    escape(score),
                    _number(m["tau"]),
                    _number(m["tau_inf"]),
                    "–" if m["low"] is None else f"{_number(m['low'])} to {_number(m['high'])}",
                    _number(m["spearman"]),
                    _number(m["top_tau"]),
                ]
                for score, m in summary["metrics"].items()
            ],
        )
        text = f"<h3>{escape(name)}</h3><p>{escape(line)}.</p>{figures}"
        parts.append(f'<div class="pair"><div>{text}</div><div class="chart" data-ranking="{i}"></div></div>')
    return section("Ranking", *parts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _search(run: Path, config: TrainConfig, data: dict[str, Any], job: str) -> str:
    files = run_data.search_files(run)
    if not files:
        command = job or f"nshot search {typed(run)}"
        return section("Search", absent("No subnet was searched. This searches the best:", command))
    found = [run_data.read_search(path) for path in files]
    search = found[0]
    everything = run_data.evaluated(files[0], config.space.retrained, search)
    whole = run_data.fronts(everything)
    rows = run_data.thinned(everything, {0, *whole["params"], *whole["flops"], *range(len(search["top"]))})
    fronts = run_data.fronts(rows)
    first = [0, *fronts["params"], *fronts["flops"]]
    data["search"] = {
        "rows": [{key: row[key] for key in ("arch", "accuracy", "loss", "params", "flops")} for row in rows],
        "fronts": fronts,
        "best": 0,
        "drawings": run_data.pictures(config.space.retrained, rows, first),
        "flags": run_data.retrain_flags(config),
    }
    shown = f"; {len(rows):,} are shown" if len(rows) < len(everything) else ""
    line = (
        f"{files[0].stem}: {run_data.how_text(search)}. "
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
    shown_ = f'<div class="pair"><div>{plot}</div>{SUBNET}</div>'
    return section("Search", _searches(files, found), f"<p>{escape(line)}</p>", shown_, _front(rows, fronts))


def _searches(files: list[Path], found: list[dict[str, Any]]) -> str:
    """A row a search, where there are several."""
    if len(found) == 1:
        return ""
    rows = [
        [
            escape(path.stem),
            escape(run_data.how_text(search)),
            escape(run_data.limits_text(search)),
            f"{search['candidates']:,}",
            f"{search['best']['accuracy']:.2f}",
            f"{search['best']['params']:,}",
            f"{search['best']['flops']:,}",
        ]
        for path, search in zip(files, found, strict=True)
    ]
    head = ["name", "how", "limits", "subnets", "best, accuracy %", "parameters", "FLOPs"]
    return f"{table(head, rows)}<p>The first is shown.</p>"


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
    return f"<h3>The Pareto front of accuracy and parameters</h3>{table(head, body)}"
