"""One registry class for methods, step functions, aggregators and metrics. Standard library only.

A part is a frozen dataclass with `__call__` (its options are its fields) or a function (keyword-only parameters). Names
come from three places: the modules of a home package (file stem = name, or with `functions=True` every registered
function), entry points of a group, and `register` calls. Listing imports no heavy package; `get` imports one module.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from attriflow.errors import (
    AttriflowError,
    InputError,
    OptionValueError,
    UnknownNameError,
    check_keywords,
    nearest,
    reason_of,
    unknown,
)
from attriflow.kernels.annotations import check_value, choices, hints_of, spell

_logger = logging.getLogger(__name__)
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

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """Annotations of the options, as far as they can be resolved."""
        return {name: hint for name, hint in hints_of(self.obj).items() if name in self.options}

    def choices(self, option: str) -> list[Any]:
        """The values that an option has by name, if it has such."""
        return choices(self.hints.get(option))

    def allowed(self, option: str) -> str:
        """What an option may be, in words."""
        return spell(self.hints.get(option, Any))

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options as their annotations have them (JSON's lists as tuples); an error for other names and values."""
        check_keywords(f"{self.kind} '{self.name}'", options, self.options)
        out = dict(options)
        for name, value in options.items():
            if name in self.hints and value is not self.options[name]:
                label = f"option '{name}' of {self.kind} '{self.name}'"
                out[name] = check_value(label, value, self.hints[name], OptionValueError)
        return out

    def build(self, **options: Any) -> Any:
        """The part with its options bound: a callable.

        Every option is checked by its annotation, wherever a part is built.

        Raises:
            OptionError: A name that is none of the part's options.
            UnknownNameError, OptionValueError: A value that is not among those allowed, or of another type.
        """
        options = self.checked(options)
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


def options_of(obj: Any, given: tuple[str, ...] = ()) -> dict[str, Any]:
    """Option names and defaults of a part: dataclass fields, or keyword-only parameters of a function.

    Parameters that the caller of the part fills in (`given`) are no options.
    """
    if dataclasses.is_dataclass(obj):
        out = {}
        for f in dataclasses.fields(obj):
            if f.default_factory is not dataclasses.MISSING:
                out[f.name] = f.default_factory()
            else:
                out[f.name] = _REQUIRED if f.default is dataclasses.MISSING else f.default
        return out
    parameters = inspect.signature(obj).parameters.values()
    own = (p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in given)
    return {p.name: _REQUIRED if p.default is p.empty else p.default for p in own}


