"""Values against type annotations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from attriflow.errors import InputError, UnknownNameError
from attriflow.kernels.annotations import NO_FIT, check_value, fitted, hints_of, spell

if TYPE_CHECKING:
    from somewhere import Unknown


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (1.0, int),
        ("1", int),
        (True, float),
        ("1", float),
        (float("nan"), float),
        (1, bool),
        ("False", bool),
        (None, bool),
        (1, str),
        ("x", int | None),
        ("other", int | Literal["auto"]),
        (True, Literal[1]),
        ([1, "2"], tuple[int, ...]),
        ("12", Sequence[int]),
        ([0.1], tuple[float, float]),
        ([], Mapping[str, Any]),
        ({"a": "1"}, Mapping[str, int]),
        ({1: 1}, Mapping[str, int]),
        ({"a": 1}, dict[int, int]),
        ({"a": 1}, list[int]),
        (3, Callable[..., Any]),
        (3, str | re.Pattern[str]),
        (3, Path),
        ((0, 1, 2), int | tuple[int, int]),
    ],
)
def test_what_does_not_fit(value: Any, hint: Any) -> None:
    assert fitted(value, hint) is NO_FIT


THING = object()


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, 1),
        (1, float, 1),
        (0.5, float, 0.5),
        (float("inf"), float, float("inf")),
        (True, bool, True),
        ("a", str, "a"),
        (None, int | None, None),
        (2, int | None, 2),
        ("auto", int | Literal["auto"], "auto"),
        ([1, 2], tuple[int, ...], (1, 2)),
        ((1, 2), Sequence[int], (1, 2)),
        ([1, 2], Sequence[int], [1, 2]),
        (range(2), list[int], [0, 1]),
        ([0.1, 0.9], tuple[float, float], (0.1, 0.9)),
        ([[1, 2], [3, 4]], Sequence[tuple[int, int]], [(1, 2), (3, 4)]),
        ({"a": 1}, Mapping[str, Any], {"a": 1}),
        ({"1": [2]}, dict[int, int | list[int]], {1: [2]}),  # JSON has texts as keys
        ("folder", Path | None, "folder"),
        (len, Callable[..., Any], len),
        (THING, Any, THING),
        (THING, "a hint that nobody knows", THING),
        (np.int64(3), int, 3),
        (np.float32(0.5), float, 0.5),
        (np.bool_(True), bool, True),
        (np.array([1.0, 0.5]), tuple[float, ...], (1.0, 0.5)),
        # what was given decides between a range and a list of indices
        ((0, 2), int | list[int] | tuple[int, int], (0, 2)),
        ([0, 2], int | tuple[int, int] | list[int], [0, 2]),
        ([0, 2], int | tuple[int, int], (0, 2)),
    ],
)
def test_what_fits_and_how(value: Any, hint: Any, expected: Any) -> None:
    found = fitted(value, hint)
    assert found == expected
    assert type(found) is type(expected)


def test_message_says_what_is_allowed() -> None:
    assert spell(int | Literal["auto"] | None) == "int | 'auto' | None"
    assert spell(tuple[float, ...] | Callable[[int], int] | bool) == "tuple[float, ...] | a callable | bool"
    with pytest.raises(InputError, match=r"'batch_size' must be int \| 'auto', not 2.5$"):
        check_value("'batch_size'", 2.5, int | Literal["auto"])
    with pytest.raises(
        UnknownNameError, match=r"'rule' must be 'left' \| 'right', not 'rihgt'; did you mean 'right'\?"
    ):
        check_value("'rule'", "rihgt", Literal["left", "right"])
    with pytest.raises(InputError) as caught:
        check_value("'x'", "a" * 1000, int)
    assert len(str(caught.value)) < 150


@dataclass
class Base:
    size: int
    rule: Literal["a", "b"]


@dataclass
class Part(Base):
    rule: Literal["c"]  # type: ignore[assignment]
    unknown: Unknown


def function(engine: Unknown, *, size: int = 1, unknown: Unknown | None = None) -> None: ...


class Old:
    def __init__(self, *, size: int = 1) -> None: ...

    def __call__(self, engine: Any) -> None: ...


def test_hints_that_only_type_checkers_can_resolve_are_left_out() -> None:
    assert hints_of(Part) == {"size": int, "rule": Literal["c"]}
    assert hints_of(function) == hints_of(partial(function, size=2)) == {"size": int, "return": type(None)}
    assert hints_of(Old)["size"] is int
    assert hints_of(print) == {}
