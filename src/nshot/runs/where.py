"""Where the jobs of a command are done: in processes of this machine, or on a Ray cluster (docs/clusters.md)."""

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from nshot.errors import Say, UserError, check_whole

from .executor import Executor
from .processes import Processes

ADDRESS = re.compile(r"ray://[^\s/]+:\d{1,5}")


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
            if self.retries != type(self).retries:
                raise UserError(f"retries {self.retries} has no effect without --on ray")
            return
        if self.on != "ray" and not ADDRESS.fullmatch(self.on):
            raise UserError(f"unknown on {self.on!r}: choose local, ray or ray://HOST:PORT")
        if find_spec("ray") is None:
            raise UserError(f"on {self.on} needs ray: pip install 'nshot[ray]'")

    @property
    def here(self) -> bool:
        """Whether one job after the other is done, on this machine."""
        return self.on == "local" and self.jobs in (None, 1)

    @property
    def said(self) -> str:
        """The flag that was chosen and its value: ``jobs 2``, ``on ray``."""
        return f"jobs {self.jobs}" if self.on == "local" else f"on {self.on}"

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
            return nullcontext(Processes(self.jobs or otherwise))
        from .remote import opened

        return opened(self.on, self.jobs, seen, self.retries, say)