class Registry:
    """Finds parts by name, imports late, suggests the nearest name."""

    def __init__(
        self,
        kind: str,
        package: str,
        group: str,
        *,
        functions: bool = False,
        meta: Mapping[str, Any] | None = None,
        bare: Mapping[str, Any] | None = None,
        complete: Callable[[PartInfo], dict[str, Any]] | None = None,
        given: tuple[str, ...] = (),
    ) -> None:
        """Create a registry.

        Args:
            kind: Word used in messages ("method").
            package: Home package; each public module is a part (or holds several, with `functions`).
            group: Entry point group through which other distributions add parts.
            functions: Several parts per module: the (light) package is imported to list them.
            meta: What a registration may say, with what holds where it does not. None: anything.
            bare: What is said of parts that nobody registered: entry points and references to plain objects.
            complete: Checks a part and returns what its registration left out and the part itself tells.
            given: Parameters that whoever calls a part fills in, so that they are no options of a function.
        """
        self.kind, self.package, self.group, self.functions = kind, package, group, functions
        self.meta, self.bare, self.complete, self.given = meta, dict(bare or {}), complete, given
        self._parts: dict[str, PartInfo] = {}
        self._aliases: dict[str, str] = {}
        self._points: dict[str, EntryPoint] | None = None
        self._left_out = set[str]()

    def register(
        self, name: str, *, aliases: tuple[str, ...] = (), overwrite: bool = False, **meta: Any
    ) -> Callable[[T], T]:
        """Decorator that registers a part under `name`; everything about it goes into `meta`."""
        if self.meta is not None:
            check_keywords(f"the registration of {self.kind} '{name}'", meta, self.meta)
            meta = {**self.meta, **meta}
            missing = [key for key, value in meta.items() if value is _REQUIRED]
            if missing:
                raise AttriflowError(f"{self.kind} '{name}' must be registered with {missing[0]}=...")

        def decorate(obj: T) -> T:
            self._import_home(name, obj)
            known = self._parts.get(name)
            if known is not None and not overwrite and _origin(known.obj) != _origin(obj):
                raise AttriflowError(f"{self.kind} '{name}' is already registered; pass overwrite=True to replace it")
            options = MappingProxyType(options_of(obj, self.given))
            part = PartInfo(name=name, kind=self.kind, obj=obj, options=options, meta=MappingProxyType(meta))
            if self.complete is not None:
                part = dataclasses.replace(part, meta=MappingProxyType({**meta, **self.complete(part)}))
            self._parts[name] = part
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

    def _at_home(self, obj: Any) -> bool:
        return str(getattr(obj, "__module__", "")).startswith(f"{self.package}.")

    def _import_home(self, name: str, newcomer: Any = None) -> None:
        """Import what the home package has under a name, unless it is what is being registered just now."""
        if not self._at_home(newcomer):
            for module in self.modules():
                if self.functions or module == name:
                    importlib.import_module(f"{self.package}.{module}")

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._points is None:  # scanning installed distributions takes tens of milliseconds
            self._points = {}
            home = set(self.modules())
            if self.functions:
                home = {n for n, p in self._parts.items() if self._at_home(p.obj)}
            for point in entry_points(group=self.group):
                first = self._points.setdefault(point.name, point)
                if point.name in home:
                    del self._points[point.name]
                    _logger.warning("ignored: %s %s is named like a built-in one", self.kind, _whose(point))
                elif first.value != point.value:
                    _logger.warning("ignored: %s %s, as %s was first", self.kind, _whose(point), _whose(first))
        return self._points

    def names(self) -> list[str]:
        """Sorted names of all parts (aliases are not listed)."""
        if self.functions:
            self._import_home("")
        home = set() if self.functions else set(self.modules())
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
        if callable(name):
            register = f"attriflow.register_{self.kind.removeprefix('attribution ').replace(' ', '_')}"
            what = getattr(name, "__name__", type(name).__name__)
            raise UnknownNameError(f"{self.kind} {what}: register it with {register}, or give 'module:attribute'")
        if not isinstance(name, str):
            raise UnknownNameError(unknown(self.kind, name, self.names()))
        name = self.resolve(name)
        if name not in self._parts:
            point = self._entry_points().get(name)
            if name in self.modules():
                importlib.import_module(f"{self.package}.{name}")
            elif point is not None:
                self._load_point(point)
        if name not in self._parts:
            raise AttriflowError(f"module '{self.package}.{name}' does not register a {self.kind} named '{name}'")
        return self._parts[name]

    def _load_point(self, point: EntryPoint) -> None:
        """Import what an entry point offers; whatever goes wrong is one `AttriflowError` that says whose it is."""
        try:
            loaded = point.load()
            if point.name not in self._parts:  # a plain object instead of a module that registers itself
                self.register(point.name, **self.bare)(loaded)
        except Exception as error:
            why = f"{self.kind} {_whose(point)} cannot be loaded: {reason_of(error)}"
            raise AttriflowError(why) from error

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
            self.register(name, **self.bare)(part)
        self._aliases[reference] = name
        return name

    def known(self, name: object) -> PartInfo | None:
        """The part of a name found in data; None unless it is registered, as data must not have anything imported."""
        return self.info(str(name)) if name in self else None

    def get(self, name: str) -> Any:
        """The registered object."""
        return self.info(name).obj

    def build(self, name: str, **options: Any) -> Any:
        """The part with its options bound."""
        return self.info(name).build(**options)

    def __iter__(self) -> Iterator[PartInfo]:
        """All parts with metadata, sorted by name (imports every part, leaves out entry points that fail to)."""
        for name in self.names():
            try:
                info = self.info(name)
            except AttriflowError as error:
                if name not in self._entry_points():
                    raise
                if name not in self._left_out:
                    self._left_out.add(name)
                    _logger.warning("left out: %s", error, exc_info=_logger.isEnabledFor(logging.DEBUG))
            else:
                yield info

    def __contains__(self, name: object) -> bool:
        """Whether a part (or alias) of that name exists; references to parts elsewhere are not looked up."""
        return isinstance(name, str) and (name in self.names() or name in self._aliases)


