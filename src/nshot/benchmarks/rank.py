"""Ranks a run's subnets against a benchmark: how truly does the supernet order them?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nshot.data.batches import Normalise, heldout_batches
from nshot.data.sources import data_root, load
from nshot.errors import UserError
from nshot.ranking.evaluate import Scores, evaluate
from nshot.ranking.metrics import bootstrap_interval, kendall_tau, spearman, top_tau
from nshot.seeding import generator
from nshot.spaces import Space, Subnet
from nshot.spaces.lists import subnets_from_file
from nshot.training.progress import Progress
from nshot.training.run import load_run, write_json
from nshot.training.runner import fabric

from .table import read_benchmark

BATCH = 256  # images whose batch statistics normalise together, as in the released code


@dataclass(frozen=True)
class Ranking:
    """Supernet scores beside true accuracies, and how well the ones order the others.

    ``table`` has a row for each score (accuracy, the paper's; loss, negated) with ``tau``, its 95 % interval over
    images ``low`` and ``high``, ``spearman`` and ``top_tau`` (the best 10 %).
    """

    subnets: list[Subnet]
    accuracy: np.ndarray
    loss: np.ndarray
    true: np.ndarray
    params: np.ndarray
    images: int
    table: dict[str, dict[str, float]]


def score_run(
    run: str | Path,
    subnets: Sequence[Subnet],
    *,
    root: str | Path | None = None,
    images: int | None = None,
    device: str = "auto",
) -> Scores:
    """Scores of subnets with a finished run's supernet on its validation images (the first ``images`` of them).

    Raises:
        UserError: for a run that is not finished, or ``images`` outside 2 to what there are.
    """
    config, supernet = load_run(run)
    data = load(config.dataset, root=root, split=config.split, resolution=config.space.resolution)
    valid = data.valid
    if images is not None:
        if not 2 <= images <= len(valid):
            raise UserError(f"images {images}: must be from 2 to the {len(valid)} validation images")
        valid = valid.subset(np.arange(images))
    lightning = fabric(device)
    supernet.to(lightning.device)
    normalise = Normalise(data.train).to(lightning.device)
    batches = heldout_batches(valid, min(BATCH, len(valid)), normalise, lightning.device)
    forms = len({config.space.canonical(subnet) for subnet in subnets})
    with Progress("rank", forms, noun="subnets") as progress:

        def advance() -> None:
            progress.advance()
            progress.show()

        return evaluate(supernet, subnets, batches, canonical=config.space.canonical, advance=advance)


def compare(space: Space, subnets: Sequence[Subnet], scores: Scores, truth: np.ndarray, seed: int = 0) -> Ranking:
    """The ranking of these scores against true accuracies (S,)."""
    table = {}
    for name, per_image in (("accuracy", scores.correct), ("loss", -scores.loss)):
        score = per_image.mean(axis=1, dtype=np.float64)
        low, high = bootstrap_interval(per_image, truth, seed=seed)
        table[name] = {
            "tau": kendall_tau(score, truth),
            "low": low,
            "high": high,
            "spearman": spearman(score, truth),
            "top_tau": top_tau(score, truth),
        }
    params = np.array([space.params(subnet) for subnet in subnets])
    images = scores.correct.shape[1]
    return Ranking(list(subnets), scores.accuracy, scores.mean_loss, truth, params, images, table)


def write_ranking(folder: Path, name: str, space: Space, ranking: Ranking, described: dict[str, Any]) -> None:
    """Writes ``<name>.parquet`` (a row a subnet) and ``<name>.json`` (the table) to a run folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "arch": [space.format(subnet) for subnet in ranking.subnets],
            "params": ranking.params,
            "flops": [space.flops(subnet) for subnet in ranking.subnets],
            "accuracy": ranking.accuracy,
            "loss": ranking.loss,
            "true": ranking.true,
        }
    )
    partial = folder / f".{name}.parquet.partial"
    pq.write_table(table, partial)
    partial.replace(folder / f"{name}.parquet")
    summary = {**described, "subnets": len(ranking.subnets), "images": ranking.images, "metrics": ranking.table}
    write_json(folder / f"{name}.json", summary)


def rank_run(
    run: str | Path,
    benchmark: str,
    *,
    subnets: Path | None = None,
    sample: int = 1000,
    column: str | None = None,
    images: int | None = None,
    name: str = "ranking",
    root: str | Path | None = None,
    device: str = "auto",
) -> tuple[Ranking, str]:
    """Ranks subnets of a finished run against a benchmark and writes the ranking to the run folder.

    Args:
        run: the run folder.
        benchmark: name or file, see `read_benchmark`.
        subnets: a JSON list of subnets, a path or one under the data root.
        sample: without ``subnets``, how many random ones of the benchmark; 0 or more than it has: all.
        column: of true accuracies; default ``<dataset>_test``.
        images: how many validation images; default all.
        name: of the files written.
        root: data root.
        device: Fabric's accelerator.

    Returns:
        The ranking, and the column of true accuracies.

    Raises:
        UserError: for a run, benchmark, list or number that cannot be used.
    """
    config, _ = load_run(run)
    if sample < 0:
        raise UserError(f"sample {sample}: must be at least 1, or 0 for all")
    column = column or f"{config.dataset}_test"
    table = read_benchmark(benchmark, config.space, root)
    if subnets is not None:
        under_root = data_root(root) / subnets
        chosen = subnets_from_file(under_root if under_root.exists() else subnets, config.space)
    else:
        chosen = table.subnets
        if 0 < sample < len(chosen):
            rows = generator(0, "ranking sample").permutation(len(chosen))[:sample]
            chosen = [table.subnets[row] for row in sorted(rows)]
    if len(chosen) < 2:
        raise UserError(f"a ranking needs at least 2 subnets, not {len(chosen)}")
    truth = table.truth(column, chosen)
    scores = score_run(run, chosen, root=root, images=images, device=device)
    ranking = compare(config.space, chosen, scores, truth)
    described = {"benchmark": benchmark, "column": column, "list": str(subnets) if subnets else f"sample of {sample}"}
    write_ranking(Path(run), name, config.space, ranking, described)
    return ranking, column
