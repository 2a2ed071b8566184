"""How well the embedded benchmark's true accuracies repeat: Kendall's tau between the means of the halves of its seeds.

python benchmarks/digits.py [--out docs/results/digits.json]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nshot.benchmarks.table import EMBEDDED
from nshot.ranking.metrics import kendall_tau


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/digits.json"))
    given = parser.parse_args()
    table = pq.read_table(EMBEDDED)
    found: dict[str, float] = {"subnets": table.num_rows}
    for part in ("test", "valid"):
        names = sorted(name for name in table.column_names if name.startswith(f"digits_{part}_seed"))
        names.sort(key=lambda name: int(name.rsplit("seed", 1)[1]))
        values = np.stack([table.column(name).to_numpy() for name in names])
        half = len(names) // 2
        found[f"tau of halves, {part}"] = kendall_tau(values[:half].mean(0), values[half:].mean(0))
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(given.out.read_text())


if __name__ == "__main__":
    main()
