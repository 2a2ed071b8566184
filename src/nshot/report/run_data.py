"""What a run folder holds, as a report shows it: configuration, curves, rankings, evaluated subnets."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from nshot.benchmarks.ceiling import Ceiling
from nshot.benchmarks.table import benchmark_of
from nshot.errors import UserError, first_line
from nshot.files import needed, read_json, read_parquet, typed
from nshot.runs.log import damaged_lines, read_log
from nshot.runs.naming import kind_of, parts_in, searches
from nshot.search.pareto import front
from nshot.spaces import Space
from nshot.supernets.config import TrainConfig
from nshot.supernets.load import WEIGHTS, how_many

from .draw import svg

SHOWN = 2000  # points of a plot
DRAWN, DRAWN_BYTES = 120, 2_000_000  # pictures in a page, at most
NARROW = 460  # their width

Row = dict[str, Any]
ROW = ("arch", "subnet", "accuracy", "loss", "params", "flops")


def curves(run: Path) -> dict[str, list[tuple[str, list[tuple[float, float]]]]]:
    """By quantity (loss, lr): a name and its points (step, value) for each supernet that wrote a log."""
    folders = parts_in(run) or [run]
    logs = {folder.name: read_log(folder / "log.jsonl") for folder in folders}
    found = {}
    for key in ("loss", "lr"):
        points = {name: [(line["step"], line[key]) for line in log if key in line] for name, log in logs.items()}
        found[key] = [(name, some(list(values))) for name, values in points.items() if values]
    return {key: lines for key, lines in found.items() if lines}


def skipped(run: Path) -> dict[str, int]:
    """By supernet how many of its steps were skipped."""
    folders = parts_in(run) or [run]
    lines = {folder.name: read_log(folder / "log.jsonl")[-1:] for folder in folders}
    return {name: int(last[0].get("skipped", 0)) for name, last in lines.items() if last}


def damage(run: Path) -> str:
    """What the curves lack, for people; empty where nothing."""
    folders = parts_in(run) or [run]
    count = sum(damaged_lines(folder / "log.jsonl") for folder in folders)
    lines = "1 line of log.jsonl is" if count == 1 else f"{count:,} lines of log.jsonl are"
    return f"{lines} damaged and left out." if count else ""


def unfinished(run: Path, config: TrainConfig) -> list[str]:
    """The supernets of the run that are not trained to the end, or not begun."""
    count = how_many(config)
    folders = [run / f"part-{i}" for i in range(count)] if count > 1 else parts_in(run) or [run]
    return [folder.name for folder in folders if not (folder / WEIGHTS).exists()]


def some(values: list[Any], count: int = SHOWN) -> list[Any]:
    """All of them, or as many spread evenly."""
    return values if len(values) <= count else [values[i] for i in np.linspace(0, len(values) - 1, count).astype(int)]


def rankings(run: Path) -> list[tuple[str, dict[str, Any], list[Row]]]:
    """Name, summary (its ceiling told) and rows of each ranking of the run.

    Raises:
        UserError: for files that are no ranking.
    """
    found = []
    searched = {"search.json"} | {path.name for path in searches(run)}
    for path in sorted(path for path in run.glob("*.parquet") if path.with_suffix(".json").name not in searched):
        try:
            if not path.with_suffix(".json").exists():
                what = f"make it again by its name, with nshot rank or nshot search {typed(run)} --name {path.stem}"
                raise UserError(f"{path} has lost its {path.stem}.json: {what}, or take the file away")
            summary = read_json(path.with_suffix(".json"))
            table = read_parquet(path, ["arch", "params", "flops", "accuracy", "loss", "true"])
            told = Ceiling(**summary["ceiling"]).told if summary.get("ceiling") else None
            found.append(
                (path.stem, {**summary, "metrics": dict(summary["metrics"]), "ceiling": told}, table.to_pylist())
            )
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            again = f"make it again with nshot rank {typed(run)} --name {path.stem}"
            raise UserError(f"{path} is no ranking ({first_line(error)}): {again}") from None
    return found


def ranking_command(run: Path, config: TrainConfig) -> str:
    """The command that ranks this run, against a benchmark of its space where one is at hand."""
    known = benchmark_of(config.dataset, config.space) or "TABLE.parquet"
    return f"nshot rank {typed(run)} --benchmark {known}"


def search_files(run: Path) -> list[Path]:
    """The run's searches, that of the default name first, though it be broken."""
    default = run / "search.json"
    broken = default.exists() and kind_of(default) != "search"
    return [*([default] if broken else []), *searches(run)]


