"""Times the small things that every step and every command pays for; prints a Markdown table.

python benchmarks/small.py [--out docs/results/small.json]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

import nshot
from nshot.data.batches import TrainBatches
from nshot.data.images import Images


def milliseconds(call: Callable[[int], object], repeats: int = 300) -> float:
    """Median over calls, after a tenth of them as warm-up."""
    times = []
    for i in range(repeats):
        start = time.perf_counter()
        call(i)
        times.append(1e3 * (time.perf_counter() - start))
    return median(times[repeats // 10 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for resolution in (16, 32):
        pixels = torch.randint(256, (25_000, resolution, resolution, 3), dtype=torch.uint8)
        batches = TrainBatches(Images(pixels, torch.zeros(25_000, dtype=torch.long)), 64, 0, flip=True)
        rows.append((f"training batch of 64, {resolution} px (1 thread)", milliseconds(batches), "1 ms"))

    space = nshot.space("nasbench201")
    subnets = [space.sample(np.random.default_rng(i)) for i in range(300)]
    rows.append(("params of a subnet", milliseconds(lambda i: space.params(subnets[i])), "0.020 ms"))
    rows.append(("FLOPs of a subnet, first time", milliseconds(lambda i: space.flops(subnets[i])), "0.020 ms"))

    plans = nshot.strategy("spos", space, total_steps=300, schedule="calr", ms="first")
    rows.append(("plan of a step, SPOS + CaLR + MS", milliseconds(plans.plan), "-"))

    command = [sys.executable, "-c", "from nshot.cli import main; main(['--help'])"]
    run = milliseconds(lambda i: subprocess.run(command, check=True, capture_output=True), repeats=10)
    rows.append(("nshot --help, whole process", run, "500 ms"))

    result = [{"what": what, "median_ms": round(time_ms, 4), "wanted": wanted} for what, time_ms, wanted in rows]
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


def markdown(rows: list[dict]) -> str:
    lines = ["| what | median | wanted below |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {row['what']} | {row['median_ms']:.3g} ms | {row['wanted']} |" for row in rows)])


if __name__ == "__main__":
    main()
