"""Does a value fit a type annotation? Enough of typing for options that come from callers, dictionaries and JSON.

Standard library only.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union

from attriflow.errors import InputError, UnknownNameError, nearest

NO_FIT = object()


def fitted(value: Any, hint: Any, exact: bool = False) -> Any:
    """`value` as `hint` has it, or `NO_FIT`; annotations that are not known here are taken to fit.

    Numpy's scalars and arrays become Python's. What JSON cannot say is read as it says it: lists are tuples, and
    digits as keys whole numbers, where these are asked for. Texts become nothing else.

    Args:
        value: What was given.
        hint: The resolved annotation.
        exact: Whether a list is no tuple here, nor a tuple a list.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is not Any and type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    if origin in (Union, types.UnionType):
        # in `list[int] | tuple[int, int]` the two may mean different things
        found = (fitted(value, a, strict) for strict in (True, exact) for a in arguments)
        return next((v for v in found if v is not NO_FIT), NO_FIT)
    if origin is Literal:
        return value if any(value == a and type(value) is type(a) for a in arguments) else NO_FIT
    if hint in (None, type(None)):
        return None if value is None else NO_FIT
    if hint in (bool, int, float):
        return _number(value, hint)
    if origin in (list, tuple, collections.abc.Sequence) or hint in (list, tuple, collections.abc.Sequence):
        return _items(value, origin or hint, arguments, exact)
    if origin in (dict, collections.abc.Mapping) or hint in (dict, collections.abc.Mapping):
        return _pairs(value, arguments)
    if collections.abc.Callable in (origin, hint):
        return value if callable(value) else NO_FIT
    return value if _is_one(value, origin or hint) else NO_FIT


def _number(value: Any, hint: type) -> Any:
    if isinstance(value, bool) or hint is bool:  # a bool is an int to Python, but seed=True is a mistake
        return value if isinstance(value, bool) and hint is bool else NO_FIT
    if hint is int:
        return int(value) if isinstance(value, numbers.Integral) else NO_FIT
    if not isinstance(value, numbers.Real) or value != value:
        return NO_FIT
    return value if isinstance(value, (int, float)) else float(value)


def _items(value: Any, kind: Any, arguments: tuple[Any, ...], exact: bool) -> Any:
    """A list or tuple, each item as its annotation has it."""
    if not isinstance(value, collections.abc.Sequence) or isinstance(value, (str, bytes, bytearray)):
        return NO_FIT
    if exact and isinstance(kind, type) and kind in (list, tuple) and not isinstance(value, kind):
        return NO_FIT
    hints: Sequence[Any] = arguments or (Any, ...)
    if kind is not tuple or (len(hints) == 2 and hints[1] is ...):
        hints = [hints[0]] * len(value)
    if len(hints) != len(value):
        return NO_FIT
    found = [fitted(v, h, exact) for v, h in zip(value, hints, strict=True)]
    if any(v is NO_FIT for v in found):
        return NO_FIT
    return found if kind is list or (kind is not tuple and isinstance(value, list)) else tuple(found)


def _pairs(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        return NO_FIT
    key_hint, value_hint = arguments or (Any, Any)
    keys = [int(k) if key_hint is int and isinstance(k, str) and k.isdecimal() else k for k in value]
    found = {fitted(k, key_hint): fitted(v, value_hint) for k, v in zip(keys, value.values(), strict=True)}
    return NO_FIT if any(NO_FIT in (k, v) for k, v in found.items()) else found


def _is_one(value: Any, kind: Any) -> bool:
    """Whether a value is an instance of a class, a text where paths are; True for what cannot tell its instances."""
    if not inspect.isclass(kind):
        return True
    try:
        return isinstance(value, kind) or (issubclass(kind, os.PathLike) and isinstance(value, str))
    except TypeError:  # protocols, typed dictionaries and their like
        return True


def spell(hint: Any) -> str:
    """A type annotation in words a user reads: "int | 'auto'"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(spell(a) for a in arguments)
    if origin is Literal:
        return " | ".join(repr(a) for a in arguments)
    if hint is type(None):
        return "None"
    if origin is collections.abc.Callable:
        return "a callable"
    if inspect.isclass(origin) and arguments:
        inner = ", ".join("..." if a is ... else spell(a) for a in arguments)
        return f"{origin.__name__}[{inner}]"
    return hint.__name__ if inspect.isclass(hint) and not arguments else str(hint).replace("typing.", "")


def choices(hint: Any) -> list[Any]:
    """The values of all `Literal`s in an annotation."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [c for a in typing.get_args(hint) for c in choices(a)]
    return []


def check_value(label: str, value: Any, hint: Any, error: type[InputError] = InputError) -> Any:
    """The value as its annotation has it.

    Raises:
        UnknownNameError: A name that is none of those allowed.
        InputError: Something else that does not fit (or the `error` given); both name what is allowed.
    """
    found = fitted(value, hint)
    if found is not NO_FIT:
        return found
    shown = repr(value)
    message = f"{label} must be {spell(hint)}, not {shown if len(shown) <= 80 else f'{shown[:77]}...'}"
    names = [c for c in choices(hint) if isinstance(c, str)]
    if not isinstance(value, str) or not names:
        raise error(message)
    close = nearest(value, names)
    raise UnknownNameError(f"{message}; did you mean '{close}'?" if close else message)


def hints_of(obj: Any) -> dict[str, Any]:
    """Resolved annotations of the options of a class, function or callable.

    Those that cannot be resolved (they exist for type checkers only) are left out.
    """
    out: dict[str, Any] = {}
    for owner in _owners(obj):
        for name, hint in inspect.get_annotations(owner).items():
            alone = type("_", (), {"__annotations__": {name: hint}, "__module__": owner.__module__})
            with contextlib.suppress(NameError, AttributeError, TypeError, SyntaxError):
                out |= typing.get_type_hints(alone, getattr(owner, "__globals__", None))
    return out


def _owners(obj: Any) -> Iterator[Any]:
    """Whose annotations are those of the options; what comes later wins."""
    while isinstance(obj, functools.partial):
        obj = obj.func
    if dataclasses.is_dataclass(obj):
        yield from reversed((obj if inspect.isclass(obj) else type(obj)).__mro__[:-1])
    else:
        call = obj.__init__ if inspect.isclass(obj) else obj if inspect.isroutine(obj) else type(obj).__call__
        call = inspect.unwrap(call)
        if inspect.isfunction(call) or inspect.ismethod(call):
            yield call


def keywords_of(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters of a function, without `**options`."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