def read_search(path: Path) -> dict[str, Any]:
    """What a search's JSON holds. Raises UserError where it is broken."""
    try:
        found = read_json(path)
        rows = [found["best"], *found["top"], *found.get("parts", ()), *found.get("front", ())]
        missing = [key for key in ("images", "limits", "by") if key not in found]
        missing += sorted({key for row in rows for key in ROW if key not in row})
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = f"nshot search {typed(path.parent)} --name {shlex.quote(path.stem)}"
        raise UserError(f"{path} is no search result ({error}): make it again with {again}") from None


def how_text(search: dict[str, Any]) -> str:
    """How the search proposed subnets, for people: ``random, seed 0, sample 1,000``."""
    how = dict(search.get("search") or {"method": "unknown"})
    rest = {key: ", ".join(value) if isinstance(value, list) else value for key, value in how.items()}
    method = rest.pop("method")
    return ", ".join(
        [method, *(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in rest.items())]
    )


def evaluated(path: Path, space: Space, search: dict[str, Any]) -> list[Row]:
    """The subnets that the search of this JSON scored, as it writes them, its own first."""
    named: dict[str, Row] = {}
    for row in [search["best"], *search["top"], *search.get("parts", ()), *search.get("front", ())]:
        named.setdefault(row["arch"], row)
    table = path.with_suffix(".parquet")
    scored: list[Row] = []
    if table.exists():
        again = f"make it again with nshot search {typed(path.parent)} --name {shlex.quote(path.stem)}"
        scored = needed(read_parquet, table, again).to_pylist()
    others = [row for row in scored if row["arch"] not in named]
    return [*named.values(), *({**row, "subnet": list(space.parse(row["arch"]))} for row in others)]


def fronts(rows: Sequence[Row]) -> dict[str, list[int]]:
    """By cost (params, flops): the rows that no other is both as good and as cheap as, cheapest first; of equal ones
    that of the smallest loss."""
    found = {}
    for cost in ("params", "flops"):
        values = np.array([[-row["accuracy"], row[cost]] for row in rows], dtype=float)
        equals: dict[tuple[float, ...], int] = {}
        for i in sorted(front(values).tolist(), key=lambda i: (rows[i][cost], rows[i]["loss"], i)):
            equals.setdefault(tuple(values[i]), i)
        found[cost] = list(equals.values())
    return found


def thinned(rows: list[Row], keep: set[int]) -> list[Row]:
    """At most about SHOWN rows: those to keep, and others spread evenly."""
    others = some([i for i in range(len(rows)) if i not in keep], max(1, SHOWN - len(keep)))
    return [rows[i] for i in sorted(keep | set(others))] if len(rows) > SHOWN else rows


def pictures(space: Space, rows: Sequence[Row], first: Sequence[int]) -> dict[int, str]:
    """SVG of the rows ``first`` and of others, as many as a page can hold."""
    order = list(dict.fromkeys([*first, *some(list(range(len(rows))), DRAWN)]))
    found: dict[int, str] = {}
    size = 0
    for i in order[:DRAWN]:
        found[i] = svg(space.drawing(space.check(rows[i]["subnet"])), width=NARROW)
        size += len(found[i])
        if size > DRAWN_BYTES:
            break
    return found


def retrain_flags(config: TrainConfig) -> str:
    """What nshot retrain needs besides the subnet for a network of the run's sizes on the run's data."""
    space, words = config.space.retrained, [f"--space {config.space.name}"]
    default = type(space)().retrained
    for field in fields(space):
        value = getattr(space, field.name)
        if field.name in ("num_classes", "kept") or value == getattr(default, field.name):
            continue  # the data set says the one, a subnet of a part is one of the whole
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value}")
    return " ".join([*words, f"--dataset {shlex.quote(config.dataset)}"])


def limits_text(search: dict[str, Any]) -> str:
    """The limits that the search kept to, for people."""
    named = {key.replace("_", " "): value for key, value in search["limits"].items() if value is not None}
    return ", ".join(f"{key} {value:,}" for key, value in named.items()) or "no limits"


def described(config: TrainConfig) -> dict[str, str]:
    """The configuration, flat: name to value."""
    parts = ("space", "options", "augment")
    flat = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in parts}
    inside = asdict(config.augment) | asdict(config.options)
    sizes = {key: value for key, value in config.space.sizes().items() if key != "kept" or value}
    return {k: str(v) for k, v in {"space": config.space.name, **flat, **inside, **sizes}.items()}
