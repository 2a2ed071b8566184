"""Imports the official files of NAS-Bench-201 (Dong and Yang, ICLR 2020) and NATS-Bench's topology space (2021).

Each file holds, for every architecture, hyper-parameters (12 or 200 epochs), data set and seed, the accuracies of one
training. Ours are what the official API reports as final: after the last of 200 epochs, the mean over all seeds.

| column | trained on | evaluated on |
| --- | --- | --- |
| cifar10_valid | ``cifar10-valid``: half of CIFAR-10's training images | ``x-valid``: the other half |
| cifar10_test | ``cifar10``: all training images | ``ori-test``: the test images |
| cifar100_valid, _test | ``cifar100``: all training images | ``x-valid``, ``x-test``: halves of the test images |
| imagenet16_valid, _test | ``ImageNet16-120``: all training images | ``x-valid``, ``x-test``: likewise |

So cifar10_valid and cifar10_test come from different trainings, and for the other two sets ``ori-test`` (both halves)
is left out, as it contains the validation images.

The structure: ``meta_archs`` lists the architectures by their index, ``arch2infos[index][epochs]`` is one
architecture's results. There ``dataset_seed[dataset]`` lists the seeds and ``all_results[dataset, seed]`` has
``epochs`` and ``eval_acc1es["<part>@<epoch>"]`` in percent, epochs counted from 0. The key for 200 epochs is "full" in
NAS-Bench-201 and "200" in NATS-Bench, whose folder has one file an architecture.
"""

import bz2
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nshot.errors import UserError, first_line
from nshot.spaces import Space, Subnet
from nshot.spaces.nasbench201 import NASBench201

from .table import write_benchmark

COLUMNS = {
    "cifar10_valid": ("cifar10-valid", "x-valid"),
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_valid": ("cifar100", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_valid": ("ImageNet16-120", "x-valid"),
    "imagenet16_test": ("ImageNet16-120", "x-test"),
}
EPOCHS = 200
META = "meta.pickle.pbz2"
KINDS = "NAS-Bench-201-*.pth, NATS-tss-*.pickle.pbz2 or an unpacked folder NATS-tss-*-simple"


def import_official(path: str | Path, out: str | Path, *, space: Space | None = None) -> Path:
    """Writes a benchmark table from an official file; nothing in the file is executed.

    The folder is read one architecture at a time; the single files need up to 30 GB of memory. Either takes minutes.

    Args:
        path: ``NAS-Bench-201-*.pth``, ``NATS-tss-*.pickle.pbz2`` or the unpacked folder ``NATS-tss-*-simple``.
        out: the table, a ``.parquet`` file; replaced where it exists.
        space: of which sizes the ``params`` column is; default: NAS-Bench-201's own, for 10 classes.

    Returns:
        The table: every architecture in the official order, its number there (``nats``), and the accuracies of
        `COLUMNS` in percent.

    Raises:
        UserError: for a file that is missing, broken, incomplete, of another space, or asks for code to be run; and
            where the table cannot be written. No table is written then.
    """
    source, target = Path(path), Path(out)
    space = NASBench201() if space is None else space
    if space.name != NASBench201.name:
        raise UserError(f"space {space.name}: the official files are of space {NASBench201.name}, name that one")
    if target.suffix != ".parquet" or target.is_dir():
        raise UserError(f"out {target}: name a .parquet file to write")
    subnets, rows = [], []
    for arch, results, where in _architectures(source):
        subnets.append(_parse(arch, space, where))
        rows.append(_accuracies(results, arch, where))
    if not rows:
        raise UserError(f"{source} lists no architectures: name a complete official file")
    columns = dict(zip(COLUMNS, np.array(rows).T, strict=True))
    # Resolved, because the path "." has no name.
    metadata = {"space": {"name": space.name}, "imported": source.resolve().name}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_benchmark(target, space, subnets, columns, metadata, order="nats")
    except OSError as error:
        raise UserError(f"out {target} cannot be written ({error}): name another file") from None
    return target


def _architectures(source: Path) -> Iterator[tuple[str, Any, str]]:
    """(notation, results by epochs, the place to name in errors) of every architecture, in the official order."""
    if not source.exists():
        raise UserError(f"{source} not found: expected {KINDS}")
    folder = source.is_dir()
    if folder and not (source / META).exists():
        raise UserError(f"folder {source} has no {META}: expected {KINDS}")
    if not folder and not source.name.endswith((".pth", ".pbz2")):
        raise UserError(f"{source} is no official benchmark file: expected {KINDS}; unpack a .tar first")
    head = source / META if folder else source
    content = _load(head)
    keys = {"meta_archs": list} if folder else {"meta_archs": list, "arch2infos": dict}
    for key, kind in keys.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise UserError(f"{head} has no {kind.__name__} {key!r}: it is no official file, expected {KINDS}")
    for index, arch in enumerate(content["meta_archs"]):
        if folder:
            file = source / f"{index:06d}.pickle.pbz2"
            if not file.exists():
                raise UserError(f"folder {source} lacks {file.name}, which its {META} lists: unpack the archive again")
            yield arch, _load(file), str(file)
        elif index not in content["arch2infos"]:
            raise UserError(f"{source} lists architecture {index} without its results: name a complete official file")
        else:
            yield arch, content["arch2infos"][index], f"{source}, architecture {index}"


