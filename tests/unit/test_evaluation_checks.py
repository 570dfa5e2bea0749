"""Type checks of settings and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from attriflow.errors import InputError
from attriflow.evaluation.checks import check_value, fits, spell


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        ("1", int, False),
        (1, float, True),
        (True, float, False),
        (0.5, float, True),
        (1, bool, False),
        (True, bool, True),
        ("a", str, True),
        (1, str, False),
        (None, int | None, True),
        (2, int | None, True),
        ("x", int | None, False),
        ("auto", int | Literal["auto"], True),
        ("other", int | Literal["auto"], False),
        (True, Literal[1], False),
        ([1, 2], tuple[int, ...], True),
        ([1, "2"], tuple[int, ...], False),
        ((1, 2), Sequence[int], True),
        ("12", Sequence[int], False),
        ([0.1, 0.9], tuple[float, float], True),
        ([0.1], tuple[float, float], False),
        ({"a": 1}, Mapping[str, Any], True),
        ([], Mapping[str, Any], False),
        (len, Callable[..., Any], True),
        (3, Callable[..., Any], False),
        (object(), Any, True),
    ],
)
def test_fits(value: Any, hint: Any, expected: bool) -> None:
    assert fits(value, hint) is expected


def test_numpy_integers_are_integers() -> None:
    numpy = pytest.importorskip("numpy")
    assert fits(numpy.int64(3), int)
    assert fits(numpy.float32(3), float)


def test_message_says_what_was_expected() -> None:
    assert spell(int | Literal["auto"] | None) == "int | 'auto' | None"
    with pytest.raises(InputError, match=r"'batch_size' must be int \| 'auto', not 'big'"):
        check_value("'batch_size'", "big", int | Literal["auto"])
