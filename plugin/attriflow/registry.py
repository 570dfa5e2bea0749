"""One registry class for methods, step functions, aggregators and metrics. Standard library only.

A part is a frozen dataclass with `__call__` (its fields are its options) or a plain function (its keyword-only
parameters are its options). Names come from three places: the modules of a home package (file stem = name, or, for
`functions=True`, every function registered in the package's modules), entry points of a group, and `register` calls
made at run time. Listing names imports no heavy package; `get` imports one module.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from attriflow.errors import AttriflowError, UnknownNameError, check_keywords, unknown

T = TypeVar("T")
_REQUIRED = object()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartInfo:
    """What is registered under a name: the object, its options with their defaults, and its metadata."""

    name: str
    kind: str
    obj: Any
    options: MappingProxyType[str, Any]
    meta: MappingProxyType[str, Any]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.obj) or "").split("\n", 1)[0]

    def build(self, **options: Any) -> Any:
        """The part with its options bound: a callable. A mistyped option raises `OptionError`."""
        check_keywords(f"{self.kind} '{self.name}'", options, self.options)
        missing = [k for k, v in self.options.items() if v is _REQUIRED and k not in options]
        if missing:
            raise AttriflowError(f"{self.kind} '{self.name}' needs the option {missing[0]!r}")
        if inspect.isclass(self.obj):
            return self.obj(**options)
        return Bound(self.obj, options) if options else self.obj


class Bound:
    """A function with keyword options fixed."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function, self.options = function, options
        self.__wrapped__ = function  # so that `inspect.signature` tells what the function takes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with the bound options."""
        return self.function(*args, **self.options, **kwargs)


