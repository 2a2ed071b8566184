"""Two groups of ranked runs, each of one method with several seeds: does the second rank better than the first?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nshot.errors import UserError
from nshot.files import read_json, read_parquet, typed
from nshot.ranking.seeds import Mean, difference, over_seeds
from nshot.runs.execute import FREE
from nshot.runs.folder import differences, read_config
from nshot.supernets.config import completed


@dataclass(frozen=True)
class Comparison:
    """Taus by seed of both groups, their means, and the second's minus the first's."""

    first: dict[int, float]
    second: dict[int, float]
    means: tuple[Mean, Mean]
    difference: Mean


def compare_runs(
    first: Sequence[Path],
    second: Sequence[Path],
    *,
    ranking: str = "ranking",
    score: Literal["accuracy", "loss"] = "accuracy",
    paired: bool = True,
) -> Comparison:
    """Compares the Kendall's taus of two groups of runs.

    Args:
        first: run folders, of one configuration but for the seed.
        second: others.
        ranking: name of the ranking, as ``nshot rank --name`` has it.
        score: which tau.
        paired: by seed, where the groups have common ones.

    Raises:
        UserError: for a group that is empty or mixed, a run in both, or rankings that are not alike: of other subnets,
            images (also of another data set or split) or true accuracies, or by another version of the score.
    """
    if both := {path.resolve() for path in first} & {path.resolve() for path in second}:
        raise UserError(f"{min(both)} is in both groups: leave it in one")
    groups = []
    model: tuple[Path, dict[str, Any]] | None = None
    for side, runs in (("first", first), ("second", second)):
        if not runs:
            raise UserError(f"the {side} group has no runs: nshot compare RUNS... -- RUNS...")
        _check_one_method(runs)
        taus: dict[int, float] = {}
        for run in runs:
            seed, tau, described = _read(run, ranking, score)
            model = model or (run, described)
            if described != model[1]:
                other = next(key for key in described if described[key] != model[1][key])
                raise UserError(f"{run} and {model[0]} are ranked on other {other}: rank both alike")
            if seed in taus:
                raise UserError(f"{run}: seed {seed} is twice in the {side} group, leave one run a seed")
            taus[seed] = tau
        groups.append(taus)
    one, two = groups
    means = over_seeds(list(one.values())), over_seeds(list(two.values()))
    return Comparison(one, two, means, difference(one, two, paired=paired))


def _read(run: Path, ranking: str, score: str) -> tuple[int, float, dict[str, Any]]:
    """Seed, tau, and what of the ranking must be equal for two to compare."""
    config = completed(read_config(run)["config"])
    try:
        found = read_json(run / f"{ranking}.json")
        archs = read_parquet(run / f"{ranking}.parquet", ["arch"]).column("arch").to_pylist()
        tau = found["metrics"][score]["tau"]
        tau = None if tau is None else float(tau)
    except FileNotFoundError:
        make = f"nshot rank {typed(run)} --benchmark B --name {typed(ranking)}"
        raise UserError(f"{run} has no ranking {ranking!r}: make one with {make}") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{run}: ranking {ranking!r} cannot be read ({error}): rank the run again") from None
    if tau is None:
        raise UserError(f"{run}: its subnets have all the same {score}, which orders none: it has no tau to compare")
    described = {
        "data sets or splits": (config["dataset"], config["split"]),
        "versions or images of the score": (found.get("score"), found.get("images")),
        "true accuracies": (found.get("benchmark"), found.get("column")),
        "subnets": sorted(archs),
    }
    return config["seed"], tau, described


def _check_one_method(runs: Sequence[Path]) -> None:
    whole = [completed(read_config(run)["config"]) for run in runs]  # of whichever version wrote them
    known = [{key: value for key, value in config.items() if key not in ("seed", *FREE)} for config in whole]
    for run, config in zip(runs, known, strict=True):
        if changed := differences(known[0], config):
            raise UserError(
                f"{run} and {runs[0]} differ in more than the seed ({'; '.join(changed)}): group them apart"
            )
