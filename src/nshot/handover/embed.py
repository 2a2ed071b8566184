"""Source of functions of ours with all that they use, to stand in a file that runs without nshot."""

import ast
import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import resolve_name
from typing import Any


def source_with_needs(*functions: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The functions as they stand in their modules and what of those they use, word for word.

    So a file that holds them computes what they compute: there is no second statement of it.

    Returns:
        Lines that import what is not of nshot, sorted, and definitions, each after what it uses.
    """
    found = _Found()
    for function in functions:
        found.add(function.__module__, function.__name__)
    return sorted(found.imports), list(found.definitions.values())


class _Found:
    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.definitions: dict[str, str] = {}
        self._seen: set[tuple[str, str]] = set()

    def add(self, module: str, name: str) -> None:
        """What a name means at the top of a module; nothing where it is none of its names."""
        if (module, name) in self._seen:
            return
        self._seen.add((module, name))
        text = inspect.getsource(import_module(module))
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        self._imported(module, node, alias)
            elif name in _defined(node):
                for used in sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)}):
                    self.add(module, used)
                first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
                lines = text.splitlines()[first - 1 : node.end_lineno]
                if name in self.definitions:
                    raise ValueError(f"two modules define {name}: they cannot stand in one file")
                self.definitions[name] = "\n".join(lines)

    def _imported(self, module: str, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> None:
        if isinstance(node, ast.Import):
            self.imports.add(f"import {ast.unparse(alias)}")
            return
        home = resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
        if home.partition(".")[0] == "nshot":
            self.add(home, alias.name)
        else:
            self.imports.add(f"from {home} import {ast.unparse(alias)}")


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module gives a meaning."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
