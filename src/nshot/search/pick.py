"""Picks the best subnet of a trained supernet among proposed ones, by accuracy or by loss on held-out images."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from nshot.data.sources import Dataset, data_root
from nshot.errors import Say, UserError
from nshot.files import write_json, write_parquet
from nshot.runs.folder import versions
from nshot.runs.lock import held
from nshot.runs.naming import check_name, check_same
from nshot.runs.where import On
from nshot.spaces import FewShot, Space, Subnet, Supernet
from nshot.spaces.lists import subnets_from_file
from nshot.strategies.memory import Judge
from nshot.supernets.config import TrainConfig
from nshot.supernets.load import load_run
from nshot.supernets.score import evaluator
from nshot.training.distributed import alone

from .archive import Archive
from .evolution import Evolution, evolve
from .how import How, list_record
from .latency import Latency, latency_of
from .limits import Limits
from .own import own_subnet
from .pareto import Objective, front, nsga2, objective_values
from .propose import all_subnets, random_subnets, within

Score = Literal["accuracy", "loss"]
NAME = "search"  # of the files of a search that is given no other


def search_run(
    run: Path,
    limits: Limits,
    how: How | None = None,
    *,
    subnets: Path | None = None,
    by: Score = "accuracy",
    images: int | None = None,
    calibration: int | None = None,
    name: str = NAME,
    root: str | Path | None = None,
    device: str = "auto",
    data: Dataset | None = None,
    on: On | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Searches a finished run's best subnet within the limits.

    What is evaluated is kept in the run folder, so that a killed search, or another one of the same run, does not
    evaluate it again. Where latency is limited or an objective, the run's latency table is made first if it has none.

    Args:
        run: the run folder.
        limits: what the network that is handed over may cost; with a ``latency`` of their own, milliseconds are its.
        how: who proposes subnets.
        subnets: instead, a JSON list (see `subnets_from_file`). Each counts as the leanest subnet that computes the
            same, once; all of these are scored that keep to the limits.
        by: the score; ties of one are broken by the other.
        images: so many validation images, a stratified sample; default all.
        calibration: as `scored` has it.
        name: of the files written. The same search by the same name is made again; another one is refused.
        root: data root.
        device: Fabric's accelerator.
        data: the run's data set, where it is loaded already.
        on: where subnets are scored; None: in this process.
        say: takes lines for the user.

    Returns:
        As `pick`.

    Raises:
        UserError: for a run, list, latency table, name or number that cannot be used, limits that no subnet keeps to,
            and a run folder that another process holds.
    """
    alone("a search")
    how = how or How()
    if by not in get_args(Score):
        raise UserError(f"unknown score {by!r}: choose one of {', '.join(get_args(Score))}")
    if subnets is not None and how != How():
        raise UserError(f"subnets {subnets}: a list is scored whole, leave out --method, --sample and --seed")
    config, supernet = load_run(run)
    space = config.space.retrained
    check_name(run, name, "search")
    with (on or On()).beside(run, say) as there, held(run, "a search", name):
        named = None if subnets is None else subnets_from_file(subnets, config.space, data_root(root))
        proposed = how.record() if subnets is None or named is None else list_record(subnets, named)
        evaluate, score, identity = evaluator(
            run, config, supernet, images=images, calibration=calibration, root=root, device=device, data=data, say=say
        )
        own = {} if limits.latency is None else {"latency": "a latency of one's own, which cannot be compared"}
        made = {"search": {**proposed, **own}, "score": score}
        check_same(run / f"{name}.json", "search", {**made, "by": by, "limits": limits.record()}, *own.values())
        objectives = how.objectives if how.method == "nsga2" and named is None else None
        timed = limits.max_latency is not None or "latency" in (objectives or ())
        latency = limits.latency or (latency_of(run, space, say=say) if timed else None)
        limits = limits.by(latency)
        where = f" of {subnets}"
        if named is None and how.method == "own":
            named, where = [_answer(run, config, evaluate)], f" (the one answer of {config.strategy})"
        leanest = None if named is None else list(dict.fromkeys(map(supernet.canonical, named)))
        listed = None if leanest is None else within(space, leanest, limits, where)
        with evaluate.spread(there) as spread:
            archive = Archive(evaluate, supernet.canonical, run / f".search-{identity}.jsonl", spread)
            candidates = listed or _proposed(space, archive, limits, how, by, say)
            figures = archive(candidates)
        more: dict[str, Any] = {"objectives": objectives, "latency": latency, "name": name}
        return pick(run, config, supernet, candidates, figures, made, limits, by, **more)


def _answer(run: Path, config: TrainConfig, judge: Judge) -> Subnet:
    """The subnet that the run's method ends with. Raises UserError where it has none."""
    own = own_subnet(run, config, judge)
    if own is None:
        others = "random, exhaustive, evolution or nsga2"
        raise UserError(f"method own: {config.strategy} has no answer of its own, choose {others}")
    return own


