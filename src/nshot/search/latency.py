"""Latency of stand-alone networks on this machine: measured, and predicted by a table of what each option costs.

Where one decision says what all others cost, as the images' side does, each of its options has a table of its own.
"""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from nshot.errors import UserError, check_whole
from nshot.files import read_json, write_json
from nshot.ranking.metrics import kendall_tau
from nshot.runs.folder import differences
from nshot.runs.lock import held
from nshot.runs.progress import Progress
from nshot.spaces import Decision, Space, Subnet

from .propose import random_subnets

FILE = "latency.json"
CHECKS = 50  # other subnets whose measured latency says how far the table is off
ROUNDS = 3  # over all networks; the fastest counts, for what else runs on the machine only ever adds to it
WARM_UP, SECONDS, CALLS = 3, 0.03, 9  # the least that a median is of


@dataclass(frozen=True)
class Setting:
    """How a network is run where its latency counts."""

    threads: int = 1
    """Of torch, within one operation."""
    batch: int = 1
    """Images at once; the latency is that of the batch."""

    def __post_init__(self) -> None:
        check_whole(1, threads=self.threads, batch=self.batch)


Measure = Callable[[Space, Subnet, Setting], float]


def measure(space: Space, subnet: Subnet, setting: Setting) -> float:
    """Milliseconds of the stand-alone network on the CPU: the median of at least 0.03 s and 9 calls, after a warm-up.

    In evaluation mode and channels-last, without gradients; its weights are new ones, which take as long as others.
    """
    network = space.network(subnet).eval().to(memory_format=torch.channels_last)
    x = torch.zeros(setting.batch, 3, space.resolution, space.resolution).to(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    times: list[float] = []
    torch.set_num_threads(setting.threads)
    try:
        with torch.inference_mode():
            for _ in range(WARM_UP):
                network(x)
            # Call by call: torch.utils.benchmark times blocks, whose means hold every interruption.
            while len(times) < CALLS or sum(times) < SECONDS:
                begin = time.perf_counter()
                network(x)
                times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(before)
    return 1e3 * median(times)


def machine() -> dict[str, str]:
    """What a latency depends on beside the network and its setting."""
    model = platform.processor() or platform.machine()
    if (cpu := Path("/proc/cpuinfo")).exists():
        named = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model n")]
        model = named[0] if named else model
    return {"cpu": model, "system": platform.system(), "torch": torch.__version__}


class Latency:
    """``latency(subnet)`` predicts milliseconds: a base and what each option of the canonical form adds.

    Where each option of a decision has a table of its own, both are of the subnet's.

    Args:
        space: of the subnets.
        table: what `latency.json` holds; see `fitted`.
        path: that file, which takes what is measured later.
    """

    def __init__(self, space: Space, table: dict[str, Any], path: Path | None = None, by: Measure = measure) -> None:
        self.space, self.table, self._path, self._by = space, table, path, by
        self.setting = Setting(**table["setting"])
        self._by_option = space.decision_index(table["by"]) if "by" in table else None
        parts = table.get("tables", {None: table})  # None: whatever the subnet
        self._costs = {option: (part["base_ms"], _costs(part)) for option, part in parts.items()}

    def __call__(self, subnet: Subnet) -> float:
        form, i = self.space.canonical(subnet), self._by_option
        base, costs = self._costs[None if i is None else self.space.decisions[i].options[form[i]]]
        return base + sum([row[option] for row, option in zip(costs, form, strict=True)])

    def measured(self, subnets: Sequence[Subnet]) -> list[float]:
        """Measured milliseconds; each form is measured once, and kept in the file."""
        known = self.table["measured_ms"]
        names = [" ".join(map(str, self.space.canonical(subnet))) for subnet in subnets]
        for name, subnet in zip(names, subnets, strict=True):
            if name not in known:
                known[name] = min(self._by(self.space, subnet, self.setting) for _ in range(ROUNDS))
        if self._path is not None:
            write_json(self._path, self.table)
        return [known[name] for name in names]


def _costs(table: dict[str, Any]) -> list[list[float]]:
    return [list(row["ms"].values()) for row in table["decisions"]]


def _apart(space: Space) -> Decision | None:
    """The one decision on which it depends what the others cost; of several (AutoFormer's width and depth) there would
    be too many tables."""
    return space.decisions[space.couples[0]] if len(space.couples) == 1 else None


def fit(space: Space, forms: Sequence[Subnet], ms: np.ndarray) -> dict[str, Any]:
    """``base_ms``, and the ``decisions`` with their options' ``ms``, none below 0: least squares of relative errors."""
    from scipy.optimize import nnls

    sizes = [len(decision.options) for decision in space.decisions]
    starts = np.cumsum([1, *sizes[:-1]])
    design = np.zeros((len(forms), 1 + sum(sizes)))
    design[:, 0] = 1
    np.put_along_axis(design, starts + np.array(forms), 1, axis=1)
    costs = nnls(design / ms[:, None], np.ones(len(ms)))[0]
    rows = [
        {"name": decision.name, "ms": dict(zip(decision.options, costs[start : start + size].tolist(), strict=True))}
        for decision, start, size in zip(space.decisions, starts, sizes, strict=True)
    ]
    return {"base_ms": float(costs[0]), "decisions": rows}


def fitted(
    space: Space, setting: Setting | None = None, *, samples: int | None = None, seed: int = 0, by: Measure = measure
) -> dict[str, Any]:
    """A latency table: fitted to measured random subnets, and compared with 50 others.

    Args:
        space: of the subnets.
        setting: threads and batch.
        samples: how many subnets are measured for a table; default: three times as many as the space has options. A
            space that has fewer is measured whole, and compared with a second measurement of itself.
        seed: which.
        by: what measures.

    Returns:
        ``space``, ``machine``, ``setting``, ``samples`` (of a table), ``base_ms``, ``decisions`` with each option's
        ``ms``, ``measured_ms`` and ``check``, see `_compared`. Where each option of a decision has a table of its own,
        ``by`` is that decision, and ``tables`` has their ``base_ms`` and ``decisions``.

    Raises:
        UserError: for fewer samples than a table has unknowns.
    """
    setting, apart = setting or Setting(), _apart(space)
    names = [] if apart is None else [apart.options[i] for i in apart.allowed]
    parts = [space] if apart is None else [space.restrict(apart.name, name) for name in names]
    options = [len(decision.allowed) for decision in parts[0].decisions]
    unknowns = 1 + sum(options) - len(options)
    samples = 3 * sum(options) if samples is None else samples
    if samples < unknowns:
        raise UserError(f"samples {samples}: the table of space {space.name} has {unknowns} unknowns, take more")
    each = -(-CHECKS // len(parts))
    forms = [random_subnets(part, 4 * (samples + each), seed=seed) for part in parts]
    chosen = [found[:samples] for found in forms]
    every = [form for found in chosen for form in found]
    others = [form for found in forms for form in (found[samples:] or found)[:each]][:CHECKS]
    with Progress("latency", ROUNDS * (len(every) + 2 * len(others)), noun="networks") as progress:

        def fastest(part: Sequence[Subnet]) -> np.ndarray:
            found = np.full(len(part), np.inf)
            for _ in range(ROUNDS):
                for i, form in enumerate(part):
                    found[i] = min(found[i], by(space, form, setting))
                    progress.advance()
                    progress.show(ms=found[i])
            return found

        ms, once, again = (fastest(part) for part in (every, others, others))
    each_ms = np.split(ms, np.cumsum([len(found) for found in chosen])[:-1])
    made = [fit(space, found, own) for found, own in zip(chosen, each_ms, strict=True)]
    table = {
        "space": space.to_dict(),
        "machine": machine(),
        "setting": asdict(setting),
        "samples": max(map(len, chosen)),
        **(made[0] if apart is None else {"by": apart.name, "tables": dict(zip(names, made, strict=True))}),
        "measured_ms": {},
    }
    latency = Latency(space, table)
    predicted = np.array([latency(form) for form in others])
    other = all(len(found) > samples for found in forms)
    return {**table, "check": {"other": other, **_compared(predicted, once, again)}}


def _compared(predicted: np.ndarray, once: np.ndarray, again: np.ndarray) -> dict[str, float | int]:
    """How far predictions are from the mean of two measurements, and those from one another: shares, 0.1 is 10 %."""
    true = (once + again) / 2
    errors, spread = np.abs(predicted / true - 1), np.abs(once - again) / true
    return {
        "subnets": len(true),
        "error_median": float(np.median(errors)),
        "error_90": float(np.quantile(errors, 0.9)),
        "tau": kendall_tau(predicted, true),
        "repeat_median": float(np.median(spread)),
        "repeat_90": float(np.quantile(spread, 0.9)),
        "repeat_tau": kendall_tau(once, again),
        "low_ms": float(true.min()),
        "high_ms": float(true.max()),
    }


def keep(run: Path, latency: Latency) -> None:
    """Makes a table that was fitted before there was a run the run's, where it has none."""
    with held(run, "a table of latency", "latency"):
        if not (run / FILE).exists():
            write_json(run / FILE, latency.table)


def latency_of(
    run: Path,
    space: Space,
    setting: Setting | None = None,
    *,
    samples: int | None = None,
    by: Measure = measure,
    say: Callable[[str], None] = print,
) -> Latency:
    """A run's latency table: its ``latency.json``, made where there is none.

    Args:
        run: the run folder.
        space: the run's.
        setting: threads and batch, None: those of the file, else one of each.
        samples: as `fitted`, for a new table.
        by: what measures.
        say: takes lines for the user.

    Raises:
        UserError: for a file that is no latency table, or one of another space, machine or setting.
    """
    path = run / FILE
    if not path.exists():
        wanted = setting or Setting()
        with held(run, "a measurement of latency", "latency"):
            say(f"measuring latencies on this machine: {wanted.threads} threads, batches of {wanted.batch}")
            write_json(path, fitted(space, wanted, samples=samples, by=by))
    try:
        table = read_json(path)
        made = {key: table[key] for key in ("space", "machine", "setting")}
        latency = Latency(space, table, path, by)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no latency table: delete it to measure anew") from None
    now = {
        "space": json.loads(json.dumps(space.to_dict())),
        "machine": machine(),
        "setting": made["setting"] if setting is None else asdict(setting),
    }
    changed = differences(made, now)
    # Of a small space all are measured, however many were asked for.
    every = not table.get("check", {}).get("other", True)
    if samples is not None and samples != table["samples"] and not (every and samples > table["samples"]):
        changed.append(f"samples: {table['samples']}, not {samples}")
    if changed:
        raise UserError(f"{path} is another latency table ({'; '.join(changed)}): delete it to measure anew")
    return latency
