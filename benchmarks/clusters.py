"""What many machines are worth: Ray against processes of this machine, and the paper's work at full size, simulated.

python benchmarks/clusters.py --out docs/results/clusters.json    # on a quiet machine, about 20 minutes

Measures 200 jobs of 2 seconds on two cores, by both executors in turn, with all that it takes to begin and to end; what
an empty job costs the driver; a process's start; a full-size checkpoint's way to the disk; and steps, rankings and
trainings at the paper's size on one core. From these it computes hours on many cores (simulation.py).
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import nshot
from nshot.networks.recipes import Recipe
from nshot.ranking.evaluate import evaluate
from nshot.runs.checkpoint import save
from nshot.runs.where import On
from nshot.strategies import strategies
from nshot.studies.base import scale, studies
from nshot.studies.gradients import DISTANCES, similarity, spread
from nshot.studies.runner import jobs_of
from nshot.supernets.config import TrainConfig
from simulation import Measured, Work, simulate
from step import SIZES, Ours, batch_of

CORES = (1, 8, 64, 512)
TRAIN_IMAGES, HELD_OUT = 25_000, 25_000  # of CIFAR-10's search split
FORMS = 7_548  # canonical forms of the 15,625 subnets
SUBNETS = 10_000  # of a benchmark
CHUNK = 64  # subnets of a job of a ranking
METHODS = ("spos", "fairnas", "fsnas")


def spin(rounds: int) -> float:
    """So much work on one core, the same each time; the seconds that it took."""
    began = time.perf_counter()
    values = np.random.default_rng(0).random((64, 64))
    for _ in range(rounds):
        values = values @ values
        values /= np.linalg.norm(values)
    return time.perf_counter() - began


def nothing(number: int) -> int:
    return number


def done(on: str, function: Any, tasks: Sequence[Any], folder: Path) -> tuple[float, float, list[Any]]:
    """Seconds of all, those until the first result, and the results."""
    began, first, results = time.perf_counter(), 0.0, []
    with On(on=on, jobs=2).open(folder, say=lambda line: None) as there:
        for result in there.run(function, tasks):
            first = first or time.perf_counter() - began
            results.append(result)
    return time.perf_counter() - began, first, results


def executors(folder: Path, jobs: int, rounds: int) -> dict[str, Any]:
    """Jobs on Ray against processes here, twice in turn."""
    found: dict[str, Any] = {"jobs": jobs, "local": [], "ray": [], "first": {"local": [], "ray": []}, "each": []}
    for _ in range(2):
        for on in ("local", "ray"):
            total, first, each = done(on, spin, [(rounds,)] * jobs, folder)
            found[on].append(total)
            found["first"][on].append(first)
            found["each"] += each
    found["overhead"] = [ray / local - 1 for ray, local in zip(found["ray"], found["local"], strict=True)]
    seconds = np.array(found.pop("each"))
    return found | {"job": float(np.median(seconds)), "spread": float(np.log(seconds).std())}


def dispatch(folder: Path, jobs: int = 2_000) -> float:
    """Seconds that an empty job costs, once there are workers."""
    short, long = (done("ray", nothing, [(i,) for i in range(n)], folder)[0] for n in (100, 100 + jobs))
    return (long - short) / jobs


def steps(count: int = 40) -> dict[str, float]:
    """Seconds of what jobs at the paper's size do, on one thread, means over random subnets."""
    rng, size = np.random.default_rng(0), SIZES["full"]
    ours, network = Ours(size, batch_of(size, 64)), nshot.space("nasbench201", **size)
    subnets = [network.sample(rng) for _ in range(count)]
    ours(subnets[0])
    trained = statistics.mean(timed(lambda subnet=subnet: ours(subnet)) for subnet in subnets)
    batches = [batch_of(size, 256) for _ in range(4)]
    with torch.no_grad():
        ranked = timed(lambda: evaluate(ours.net, subnets, batches)) / (count * len(batches) * 256)
    alone = statistics.mean(timed_alone(network, subnet, batches[0]) for subnet in subnets[: count // 4])
    return {"step": trained, "image": ranked, "alone": alone}


def timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def timed_alone(network: Any, subnet: Any, batch: Any) -> float:
    """A step of a stand-alone subnet, by the benchmark's recipe."""
    model = network.network(subnet, 10).to(memory_format=torch.channels_last)
    optimizer = Recipe().make_optimizer(model)

    def step() -> None:
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return timed(step)


def checkpoint(folder: Path) -> dict[str, float]:
    """A full-size checkpoint with five momenta: its megabytes, and the seconds until one is on disk."""
    weights = nshot.space("nasbench201").supernet().state_dict()
    state = {str(i): {name: torch.rand_like(value.float()) for name, value in weights.items()} for i in range(6)}
    seconds, path = [], None
    for step in range(10):
        seconds.append(timed(lambda step=step: save(folder, step, state)))
    path = next(folder.glob("step-*.pt"))
    return {"megabytes": path.stat().st_size / 1e6, "seconds": statistics.median(seconds)}


def trainings() -> Iterator[tuple[TrainConfig, int, int]]:
    """Trainings behind the paper's tables on NAS-Bench-201, three seeds, each once: its steps, and the paths of a step.

    A ranking and searches of one supernet share its training; figure B and table I train in folders of their own.
    """
    chosen = [studies[name] for name in studies.names()]
    trained = set()
    for job in jobs_of(chosen, scale("paper"), 3).values():
        config, function = job.config, job.measured.function if job.measured else None
        folder = job.folder if function in (similarity, spread) else job.supernet
        if config.space.name != "nasbench201" or config.strategy not in METHODS or folder in trained:
            continue
        trained.add(folder)
        parts = strategies[config.strategy].parts(config.space, config.options, config.seed)
        strategy = strategies[config.strategy](parts[0], total_steps=1, seed=0, options=config.options)
        paths = len(DISTANCES if function is similarity else strategy.plan(0).paths)
        yield config, len(parts) * config.epochs * (TRAIN_IMAGES // config.batch_size), paths


def works(found: dict[str, Any]) -> list[Work]:
    """What is computed on paper."""
    second, of = found["steps"], found["checkpoint"]
    supernets = np.array([steps * paths * second["step"] for _, steps, paths in trainings()])
    forms = np.array([min(CHUNK, FORMS - start) for start in range(0, FORMS, CHUNK)])
    epochs = Recipe().epochs * (TRAIN_IMAGES // Recipe().batch_size)
    alone = np.full(SUBNETS, epochs * second["alone"])
    every = round(np.mean([steps // config.checkpoint_every for config, steps, _ in trainings()]))
    return [
        Work("supernets of the tables", supernets, every, of["megabytes"]),
        Work("15,625 subnets on 25,000 images", forms * HELD_OUT * second["image"], 1, 0.1),
        Work("benchmark of 10,000 subnets", alone, 1, 0.001),
    ]


def simulated(found: dict[str, Any]) -> list[dict[str, Any]]:
    of, speed = found["checkpoint"], found["executors"]
    machine = Measured(
        start=speed["first"]["ray"][-1] - speed["job"],
        dispatch=found["dispatch"],
        write=of["seconds"] / of["megabytes"],
        spread=speed["spread"],
    )
    rows = []
    for work in works(found):
        for cores in CORES:
            out = simulate(work, machine, cores, np.random.default_rng(0))
            rows.append({"work": work.name, "jobs": len(work.seconds), "cores": cores, **asdict(out)})
    return rows


def markdown(found: dict[str, Any]) -> str:
    lines = ["| what | jobs | cores | time | cores at work | driver at work | folder written | end, not all at work |"]
    lines.append("|" + " --- |" * 8)
    for row in found["simulated"]:
        hours = row["hours"]
        span = f"{hours / 24:,.0f} days" if hours >= 72 else f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.0f} min"
        shares = " | ".join(share(row[key]) for key in ("efficiency", "driver", "folder", "tail"))
        lines.append(f"| {row['work']} | {row['jobs']:,} | {row['cores']} | {span} | {shares} |")
    return "\n".join(lines)


def share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.01 else "< 1 %"


def measured(jobs: int) -> dict[str, Any]:
    """All figures; OMP_NUM_THREADS must be 1 when Python begins."""
    torch.set_num_threads(1)
    rounds = 200
    rounds = round(rounds * 2.0 / min(spin(rounds) for _ in range(5)))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        found: dict[str, Any] = {"cores": os.cpu_count(), "steps": steps(), "checkpoint": checkpoint(folder)}
        found |= {"executors": executors(folder, jobs, rounds), "dispatch": dispatch(folder)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--out", type=Path, help="JSON; where it is there, it is simulated anew and nothing measured")
    given = parser.parse_args()
    known = given.out and given.out.exists()
    found = json.loads(given.out.read_text()) if known else measured(given.jobs)
    found["simulated"] = simulated(found)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found))


if __name__ == "__main__":
    main()
