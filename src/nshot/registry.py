"""A registry a kind: the modules of one package register what they define, and tests run over all of it."""

import pkgutil
from collections.abc import Callable, Collection
from importlib import import_module
from inspect import currentframe
from threading import get_ident
from typing import Generic, TypeVar

from nshot import plugins
from nshot.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects of one kind ("space", "strategy", "data set"), found by importing every module of a package.

    Args:
        kind: what the objects are, for error messages.
        package: dotted name of the package whose modules register themselves.
        reserved: names that stand for something else.
    """

    def __init__(self, kind: str, package: str, reserved: Collection[str] = ()) -> None:
        self.kind = kind
        self.reserved = frozenset(reserved)
        self.package = package
        self._items: dict[str, T] = {}
        self._loaded = False
        self._loading: set[int] = set()  # threads that import them just now

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a class or function under ``name``."""
        frame = currentframe()
        assert frame is not None
        assert frame.f_back is not None
        ours = str(frame.f_back.f_globals.get("__name__")).startswith("nshot.")

        def add(item: T) -> T:
            if not ours:
                self._import_own()  # so that names of ours are taken already
            if name in self._items or name in self.reserved:
                raise ValueError(f"there is a {self.kind} {name!r} already: choose another name")
            self._items[name] = item
            if not ours:
                plugins.owns(name, self._items)
            return item

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._import_own()
        plugins.load()
        return sorted(self._items)

    def _import_own(self) -> None:
        thread = get_ident()
        if self._loaded or thread in self._loading:  # the modules may look up their siblings
            return
        self._loading.add(thread)
        try:
            for module in pkgutil.iter_modules(import_module(self.package).__path__):
                import_module(f"{self.package}.{module.name}")
            self._loaded = True
        finally:
            self._loading.discard(thread)

    def __getitem__(self, name: str) -> T:
        """Raises UserError for an unknown name."""
        if name not in self.names():
            known = ", ".join(self.names())
            raise UserError(
                f"unknown {self.kind} {name!r}: choose one of {known}; one of your own comes with --plugin FILE.py"
            )
        return self._items[name]
