"""The one error class for mistakes that a user can make and mend, what raises it, and who takes lines for the user."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Say = Callable[[str], None]  # takes lines for the user


class UserError(ValueError):
    """A wrong value from the user: the message is one line that names the value and the remedy.

    The command line prints it and exits with status 2; in Python it is an ordinary ``ValueError``.

    Example:
        >>> try:
        ...     nshot.space("nasbench202")
        ... except nshot.UserError as error:
        ...     print(str(error).partition(":")[0])
        unknown space 'nasbench202'
    """


class DivergedError(UserError):
    """A loss, or weights, that are no longer finite: the same training would end the same way.

    Args:
        loss: the first that is not; None where it is the weights.
        step: whose it is, from 1.
        folder: the run.
        clip: to which norm gradients are clipped.
        paths: what was trained in that step, as far as it is known.
        skipped: how many steps were skipped before, for which the same held.
    """

    def __init__(
        self,
        loss: float | None,
        step: int,
        folder: Path,
        clip: float | None = None,
        paths: Sequence[str] = (),
        skipped: int = 0,
    ) -> None:
        super().__init__(loss, step, folder, clip, paths, skipped)  # as another process makes it again
        self.folder = folder

    def __str__(self) -> str:
        loss, step, _, clip, paths, skipped = self.args
        trained = f" (of {', '.join(paths)})" if paths else ""
        trained += f", after {skipped} steps that were skipped" if skipped else ""
        found = f"the loss is {loss} at" if loss is not None else "weights are not finite after"
        if clip is None:
            return f"{found} step {step}{trained}: lower --lr, or set --clip"
        clipped = f"though gradients are clipped to {clip:g}"
        return f"{found} step {step}{trained}, {clipped}: lower --lr, or --clip"


def first_line(error: BaseException) -> str:
    """What an error says, as one line: libraries go on with pages."""
    return str(error).partition("\n")[0]


def unwritable(path: Path, error: OSError, instead: str | None = None) -> UserError:
    """What it means that a file cannot be written, and what to do; what was there before is as it was.

    ``instead``: what to do with a path that --out names, where it is not for want of room.
    """
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return UserError(f"{path} cannot be written ({error.strerror}): make room, then the same command goes on")
    if instead is not None:
        return UserError(f"out {path} cannot be written ({error.strerror}): {instead}")
    if error.errno == errno.ENOENT:
        return UserError(f"{path} cannot be written: its folder is gone; bring it back, or start again elsewhere")
    return UserError(f"{path} cannot be written ({error.strerror}): mend that, or copy the folder elsewhere")


def out_of_memory(error: BaseException) -> UserError | None:
    """The error in one line where memory, the machine's or a GPU's, has run out; None for other errors."""
    ours = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not ours and "can't allocate memory" not in str(error):  # torch's words on the CPU
        return None
    where = "of the GPU" if "CUDA" in str(error) else "of this machine"
    return UserError(f"the memory {where} has run out: take a smaller --batch-size or --resolution, or fewer --jobs")


@contextmanager
def statistics_needed() -> Iterator[None]:
    """Says in one line what batch norm says of a batch that has one value a channel, and so no statistics."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "a batch of one image has no batch statistics where the network shrinks it to one pixel: take batches of "
            "2 images or more, or a larger --resolution"
        ) from None


def check_positive(**values: float) -> None:
    """Raises UserError for a value that is not above 0 and finite."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{name} {value}: must be above 0")


def check_share(**values: float) -> None:
    """Raises UserError for a value that is not from 0 to below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} {value}: must be from 0 to below 1")


def check_whole(low: int, **values: int) -> None:
    """Raises UserError for a value below ``low``."""
    for name, value in values.items():
        if value < low:
            raise UserError(f"{name} {value}: must be at least {low}")


def check_choices(config: Any) -> None:
    """Raises UserError where a dataclass field of Literal type holds none of the allowed values, or one that may be
    such a word or something else holds another word."""
    for name, kind in get_type_hints(type(config)).items():
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        words = [word for each in kinds if get_origin(each) is Literal for word in get_args(each)]
        others = {each for each in kinds if get_origin(each) is not Literal} - {NoneType}
        value, free = getattr(config, name), NoneType in kinds
        if not words or value in words or (value is None and free) or str in others:
            continue
        if isinstance(value, str) or not others:
            raise UserError(f"unknown {name} {value!r}: choose one of {', '.join(map(str, words))}")


PLAIN = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def check_kinds(config: Any) -> None:
    """Raises UserError where a field of a dataclass that is to be a text, a number or yes or no is none: for what was
    read of a file, since Python takes anything."""
    for name, kind in get_type_hints(type(config)).items():
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        plain = [type(get_args(each)[0]) if get_origin(each) is Literal else each for each in kinds]
        if not set(plain) <= PLAIN.keys():
            continue
        value, allowed = getattr(config, name), {*plain, *([int] if float in plain else [])}
        if type(value) not in allowed:
            words = " or ".join(dict.fromkeys(PLAIN[each] for each in plain))
            raise UserError(f"{name} {value!r:.40}: must be {words}")


def extra(module: str, name: str, what: str) -> Any:
    """A module of the extra ``name``; raises UserError, saying that ``what`` needs it, where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise UserError(f"{what} needs {module.partition('.')[0]}: pip install 'nshot[{name}]'") from None
