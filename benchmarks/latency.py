"""How far a table of options is off measured latencies, in every space at proxy size; prints a Markdown table.

python benchmarks/latency.py [--quick] [--spaces nasbench201 darts] [--threads 1] [--batch 1] [--out latency.json]

Each table is compared with 50 other subnets, each measured twice: how far the two are apart says how quiet the machine
was. ``--quick``: the smallest sizes.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import nshot
from nshot.files import write_json
from nshot.search.latency import Setting, fitted
from nshot.supernets.config import preset

COLUMNS = ("error_median", "error_90", "repeat_median", "repeat_90")


def row(name: str, result: dict[str, Any]) -> str:
    check = result["check"]
    shares = " | ".join(f"{check[column]:.1%}" for column in COLUMNS)
    span = f"{check['low_ms']:.3g} to {check['high_ms']:.3g}"
    taus = f"{check['tau']:.3f} | {check['repeat_tau']:.3f}"
    return f"| {name} | {result['samples']} | {result['seconds']:.0f} | {span} | {shares} | {taus} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, to see that it runs")
    parser.add_argument("--spaces", nargs="+", default=nshot.list_spaces())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--samples", type=int, help="measured for each table; default: three times the options")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    for name in args.spaces:
        space = preset("smoke" if args.quick else "proxy", "spos", name).space
        begin = time.perf_counter()
        table = fitted(space, Setting(args.threads, args.batch), samples=args.samples)
        results[name] = {**table, "seconds": round(time.perf_counter() - begin, 1)}
        print(f"{name}: {results[name]['seconds']} s", flush=True)
        if args.out:
            write_json(args.out, results)
    print(markdown(results))


def markdown(results: dict[str, dict]) -> str:
    head = [
        "space", "fitted to", "seconds", "ms", "error, median", "90 %", "two measurements, median", "90 %", "tau",
        "tau of two measurements",
    ]  # fmt: skip
    rows = [row(name, results[name]) for name in results]
    return "\n".join([f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *rows])


if __name__ == "__main__":
    main()
