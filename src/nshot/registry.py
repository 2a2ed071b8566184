"""A registry a kind: the modules of one package register what they define, and tests run over all of it."""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Generic, TypeVar

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

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"two {self.kind}s are named {name!r}")
            self._items[name] = item
            return item

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        if not self._loaded:
            self._loaded = True  # first: the modules may look up their siblings
            for module in pkgutil.iter_modules(import_module(self.package).__path__):
                import_module(f"{self.package}.{module.name}")
        return sorted(self._items)

    def __getitem__(self, name: str) -> T:
        """Raises UserError for an unknown name."""
        if name not in self.names():
            raise UserError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self.names())}")
        return self._items[name]
