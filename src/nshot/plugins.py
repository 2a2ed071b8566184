"""Spaces, methods and data sets of users: in files that are named with ``--plugin``, or in installed packages.

What a run folder says is never imported; it says only which plug-ins its names are of.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

from nshot.errors import UserError, first_line

GROUP = "nshot.plugins"  # of entry points; each names a module
VARIABLE = "NSHOT_PLUGINS"  # the files, for this process and all that it starts

_searched: list[bool] = []  # whether installed packages were looked through
_entered: set[str] = set()  # modules of theirs that are imported, or just now
_loaded: dict[str, set[str]] = {}  # plug-in: the names that it registered
_lock = RLock()  # of who imports: another thread's look-up waits for the names
_current: list[str] = []  # those that are being imported
_registered: list[tuple[dict[str, Any], str]] = []  # what these have registered, and where


def add(path: Path) -> None:
    """Makes a file a plug-in of this process and of those that it starts; it is imported at the first look-up.

    Raises:
        UserError: where it is no Python file whose name can be imported.
    """
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"plug-in {str(path)!r}: no Python file of that name; say --plugin FILE.py")
    if not path.stem.isidentifier():
        raise UserError(f"plug-in {str(path)!r}: a module cannot be named {path.stem!r}; rename the file")
    if os.pathsep in str(path.resolve()):
        raise UserError(f"plug-in {str(path)!r}: {os.pathsep!r} cannot be in its path; move the file")
    if (here := str(path.resolve())) not in _files():
        os.environ[VARIABLE] = os.pathsep.join([*_files(), here])


def load() -> None:
    """Imports what is named by then and has not been imported yet.

    Raises:
        UserError: for one that cannot be imported, with the line where it fails.
    """
    with _lock:
        _load()


def _load() -> None:
    for file in _files():
        path = Path(file)
        if path.name not in _loaded:
            _import(path.name, partial(_module, path))
        elif Path(getattr(sys.modules[path.stem], "__file__", "")) != path:
            raise UserError(f"plug-in {file!r}: another one is named {path.name} too; rename one of them")
    if not _searched:
        from importlib.metadata import entry_points

        for entry in entry_points(group=GROUP):
            if entry.value not in _entered:
                _entered.add(entry.value)
                try:
                    _import(entry.dist.name if entry.dist else entry.module, entry.load)
                except UserError:
                    _entered.discard(entry.value)
                    raise
        _searched.append(True)


def owns(name: str, among: dict[str, Any]) -> None:
    """Notes whose name this is, where a plug-in registers it among others."""
    if _current:
        _loaded[_current[-1]].add(name)
        _registered.append((among, name))


def check(names: Iterable[str], what: str) -> None:
    """Raises UserError where a plug-in that ``what`` was made with is not there."""
    load()
    if lacking := [name for name in names if name not in _loaded]:
        say = " ".join(f"--plugin {name}" if name.endswith(".py") else f"pip install {name}" for name in lacking)
        raise UserError(f"{what} was made with the plug-in {', '.join(lacking)}, which is not here: {say}")


def loaded() -> list[str]:
    """The plug-ins of this process: names of files, and of packages."""
    return sorted(_loaded)


def used(values: Iterable[str]) -> list[str]:
    """The plug-ins that have registered one of these names (of ``kind:FOLDER``, the kind)."""
    words = {value.partition(":")[0] for value in values}
    return sorted(plugin for plugin, names in _loaded.items() if names & words)


def _files() -> list[str]:
    return [file for file in os.environ.get(VARIABLE, "").split(os.pathsep) if file]


def _import(name: str, make: Callable[[], object]) -> None:
    known = _loaded.get(name)  # those of a package's other modules
    _loaded[name] = set(known or ())
    _current.append(name)
    before, there = len(_registered), set(sys.modules)
    try:
        make()
    except Exception as error:
        del _loaded[name]
        _loaded.update({} if known is None else {name: known})
        for among, registered in _registered[before:]:  # so that it can be mended and tried again
            module = getattr(among.pop(registered), "__module__", "")
            if module not in there:  # of what it imported: that has to run again
                sys.modules.pop(module, None)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).name == name] or [frames[-1].lineno]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
        raise UserError(f"plug-in {name}: {type(error).__name__} in line {line}: {first_line(error)}") from error
    finally:
        _current.pop()
        del _registered[before:]


def _module(path: Path) -> ModuleType:
    """Imported by its name, so that other processes can be sent what it defines."""
    if path.stem in sys.modules:
        raise ImportError(f"a module {path.stem!r} is there already; rename the file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: a file beside it shall not stand for a module of Python's
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