def options_of(obj: Any) -> dict[str, Any]:
    """Option names and defaults of a part: dataclass fields, or keyword-only parameters of a function."""
    if dataclasses.is_dataclass(obj):
        out = {}
        for f in dataclasses.fields(obj):
            if f.default_factory is not dataclasses.MISSING:
                out[f.name] = f.default_factory()
            else:
                out[f.name] = _REQUIRED if f.default is dataclasses.MISSING else f.default
        return out
    parameters = inspect.signature(obj).parameters.values()
    return {p.name: _REQUIRED if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


class Registry:
    """Finds parts by name, imports late, suggests the nearest name."""

    def __init__(self, kind: str, package: str, group: str, *, functions: bool = False) -> None:
        """Create a registry.

        Args:
            kind: Word used in messages ("method").
            package: Home package; each public module is a part (or holds several, with `functions`).
            group: Entry point group through which other distributions add parts.
            functions: Several parts per module: the (light) package is imported to list them.
        """
        self.kind, self.package, self.group, self.functions = kind, package, group, functions
        self._parts: dict[str, PartInfo] = {}
        self._aliases: dict[str, str] = {}
        self._points: dict[str, EntryPoint] | None = None

    def register(
        self, name: str, *, aliases: tuple[str, ...] = (), overwrite: bool = False, **meta: Any
    ) -> Callable[[T], T]:
        """Decorator that registers a part under `name`; everything about it goes into `meta`."""

        def decorate(obj: T) -> T:
            known = self._parts.get(name)
            if known is not None and not overwrite and _origin(known.obj) != _origin(obj):
                raise AttriflowError(f"{self.kind} '{name}' is already registered; pass overwrite=True to replace it")
            self._parts[name] = PartInfo(
                name=name,
                kind=self.kind,
                obj=obj,
                options=MappingProxyType(options_of(obj)),
                meta=MappingProxyType(meta),
            )
            self._aliases.update(dict.fromkeys(aliases, name))
            return obj

        return decorate

    def unregister(self, name: str) -> None:
        """Forget a part registered at run time."""
        self._parts.pop(name, None)

    def modules(self) -> list[str]:
        """Public modules of the home package, without importing it (names starting with _ are helpers)."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.submodule_search_locations is None:
            return []
        helpers = set()
        if not self.functions and not self.package.startswith("attriflow."):
            # a package outside attriflow may keep helper modules with public names beside its parts
            helpers = set(getattr(importlib.import_module(self.package), "__helpers__", ()))
        found = pkgutil.iter_modules(spec.submodule_search_locations)
        return sorted(m.name for m in found if not m.name.startswith("_") and not m.ispkg and m.name not in helpers)

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._points is None:  # scanning installed distributions takes tens of milliseconds
            self._points = {e.name: e for e in entry_points(group=self.group)}
        return self._points

    def names(self) -> list[str]:
        """Sorted names of all parts (aliases are not listed)."""
        if self.functions:
            for module in self.modules():
                importlib.import_module(f"{self.package}.{module}")
            home = set()
        else:
            home = set(self.modules())
        return sorted(home | set(self._parts) | set(self._entry_points()))

    def resolve(self, name: str) -> str:
        """The registered name for a name, alias or reference; `UnknownNameError` with a suggestion otherwise."""
        if name in self._parts:
            return name
        if ":" in name:
            return self._refer(name)
        names = self.names()
        if name in names:
            return name
        if name in self._aliases:
            return self._aliases[name]
        raise UnknownNameError(unknown(self.kind, name, names))

    def info(self, name: str) -> PartInfo:
        """The part and its metadata; imports its module when needed."""
        if not isinstance(name, str):
            raise UnknownNameError(unknown(self.kind, name, self.names()))
        name = self.resolve(name)
        if name not in self._parts:
            point = self._entry_points().get(name)
            if name in self.modules():
                importlib.import_module(f"{self.package}.{name}")
            elif point is not None:
                loaded = point.load()
                if name not in self._parts:  # a plain object instead of a module that registers itself
                    self.register(name)(loaded)
        if name not in self._parts:
            raise AttriflowError(f"module '{self.package}.{name}' does not register a {self.kind} named '{name}'")
        return self._parts[name]

    def _refer(self, reference: str) -> str:
        """The name of a part given as "module:attribute" or "path/to/file.py:attribute".

        That is the name it was registered under, else the attribute's own (with the module's before it where another
        part has that name).
        """
        if reference in self._aliases:
            return self._aliases[reference]
        place, _, attribute = reference.rpartition(":")
        try:
            part = getattr(_load(place), attribute)
        except (ImportError, OSError, AttributeError, SyntaxError) as error:
            raise UnknownNameError(
                f"{self.kind} {reference!r} cannot be loaded ({type(error).__name__}: {error}); a reference is "
                "'module:attribute' or 'path/to/file.py:attribute'"
            ) from error
        if not callable(part):
            raise UnknownNameError(f"{self.kind} {reference!r} is a {type(part).__name__}, not a function or class")
        name = next((info.name for info in self._parts.values() if info.obj is part), None)
        if name is None:
            name = attribute if attribute not in self.names() else f"{Path(place).stem}.{attribute}"
            self.register(name, stepwise=False)(part)
        self._aliases[reference] = name
        return name

    def get(self, name: str) -> Any:
        """The registered object."""
        return self.info(name).obj

    def build(self, name: str, **options: Any) -> Any:
        """The part with its options bound."""
        return self.info(name).build(**options)

    def __iter__(self) -> Iterator[PartInfo]:
        """All parts with metadata, sorted by name (imports every part)."""
        return (self.info(n) for n in self.names())

    def __contains__(self, name: object) -> bool:
        """Whether a part (or alias) of that name exists; references to parts elsewhere are not looked up."""
        return isinstance(name, str) and (name in self.names() or name in self._aliases)


def _load(place: str) -> Any:
    """A module by its name, or from a file."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).expanduser().resolve()
    name = f"attriflow_file_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _origin(obj: Any) -> tuple[str | None, str | None]:
    return getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)


methods = Registry("attribution method", "attriflow.methods", "attriflow.methods")
step_functions = Registry("step function", "attriflow.step_functions", "attriflow.step_functions", functions=True)
aggregators = Registry("aggregator", "attriflow.aggregation", "attriflow.aggregators")
aggregation_functions = Registry(
    "aggregation function", "attriflow.aggregation.functions", "attriflow.aggregation_functions", functions=True
)
metrics = Registry("metric", "attriflow_metrics", "attriflow.metrics")
