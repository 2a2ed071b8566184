"""Results as tables on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from nshot.benchmarks.rank import Ranking


def print_ranking(rankings: Mapping[str, Ranking], truth: str) -> None:
    """A row a run and score: Kendall's tau with its interval over images, Spearman, and tau of the best 10 %.

    Fits 80 columns.
    """
    first = next(iter(rankings.values()))
    table = Table(title=f"{len(first.subnets)} subnets, {first.images:,} images, against {truth}")
    for column in ("run", "score", "tau [95 %, images]", "Spearman", "best 10 %"):
        table.add_column(column)
    for name, ranking in rankings.items():
        for score, row in ranking.table.items():
            tau = f"{row['tau']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            table.add_row(name, score, tau, f"{row['spearman']:.3f}", f"{row['top_tau']:.3f}")
    Console().print(table)


def print_search(result: dict[str, Any]) -> None:
    """The ten best of a search, and of one with several objectives the best compromises."""
    title = f"best of {result['candidates']} subnets by {result['by']}, {result['images']:,} images"
    _print_subnets(title, result["top"])
    if "front" in result:
        _print_subnets(f"no other is better in all of {', '.join(result['objectives'])}", result["front"])


def _print_subnets(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for column in ("accuracy %", "loss", "parameters", "FLOPs"):
        table.add_column(column)
    table.add_column("subnet", overflow="fold")  # whole, to be copied
    for row in rows:
        costs = f"{row['params']:,}", f"{row['flops']:,}"
        table.add_row(f"{row['accuracy']:.2f}", f"{row['loss']:.3f}", *costs, row["arch"])
    Console().print(table)
