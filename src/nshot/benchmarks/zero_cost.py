"""Scores that need no training beside true accuracies, each alone and combined with a supernet's loss."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nshot.data.sources import Dataset, load
from nshot.errors import UserError, check_whole
from nshot.files import appending, read_parquet, write_json, write_parquet
from nshot.ranking.metrics import mean_rank, quality
from nshot.runs.executor import Executor
from nshot.runs.folder import claim, read_config
from nshot.runs.lock import locked
from nshot.runs.log import as_line, mended
from nshot.runs.naming import check_name
from nshot.runs.progress import Progress
from nshot.runs.where import On
from nshot.scores import COSTS, check_score
from nshot.spaces import Space, Subnet, space, space_from_dict
from nshot.training.distributed import alone

from .ceiling import Ceiling, ceiling
from .measure import Measure, Value, measured, read_stored
from .rank import Ranking, chosen_subnets, rank_run
from .table import read_benchmark

VALUES = "values.jsonl"
COMBINED = "loss + "


@dataclass(frozen=True)
class ScoreConfig:
    """What determines the scores of a subnet."""

    space: Space = field(default_factory=lambda: space("nasbench201"))
    dataset: str = "cifar10"
    """digits, cifar10, cifar100, imagenet, or images of your own: imagefolder:FOLDER or parquet:FOLDER."""
    split: str = "half"
    """Search split: half, or a JSON file under the data root with lists train and valid."""
    batch_size: int = 128
    """Training images in each of the two batches."""
    seed: int = 0
    """Of weights, images and draws."""

    def __post_init__(self) -> None:
        check_whole(1, batch_size=self.batch_size)
        check_whole(0, seed=self.seed)


@dataclass(frozen=True)
class ZeroCost:
    """Scores of subnets beside their true accuracies; larger is better.

    ``values`` has a score's of each subnet, (S,), minus infinity comes last; ``seconds`` what it took a subnet.
    ``loss`` (S,) is that of a run's supernet, ``ranked`` the run's ranking where it was made for this.
    """

    subnets: list[Subnet]
    values: dict[str, np.ndarray]
    seconds: dict[str, float]
    true: np.ndarray
    params: np.ndarray
    column: str
    loss: np.ndarray | None = None
    ceiling: Ceiling | None = None
    ranked: Ranking | None = None

    @property
    def names(self) -> list[str]:
        """Of the rows: the scores; where there is a loss, it before them and their combinations with it after."""
        both = [COMBINED + name for name in self.values]
        return list(self.values) if self.loss is None else ["loss", *self.values, *both]

    def scores(self, name: str) -> np.ndarray:
        """(S,): a score, the negated loss, or the mean of the ranks by both, one half each."""
        if self.loss is None or name in self.values:
            return self.values[name]
        return -self.loss if name == "loss" else mean_rank(-self.loss, self.values[name.removeprefix(COMBINED)])

    @cached_property
    def table(self) -> dict[str, dict[str, float]]:
        """Of each row tau, spearman and top_tau (see `quality`), and of a score the seconds a subnet."""
        timed = {name: {"seconds": seconds} for name, seconds in self.seconds.items()}
        return {name: {**quality(self.scores(name), self.true), **timed.get(name, {})} for name in self.names}


def of_run(run: Path) -> ScoreConfig:
    """The configuration that scores what a run ranks."""
    known = read_config(run).get("config", {})
    try:
        return ScoreConfig(space_from_dict(known["space"]), known["dataset"], known["split"])
    except KeyError:
        raise UserError(f"{run} holds no supernet run: name a folder that nshot train made") from None


def score_subnets(
    names: Sequence[str],
    config: ScoreConfig,
    benchmark: str,
    out: str | Path,
    *,
    subnets: Path | None = None,
    sample: int | None = None,
    column: str | None = None,
    run: Path | None = None,
    ranking: str = "ranking",
    name: str = "scores",
    root: str | Path | None = None,
    device: str = "auto",
    data: Dataset | None = None,
    on: On | None = None,
) -> ZeroCost:
    """Scores subnets without training and writes the scores to a folder, where a killed scoring continues.

    Args:
        names: scores, see `nshot.scores.list_scores`.
        config: what determines them.
        benchmark: name or file, see `read_benchmark`.
        out: the folder; what is scored there already is taken from there.
        subnets: as `rank_run` has it.
        sample: as `rank_run` has it.
        column: of true accuracies; default ``<dataset>_test``.
        run: a run whose ranking ``ranking`` has these subnets, or is made here: each score is combined with its loss.
        ranking: that ranking's name.
        name: of the files written.
        root: data root.
        device: Fabric's accelerator.
        data: the data set, where it is loaded already.
        on: where subnets are scored; None: in this process.

    Raises:
        UserError: for a score, benchmark, list, run or number that cannot be used; before anything is written.
    """
    alone("a scoring")
    check_names(names)
    column = column or f"{config.dataset}_test"
    table = read_benchmark(benchmark, config.space, root)
    chosen = chosen_subnets(config.space, table, subnets, sample, root)
    true = table.truth(column, chosen)
    data = data or load(config.dataset, root=root, split=config.split, resolution=config.space.resolution)
    space = config.space.with_classes(data.classes)
    folder, measure = Path(out), Measure(space, data, config.batch_size, config.seed, device)
    check_name(folder, name, "ranking")
    if not (folder / "config.json").exists():
        for each in names:  # what this space does not have is said before there is a folder
            measure(each, space.canonical(chosen[0]))
    _check_folder(folder, config, data)
    where: dict[str, Any] = {"root": root, "device": device}
    ranked = None
    if run is not None and not (run / f"{ranking}.json").exists():
        asked: dict[str, Any] = {"subnets": subnets, "sample": sample, "column": column}
        ranked, _ = rank_run(run, benchmark, **asked, name=ranking, on=on, **where)
    loss = None if run is None else losses(run, ranking, config.space, chosen)
    with (on or On()).beside(folder) as there, locked(folder):
        claim(folder, "scores", _to_dict(config), data=data)
        done = _all(folder, names, sorted({space.canonical(subnet) for subnet in chosen}), measure, there)
        values = {each: _of_subnets(each, space, chosen, done) for each in names}
        seconds = {each: _seconds(each, space, chosen, done) for each in names}
        most = ceiling(space, table, column, chosen)
        params = np.array([space.network_params(subnet) for subnet in chosen])
        found = ZeroCost(chosen, values, seconds, true, params, column, loss, most, ranked)
        listed = str(subnets) if subnets else f"sample of {len(chosen)}"
        described = {"benchmark": benchmark, "column": column, "list": listed}
        described |= {} if run is None else {"run": str(run), "ranking": ranking}
        _write(folder, name, space, found, described)
    return found


def check_names(names: Sequence[str]) -> None:
    """Raises UserError where there are no scores, one twice, or one that is unknown."""
    if not names:
        raise UserError("no score is named: nshot score zico zen ... --benchmark B")
    for each in names:
        check_score(each)
        if names.count(each) > 1:
            raise UserError(f"score {each!r} is named twice: leave it once")


def _check_folder(folder: Path, config: ScoreConfig, data: Dataset) -> None:
    """Raises UserError where the folder is none that these scores can go to: before a run is ranked for them."""
    if folder.exists():
        with locked(folder):
            if (folder / "config.json").exists():
                claim(folder, "scores", _to_dict(config), data=data)


def losses(run: Path, ranking: str, space: Space, subnets: Sequence[Subnet]) -> np.ndarray:
    """The losses of subnets in a run's ranking, (S,).

    Raises:
        UserError: where the run is of another space, or its ranking is missing, broken or lacks some.
    """
    if (other := of_run(run).space.name) != space.name:
        raise UserError(f"run {run} is of space {other}, not {space.name}: leave out --space or name another --run")
    try:
        rows = read_parquet(run / f"{ranking}.parquet", ["arch", "loss"]).to_pydict()
    except (OSError, ValueError) as error:
        raise UserError(f"{run}: ranking {ranking!r} cannot be read ({error}): rank the run again") from None
    known = dict(zip(rows["arch"], rows["loss"], strict=True))
    missing = [arch for arch in map(space.format, subnets) if arch not in known]
    if missing:
        raise UserError(
            f"{run}: ranking {ranking!r} lacks {len(missing)} of the {len(subnets)} subnets, such as {missing[0]}: "
            "name one of the same subnets by --ranking, a new name ranks them"
        )
    return np.array([known[space.format(subnet)] for subnet in subnets])


Done = dict[tuple[str, Subnet], Value]


def _all(folder: Path, names: Sequence[str], forms: list[Subnet], measure: Measure, there: Executor | None) -> Done:
    """The scores of all forms: those that the folder has, and the others, which it is given as they come."""
    done = {(line["score"], tuple(line["subnet"])): line for line in mended(folder / VALUES)}
    wanted = [(name, form) for name in names if name not in COSTS for form in forms]
    left = [each for each in wanted if each not in done]
    with (
        appending(folder / VALUES) as log,
        Progress("score", len(wanted), len(wanted) - len(left), noun="subnets") as progress,
    ):
        for name, form, value in measured(left, measure, there):
            done[name, form] = {"score": name, "subnet": list(form), **value}
            log.write(as_line(done[name, form]))
            log.flush()
            progress.advance()
            progress.show()
    return done


def _of_subnets(name: str, space: Space, subnets: Sequence[Subnet], done: Done) -> np.ndarray:
    if name in COSTS:
        return np.array([COSTS[name](space, subnet) for subnet in subnets], dtype=np.float64)
    values = [read_stored(done[name, space.canonical(subnet)]["value"]) for subnet in subnets]
    return np.array(values, dtype=np.float64)


def _seconds(name: str, space: Space, subnets: Sequence[Subnet], done: Done) -> float:
    """The mean of those that were scored, one of each canonical form; 0 for what tables say."""
    if name in COSTS:
        return 0.0
    return float(np.mean([done[name, form]["seconds"] for form in sorted(set(map(space.canonical, subnets)))]))


def _to_dict(config: ScoreConfig) -> dict[str, Any]:
    own = {"dataset": config.dataset, "split": config.split, "batch_size": config.batch_size, "seed": config.seed}
    return {"space": config.space.to_dict(), **own}


def _write(folder: Path, name: str, space: Space, found: ZeroCost, described: dict[str, Any]) -> None:
    """Writes ``<name>.parquet`` (a row a subnet) and ``<name>.json`` (the table)."""
    import pyarrow as pa

    columns: dict[str, Any] = {"arch": [space.format(subnet) for subnet in found.subnets], "true": found.true}
    columns |= {} if found.loss is None else {"loss": found.loss}
    write_parquet(folder / f"{name}.parquet", pa.table({**columns, **found.values}))
    last = {each: int(np.isneginf(values).sum()) for each, values in found.values.items()}
    told = None if found.ceiling is None else asdict(found.ceiling)
    summary = {**described, "subnets": len(found.subnets), "scores": found.table, "minus infinity": last}
    write_json(folder / f"{name}.json", {**summary, "ceiling": told})
