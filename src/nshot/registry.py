"""A registry a kind: the modules of one package register what they define, and tests run over all of it."""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from inspect import currentframe
from typing import Generic, TypeVar

from nshot import plugins
from nshot.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects of one kind ("space", "strategy", "data set"), found by importing every module of a package.

    Args:
        kind: what the objects are, for error messages.
        package: dotted name of the package whose modules register themselves.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a class or function under ``name``."""
        frame = currentframe()
        assert frame is not None
        assert frame.f_back is not None
        ours = str(frame.f_back.f_globals.get("__name__")).startswith("nshot.")

        def add(item: T) -> T:
            if not ours:
                self._import_own()  # so that names of ours are taken already
            if name in self._items:
                raise ValueError(f"there is a {self.kind} {name!r} already: choose another name")
            self._items[name] = item
            if not ours:
                plugins.owns(name)
            return item

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._import_own()
        plugins.load()
        return sorted(self._items)

    def _import_own(self) -> None:
        if not self._loaded:
            self._loaded = True  # first: the modules may look up their siblings
            for module in pkgutil.iter_modules(import_module(self.package).__path__):
                import_module(f"{self.package}.{module.name}")

    def __getitem__(self, name: str) -> T:
        """Raises UserError for an unknown name."""
        if name not in self.names():
            known = ", ".join(self.names())
            raise UserError(
                f"unknown {self.kind} {name!r}: choose one of {known}; one of your own comes with --plugin FILE.py"
            )
        return self._items[name]
