"""Who does the jobs of a command: processes of this machine, or the workers of a Ray cluster (docs/clusters.md)."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from nshot.errors import UserError, check_whole, out_of_memory

T = TypeVar("T")
Task = Sequence[Any]
Do = Callable[[Iterable[Task]], Iterator[T]]
Named = Callable[..., str]
Say = Callable[[str], None]
ADDRESS = re.compile(r"ray://[^\s/]+:\d{1,5}")


@dataclass(frozen=True)
class Needs:
    """What one job takes of the machine that it runs on."""

    cores: int = 1
    gpus: int = 0
    memory: int = 0
    """Bytes; 0: it is not asked for."""


ONE_CORE = Needs()


def numbered(*task: Any) -> str:
    """A job's name where its caller gives it none."""
    return f"job {', '.join(map(str, task))}"


class Executor(ABC):
    """Does jobs: a module's function, which another process finds, of each task."""

    where: str
    """For the user: ``in 2 processes``."""
    at_once: int
    """How many jobs it can do side by side, as far as it is known."""

    def needs(self, device: str) -> Needs:
        """Of a job on this device of Fabric's."""
        return Needs()

    @abstractmethod
    def crew(
        self,
        function: Callable[..., T],
        *,
        given: Sequence[Any] = (),
        named: Named = numbered,
        needs: Needs = ONE_CORE,
    ) -> AbstractContextManager[Do[T]]:
        """Who does jobs of one kind, as long as the context lasts: ``do(tasks)`` yields ``function(*given, *task)`` of
        every task as they come, and may be called again.

        Args:
            function: a module's own.
            given: what all tasks need, such as images: brought to each process once.
            named: of a task, what its job is called for the user.
            needs: of each job.

        A job that raises, the end of the context and the death of the caller end all others where they are; a signal
        to stop lets each end its training step (`nshot.runs.stopping`).

        Raises:
            UserError: where processes die, more often than may be.
        """

    def run(self, function: Callable[..., T], tasks: Iterable[Task], **more: Any) -> Iterator[T]:
        """The results of all tasks as they come; ``more`` as `crew` has it."""
        with self.crew(function, **more) as do:
            yield from do(tasks)


@dataclass(frozen=True, kw_only=True)
class On:
    """Where jobs are done, and how many at once: what is computed is the same."""

    on: str = "local"
    """local: processes of this machine; ray: the Ray cluster at hand, else one that is started here;
    ray://HOST:PORT: that cluster (docs/clusters.md)."""
    jobs: int | None = None
    """How many jobs at once, one thread each. Default: on Ray all that the cluster has cores for; here one, of
    benchmark build as many as there are cores."""
    retries: int = 3
    """On Ray: how often a job is taken up again whose worker or node died."""

    def __post_init__(self) -> None:
        if self.jobs is not None:
            check_whole(1, jobs=self.jobs)
        check_whole(0, retries=self.retries)
        if self.on == "local":
            return
        if self.on != "ray" and not ADDRESS.fullmatch(self.on):
            raise UserError(f"unknown on {self.on!r}: choose local, ray or ray://HOST:PORT")
        if find_spec("ray") is None:
            raise UserError(f"on {self.on} needs ray: pip install 'nshot[ray]'")

    @property
    def here(self) -> bool:
        """Whether one job after the other is done, on this machine."""
        return self.on == "local" and self.jobs in (None, 1)

    def beside(self, seen: Path, say: Say = print) -> AbstractContextManager[Executor | None]:
        """As `open`; None where the work stays in this process, with its threads."""
        return nullcontext() if self.here else self.open(seen, say=say)

    def open(self, seen: Path, *, otherwise: int = 1, say: Say = print) -> AbstractContextManager[Executor]:
        """The executor, for as long as the context lasts.

        Args:
            seen: the folder of what is made, which every node must see.
            otherwise: how many jobs at once on this machine, where it is not said.
            say: takes lines for the user.

        Raises:
            UserError: for a cluster that cannot be reached or used.
        """
        if self.on == "local":
            from .processes import Processes

            return Processes.opened(self.jobs or otherwise)
        from .cluster import opened

        return opened(self.on, self.jobs, seen, self.retries, say)


def told(error: Exception, job: str) -> Exception:
    """The error of a job as its user is told: where memory has run out, of which job."""
    found = out_of_memory(error)
    return error if found is None else UserError(f"{job}: {found}")
