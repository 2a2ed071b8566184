"""Builds the kernels with the machine's own compiler on first use, and calls them; None where there is no compiler."""

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCES = tuple(Path(__file__).with_name(name) for name in ("fused.cpp", "pointwise.cpp", "depthwise.cpp", "sgd.cpp"))
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC", "-std=c++17")
SUFFIX = {torch.float32: "_f32", torch.bfloat16: "_bf16"}
# Arguments of the kernels: p a pointer (or null), l an int64, f a float.
SIGNATURES = {
    "moments": "pllfpp",
    "mix": "ppllll" + "lpppp" + "lpplpp",
    "gather": "ppllll" + "lplpplpp" + "lppppp",
    "norm_backward": "ppll" + "lpppppp",
    "half": "ppllll",
    "half_backward": "ppllll",
}
PLAIN_SIGNATURES = {
    "pointwise": "ppplll",
    "pointwise_backward": "ppppplll",
    "depthwise_backward": "ppppp" + "lllllllll",
    "square_sum": "lppp",
    "sgd": "lpppp" + "ffffl",
}
EPS = 1e-5  # torch's batch norm


@cache
def library() -> dict[str, Any] | None:
    """The compiled kernels by name, or None where they cannot be built (then a warning says why, once)."""
    types = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "f": ctypes.c_float}
    signatures = {kernel + suffix: args for kernel, args in SIGNATURES.items() for suffix in SUFFIX.values()}
    try:
        lib = ctypes.CDLL(str(_built()))
        kernels = {}
        for name, args in (signatures | PLAIN_SIGNATURES).items():
            kernels[name] = getattr(lib, name)
            kernels[name].argtypes, kernels[name].restype = [types[arg] for arg in args], None
        return kernels
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"fast path is off, its kernels cannot be built: {detail.strip()[:300]}", stacklevel=2)
        return None


def _built() -> Path:
    """The shared library, kept in the user's cache folder under a name that says what it was made from."""
    compiler = os.environ.get("CXX", "c++")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    machine = f"{version}{FLAGS}{platform.machine()}{_cpu()}".encode()
    made_from = machine + b"".join(source.read_bytes() for source in SOURCES)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nshot"
    target = home / f"fused-{hashlib.sha256(made_from).hexdigest()[:16]}.so"
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as folder:
            partial = Path(folder) / "fused.so"
            command = [compiler, *FLAGS, "-o", str(partial), *map(str, SOURCES)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            os.replace(partial, target)
    return target


def _cpu() -> str:
    """What -march=native depends on: a cache folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), "")


def numbers(values: Sequence[float]) -> "ctypes.Array[ctypes.c_float] | None":
    """C floats."""
    return (ctypes.c_float * len(values))(*values) if values else None


def pointers(tensors: Sequence[Tensor | None]) -> "ctypes.Array[ctypes.c_void_p] | None":
    if not tensors:
        return None
    return (ctypes.c_void_p * len(tensors))(*[None if t is None else t.data_ptr() for t in tensors])


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def run(kernel: str, *args: Any) -> None:
    """Runs a kernel on pointers, whole numbers and floats, as its `SIGNATURES` has them."""
    lib = library()
    assert lib is not None, "the caller asks `library` first"
    lib[kernel](*args)


def call(kernel: str, dtype: torch.dtype, *args: Any) -> None:
    """Runs the kernel for what convolutions read and write in that type."""
    run(kernel + SUFFIX[dtype], *args)


def recorded(x: Tensor) -> bool:
    """Whether operations on this input are recorded, counted or only imagined, which sees none of a kernel of ours: by
    compile, export, jit, fx and all modes of torch's dispatch (FlopCounterMode, make_fx, FakeTensorMode)."""
    return (
        not isinstance(x, Tensor)  # torch.fx passes something else
        or torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
    )