def _whose(point: EntryPoint) -> str:
    """An entry point and the distribution that has it, in words."""
    return f"'{point.name}' (entry point {point.value} of {point.dist.name if point.dist else 'unknown'})"


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
    """File and name of a definition: a module that is loaded by path and by name defines the same things twice."""
    module = getattr(obj, "__module__", None)
    return getattr(sys.modules.get(module or ""), "__file__", None) or module, getattr(obj, "__qualname__", None)


def _parameters(what: str, part: Any) -> list[inspect.Parameter]:
    """Parameters of the call of a function, an instance or the instances of a class, without `self`."""
    if inspect.isclass(part) and not any("__call__" in vars(c) for c in part.__mro__):
        raise InputError(f"{what} cannot be called: its class has no __call__")
    call = part.__call__ if inspect.isclass(part) else part
    return list(inspect.signature(call).parameters.values())[inspect.isclass(part) :]


def _check_method(part: PartInfo) -> dict[str, Any]:
    """Check that a method can be called with an engine."""
    parameters = _parameters(f"method '{part.name}'", part.obj)
    bound = inspect.isclass(part.obj) or dataclasses.is_dataclass(part.obj)
    try:
        inspect.Signature(parameters).bind(None, **({} if bound else part.options))
    except TypeError as error:
        raise InputError(f"method '{part.name}' cannot be called with an engine alone: {error}") from None
    return {}


METRIC_ARGUMENTS = ("attribution", "rescore", "rationale", "reexplain")


class MetricCall(NamedTuple):
    """What a metric is given: in order, by name (parameter -> what), and which of it has no default of the metric's."""

    in_order: list[str]
    by_name: dict[str, str]
    needs: tuple[str, ...]


def metric_call(name: str, metric: Any) -> MetricCall:
    """How a metric is called, by its own signature.

    The first two parameters may have any name: they are the attribution and `rescore`. A parameter named like
    something else that there is gets that; others with a default are left alone.

    Raises:
        InputError: A parameter that nobody fills in, or the place of `rescore` under a name like another's.
    """
    parameters = _parameters(f"metric '{name}'", metric)
    own = () if inspect.isclass(metric) else options_of(metric, METRIC_ARGUMENTS)
    places = [a for a in METRIC_ARGUMENTS[:2] if a not in {p.name for p in parameters}]
    in_order, by_name, needs, gap = list[str](), dict[str, str](), list[str](), False
    for p in parameters:
        optional = p.default is not p.empty
        if p.kind is p.VAR_POSITIONAL:
            if not gap:
                in_order, needs, places = [*in_order, *places], [*needs, *places], []
        elif p.name in METRIC_ARGUMENTS or (places and not optional and p.kind is not p.KEYWORD_ONLY):
            what = p.name if p.name in METRIC_ARGUMENTS else places.pop(0)
            close = nearest(p.name, METRIC_ARGUMENTS) if what == "rescore" else what
            if close not in (None, what):
                raise InputError(f"metric '{name}': '{p.name}' would get rescore; did you mean '{close}'?")
            if gap or p.kind is p.KEYWORD_ONLY:
                by_name[p.name] = what
            else:
                in_order.append(what)
            if not optional or what == "reexplain":  # nobody asks for explanations made again without using them
                needs.append(what)
        elif optional or p.kind is p.VAR_KEYWORD or p.name in own:
            gap = gap or p.kind is not p.KEYWORD_ONLY
        else:
            raise InputError(
                f"metric '{name}' cannot be called: nobody fills in its parameter '{p.name}'. A metric takes "
                "(attribution, rescore) and, by name, rationale and reexplain; options are keyword-only or fields"
            )
    return MetricCall(in_order, by_name, tuple(n for n in needs if n != "attribution"))


