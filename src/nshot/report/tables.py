"""Results as tables on the terminal."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nshot.benchmarks.compare import Comparison
from nshot.benchmarks.rank import Ranking
from nshot.benchmarks.zero_cost import ZeroCost
from nshot.files import shown
from nshot.handover.predict import Best
from nshot.handover.verdict import baseline_name, warnings_of
from nshot.ranking.seeds import Mean


def print_ranking(rankings: Mapping[str, Ranking], truth: str) -> None:
    """A row a run and score: Kendall's tau; the tau at infinitely many images with its 95 % interval; tau of the best
    10 %. Fits 80 columns.
    """
    first = next(iter(rankings.values()))
    table = Table(title=escape(f"{len(first.subnets)} subnets, {first.images:,} images, against {truth}"))
    for column in ("run", "score", "tau", "at ∞ images [95 %]", "best 10 %"):
        table.add_column(column)
    for name, ranking in rankings.items():
        for score, row in ranking.table.items():
            interval = f" [{_number(row['low'])}, {_number(row['high'])}]" if row["low"] == row["low"] else ""
            infinite = _number(row["tau_inf"]) + interval  # none where noise is all there is
            table.add_row(escape(name), score, _number(row["tau"]), infinite, _number(row["top_tau"]))
    for score, row in first.baselines.items():
        table.add_row("no training", score, _number(row["tau"]), "-", _number(row["top_tau"]))
    Console().print(table)
    if first.ceiling is not None:
        print(f"No ranking reaches 1; {first.ceiling.told}")


def print_scores(found: ZeroCost, title: str) -> None:
    """A row a score that needs no training, and where there is a run its loss and each combination."""
    table = Table(title=escape(f"{len(found.subnets)} subnets, {title}, against {found.column}"))
    for column in ("score", "tau", "Spearman", "best 10 %", "s a subnet"):
        table.add_column(column)
    for name, row in found.table.items():
        seconds = f"{row['seconds']:.3g}" if "seconds" in row else "-"
        table.add_row(name, *(_number(row[key]) for key in ("tau", "spearman", "top_tau")), seconds)
    Console().print(table)
    if found.ceiling is not None:
        print(f"No ranking reaches 1; {found.ceiling.told}")


def print_comparison(found: Comparison, score: str) -> None:
    """Both groups' taus by seed, their means, the difference, and whether it is shown."""
    for side, taus, mean in zip(("first", "second"), (found.first, found.second), found.means, strict=True):
        seeds = ", ".join(f"seed {seed}: {tau:.3f}" for seed, tau in sorted(taus.items()))
        print(f"{side}: tau by {score} {_spread(mean)} ({seeds})")
    gap = found.difference
    print(f"second minus first: {_spread(gap)}, {gap.how}")
    verdicts = {True: "shown: the interval does not contain 0", False: "not shown: the interval contains 0"}
    print(verdicts.get(gap.shown, "not shown: fewer than three seeds, so no interval"))  # type: ignore[arg-type]


def _spread(mean: Mean) -> str:
    return f"{mean.mean:.3f}" + ("" if mean.low is None else f" [{mean.low:.3f}, {mean.high:.3f}]")


def print_search(result: dict[str, Any]) -> None:
    """The ten best of a search, and of one with several objectives the best compromises."""
    title = f"best of {result['candidates']} subnets by {result['by']}, {result['images']:,} images"
    _print_subnets(title, result["top"])
    if "front" in result:
        _print_subnets(f"no other is better in all of {', '.join(result['objectives'])}", result["front"])


def print_verdict(verdict: dict[str, Any]) -> None:
    """A network's test accuracy beside those of trivial baselines, its costs, and what has to be said loudly."""
    test, baselines = verdict["test"], verdict["baselines"]
    table = Table(title=escape(f"{test['images']:,} test images of {shown(verdict['dataset'])}"))
    for column in ("", "accuracy %", "95 %", "balanced %"):
        table.add_column(column)
    rows = {"the network": test, **{baseline_name(name, row): row for name, row in baselines.items()}}
    for name, row in rows.items():
        interval = f"{row['low']:.2f} to {row['high']:.2f}"
        table.add_row(escape(shown(name)), f"{row['accuracy']:.2f}", interval, f"{row['balanced_accuracy']:.2f}")
    Console().print(table)
    costs = f"{verdict['params']:,} parameters, {verdict['flops']:,} FLOPs"
    print(f"{costs}, {verdict['latency_ms']:.3g} ms an image on one thread of {verdict['latency']['cpu']}")
    weak = sorted((row for row in verdict["classes"] if row["images"]), key=lambda row: row["recall"])[:3]
    recalls = [f"{shown(row['name'])} {row['recall']:.0f} %" for row in weak]
    print(f"weakest classes: {', '.join(recalls)}")
    for warning in warnings_of(verdict):
        print(f"WARNING: {shown(warning)}")


def print_prediction(path: Path, said: Best | str) -> None:
    """A line an image: its most probable classes, or, among the errors, why it cannot be read."""
    name = shown(path)
    if isinstance(said, str):
        print(f"nshot: cannot read {name}: {said}", file=sys.stderr)
    else:
        print(f"{name}: {', '.join(f'{shown(label)} {100 * p:.1f} %' for label, p in said)}")


def print_latency(table: dict[str, Any]) -> None:
    """What a latency table was measured with and how far it is off."""
    check, setting = table["check"], table["setting"]
    shown = Table(title=f"latency of {table['space']['name']}, {table['machine']['cpu']}, CPU", show_header=False)
    threads, batch = (setting[name] for name in ("threads", "batch"))
    shown.add_row("setting", f"{threads} thread{'s' * (threads > 1)}, batch of {batch}")
    apart = f" of each {table['by']} ({', '.join(table['tables'])})" if "by" in table else ""
    shown.add_row("fitted to", f"{table['samples']} subnets{apart}")
    others = f"{check['subnets']} {'others' if check['other'] else 'of them, measured again'}"
    shown.add_row("compared with", f"{others}: {check['low_ms']:.3g} to {check['high_ms']:.3g} ms")
    shown.add_row("error", f"median {check['error_median']:.1%}, 90 % below {check['error_90']:.1%}")
    shown.add_row("a second measurement", f"median {check['repeat_median']:.1%}, 90 % below {check['repeat_90']:.1%}")
    shown.add_row("Kendall's tau", _number(check["tau"]))
    Console().print(shown)


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _print_subnets(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    timed = "latency_ms" in rows[0]
    for column in ("accuracy %", "loss", "parameters", "FLOPs", *(["ms (measured)"] if timed else [])):
        table.add_column(column)
    table.add_column("subnet", overflow="fold")  # whole, to be copied
    for row in rows:
        costs = [f"{row['params']:,}", f"{row['flops']:,}"]
        if timed:
            measured = f" ({row['measured_ms']:.3g})" if "measured_ms" in row else ""
            costs.append(f"{row['latency_ms']:.3g}{measured}")
        table.add_row(f"{row['accuracy']:.2f}", f"{row['loss']:.3f}", *costs, row["arch"])
    Console().print(table)
