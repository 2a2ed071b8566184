"""Work in parallel processes of one thread each: two torch processes with two threads each collapse on two cores."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, current_process, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Event
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from nshot import plugins
from nshot.errors import UserError

from .board import EVERY, Board, reporting
from .executor import ONE_CORE, Do, Executor, Named, Needs, Task, numbered, told
from .progress import Progress
from .stopping import Stopped, install, stop_if_asked

T = TypeVar("T")
GRACE = 60.0  # seconds in which processes that are asked to stop end their steps


class Processes(Executor):
    """``jobs`` spawned processes of this machine."""

    def __init__(self, jobs: int) -> None:
        self.at_once = jobs
        self.where = f"in {jobs} processes"

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
        """As `Executor.crew`; what a job needs is not looked at: who says how many at once knows the machine.

        Raises:
            UserError: where one of them is killed, and for a script that starts them without ``if __name__ ==
                "__main__":``, for each of them runs the script too.
        """
        if getattr(current_process(), "_inheriting", False):
            raise SystemExit(1)  # a process that runs its caller's script to begin: the caller says why it cannot
        jobs, context = self.at_once, get_context("spawn")
        end, caller = context.Pipe(duplex=False)
        began = context.Event()
        begin = (_PlugIns(), function, given, end, began)
        futures: list[Future[T]] = []
        with (
            _one_thread(),
            end,
            caller,
            _board(watch) as board,
            ProcessPoolExecutor(jobs, context, _begin, begin) as pool,
        ):

            def do(tasks: Iterable[Task]) -> Iterator[T]:
                new: dict[Future[T], str] = {}
                for task in tasks:
                    slot = board.slot(job := named(*task))
                    new[pool.submit(_call, slot, job, task)] = slot
                futures.extend(new)
                for future in _as_they_end(new, board.look, EVERY if watch else None):
                    board.done(new[future])
                    yield future.result()

            try:
                yield do
            except Stopped:
                for child in active_children():
                    child.terminate()  # which is a signal too: each ends its step
                wait_for(futures, timeout=GRACE)
                raise
            except BrokenProcessPool:
                raise _broken(jobs, began.is_set()) from None
            finally:
                if not all(future.done() for future in futures):
                    caller.close()
                pool.shutdown(cancel_futures=True)


def _broken(jobs: int, began: bool) -> UserError:
    """Why processes ended that nobody ended: one was killed, or none could begin."""
    if began:
        return UserError(
            f"one of {jobs} processes was killed, perhaps for want of memory: start again, with fewer --jobs"
        )
    return UserError(
        "processes cannot begin, for each runs the script that starts them: put what it does under "
        "if __name__ == '__main__':"
    )


@contextmanager
def _board(watch: Progress | None) -> Iterator[Board]:
    with TemporaryDirectory(prefix="nshot-", ignore_cleanup_errors=True) as folder:
        yield Board(f"{folder}/job", watch.beside if watch else None)


def _as_they_end(futures: Iterable[Future[T]], look: Callable[[], None], every: float | None) -> Iterator[Future[T]]:
    """Futures that are done; ``look`` is called every so many seconds."""
    left = set(futures)
    while left:
        try:
            for future in as_completed(left, timeout=every):
                left.remove(future)
                yield future
        except TimeoutError:  # of the waiting alone: what a job raised is in its future
            look()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Said before the children start: OpenMP reads the variable when torch is imported."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


_worker: list[Any] = []  # what a worker process keeps between tasks: the function, and what all tasks need


class _PlugIns:
    """Read before what comes after it, whose classes may be a plug-in's: that is imported as one first."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return plugins.load, ()


def _begin(_: object, function: Callable[..., Any], given: Sequence[Any], end: Connection, began: Event) -> None:
    import torch

    began.set()
    install()
    threading.Thread(target=_end_with_caller, args=(end,), daemon=True).start()
    torch.set_num_threads(1)
    _worker[:] = function, given


def _end_with_caller(end: Connection) -> None:
    """When the caller closes its side, or is killed: a process would go on with its task, then wait for another."""
    parent = parent_process()
    assert parent is not None
    wait([end, parent.sentinel])
    os._exit(1)


def _call(slot: str, job: str, task: Task) -> Any:
    stop_if_asked()
    function, given = _worker
    try:
        with reporting(slot):
            return function(*given, *task)
    except Exception as error:
        raise told(error, job) from error.__cause__
