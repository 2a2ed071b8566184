"""Many jobs on many cores, from measured figures of one: how long all take, and what the cores wait for.

A driver gives out jobs one at a time; a job's process starts once a core; each job computes for its time on one core,
spread as measured, and writes to one shared folder that serves one write after the other.
"""

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Work:
    """Jobs of a command, in the order in which they are given out."""

    name: str
    seconds: np.ndarray
    """Of each job on one core, (J,)."""
    writes: int
    """How often each writes to the run folder, at equal distances, the last at its end."""
    megabytes: float
    """Of each write."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a machine; all but the spread in seconds."""

    start: float
    """From asking for the first job to its result: a process that imports torch."""
    dispatch: float
    """Of the driver, for each job: it is sent, and its result received."""
    write: float
    """Of one megabyte, safely on disk."""
    spread: float
    """Standard deviation of the logarithm of the time of equal jobs."""


@dataclass(frozen=True)
class Outcome:
    """Of a simulation; shares are of the time that all takes."""

    hours: float
    efficiency: float
    """Share of all cores' time in which they compute."""
    driver: float
    """Share in which the driver is at work."""
    folder: float
    """Share in which the folder is written to."""
    tail: float
    """Share from the first core that has nothing left to do to the end."""


def simulate(work: Work, machine: Measured, cores: int, rng: np.random.Generator) -> Outcome:
    """One course of events."""
    times = work.seconds * np.exp(machine.spread * rng.standard_normal(len(work.seconds)))
    write = machine.write * work.megabytes
    driver = folder = 0.0
    queue, ended, todo = [(0.0, core, 0.0, 0) for core in range(min(cores, len(times)))], [], list(times[::-1])
    begun: set[int] = set()
    while queue:
        now, core, segment, left = heapq.heappop(queue)
        if left:  # a piece is computed, and is written when the folder is free
            now = folder = max(now, folder) + write
            left -= 1
        if left:
            heapq.heappush(queue, (now + segment, core, segment, left))
        elif todo:
            now = driver = max(now, driver) + machine.dispatch
            segment = todo.pop() / work.writes
            now += 0 if core in begun else machine.start
            begun.add(core)
            heapq.heappush(queue, (now + segment, core, segment, work.writes))
        else:
            ended.append(now)
    total = max(ended)
    return Outcome(
        hours=total / 3600,
        efficiency=float(times.sum() / (cores * total)),
        driver=machine.dispatch * len(times) / total,
        folder=write * work.writes * len(times) / total,
        tail=(total - (min(ended) if len(ended) == cores else 0.0)) / total,
    )