def _parse(arch: Any, space: Space, where: str) -> Subnet:
    if not isinstance(arch, str) or "|" not in arch:  # numbers are no notation, whatever their order
        raise UserError(f"{where}: {arch!r} is no {space.name} subnet: name a topology (tss) file")
    try:
        return space.parse(arch)
    except UserError as error:
        raise UserError(f"{where}: {error}; name a topology (tss) file") from None


def _accuracies(results: Any, arch: str, where: str) -> list[float]:
    """One architecture's `COLUMNS`: means over seeds after the last epoch, in percent."""
    if not isinstance(results, dict):
        raise UserError(f"{where}: results are a {type(results).__name__}, expected a dict: expected {KINDS}")
    final = results.get(str(EPOCHS), results.get("full"))
    if final is None:
        kept = ", ".join(map(str, results)) or "nothing"
        raise UserError(f"{where}: has no {EPOCHS}-epoch results ({EPOCHS} or full) but {kept}; name a complete file")
    try:
        if final["arch_str"] != arch:
            raise UserError(f"{where}: results are of {final['arch_str']!r}, listed is {arch!r}; fetch the file again")
        return [_mean(final, dataset, part, where) for dataset, part in COLUMNS.values()]
    except (KeyError, TypeError, IndexError) as error:
        wrong = f"{type(error).__name__}: {error}"
        raise UserError(f"{where}: results lack the official structure ({wrong}); fetch the file again") from None


def _mean(final: Any, dataset: str, part: str, where: str) -> float:
    accuracies = []
    for seed in final["dataset_seed"][dataset]:
        trial = final["all_results"][dataset, seed]
        if trial["epochs"] != EPOCHS:
            found = f"{trial['epochs']} of {dataset}"
            raise UserError(f"{where}: has no {EPOCHS}-epoch results but {found}; name a complete file")
        accuracy = trial["eval_acc1es"][f"{part}@{EPOCHS - 1}"]
        if not isinstance(accuracy, int | float):
            raise TypeError(f"accuracy on {dataset} {part} is a {type(accuracy).__name__}")
        accuracies.append(accuracy)
    if not accuracies or not all(0 <= accuracy <= 100 for accuracy in accuracies):  # nan fails any comparison
        raise UserError(f"{where}: accuracies on {dataset} {part} are {accuracies}; fetch the file again")
    return math.fsum(accuracies) / len(accuracies)


# Reading without executing: what a pickle names is looked up in ALLOWED and nowhere else.


class _Forbidden(pickle.UnpicklingError):
    """A pickle names something that no official file contains; the message is its dotted name."""


class _Dtype:
    """Stands in for numpy.dtype, whose own unpickling trusts its input: only plain numbers, only in ``_scalar``."""

    def __init__(self, code: str, *flags: Any) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Stands in for a numpy array, of which the official accuracies are none: the content is dropped."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _scalar(dtype: _Dtype, data: bytes) -> float:
    """A numpy scalar (such as parameter counts are) as a Python number."""
    kind = f"{dtype.order}{dtype.code}"
    if not re.fullmatch(r"[<>=|][fiub][1248]", kind):
        raise pickle.UnpicklingError(f"numpy dtype {kind!r} is no plain number")
    return np.frombuffer(data, kind, 1)[0].item()


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    # numpy 1 and 2 call the module differently.
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ALLOWED:
            raise _Forbidden(f"{module}.{name}")
        return ALLOWED[f"{module}.{name}"]


def _load(path: Path) -> Any:
    """What the file holds. Raises UserError where it is broken or names something outside `ALLOWED`."""
    try:
        return _load_torch(path) if path.suffix == ".pth" else _load_pickle(path)
    except _Forbidden as error:
        raise UserError(
            f"{path} was not read: it asks for {error}, which no official file without trained weights contains; "
            "use one from the official source"
        ) from None
    except MemoryError:
        raise UserError(f"{path} needs more memory than there is: import the folder NATS-tss-*-simple") from None
    except Exception as error:  # a broken pickle may raise anything
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {first_line(error)}): fetch it again"
        ) from None


def _load_pickle(path: Path) -> Any:
    with bz2.open(path, "rb") as stream:
        return _Unpickler(stream).load()


def _load_torch(path: Path) -> Any:
    # Names that torch allows anyway (tensors, OrderedDict) stay allowed: it checks them itself.
    with torch.serialization.safe_globals([(value, name) for name, value in ALLOWED.items()]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            forbidden = re.search(r"GLOBAL (\S+)", str(error))
            raise _Forbidden(forbidden[1]) if forbidden else error from None
