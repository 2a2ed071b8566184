"""Generators seeded by (seed, purpose, step): no draw of nshot depends on a global generator or on history."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from zlib import crc32

import numpy as np
import torch

_held = [RLock()]  # while the global generators are seeded
if hasattr(os, "register_at_fork"):  # a forked process has them for itself, and no thread that would let them go
    os.register_at_fork(after_in_child=lambda: _held.__setitem__(0, RLock()))


def generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """A numpy generator that depends on its three arguments alone."""
    return np.random.default_rng([seed, crc32(purpose.encode()), step])


def torch_generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A torch CPU generator that depends on its three arguments alone."""
    return torch.Generator().manual_seed(int(generator(seed, purpose, step).integers(2**63)))


@contextmanager
def seeded(seed: int, purpose: str, step: int = 0) -> Iterator[None]:
    """Seeds torch's global generators inside the block and restores the CPU's after: for weight initialisation and
    drop-path, which draw from the global generators only. One thread at a time: the generators are the process's."""
    with _held[0], torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, purpose, step).integers(2**63)))
        yield


@contextmanager
def seeded_everywhere(seed: int, purpose: str, step: int, device: torch.device) -> Iterator[None]:
    """As `seeded`, for libraries that draw from the global generators of Python, numpy and torch on the device."""
    draw = generator(seed, purpose, step)
    with _held[0], torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        pythons, numpys = random.getstate(), np.random.get_state()
        torch.manual_seed(int(draw.integers(2**63)))
        random.seed(int(draw.integers(2**63)))
        np.random.seed(int(draw.integers(2**32)))
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)
