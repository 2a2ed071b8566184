"""Ranks a run's subnets against a benchmark: how truly does the supernet order them?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nshot.data.sources import Dataset, data_root
from nshot.errors import UserError
from nshot.files import read_parquet, write_json, write_parquet
from nshot.ranking.evaluate import Scores
from nshot.ranking.intervals import at_infinity
from nshot.ranking.metrics import kendall_tau, quality, spearman, top_tau
from nshot.runs.lock import held
from nshot.runs.naming import check_name, check_same
from nshot.runs.where import On
from nshot.scores import COSTS
from nshot.seeding import generator
from nshot.spaces import Space, Subnet
from nshot.spaces.lists import subnets_from_file
from nshot.supernets.load import load_run
from nshot.supernets.score import scored
from nshot.training.distributed import alone

from .ceiling import Ceiling, ceiling
from .table import Benchmark, read_benchmark

SAMPLE = 1000  # random subnets that are ranked where nothing else is said


@dataclass(frozen=True)
class Ranking:
    """Supernet scores beside true accuracies, and how well the ones order the others.

    ``table`` has a row for each score (accuracy, the paper's; loss, negated) with ``tau``, as the protocol has it;
    ``tau_inf``, what it would be on infinitely many images, with its 95 % interval ``low`` to ``high`` (``tau`` may
    lie outside: noise lowers it; nan where noise is all there is); ``spearman`` and ``top_tau`` (the best 10 %).
    ``baselines`` has the last two and ``tau`` of what costs nothing to know: the stand-alone networks' params and
    flops. ``ceiling`` is what the noise of the true accuracies leaves to reach, where it is known. ``params`` (S,)
    are the stand-alone networks'.
    """

    subnets: list[Subnet]
    accuracy: np.ndarray
    loss: np.ndarray
    true: np.ndarray
    params: np.ndarray
    images: int
    table: dict[str, dict[str, float]]
    ceiling: Ceiling | None = None
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)


def compare(
    space: Space,
    subnets: Sequence[Subnet],
    scores: Scores,
    truth: np.ndarray,
    seed: int = 0,
    ceiling: Ceiling | None = None,
) -> Ranking:
    """The ranking of these scores against true accuracies (S,)."""
    table = {}
    for name, per_image in (("accuracy", scores.correct), ("loss", -scores.loss)):
        score = per_image.mean(axis=1, dtype=np.float64)
        infinite = at_infinity(per_image, truth, seed=seed)
        table[name] = {
            "tau": kendall_tau(score, truth),
            "tau_inf": infinite.tau,
            "low": infinite.low,
            "high": infinite.high,
            "spearman": spearman(score, truth),
            "top_tau": top_tau(score, truth),
        }
    params = np.array([space.network_params(subnet) for subnet in subnets])
    images = scores.correct.shape[1]
    costs = {name: quality([cost(space, subnet) for subnet in subnets], truth) for name, cost in COSTS.items()}
    return Ranking(list(subnets), scores.accuracy, scores.mean_loss, truth, params, images, table, ceiling, costs)


def write_ranking(folder: Path, name: str, space: Space, ranking: Ranking, described: dict[str, Any]) -> None:
    """Writes ``<name>.parquet`` (a row a subnet) and ``<name>.json`` (the table) to a run folder."""
    import pyarrow as pa

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
    write_parquet(folder / f"{name}.parquet", table)
    summary = {**described, "subnets": len(ranking.subnets), "images": ranking.images, "metrics": ranking.table}
    summary["baselines"] = ranking.baselines
    summary["ceiling"] = None if ranking.ceiling is None else asdict(ranking.ceiling)
    write_json(folder / f"{name}.json", summary)


def chosen_subnets(
    space: Space, table: Benchmark, subnets: Path | None, sample: int | None, root: str | Path | None
) -> list[Subnet]:
    """Those of a list, or ``sample`` random ones of a benchmark (None: 1,000; 0: all), in its order.

    Raises:
        UserError: for a list or number that cannot be used.
    """
    if subnets is not None and sample is not None:
        raise UserError(f"sample {sample} has no effect with --subnets: the list is ranked whole")
    sample = SAMPLE if sample is None else sample
    if sample < 0:
        raise UserError(f"sample {sample}: must be at least 1, or 0 for all")
    if subnets is not None:
        chosen = subnets_from_file(subnets, space, data_root(root), table.numbered)
    else:
        chosen = table.subnets
        if 0 < sample < len(chosen):
            rows = generator(0, "ranking sample").permutation(len(chosen))[:sample]
            chosen = [table.subnets[row] for row in sorted(rows)]
    if len(chosen) < 2:
        raise UserError(f"a ranking needs at least 2 subnets, not {len(chosen)}")
    return chosen


def rank_run(
    run: str | Path,
    benchmark: str,
    *,
    subnets: Path | None = None,
    sample: int | None = None,
    column: str | None = None,
    images: int | None = None,
    calibration: int | None = None,
    name: str = "ranking",
    root: str | Path | None = None,
    device: str = "auto",
    data: Dataset | None = None,
    on: On | None = None,
) -> tuple[Ranking, str]:
    """Ranks subnets of a finished run against a benchmark and writes the ranking to the run folder.

    Args:
        run: the run folder.
        benchmark: name or file, see `read_benchmark`.
        subnets: a JSON list of subnets, see `subnets_from_file`.
        sample: without ``subnets``, how many random ones of the benchmark, by default 1,000; 0 or more than it has:
            all.
        column: of true accuracies; default ``<dataset>_test``.
        images: how many validation images, a stratified sample; default all.
        calibration: as `scored` has it.
        name: of the files written.
        root: data root.
        device: Fabric's accelerator.
        data: the run's data set, where it is loaded already.
        on: where subnets are scored; None: in this process.

    Returns:
        The ranking, and the column of true accuracies.

    Raises:
        UserError: for a run, benchmark, list or number that cannot be used, and a name by which the run keeps another
            ranking.
    """
    alone("a ranking")
    config, supernet = load_run(run)
    check_name(Path(run), name, "ranking")
    column = column or f"{config.dataset}_test"
    table = read_benchmark(benchmark, config.space, root)
    chosen = chosen_subnets(config.space, table, subnets, sample, root)
    truth = table.truth(column, chosen)
    where: dict[str, Any] = {"root": root, "device": device, "data": data}
    listed = str(subnets) if subnets else f"sample of {SAMPLE if sample is None else sample}"
    with (on or On()).beside(Path(run)) as there, held(Path(run), "a ranking", name):

        def new(by: dict[str, int]) -> None:
            archs = [config.space.format(subnet) for subnet in chosen]
            _check_same(Path(run), name, archs, {"benchmark": benchmark, "column": column, "score": by})

        where |= {"images": images, "calibration": calibration, "there": there, "before": new}
        with scored(Path(run), config, supernet, chosen, **where) as (scores, by):
            most = ceiling(config.space, table, column, chosen)
            ranking = compare(config.space, chosen, scores, truth, ceiling=most)
            described = {"benchmark": benchmark, "column": column, "list": listed, "score": by}
            write_ranking(Path(run), name, config.space, ranking, described)
    return ranking, column


def _check_same(run: Path, name: str, archs: list[str], made: dict[str, Any]) -> None:
    """Raises UserError where the run keeps a ranking by this name that was made otherwise, or is of other subnets."""
    try:
        ranked = read_parquet(run / f"{name}.parquet", ["arch"])["arch"].to_pylist()
    except (OSError, ValueError):
        ranked = archs  # whose table is gone or damaged is made again
    check_same(run / f"{name}.json", "ranking", made, *([] if ranked == archs else ["of other subnets"]))
