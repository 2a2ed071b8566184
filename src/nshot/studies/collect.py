"""Results of a study: figures of its runs, beside the paper's, as JSON, Markdown and a plot."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nshot.benchmarks.ceiling import ceiling
from nshot.benchmarks.table import read_benchmark
from nshot.errors import UserError
from nshot.files import make_folder, needed, read_json, read_parquet, write_atomically, write_json
from nshot.ranking.metrics import complexity_bias, complexity_convergence

from .base import AGAIN, Scale, Study
from .runner import FAILED, Job
from .summary import markdown, summarize
from .whole import SCORES, answers

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120", "digits": "digits"}
Measure = Callable[[Path, Job, str | Path | None], dict[str, float]]


def tau(folder: Path, job: Job, root: str | Path | None) -> dict[str, float]:
    """Kendall's taus of the rankings; and those at infinitely many images, with half the width of their intervals."""
    found: dict[str, Any] = {}
    for name, where in ((job.result, ""), (job.second, "random: ")):
        if (folder / f"{name}.json").exists():
            metrics = needed(read_json, folder / f"{name}.json", AGAIN)["metrics"]
            for score in ("accuracy", "loss"):
                row = metrics[score]
                found |= {f"{where}tau by {score}": row["tau"], f"{where}∞ images, {score}": row["tau_inf"]}
                known = row["low"] is not None and row["high"] is not None  # not where all scores are equal
                found |= {f"{where}±, {score}": (row["high"] - row["low"]) / 2 if known else None}
    return found


def ceilings(folder: Path, job: Job, root: str | Path | None) -> dict[str, float]:
    """About how far the taus of each list can come, by column, as the rankings of one run have it.

    Those of an earlier version and the scores of all subnets do not say it: it is computed then, where the benchmark
    is on this machine.
    """
    found: dict[str, float] = {}
    for name, where in ((job.result, ""), (job.second, "random: ")):
        if (folder / f"{name}.json").exists():
            ranked = needed(read_json, folder / f"{name}.json", AGAIN)
            known = ranked["ceiling"] if "ceiling" in ranked else _ceiling(folder, name, job, root)
            found |= {f"{where}tau by {score}": known["tau"] for score in ("accuracy", "loss") if known}
    return found


def _ceiling(folder: Path, name: str, job: Job, root: str | Path | None) -> dict[str, float] | None:
    space = job.config.space
    table = folder / (SCORES if job.measured else f"{name}.parquet")
    if not table.exists():
        return None  # of a method that is not ranked by its supernet
    try:
        benchmark = read_benchmark(job.scale.benchmark, space, root)
    except UserError:
        return None  # not on this machine
    subnets = [space.parse(arch) for arch in needed(read_parquet, table, AGAIN, ["arch"]).column("arch").to_pylist()]
    most = ceiling(space, benchmark, f"{job.config.dataset}_test", subnets)
    return None if most is None else asdict(most)


def bias(folder: Path, job: Job, root: str | Path | None) -> dict[str, float]:
    """CB and C³, by the subnets' C(α), against each data set of the benchmark."""
    ranked = needed(read_parquet, folder / f"{job.result}.parquet", AGAIN).to_pydict()
    space = job.config.space
    benchmark = read_benchmark(job.scale.benchmark, space, root)
    subnets = [space.parse(arch) for arch in ranked["arch"]]
    complexity = [space.params(subnet) for subnet in subnets]
    found = {}
    for name, title in DATASETS.items():
        if f"{name}_test" in benchmark.columns:
            truth = benchmark.truth(f"{name}_test", subnets)
            found[f"{title} CB"] = complexity_bias(ranked["accuracy"], truth, complexity)
            found[f"{title} C³"] = complexity_convergence(ranked["accuracy"], truth, complexity)
    return found


def own(folder: Path, job: Job, root: str | Path | None) -> dict[str, float]:
    """What the row's function measured."""
    return needed(read_json, folder / f"{job.result}.json", AGAIN)


MEASURES: dict[str, Measure] = {"tau": tau, "bias": bias, "own": own, "whole": answers}
RANKS = ("tau", "whole")  # measures that have taus


@dataclass(frozen=True)
class Known:
    """What a result that was written before has: a table goes on where its runs are gone, as on another machine.

    Figures of other settings, another scale or another protocol have another name, and are not taken.
    """

    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    """By the name of the run that they are of."""
    seeds: int = 0
    ceiling: dict[str, float] = field(default_factory=dict)
    """As `ceilings` has it."""

    @classmethod
    def of(cls, study: Study, scale: Scale, out: Path) -> "Known":
        """What the folder has of a study. Raises UserError for a file that cannot be read as one."""
        path = _stem(study.name, scale.preset, out).with_suffix(".json")
        if not path.exists():
            return cls()
        try:
            result = read_json(path)
            rows = result["rows"]
            figures = {row["runs"][seed]: found for row in rows for seed, found in row["seeds"].items()}
            seeds = max((int(seed) + 1 for row in rows for seed in row["seeds"]), default=0)
            return cls(figures, seeds, result.get("ceiling", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is no result of this version ({type(error).__name__}: {error}): "
                "move it away, or choose another --out"
            ) from None


def collect(
    study: Study,
    scale: Scale,
    seeds: int,
    runs: Path,
    root: str | Path | None = None,
    before: Known | None = None,
) -> dict[str, Any]:
    """What is there of a study: for each row the figures of each seed, and which runs are missing or have failed.

    ``before`` has figures of runs that are not in the folder.
    """
    before = before or Known()
    rows: list[dict[str, Any]] = []
    most: dict[str, float] = {}
    for row in study.rows:
        figures, names, missing, failed = {}, {}, [], {}
        for seed in range(max(seeds, before.seeds)):
            job = Job.of(row.setting, scale, seed)
            folder, name = runs / job.folder, str(seed)
            if (folder / FAILED).exists():
                failed[name] = needed(read_json, folder / FAILED, AGAIN)["error"]
            elif job.is_in(folder):
                figures[name], names[name] = MEASURES[study.measure](folder, job, root), job.name
                most = most or (ceilings(folder, job, root) if study.measure in RANKS else {})
            elif job.name in before.figures:
                figures[name], names[name] = before.figures[job.name], job.name
                most = most or before.ceiling
            else:
                missing.append(seed)
        rows.append(
            {
                "label": row.label,
                "paper": row.paper,
                "seeds": figures,
                "runs": names,
                "missing seeds": missing,
                "failed": failed,
            }
        )
    result: dict[str, Any] = {
        "study": study.name,
        "title": study.title,
        "preset": scale.preset,
        "note": study.note,
        "rows": rows,
    }
    if most:
        result["ceiling"] = most
    if study.axes is not None:
        result["axes"] = study.axes
    return summarize(study, result)


def _stem(study: str, preset: str, out: Path) -> Path:
    return out / f"{study}-{preset}"


def write(result: dict[str, Any], out: Path) -> list[Path]:
    """Writes ``<study>-<preset>.json``, ``.md`` and ``.png``."""
    from nshot.studies.plot import draw

    make_folder(out)
    stem = _stem(result["study"], result["preset"], out)
    write_json(stem.with_suffix(".json"), result)
    write_atomically(stem.with_suffix(".md"), markdown(result).encode())
    draw(stem.with_suffix(".png"), result)
    return [stem.with_suffix(suffix) for suffix in (".json", ".md", ".png")]