def _proposed(space: Space, archive: Archive, limits: Limits, how: How, by: Score, say: Say) -> list[Subnet]:
    if how.method == "random":
        return random_subnets(space, how.sample, limits, how.seed, archive.canonical)
    if how.method == "exhaustive":
        return all_subnets(space, archive.canonical, limits)
    if how.method == "evolution":
        half = how.population // 2
        sizes = Evolution(how.population, how.generations, min(10, how.population), half, how.population - half)

        def tell(generation: int, best: Subnet, value: float) -> None:
            say(f"generation {generation + 1} of {how.generations}: best {_told(*archive([best])[0])}")

        return evolve(space, archive, partial(_score, by), limits=limits, evolution=sizes, seed=how.seed, after=tell)

    def tell_front(generation: int, evaluated: list[Subnet]) -> None:
        figures = archive(evaluated)
        best = _told(*figures[_score(by, figures).argmax()])
        size = len(front(objective_values(space, evaluated, figures, how.objectives, limits)))
        say(f"generation {generation} of {how.generations}: best {best}; {size} of {len(evaluated)} on the front")

    sizes_ = {"population": how.population, "generations": how.generations, "seed": how.seed}
    return nsga2(space, archive, how.objectives, limits=limits, after=tell_front, **sizes_)


def _told(accuracy: float, loss: float) -> str:
    return f"{accuracy:.2f} %, loss {loss:.3f}"


def _score(by: Score, figures: np.ndarray) -> np.ndarray:
    """The larger the better; the other score breaks ties, too small to change any other order."""
    accuracy, loss = figures.T
    return accuracy - 1e-6 * loss if by == "accuracy" else -loss + 1e-9 * accuracy


def pick(
    run: Path,
    config: TrainConfig,
    supernet: Supernet,
    subnets: Sequence[Subnet],
    figures: np.ndarray,
    made: dict[str, Any],
    limits: Limits,
    by: Score,
    *,
    objectives: Sequence[Objective] | None = None,
    latency: Callable[[Subnet], float] | None = None,
    name: str = NAME,
) -> dict[str, Any]:
    """Writes the ten best of scored subnets to ``<name>.json`` in the run folder, and all to ``<name>.parquet``.

    Args:
        run: a finished run.
        config: its configuration.
        supernet: what scored.
        subnets: the candidates, all within the limits: leanest members of canonical forms, none twice.
        figures: theirs, accuracy in percent and loss (S, 2).
        made: how they came about: ``search``, the method and its settings, and ``score``, what they were scored on.
        limits: what they kept to, for the record.
        by: the score; ties of one are broken by the other.
        objectives: whose best compromises are wanted too.
        latency: tells milliseconds, which then are among the costs.
        name: of the files.

    Returns:
        What the JSON holds: ``search``, ``score`` and ``versions``, how it came about; ``best`` and the ten best, each
        with arch, costs, accuracy and loss; of several supernets also ``parts``, the best of each, which few-shot NAS
        retrains all (section D of the supplement); with ``objectives`` also ``front``, the subnets that no other beats
        in all of them. With ``latency`` each has ``latency_ms``, as that predicts it, and where it is a table of this
        machine's, the best and the front ``measured_ms`` too.
    """
    accuracy, loss = figures.T
    keys = (-accuracy, loss)
    order = np.lexsort(keys[::-1] if by == "accuracy" else keys)
    space = config.space.retrained
    scored = _columns(space, subnets, figures, latency)

    def row(i: int) -> dict[str, Any]:
        own = {name: column[i] for name, column in scored.items()}
        return {"arch": own.pop("arch"), "subnet": list(subnets[i]), **own}

    top = [row(i) for i in order[:10]]
    result = {
        "space": space.to_dict(),
        "dataset": config.dataset,
        **made,
        "versions": versions(),
        "by": by,
        "limits": limits.record(),
        "candidates": len(subnets),
        "images": made["score"]["images"],
        "best": top[0],
        "top": top,
    }
    if isinstance(supernet, FewShot):
        result["parts"] = [row(i) for i in _firsts(supernet, subnets, order)]
    front_rows: list[dict[str, Any]] = []
    if objectives is not None:
        values = objective_values(space, subnets, figures, objectives, limits)
        front_rows = [row(i) for i in sorted(front(values), key=lambda i: values[i][-1])]
        result |= {"objectives": list(objectives), "front": front_rows}
    if isinstance(latency, Latency):
        result["latency"] = {key: latency.table[key] for key in ("machine", "setting", "check")}
        chosen = [top[0], *front_rows]
        for entry, ms in zip(chosen, latency.measured([entry["subnet"] for entry in chosen]), strict=True):
            entry["measured_ms"] = ms
    write_parquet(run / f"{name}.parquet", pa.table(scored))
    write_json(run / f"{name}.json", result)
    return result


def _firsts(supernet: FewShot, subnets: Sequence[Subnet], order: np.ndarray) -> list[int]:
    """Of each part the first in order that is its own."""
    firsts: dict[Any, int] = {}
    for i in order:
        firsts.setdefault(supernet.owner(subnets[i]), i)
    return list(firsts.values())


def _columns(
    space: Space, subnets: Sequence[Subnet], figures: np.ndarray, latency: Callable[[Subnet], float] | None
) -> dict[str, list[Any]]:
    """What is known of each subnet."""
    found = {
        "arch": [space.format(subnet) for subnet in subnets],
        "accuracy": figures[:, 0].tolist(),
        "loss": figures[:, 1].tolist(),
        "params": [space.network_params(subnet) for subnet in subnets],
        "flops": [space.flops(subnet) for subnet in subnets],
    }
    return found if latency is None else {**found, "latency_ms": [latency(subnet) for subnet in subnets]}
