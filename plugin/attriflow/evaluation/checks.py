"""Does a value fit a type annotation? Enough of typing for options that come from dictionaries and JSON."""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from attriflow.errors import InputError
from attriflow.registry import PartInfo

_NUMBERS = {bool: bool, int: numbers.Integral, float: numbers.Real}


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` may be used where `hint` is asked for; annotations it does not know are taken to fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, a) for a in arguments)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if hint in (None, type(None)):
        return value is None
    if hint in _NUMBERS:
        # a bool is an int to Python, but seed=True is a mistake
        return isinstance(value, _NUMBERS[hint]) and (hint is bool or not isinstance(value, bool))
    if hint is str:
        return isinstance(value, str)
    if origin in (tuple, list, collections.abc.Sequence):
        return isinstance(value, (list, tuple)) and _items_fit(value, arguments)
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping)
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return callable(value)
    return True


def _items_fit(values: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if (len(arguments) == 2 and arguments[1] is Ellipsis) or len(arguments) == 1:
        return all(fits(v, arguments[0]) for v in values)
    return len(values) == len(arguments) and all(fits(v, a) for v, a in zip(values, arguments, strict=True))


def spell(hint: Any) -> str:
    """A type annotation in words a user reads: "int | 'auto'"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(spell(a) for a in arguments)
    if origin is Literal:
        return " | ".join(repr(a) for a in arguments)
    if hint is type(None):
        return "None"
    return hint.__name__ if inspect.isclass(hint) and not arguments else str(hint).replace("typing.", "")


def check_value(label: str, value: Any, hint: Any) -> None:
    """Raise `InputError` naming what was expected when a value does not fit its annotation."""
    if not fits(value, hint):
        raise InputError(f"{label} must be {spell(hint)}, not {value!r}")


def hints_of(obj: Any) -> dict[str, Any]:
    """Resolved annotations of a part (dataclass or function), without those that exist only for type checkers."""
    try:
        return typing.get_type_hints(obj)
    except NameError:
        pass
    out: dict[str, Any] = {}
    for name, hint in getattr(obj, "__annotations__", {}).items():
        alone = type("_", (), {"__annotations__": {name: hint}, "__module__": obj.__module__})
        with contextlib.suppress(NameError):
            out |= typing.get_type_hints(alone)
    return out


def check_options(part: PartInfo, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check names, types and ranges of a part's options by building it once; JSON lists become tuples where asked."""
    hints, out = hints_of(part.obj), dict(options)
    for name, value in options.items():
        if name in part.options and name in hints:
            check_value(f"option '{name}' of {part.kind} '{part.name}'", value, hints[name])
            if isinstance(value, list) and isinstance(part.options[name], tuple):
                out[name] = tuple(value)
    part.build(**out)
    return out
