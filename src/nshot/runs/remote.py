"""Jobs on the workers of a Ray cluster: those whose worker or node dies are taken up again elsewhere."""

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nshot.errors import Say, UserError

from .board import Board
from .cluster import check_nodes, connected, imported, living, settings, token_in
from .executor import ONE_CORE, Do, Executor, Named, Needs, Task, numbered
from .processes import GRACE
from .progress import Progress
from .stopping import Stopped, between_steps
from .worker import DONE, FAILED, Order, work

T = TypeVar("T")
LOOK = 0.5  # seconds between two looks at whether a signal came
RENEW = 60.0  # seconds between two signs that the files by which jobs are told are in use
LONG = 60.0  # seconds without a result or a free core, after which that is said


@contextmanager
def opened(on: str, jobs: int | None, seen: Path, retries: int, say: Say) -> Iterator[Executor]:
    """The executor of a cluster, as `nshot.runs.where.On.open` has it."""
    ray = imported(on)
    with connected(ray, on, jobs, say), token_in(seen) as token:
        check_nodes(ray, str(Path.cwd()), token)
        yield Remote(ray, jobs, retries, settings(), str(Path.cwd()), token, say)


@dataclass
class _Job:
    name: str
    task: Task
    deaths: int = 0
    slot: str = ""


class Remote(Executor):
    """Jobs of a Ray cluster.

    Args:
        ray: the module, connected.
        jobs: how many at once; None: as many as the cluster has cores for.
        retries: how often a job is taken up again whose worker died.
        settings: environment of the workers.
        folder: where paths begin.
        token: a file that every node has to see.
        say: takes lines for the user.
    """

    def __init__(
        self, ray: Any, jobs: int | None, retries: int, settings: Mapping[str, str], folder: str, token: str, say: Say
    ) -> None:
        self._ray, self._jobs, self._retries = ray, jobs, retries
        self._fixed = settings, folder, token
        self._say = say

    @property
    def at_once(self) -> int:  # type: ignore[override]
        return self._jobs or max(1, int(self._resource("CPU")))

    @property
    def where(self) -> str:  # type: ignore[override]
        nodes = len(living(self._ray))
        return f"on {nodes} node{'s' if nodes > 1 else ''} of Ray, {self.at_once} at once"

    def _resource(self, name: str) -> float:
        return sum(node["Resources"].get(name, 0.0) for node in living(self._ray))

    def needs(self, device: str) -> Needs:
        return Needs(gpus=1 if device == "cuda" or (device == "auto" and self._resource("GPU")) else 0)

    @contextmanager
    def crew(
        self,
        function: Callable[..., T],
        *,
        given: Sequence[Any] = (),
        named: Named = numbered,
        needs: Needs = ONE_CORE,
        watch: Progress | None = None,
    ) -> Iterator[Do[T]]:
        self._check(needs)
        order, key = self._ray.put(Order(function, given)), secrets.token_hex(8)
        go_on = Path(f"{self._fixed[2].removesuffix('.partial')}-{key}.partial")
        go_on.touch()
        asked: dict[str, Any] = {"num_cpus": needs.cores, "num_gpus": needs.gpus, "max_retries": 0}
        board = Board(str(go_on), watch.beside if watch else None)
        submitted = self._ray.remote(**asked, **({"memory": needs.memory} if needs.memory else {}))(work)
        running: dict[Any, _Job] = {}

        def submit(job: _Job) -> None:
            job.slot = board.slot(job.name)
            ref = submitted.options(name=job.name).remote(
                [order], key, *self._fixed, str(go_on), job.slot, job.name, self._ray.cloudpickle.dumps(job.task)
            )
            running[ref] = job

        def do(tasks: Iterable[Task]) -> Iterator[T]:
            yield from self._results(deque(_Job(named(*task), task) for task in tasks), running, submit, board, go_on)

        try:
            yield do
        finally:
            go_on.unlink(missing_ok=True)  # each job that is left ends its step
            self._end(running)
            board.close()

    def _check(self, needs: Needs) -> None:
        """Raises UserError where no node has what a job needs: it would wait for ever."""
        for name, wanted in (("CPU", needs.cores), ("GPU", needs.gpus), ("memory", needs.memory)):
            most = max((node["Resources"].get(name, 0) for node in living(self._ray)), default=wanted)
            if wanted > most:
                raise UserError(f"a job needs {wanted} {name}, and no node of the Ray cluster has more than {most:g}")

    def _results(
        self,
        todo: deque[_Job],
        running: dict[Any, _Job],
        submit: Callable[[_Job], None],
        board: Board,
        go_on: Path,
    ) -> Iterator[Any]:
        quiet = renewed = time.monotonic()
        with between_steps() as asked:
            while todo or running:
                while todo and len(running) < (self._jobs or 2 * self.at_once):
                    submit(todo.popleft())
                done, _ = self._ray.wait(list(running), timeout=LOOK)
                if number := asked():
                    raise Stopped(number)
                board.look()
                if time.monotonic() - renewed > RENEW:
                    renewed = time.monotonic()
                    for path in (go_on, Path(self._fixed[2])):
                        with suppress(FileNotFoundError):
                            os.utime(path)
                if done:
                    quiet = time.monotonic()
                elif time.monotonic() - quiet > LONG and not living(self._ray):
                    quiet = time.monotonic()
                    self._say("the Ray cluster has no node left with cores: waiting for one")
                for ref in done:
                    job = running.pop(ref)
                    board.done(job.slot)
                    try:
                        status, result = self._ray.get(ref)
                    except self._ray.exceptions.RayError as error:
                        self._again(job, error)
                        todo.appendleft(job)
                        continue
                    if status == FAILED:
                        raise result
                    if status == DONE:
                        yield result
                    else:  # cancelled by somebody else, as by Ray's own commands
                        raise UserError(f"{job.name} was cancelled: the same command goes on")

    def _again(self, job: _Job, error: Exception) -> None:
        """Says why the job is taken up again; raises UserError where it has been often enough, or was no death."""
        errors = self._ray.exceptions
        deaths = (errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError)
        memory = isinstance(error, errors.OutOfMemoryError)
        if not memory and not isinstance(error, deaths):
            raise error
        job.deaths += 1
        reason = "its node's memory ran out" if memory else _reason(error)
        if job.deaths > self._retries:
            remedy = "take nodes with more memory, or fewer jobs a node" if memory else "see the logs of the node"
            raise UserError(f"{job.name}: {reason}, {job.deaths} times: {remedy}; the same command goes on")
        self._say(f"{job.name}: {reason}; taken up again, {job.deaths} of at most {self._retries} times")

    def _end(self, running: dict[Any, _Job]) -> None:
        """Waits for jobs that were told to stop. Ray's own cancelling ends this process where it meets the end of a
        job (Ray's issue 54846), so it is for those alone that do not stop."""
        if running:
            _, left = self._ray.wait(list(running), num_returns=len(running), timeout=GRACE)
            for ref in left:
                with suppress(Exception):  # one that is done cannot be cancelled
                    self._ray.cancel(ref, force=True)
            running.clear()


def _reason(error: Exception) -> str:
    """A death in a few words."""
    kinds = {"WorkerCrashedError": "its worker died", "ObjectLostError": "its result was lost with a node"}
    return kinds.get(type(error).__name__, "its node died")
