"""The contract of who does the jobs of a command, each in another process than the command's own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from nshot.errors import UserError, out_of_memory

from .progress import Progress

T = TypeVar("T")
Task = Sequence[Any]
Do = Callable[[Iterable[Task]], Iterator[T]]
Named = Callable[..., str]


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
        watch: Progress | None = None,
    ) -> AbstractContextManager[Do[T]]:
        """Who does jobs of one kind, as long as the context lasts: ``do(tasks)`` yields ``function(*given, *task)`` of
        every task as they come, and may be called again.

        Args:
            function: a module's own.
            given: what all tasks need, such as images: brought to each process once.
            named: of a task, what its job is called for the user.
            needs: of each job.
            watch: shows how far jobs are.

        A job that raises, the end of the context and the death of the caller end all others where they are; a signal
        to stop lets each end its training step (`nshot.runs.stopping`).

        Raises:
            UserError: where processes die, more often than may be.
        """

    def run(self, function: Callable[..., T], tasks: Iterable[Task], **more: Any) -> Iterator[T]:
        """The results of all tasks as they come; ``more`` as `crew` has it."""
        with self.crew(function, **more) as do:
            yield from do(tasks)


def told(error: Exception, job: str) -> Exception:
    """The error of a job as its user is told: where memory has run out, of which job."""
    found = out_of_memory(error)
    return error if found is None else UserError(f"{job}: {found}")
