"""Errors cross processes: whoever gets one by pickle gets the same."""

from __future__ import annotations

import copy
import pickle

import pytest

import attriflow.evaluation.changes  # noqa: F401 (has an error of its own)
from attriflow.errors import AttriflowError, MissingExtraError, NothingToExplainError


def kinds(base: type) -> list[type]:
    return [base, *(kind for own in base.__subclasses__() for kind in kinds(own))]


@pytest.mark.parametrize("kind", sorted(set(kinds(AttriflowError)), key=lambda k: k.__name__), ids=lambda k: k.__name__)
def test_errors_survive_pickling(kind):
    error = kind(*(("the app", "gradio", "app") if kind is MissingExtraError else ("what is wrong",)))
    if kind is NothingToExplainError:
        error.rest = {"a": 1}
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(back) is kind
        assert (str(back), vars(back)) == (str(error), vars(error))
    if kind is MissingExtraError:
        assert str(error) == "the app needs the package 'gradio': pip install 'attriflow[app]'"
