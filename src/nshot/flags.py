"""Command-line flags from dataclasses: what the commands share."""

import contextlib
import dataclasses
import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nshot.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Where:
    """Flags that do not change what is computed, and so are no part of a run's configuration."""

    data_root: Path | None = None
    """Where data sets and benchmarks lie; default: NSHOT_DATA, else ./data."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Flags of how subnets are scored."""

    images: int | None = None
    """Use only so many validation images, of each class its share; default: all."""
    calibration: int | None = None
    """Where the supernet's batch norms have running statistics: from how many batches of training images they are
    computed afresh for each subnet; default: 4."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    workers: int = 0
    """Processes that read and augment images beside the training; what is trained is the same."""


@dataclass(frozen=True, kw_only=True)
class Download:
    download: bool = False
    """Fetch the data set with torchvision where it is absent."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Flags that become part of a data set's name, and so of what determines a run."""

    image_column: str | None = None
    """Of parquet files that have several: the column of images; :image=COLUMN after the data set's name is the same."""
    label_column: str | None = None
    """The column of labels, in the same way; :label=COLUMN."""

    def named(self, dataset: str) -> str:
        """The data set's name with the columns."""
        columns = {"image": self.image_column, "label": self.label_column}
        marks = [f":{what}={column}" for what, column in columns.items() if column is not None]
        marks = [mark for mark in marks if mark[1:] not in dataset.split(":")[2:]]
        if marks and ":" not in dataset:
            raise UserError(f"{marks[0][1:]} has no effect on data set {dataset!r}: its columns are known")
        return dataset + "".join(marks)


def parse(command: type[T], args: list[str], name: str, description: str) -> T:
    """The command's dataclass from its arguments; nested dataclasses become flags without a prefix.

    ``--help`` ends the process with status 0.

    Raises:
        UserError: for an unknown flag, a missing one or a wrong value.
    """
    import tyro

    flat = (tyro.conf.OmitArgPrefixes,)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(command, args=args, prog=f"nshot {name}", description=description, config=flat)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise _mistake(exit_, printed.getvalue(), f"nshot {name} --help") from None


def _mistake(exit_: SystemExit, printed: str, more: str) -> UserError:
    """The one line in what tyro printed: the UserError of one of our dataclasses, else the first part of its box."""
    cause: BaseException | None = exit_
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__context__
    framed = "╭" in printed  # else, on a terminal without such characters, the title has a rule below it
    lines = [line.strip(" │") for line in printed.splitlines() if not line.startswith(("╭", "╰"))]
    sections = [list(part) for rule, part in itertools.groupby(lines, lambda line: set(line) <= set("─-")) if not rule]
    message = " ".join(sections[0 if framed else 1]).rstrip(".")
    similar = sorted({line.split()[0] for line in lines if line.startswith("--") and not set(line) <= {"-"}})
    similar = similar if "Unrecognized" in message else []
    hint = f" (similar: {', '.join(similar)})" if similar else ""
    return UserError(f"{message}{hint}; see {more}")


def take(args: list[str], flag: str) -> str | None:
    """Removes a flag and its value from the arguments: one that decides which other flags there are."""
    for i, arg in enumerate(args):
        if arg == flag:
            if i + 1 == len(args):
                raise UserError(f"{flag} needs a value")
            value = args[i + 1]
            del args[i : i + 2]
            return value
        if arg.startswith(f"{flag}="):
            del args[i]
            return arg.partition("=")[2]
    return None


def take_space(args: list[str], default: T) -> T:
    """The default configuration, with the space of ``--space`` where that names another one than its own."""
    from nshot.spaces import space

    name = take(args, "--space")
    current: Any = default
    if name is None or name == current.space.name:
        return default
    return dataclasses.replace(current, space=space(name))


def leading(args: list[str]) -> list[str]:
    """Removes and returns the arguments before the first flag."""
    found = []
    while args and not args[0].startswith("-"):
        found.append(args.pop(0))
    return found


def positional(args: list[str], command: str, what: str) -> str:
    """Removes and returns the first argument; empty where help is asked for instead.

    Raises:
        UserError: where it is missing.
    """
    if args and not args[0].startswith("-"):
        return args.pop(0)
    if {"-h", "--help"} & set(args):
        return ""
    raise UserError(f"nshot {command} needs {what}")
