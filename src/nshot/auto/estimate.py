"""How long a job will take here, and how much memory: a few steps of each kind are run and measured."""

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nshot.data.batches import Normalise, heldout_batches
from nshot.data.images import Pictures
from nshot.data.memory import peak_memory
from nshot.data.mixture import mixture
from nshot.data.reading import LeftOut
from nshot.data.sources import Dataset
from nshot.networks.recipes import Recipe
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.ranking.calibrate import keeps_statistics
from nshot.ranking.evaluate import evaluate
from nshot.runs.log import read_log
from nshot.seeding import generator
from nshot.spaces.additive import largest
from nshot.supernets.config import TrainConfig
from nshot.supernets.heldout import CALIBRATION
from nshot.supernets.train import new_supernet, train

from .pretrained import by_labels

STEPS, FIRST = 12, 4  # timed steps, of which the first are warm-up: kernels are compiled, memory is fetched
SUBNETS = 6
FORWARD = 1 / 3  # of a step: forward, and backward twice that


@dataclass(frozen=True)
class Estimate:
    """Seconds that the parts of a job will take, and bytes of memory."""

    train: float
    search: float
    retrain: float
    memory: int
    card: int = 0
    """Of a graphics card's."""

    def __str__(self) -> str:
        named = {"training": self.train, "search": self.search, "retraining": self.retrain}
        total = duration(sum(named.values()))
        times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in named.items())
        card = f", {self.card / 2**30:.1f} GiB of the card's" if self.card else ""
        return f"{total} ({times}) and {self.memory / 2**30:.1f} GiB of memory{card}"


def estimate(config: TrainConfig, recipe: Recipe, data: Dataset, candidates: float, device: str) -> Estimate:
    """Times steps of the supernet and of a middling network, and scores, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Little to test on; and what cannot be read is for the job to say.
        tested, unsaid = data.test.subset(np.arange(min(len(data.test), 64))), LeftOut()
        some = dataclasses.replace(data, train=_few(data, config.batch_size), test=tested, left_out=unsaid)
        fresh = dataclasses.replace(config, init=None, backbone_lr=1.0, frozen=0)  # steps of new weights take as long
        short = dataclasses.replace(fresh, epochs=1, warmup=0, log_every=FIRST, checkpoint_every=STEPS)
        train(short, some, folder / "supernet", device=device, say=_nothing)
        step = _step(folder / "supernet")
        one = dataclasses.replace(some, train=_few(data, recipe.batch_size), valid=data.valid.subset(np.arange(0)))
        once = dataclasses.replace(recipe, epochs=1, warmup=0, backbone_lr=1.0, frozen=0)
        alone = RetrainConfig(config.space.retrained, once, data.name, log_every=FIRST, checkpoint_every=STEPS)
        subnets = {"network": config.space.sample(generator(0, "estimate"))}
        if config.init is not None:  # the whole network is tuned too, and teaches
            subnets["whole"] = largest(config.space)
        for name_, subnet in subnets.items():
            retrain(alone, subnet, one, folder / name_, device=device, say=_nothing)
        steps = {name_: _step(folder / name_) for name_ in subnets}
    per_epoch = len(data.train) // config.batch_size
    alone_epoch = (len(data.train) + len(data.valid)) // recipe.batch_size
    scoring = _scoring(config, data) * min(candidates, config.space.size)
    card = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    again = steps["network"] * recipe.epochs * alone_epoch
    if config.init is not None:
        few = by_labels(recipe).epochs
        teaching = steps["whole"] * FORWARD * recipe.epochs * alone_epoch
        trials = 2 * steps["network"] * few * (len(data.train) // recipe.batch_size)
        again += steps["whole"] * few * alone_epoch + teaching + trials
    return Estimate(step * config.epochs * per_epoch, scoring, again, peak_memory(), card)


def _few(data: Dataset, batch: int) -> Pictures:
    """Training images for the steps, again and again where there are few."""
    return data.train.subset(np.arange(STEPS * batch) % len(data.train))


def _step(run: Path) -> float:
    """Seconds of a step after the first, by the log."""
    lines = read_log(run / "log.jsonl")
    first, last = lines[0], lines[-1]
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


def _scoring(config: TrainConfig, data: Dataset) -> float:
    """Seconds of scoring a subnet on all images that rank."""
    supernet = new_supernet(config)
    few = mixture(data.valid, min(len(data.valid), 512))
    batches = heldout_batches(few, min(256, len(few)), Normalise(data.train, config.space.normalised))
    rng = generator(0, "estimate scores")
    subnets = [config.space.sample(rng) for _ in range(SUBNETS)]
    drawn = [images for images, _ in batches][:CALIBRATION] if keeps_statistics(supernet) else []
    evaluate(supernet, subnets[:1], batches, calibration=drawn)
    began = time.perf_counter()
    evaluate(supernet, subnets, batches, calibration=drawn)
    return (time.perf_counter() - began) / SUBNETS * len(data.valid) / len(few)


def duration(seconds: float) -> str:
    """As a person says it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _nothing(line: str) -> None:
    """What these runs say is of no use."""
