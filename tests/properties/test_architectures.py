"""Every generation architecture of transformers against the loop by hand, and the page that says so."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
from architectures import ARCHITECTURES
from sweep import STATES, examine

STORED = json.loads((Path(__file__).parents[2] / "docs" / "supported-models.json").read_text(encoding="utf-8"))
KNOWN = STORED["architectures"]
AGAIN = "run recipes/supported_models.py and recipes/make_docs.py"
same_transformers = pytest.mark.skipif(
    version("transformers") != STORED["versions"]["transformers"], reason="the page is about another transformers"
)


def test_nothing_is_wrong_in_silence():
    faults = {name: found for name, found in KNOWN.items() if found["state"] in ("wrong", "raw error")}
    assert not faults


@same_transformers
def test_the_page_has_every_architecture():
    assert tuple(KNOWN) == ARCHITECTURES, AGAIN


QUICK = ("causal:diffllama", "causal:gemma4_unified_text", "causal:zamba", "seq2seq:led", "seq2seq:t5gemma2")
"""One layer that is called twice, settings that layers differ in, blocks that are shared, rows without gradients, one
attention over both sides: always tried, as ordinary models have none of it."""


@same_transformers
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.sweep) for n in KNOWN])
def test_an_architecture_is_as_good_as_the_page_says(name):
    found, known = examine(name), KNOWN[name]
    assert STATES.index(found["state"]) <= STATES.index(known["state"]), found
    worse = set(found.get("reasons", ())) - set(known.get("reasons", ()))
    assert found["state"] != known["state"] or not worse, found
    if found != known:
        warnings.warn(f"{name} is better than the page says, or differs in words: {AGAIN} ({found})", stacklevel=1)
