"""A Ray cluster, at hand or started here: that it can be reached, and that its nodes are as this machine."""

import os
import platform
import re
import secrets
import signal
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nshot.errors import Say, UserError, extra, unwritable
from nshot.plugins import VARIABLE

from .stopping import SIGNALS

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
SETTINGS = ("NSHOT_DATA", VARIABLE)  # environment variables that workers need to have as here
SAME = ("nshot", "torch", "numpy")  # packages on which bits depend
PATIENCE = 10.0  # seconds in which a cluster's machine has to answer
ANSWER = 120.0  # seconds in which a node has to say what it sees


def imported(on: str) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    return extra("ray", "ray", f"on {on}")


@contextmanager
def connected(ray: Any, on: str, jobs: int | None, say: Say) -> Iterator[None]:
    """To the cluster, unless this process is already."""
    if ray.is_initialized():
        yield
        return
    address = on if on != "ray" else at_hand()
    before = {number: signal.getsignal(number) for number in SIGNALS}  # Ray takes one
    try:
        context = _started(ray, jobs) if address is None else _reached(ray, address)
    finally:
        with suppress(ValueError):  # where this is not the main thread, nobody took any
            for number, handler in before.items():
                signal.signal(number, handler)
    url = getattr(context, "dashboard_url", None)
    where = f"Ray cluster at {address}" if address else "Ray cluster started on this machine"
    nodes = living(ray)
    cores = sum(node["Resources"]["CPU"] for node in nodes)
    size = f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {cores:.0f} core{'s' * (cores != 1)}"
    say(f"{where}: {size}; dashboard: {'http://' + url if url else 'none'}")
    try:
        yield
    finally:
        ray.shutdown()


def at_hand() -> str | None:
    """What RAY_ADDRESS names, else the cluster that this user began here by `ray start` and that lives."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    file = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        address = file.read_text().strip() if file.stat().st_uid == os.getuid() else ""
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=2):
            return address
    except (OSError, ValueError):
        return None


def _started(ray: Any, jobs: int | None) -> Any:
    """A cluster of this machine alone: all its parts listen at 127.0.0.1."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's name for: no other machines
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    cores = jobs or os.cpu_count() or 1
    return ray.init("local", num_cpus=cores, include_dashboard=True, dashboard_host="127.0.0.1", **QUIET)


def _reached(ray: Any, address: str) -> Any:
    _check_answers(address)
    try:
        with warnings.catch_warnings(action="ignore"):
            return ray.init(address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        found = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
        if len(found) == 2:
            (theirs, python), (ours, own) = found
            raise UserError(
                f"on {address}: the cluster has Ray {theirs} and Python {python}, here are Ray {ours} and Python "
                f"{own}: install the same"
            ) from None
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"on {address}: no Ray cluster answers ({reason})") from None


def _check_answers(address: str) -> None:
    """Raises UserError where nobody listens: Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # one of Ray's own words, as auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"on {address}: no Ray cluster answers ({reason})") from None


@contextmanager
def token_in(seen: Path) -> Iterator[str]:
    """A file where results go, by which nodes show that they see it: in the folder, or where that will be made."""
    folder = next(path for path in (seen.absolute(), *seen.absolute().parents) if path.is_dir())
    token = folder / f".{secrets.token_hex(8)}.partial"
    try:
        token.touch()
    except OSError as error:
        raise unwritable(token, error) from None
    try:
        yield str(token)
    finally:
        token.unlink(missing_ok=True)


def settings() -> dict[str, str]:
    """The environment that workers get; one thread each, said before they import torch."""
    data = os.environ.get("NSHOT_DATA")
    own = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    return own | ({"NSHOT_DATA": str(Path(data).absolute())} if data else {}) | {"OMP_NUM_THREADS": "1"}


def named(node: dict[str, Any]) -> str:
    return f"node {node['NodeName']} ({node['NodeManagerHostname']})"


def living(ray: Any) -> list[dict[str, Any]]:
    """The nodes that take jobs."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def check_nodes(ray: Any, folder: str, token: str) -> None:
    """Raises UserError for a node that does not see the folders, or has other versions of what bits depend on."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = {"python": platform.python_version(), **{name: version(name) for name in SAME}}
    nodes, look = living(ray), ray.remote(num_cpus=0, max_retries=0)(_looker())
    answers = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            [token, folder], SAME
        )
        for node in nodes
    ]
    for node, answer in zip(nodes, answers, strict=True):
        try:
            unseen, there = ray.get(answer, timeout=ANSWER)
        except ray.exceptions.RayError as error:
            raise UserError(f"{named(node)} does not answer ({str(error).partition(chr(10))[0]})") from None
        if unseen:
            place = folder if unseen == [folder] else Path(token).parent
            raise UserError(
                f"{named(node)} does not see {place}: run folders lie where all nodes see them, by one path"
            )
        if other := [f"{name} {there[name]}, not {here[name]}" for name in here if there[name] != here[name]]:
            raise UserError(f"{named(node)} has {', '.join(other)}: install the same on all nodes")


def _looker() -> Callable[[list[str], tuple[str, ...]], tuple[list[str], dict[str, str]]]:
    """What a node is asked: it is sent whole, for there might be no nshot there."""

    def look(paths: list[str], packages: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
        import os
        import platform
        from importlib.metadata import PackageNotFoundError, version

        found = {"python": platform.python_version()}
        for name in packages:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        return [path for path in paths if not os.path.exists(path)], found

    return look
