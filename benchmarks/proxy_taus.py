"""Kendall's taus of SPOS and SPOS + CaLR + MS at proxy scale on CIFAR-10, idle weights drifting and resting.

NSHOT_DATA=DATA python benchmarks/proxy_taus.py --runs runs/proxy --jobs 2

Each run is `nshot train` and twice `nshot rank`; one that was killed continues, one that is done is only read. Writes
docs/results/proxy-taus.json and prints the tables of docs/results.md.
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
    "list327": ["--subnets", "nasbench201/rank-list.json", "--images", "10000"],
    "random1000": ["--sample", "1000", "--images", "4096"],
}
SPLIT = "nasbench201/cifar10-split.json"


def nshot(*args: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "nshot.cli", *args, "--device", "cpu"], check=True, env=environment)


def run(folder: Path, method: str, seed: int) -> None:
    flags = METHODS[method][1]
    nshot("train", "spos", "--preset", "proxy", "--split", SPLIT, "--seed", str(seed), "--out", str(folder), *flags)
    for name, which in LISTS.items():
        if not (folder / f"{name}.json").exists():
            nshot("rank", str(folder), "--benchmark", "nasbench201", "--name", name, *which)


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
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only-collect", action="store_true", help="train nothing, read what is there")
    args = parser.parse_args()
    if not args.only_collect:
        todo = [(method, seed) for seed in range(args.seeds) for method in METHODS if seed == 0 or "rest" not in method]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda job: run(args.runs / f"{job[0]}-s{job[1]}", *job), todo))
    rows = collect(args.runs)
    out = Path(__file__).parent.parent / "docs" / "results" / "proxy-taus.json"
    out.write_text(json.dumps(rows, indent=1) + "\n")
    for name in LISTS:
        print(f"\n{name}\n\n{table(rows, name)}")


if __name__ == "__main__":
    main()
