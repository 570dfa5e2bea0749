"""One family of errors: each message says what was wrong and what is allowed. Standard library only.

Messages quote names and texts that others wrote. What terminals and pages would obey in them is made visible here, for
every error of ours wherever it is printed, and by `printable` for whatever else is.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

# Characters that would reorder the text around them.
_BIDI = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def printable(text: str, keep: str = "\n\t") -> str:
    """Replace what a page or a terminal must not receive: control characters, bidi controls, lone surrogates."""
    if text.isprintable():  # none of those is, by Unicode's categories
        return text
    return "".join(char if char in keep else _printable(char) for char in text)


def _printable(char: str) -> str:
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF):
        return "\ufffd"
    if code in _BIDI or code in (0x2028, 0x2029) or unicodedata.category(char) == "Cc":
        return f"<U+{code:04X}>"
    return char


class AttriflowError(Exception):
    """Base class of every error that attriflow raises on purpose."""

    def __str__(self) -> str:
        """The message, without what a terminal would obey."""
        return printable(super().__str__())


class UnknownNameError(AttriflowError, ValueError):
    """A method, step function, aggregator, metric, column or choice that does not exist."""


class OptionError(AttriflowError, TypeError):
    """A keyword that the called function or part does not take."""


class InputError(AttriflowError, ValueError):
    """A value, text, shape or file that cannot be used."""


class FrozenResultError(AttriflowError, dataclasses.FrozenInstanceError):
    """A field of something that does not change was assigned to."""


class OptionValueError(OptionError, InputError):
    """An option of a part with a value of a type that the part does not take."""


class NothingToExplainError(InputError):
    """A text without a token to explain. `rest`: its encoded example without steps, where there is one."""

    def __init__(self, message: str, rest: Any = None) -> None:
        super().__init__(message)
        self.rest = rest


class NotFiniteError(AttriflowError, ArithmeticError):
    """NaN or infinity in the model's logits, in what is explained, or in a method's scores."""


class UnsupportedModelError(AttriflowError, TypeError):
    """A model that cannot do what was asked (no hidden embeddings, no attention maps, no tokenizer...)."""


class OutOfMemoryError(AttriflowError, MemoryError):
    """The device ran out of memory with the smallest possible chunk."""


class MissingExtraError(AttriflowError, ImportError):
    """An optional dependency is needed for the feature and is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs the package '{package}': pip install 'attriflow[{extra}]'")
        self.feature, self.package, self.extra = feature, package, extra

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from what it was made of, where a worker sends it home."""
        return type(self), (self.feature, self.package, self.extra)


_NO_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator: (can't allocate|not enough) memory|_ALLOC_FAILED|bad_alloc", re.IGNORECASE
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's or PyTorch's says that memory ran out, on whichever device.

    Only GPUs have a type for it; CPUs, MPS and some libraries raise a `RuntimeError` with a message. An
    `OutOfMemoryError` of ours is not meant: whoever raised it has tried with less.
    """
    if isinstance(error, AttriflowError):
        return False
    named = type(error).__name__ == "OutOfMemoryError"
    return (
        named
        or isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None)
    )


def no_memory(error: BaseException) -> bool:
    """Whether memory ran out, with less tried already or not."""
    return isinstance(error, OutOfMemoryError) or out_of_memory(error)


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to a mistyped one, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown(kind: str, name: object, allowed: Iterable[str]) -> str:
    """Message for a wrong name: "unknown method 'salincy'; did you mean 'saliency'? Allowed: ..."."""
    options = sorted(allowed)
    close = nearest(str(name), options)
    hint = f"; did you mean '{close}'?" if close else "."
    return f"unknown {kind} {name!r}{hint} Allowed: {', '.join(options) or '(none)'}"


def check_choice(kind: str, name: object, allowed: Iterable[str]) -> None:
    """Raise `UnknownNameError` unless `name` is one of `allowed`."""
    options = list(allowed)
    if name not in options:
        raise UnknownNameError(unknown(kind, name, options))


def check_least(name: str, value: Any, least: int = 1) -> None:
    """Raise `InputError` unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, not {value!r}")


def check_unicode(text: str) -> str:
    """The text; raise `InputError` for halves of characters, which no tokenizer takes (bytes that are not UTF-8)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"not valid Unicode: {text[error.start]!r} at character {error.start}") from None
    return text


def check_keywords(owner: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise `OptionError` naming the nearest option when a keyword is not in `allowed`."""
    options = list(allowed)
    for name in given:
        if name not in options:
            raise OptionError(unknown(f"option of {owner}", name, options))


def reason_of(error: BaseException) -> str:
    """One line about an error: the message of our own, with the type of a stranger's."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = printable(lines[0].strip()) if lines else ""
    if not isinstance(error, AttriflowError) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def changed_by(how: str) -> Callable[[type[T]], type[T]]:
    """A frozen dataclass whose refusal to be changed names the way to make a changed copy (`{name}`: the field)."""

    def decorate(cls: type[T]) -> type[T]:
        def refuse(_self: T, name: str, _value: Any = None) -> NoReturn:
            copy = how.format(name=name)
            raise FrozenResultError(f"{cls.__name__}.{name} cannot be changed: {copy} makes a changed copy")

        cls.__setattr__ = cls.__delattr__ = refuse  # type: ignore[method-assign, assignment]
        return cls

    return decorate
