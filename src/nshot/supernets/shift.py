"""The feature shift of a finished run's supernet."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from nshot.data.batches import Normalise, heldout_batches
from nshot.data.manifest import check_manifest
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset, load
from nshot.errors import UserError, check_whole
from nshot.files import write_json
from nshot.ranking.shift import LayerShift, feature_shift
from nshot.runs.lock import held
from nshot.runs.naming import check_name, check_same
from nshot.seeding import generator
from nshot.spaces import Space, Subnet
from nshot.training.device import fabric

from .load import load_run

Layers = dict[str, LayerShift]


def shift_paths(space: Space, count: int, seed: int) -> list[Subnet]:
    """Uniform random paths, the same for all supernets of a space."""
    rng = generator(seed, "shift paths")
    return [space.sample(rng) for _ in range(count)]


def mean_shift(layers: Layers) -> float:
    """Over layers, those whose inputs cannot move included."""
    return float(np.mean([layer.shift for layer in layers.values()]))


def shift_runs(
    runs: Sequence[Path],
    *,
    paths: int = 400,
    images: int = 64,
    seed: int = 0,
    name: str = "shift",
    root: str | Path | None = None,
    device: str = "auto",
    data: Dataset | None = None,
) -> dict[Path, Layers]:
    """The feature shift of every layer of finished runs of one space; writes ``<name>.json`` to each run folder.

    Args:
        runs: run folders.
        paths: how many random paths.
        images: how many validation images, in one batch.
        seed: of the paths.
        name: of the files written.
        root: data root.
        device: Fabric's accelerator.
        data: the runs' data set, where it is loaded already.

    Raises:
        UserError: for runs of several spaces or data sets, one twice, a number that cannot be used, a name that is
            taken, also by an analysis of other paths or images, or so few paths that no layer is run by two.
    """
    check_whole(2, paths=paths, images=images)
    check_whole(0, seed=seed)
    _check_runs(runs, name)
    config, _ = load_run(runs[0])
    data = data or load(config.dataset, root=root, split=config.split, resolution=config.space.resolution)
    if images > len(data.valid):
        raise UserError(f"images {images}: must be from 2 to the {len(data.valid)} validation images")
    made = {"paths": paths, "images": images, "seed": seed}
    for run in runs:
        check_same(run / f"{name}.json", "shift", made)
    where = fabric(device).device
    pixels, _ = heldout_batches(
        mixture(data.valid, images), images, Normalise(data.train, config.space.normalised).to(where), where
    )[0]
    found = {}
    for run in runs:
        check_manifest(run, data)
        own, supernet = load_run(run)
        found[run] = feature_shift(supernet.to(where), shift_paths(own.space, paths, seed), pixels)
    if not all(found.values()):
        raise UserError(f"paths {paths}: no layer is run by two of them, name more")
    for run, layers in found.items():
        shifts = {layer: asdict(each) for layer, each in layers.items()}
        with held(run, "an analysis", name):
            write_json(run / f"{name}.json", {**made, "mean": mean_shift(layers), "shift": shifts})
    return found


def _check_runs(runs: Sequence[Path], name: str) -> None:
    """Raises UserError where runs cannot be compared, or keep something else by that name."""
    if not runs:
        raise UserError("no run is named: nshot analyse shift RUN [RUN ...]")
    configs = [load_run(run)[0] for run in runs]
    for i, (run, config) in enumerate(zip(runs, configs, strict=True)):
        if run.resolve() in [other.resolve() for other in runs[:i]]:
            raise UserError(f"{run} is named twice: leave it once")
        for what in ("space", "dataset", "split"):
            if getattr(config, what) != getattr(configs[0], what):
                raise UserError(f"{run} and {runs[0]} have another {what}: compare runs that have it in common")
        check_name(run, name, "shift")
