"""Latency of stand-alone networks on this machine: measured, and predicted by a table of what each option costs."""

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
from nshot.spaces import Space, Subnet

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

    Args:
        space: of the subnets.
        table: what `latency.json` holds; see `fitted`.
        path: that file, which takes what is measured later.
    """

    def __init__(self, space: Space, table: dict[str, Any], path: Path | None = None, by: Measure = measure) -> None:
        self.space, self.table, self._path, self._by = space, table, path, by
        self.setting = Setting(**table["setting"])
        self._costs = [list(row["ms"].values()) for row in table["decisions"]]

    def __call__(self, subnet: Subnet) -> float:
        form = self.space.canonical(subnet)
        return self.table["base_ms"] + sum([row[option] for row, option in zip(self._costs, form, strict=True)])

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


def fit(space: Space, forms: Sequence[Subnet], ms: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """The base and the costs of each decision's options, none below 0, with the least squares of relative errors."""
    from scipy.optimize import nnls

    sizes = [len(decision.options) for decision in space.decisions]
    starts = np.cumsum([1, *sizes[:-1]])
    design = np.zeros((len(forms), 1 + sum(sizes)))
    design[:, 0] = 1
    np.put_along_axis(design, starts + np.array(forms), 1, axis=1)
    costs = nnls(design / ms[:, None], np.ones(len(ms)))[0]
    rows = [
        dict(zip(decision.options, costs[start : start + size].tolist(), strict=True))
        for decision, start, size in zip(space.decisions, starts, sizes, strict=True)
    ]
    return float(costs[0]), rows


def fitted(
    space: Space, setting: Setting | None = None, *, samples: int | None = None, seed: int = 0, by: Measure = measure
) -> dict[str, Any]:
    """A latency table: fitted to measured random subnets, and compared with 50 others.

    Args:
        space: of the subnets.
        setting: threads and batch.
        samples: how many subnets are measured for it; default: three times as many as the space has options. A space
            that has fewer is measured whole, and compared with a second measurement of itself.
        seed: which.
        by: what measures.

    Returns:
        ``space``, ``machine``, ``setting``, ``samples``, ``base_ms``, ``decisions`` with each option's ``ms``,
        ``measured_ms`` and ``check``, see `_compared`.

    Raises:
        UserError: for fewer samples than the table has unknowns.
    """
    setting = setting or Setting()
    options = [len(decision.allowed) for decision in space.decisions]
    unknowns = 1 + sum(options) - len(options)
    samples = 3 * sum(options) if samples is None else samples
    if samples < unknowns:
        raise UserError(f"samples {samples}: the table of space {space.name} has {unknowns} unknowns, take more")
    forms = random_subnets(space, 4 * (samples + CHECKS), seed=seed)
    chosen, others = forms[:samples], (forms[samples:] or forms)[:CHECKS]
    total = ROUNDS * (len(chosen) + 2 * len(others))
    with Progress("latency", total, noun="networks") as progress:

        def fastest(part: Sequence[Subnet]) -> np.ndarray:
            found = np.full(len(part), np.inf)
            for _ in range(ROUNDS):
                for i, form in enumerate(part):
                    found[i] = min(found[i], by(space, form, setting))
                    progress.advance()
                    progress.show(ms=found[i])
            return found

        ms, once, again = (fastest(part) for part in (chosen, others, others))
    base, rows = fit(space, chosen, ms)
    table = {
        "space": {"name": space.name, **space.sizes()},
        "machine": machine(),
        "setting": asdict(setting),
        "samples": len(chosen),
        "base_ms": base,
        "decisions": [{"name": d.name, "ms": row} for d, row in zip(space.decisions, rows, strict=True)],
        "measured_ms": {},
    }
    latency = Latency(space, table)
    predicted = np.array([latency(form) for form in others])
    return {**table, "check": {"other": len(forms) > samples, **_compared(predicted, once, again)}}


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
        "space": json.loads(json.dumps({"name": space.name, **space.sizes()})),
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
