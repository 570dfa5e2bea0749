"""Malformed things: values, documents with something else in them, broken bytes; and what may become of a call."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from attriflow.errors import AttriflowError

OUTCOMES: Counter[bool] = Counter()
"""How many calls of a test worked, and how many said what is wrong."""
PHASES = [Phase.generate, Phase.shrink]
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "NaN", "null", "../../x", "\x1b[31m", "=1+1", "a\nb", "é\u202e", "\0", "x" * 999]),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf")]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=4,
)
NEAR: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 8), st.sampled_from([0.0, 0.5, -1.0, 2.0, True, False, None, [], {}, [0], [1, 2], "pad", "mask"])
)
"""What may have the right type, and still be wrong."""


@st.composite
def changed(draw: Any, document: Any) -> Any:
    """A copy of a document of mappings and lists in which one place, anywhere, is missing, odd or there twice."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        found = _changed(draw, found)
    return found


def _changed(draw: Any, document: Any) -> Any:
    here, keys = document, _keys(document)
    while keys and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(keys))
        inner = _keys(here[key])
        if not inner or not draw(st.integers(0, 4)):
            what = draw(st.sampled_from(["odd", "odd", "gone", "other"]))
            if what == "gone":
                del here[key]
            elif what == "other" and isinstance(here, dict):
                here[draw(TEXTS)] = here.pop(key)
            else:
                here[key] = draw(st.one_of(NEAR, VALUES))
            return document
        here, keys = here[key], inner
    return draw(VALUES)


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes of a file that is cut off, has others in between, or is another one."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    return draw(
        st.sampled_from(
            [
                content[:at],
                content[at:],
                content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at + 1 :],
                content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :],
                content[:at] + content[: at + 20] + content[at:],
                draw(st.binary(max_size=40)),
            ]
        )
    )


def fuzzed(few: int, many: int, *strategies: Any) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """A test of a property with a few examples, the same ones every time, and with many among the slow tests."""

    def decorate(property_: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            rules = settings(
                max_examples=examples, derandomize=True, deadline=None, database=None,
                suppress_health_check=list(HealthCheck), print_blob=False, phases=PHASES,
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                OUTCOMES.clear()
                rules(given(*strategies)(property_))()  # rules are for a property that has none yet
            calls = sum(OUTCOMES.values())
            print(f"\n{property_.__name__}: {examples} examples, {calls} calls, {OUTCOMES[False]} refused in one line")

        test.__doc__ = property_.__doc__
        return test

    return decorate


def told(work: Callable[[], Any]) -> Any:
    """What work returns; or None where it failed with an error that says what is wrong. All else is a fault."""
    try:
        found = work()
    except AttriflowError as error:
        assert str(error).strip(), "an error without a message"
        OUTCOMES[False] += 1
        return None
    OUTCOMES[True] += 1
    return found


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Callable[[], set[str]]]:
    """Work in a folder of its own; what is called tells what lies there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield lambda: {str(p.relative_to(folder)) for p in folder.rglob("*")}
    finally:
        os.chdir(before)