def _metric_meta(part: PartInfo) -> dict[str, Any]:
    """Check what a metric's registration says; what it needs is read off its signature unless it says so."""
    if part.meta["higher_is_better"] not in (True, False, None):
        raise InputError(f"metric '{part.name}': higher_is_better must be True or False")
    if not (isinstance(part.meta["range"], tuple) and len(part.meta["range"]) == 2):
        raise InputError(f"metric '{part.name}': range must be (lowest, highest), with None where there is no end")
    call = metric_call(part.name, part.obj)
    if part.meta["needs"] is None:
        return {"needs": call.needs}
    for need in part.meta["needs"]:
        if need not in (*call.in_order, *call.by_name.values()):
            raise InputError(f"metric '{part.name}' says that it needs {need!r}, but has no parameter of that name")
    return {}


methods = Registry(
    "attribution method",
    "attriflow.methods",
    "attriflow.methods",
    meta={
        "family": "other",  # "gradient", "path", "perturbation", "internals", "control", or a word of your own
        "cost": "not stated",  # in passes: "1 forward + T products"
        "blind": "not stated",  # what its scores cannot show
        "axes": "step, input",  # of the scores
        "deterministic": False,  # promised to draw no random numbers; not promised: it is tried where it matters
        "signed": None,
        "complete": False,  # scores promised to sum up to the difference from the baseline
        "interface": False,  # needs an architecture that shows its attention
        "explains": True,  # False: left out where all methods run
        "runs_model": True,
        "spans": None,  # whether it explains spans in one go; None: unless it is of the family "internals"
        "paper": "-",
        "memory": None,  # (sizes, **options) -> bytes beyond the weights (`engine.sizes.Sizes`); None: as its family
        "floor": None,  # (problem, **options) -> fewest multiply-adds (`measuring.floors.Problem`); None: as cost says
        "demo": {},  # options in `attriflow demo`, which is looked at while it runs
        "trial": {},  # options under which tests and benchmarks try it: few points and samples
    },
    complete=_check_method,
)
step_functions = Registry(
    "step function", "attriflow.step_functions", "attriflow.step_functions", functions=True, bare={"stepwise": False}
)
aggregators = Registry("aggregator", "attriflow.aggregation", "attriflow.aggregators")
aggregation_functions = Registry(
    "aggregation function", "attriflow.aggregation.functions", "attriflow.aggregation_functions", functions=True
)
metrics = Registry(
    "metric",
    "attriflow_metrics",
    "attriflow.metrics",
    meta={
        "higher_is_better": _REQUIRED,
        "family": "other",  # "faithfulness", "plausibility", "robustness", "sanity", or a word of your own
        "range": (None, None),
        "needs": None,  # of METRIC_ARGUMENTS; None: what its signature asks for
        "cost": "not stated",
        "source": "-",
        "default": False,  # run where an evaluation names no metrics
        "shared": False,  # its plan does not depend on the explanation
        "from_data": {},  # option -> fact about the data that it follows
        "requires": (),  # packages
        "extra": None,  # of attriflow that brings them
    },
    bare={"higher_is_better": None},  # nobody said: shown, not ranked
    complete=_metric_meta,
    given=METRIC_ARGUMENTS,
)
