"""Private names of others' packages that sources use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from pkgutil import resolve_name


def private_names(paths: Iterable[Path]) -> dict[str, str]:
    """Name -> a place where it is used, for all names with one underscore in front that are not the files' own.

    A file's own names are those it defines; of its own objects (`self`), those that any of the files defines. Methods
    of others' classes that are defined anew are not its own.
    """
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    own = {path: set(_defined(tree)) for path, tree in trees.items()}
    everywhere = set().union(*own.values())
    found: dict[str, str] = {}
    for path, tree in trees.items():
        found |= {
            name: f"{path}:{line}"
            for name, line, of_self in _private(tree)
            if name not in (everywhere if of_self else own[path])
        }
        found |= {name: str(path) for name in _overridden(tree)}
    return found


def _is_private(name: str) -> bool:
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def _defined(tree: ast.AST) -> Iterator[str]:
    """Names that a module defines: functions, classes, variables, attributes of its own objects."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] if getattr(node.value, "id", None) in ("self", "cls") else []


def _private(tree: ast.AST) -> Iterator[tuple[str, int, bool]]:
    """Private names that a module reads: attributes (of `self`?), imports, names looked up or compared as strings."""
    for node in ast.walk(tree):
        names: list[object] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            if module != "__future__" and not module.startswith("attriflow") and not getattr(node, "level", 0):
                names = [part for alias in node.names for part in f"{module}.{alias.name}".split(".")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            if node.func.id in ("getattr", "hasattr", "setattr"):
                names = [getattr(node.args[1], "value", None)]
        elif isinstance(node, ast.Compare):
            names = [getattr(side, "value", None) for side in (node.left, *node.comparators)]
        elif isinstance(node, ast.keyword):
            names = [node.arg]
        of_self = isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in ("self", "cls")
        yield from ((name, node.lineno, of_self) for name in names if isinstance(name, str) and _is_private(name))


def _overridden(tree: ast.Module) -> Iterator[str]:
    """Private methods of others' classes that classes of a module define anew."""
    homes = {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("attriflow")
        for alias in node.names
    }
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        methods = {m.name for m in node.body if isinstance(m, ast.FunctionDef) and _is_private(m.name)}
        for base in {b.id for b in node.bases if isinstance(b, ast.Name) and b.id in homes} if methods else ():
            yield from (m for m in methods if hasattr(resolve_name(f"{homes[base]}:{base}"), m))
