"""What works on this machine: ``nshot doctor``, and the line of ``nshot --version``."""

import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nshot import plugins
from nshot.flags import parse

# Nothing that imports torch may be imported here: `nshot --help` must answer at once.


def version(package: str) -> str:
    from importlib import metadata  # which takes as long as all of `nshot --help`

    return metadata.version(package)


def requires(package: str) -> list[str]:
    from importlib import metadata

    return metadata.requires(package) or []


def version_line() -> str:
    """``nshot 0.1.0, torch 2.14.1, fast path on``."""
    return f"nshot {version('nshot')}, torch {version('torch')}, fast path {_fast_path()}"


def doctor(args: list[str]) -> None:
    """what works on this machine: compiler, GPU, data, extras: nshot doctor [--data-root FOLDER]"""

    @dataclass(frozen=True)
    class Doctor:
        data_root: Path | None = None
        """Where data sets and benchmarks lie; default: NSHOT_DATA, else ./data."""

    command = parse(Doctor, args, "doctor", "What works on this machine, and how to get the rest.")
    for name, told in _findings(command.data_root):
        print(f"{name:12} {told}")


def _findings(root: Path | None) -> Iterator[tuple[str, str]]:
    from nshot.data.memory import memory_here

    yield "nshot", f"{version('nshot')}, {Path(__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    yield "cores", f"{os.cpu_count()}, {memory_here() / 2**30:.0f} GiB of memory"
    yield "torch", f"{version('torch')}, torchvision {version('torchvision')}, {_gpu()}"
    yield "fast path", _fast_path()
    yield "data", _data(root)
    for extra, packages in _extras().items():
        lacking = [package for package in packages if not _installed(package)]
        why = f"no: {', '.join(lacking)} missing; pip install 'nshot[{extra}]'"
        yield extra, why if lacking else ", ".join(f"{package} {version(package)}" for package in packages)
    plugins.load()
    yield "plug-ins", ", ".join(plugins.loaded()) or "none (--plugin FILE.py, or installed packages)"


def _gpu() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return "no GPU"


def _fast_path() -> str:
    """Builds it, where that has not been done yet."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return f"off: no compiler {compiler!r}; install one, or name yours by CXX"
    from nshot.nn.kernels import library

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        built = library()
    return "on" if built else f"off: {str(caught[-1].message).splitlines()[0] if caught else 'it cannot be built'}"


def _data(root: Path | None) -> str:
    from nshot.benchmarks.table import benchmark_path
    from nshot.data import cifar, imagenet
    from nshot.data.sources import data_root

    folder = data_root(root)
    if not folder.is_dir():
        return f"{folder} is no folder (--data-root or NSHOT_DATA); digits are embedded"
    there = [name for name in cifar.FOLDERS if cifar.find_home(folder, name) is not None]
    there += ["imagenet"] if imagenet.is_there(folder) else []
    if benchmark_path("nasbench201", root).exists():
        there.append("nasbench201/table.parquet")
    return f"{folder}: {', '.join(there) or 'none of cifar10, cifar100, imagenet, nasbench201'}; digits are embedded"


def _extras() -> dict[str, list[str]]:
    """The packages of each extra but ``dev`` and ``docs``, as nshot's own metadata has them."""
    found: dict[str, list[str]] = {}
    for line in requires("nshot"):  # such as: onnx>=1.16; extra == "onnx"
        known = re.match(r"([\w.-]+).*; extra == ['\"](\w+)['\"]$", line)
        if known is not None and known[1] != "nshot":
            found.setdefault(known[2], []).append(known[1])
    return {extra: packages for extra, packages in found.items() if extra not in ("dev", "docs")}


def _installed(package: str) -> bool:
    try:
        version(package)
    except ModuleNotFoundError:
        return False
    return True
