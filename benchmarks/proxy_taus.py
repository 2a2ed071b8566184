"""Kendall's taus of SPOS and SPOS + CaLR + MS at proxy scale on CIFAR-10, idle weights drifting and resting.

NSHOT_DATA=DATA python benchmarks/proxy_taus.py --runs runs/proxy --jobs 2

Each run is `nshot train` and an `nshot rank` a list; one that was killed continues, one that is done is only read. It
writes docs/results/proxy-taus.json, made by the plain path, and prints the tables of docs/results.md. Whether the fast
path ranks alike is seen by both of

... proxy_taus.py --fast off --methods spos ours --lists list327 --runs runs/plain --out plain.json
... proxy_taus.py --fast on --methods spos ours --lists list327 --runs runs/fast --out fast.json
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

OURS = ["--schedule", "calr", "--ms", "first"]
METHODS = {
    "spos": ("SPOS", []),
    "ours": ("SPOS + CaLR + MS", OURS),
    "spos-rest": ("SPOS, idle weights rest", ["--idle", "rest"]),
    "ours-rest": ("SPOS + CaLR + MS, idle weights rest", [*OURS, "--idle", "rest"]),
}
LISTS = {
    "list327": ["--subnets", "released:nasbench201/rank-list.json", "--images", "10000"],
    "random1000": ["--sample", "1000", "--images", "4096"],
}
SPLIT = "nasbench201/cifar10-split.json"


def nshot(*args: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "nshot.cli", *args, "--device", "cpu"], check=True, env=environment)


def run(runs: Path, method: str, seed: int, lists: list[str], fast: str) -> None:
    folder = runs / f"{method}-s{seed}"
    flags = ["--split", SPLIT, "--seed", str(seed), "--fast", fast, *METHODS[method][1]]
    nshot("train", "spos", "--preset", "proxy", "--out", str(folder), *flags)
    for name in lists:
        if not (folder / f"{name}.json").exists():
            nshot("rank", str(folder), "--benchmark", "nasbench201", "--name", name, *LISTS[name])


def collect(runs: Path) -> list[dict]:
    """A row a run and list that is ranked."""
    return [
        {
            "method": method,
            "seed": int(folder.name.rpartition("-s")[2]),
            "ranking": name,
            **json.loads(path.read_text()),
        }
        for method in METHODS
        for folder in sorted(runs.glob(f"{method}-s[0-9]*"))
        for name in LISTS
        if (path := folder / f"{name}.json").exists()
    ]


def table(rows: list[dict], name: str) -> str:
    """Markdown: mean and standard deviation over seeds, each seed's own, and the mean width of the image interval."""
    lines = [
        "| method | seeds | tau by accuracy | tau by loss | ± over images (accuracy, loss) | tau of best 10 % (loss) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method, (title, _) in METHODS.items():
        mine = [row["metrics"] for row in rows if row["method"] == method and row["ranking"] == name]
        if mine:
            cells = [spread([m[score]["tau"] for m in mine]) for score in ("accuracy", "loss")]
            halves = [mean((m[s]["high"] - m[s]["low"]) / 2 for m in mine) for s in ("accuracy", "loss")]
            best = spread([m["loss"]["top_tau"] for m in mine])
            lines.append(f"| {title} | {len(mine)} | {' | '.join(cells)} | {halves[0]:.3f}, {halves[1]:.3f} | {best} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    each = ", ".join(f"{value:.3f}" for value in values)
    return f"**{mean(values):.3f} ± {stdev(values):.3f}** ({each})" if len(values) > 1 else each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/proxy"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/proxy-taus.json"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--lists", nargs="+", choices=LISTS, default=list(LISTS))
    parser.add_argument("--fast", choices=("on", "off"), default="off", help="the fast path, or the plain one")
    parser.add_argument("--seeds", type=int, default=3, help="of runs whose idle weights drift; of rest only the first")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only-collect", action="store_true", help="train nothing, read what is there")
    args = parser.parse_args()
    if not args.only_collect:
        every = [(method, seed) for seed in range(args.seeds) for method in args.methods]
        jobs = [(method, seed) for method, seed in every if seed == 0 or "rest" not in method]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda job: run(args.runs, job[0], job[1], args.lists, args.fast), jobs))
    rows = collect(args.runs)
    args.out.write_text(json.dumps(rows, indent=1) + "\n")
    for name in args.lists:
        print(f"\n{name}\n\n{table(rows, name)}")


if __name__ == "__main__":
    main()
