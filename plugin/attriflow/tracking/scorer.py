"""The scorer class behind `attriflow.tracking.genai`, which MLflow can register.

MLflow registers functions, as source, and no classes. So what is registered is a function that has the settings as a
default, and asks for the scorer of these settings through a door of attriflow, whose name outlives modules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mlflow.genai.scorers import Scorer, scorer
from pydantic import PrivateAttr

from attriflow.errors import InputError


class Evidence(Scorer):
    """Judges the explanations of outputs; `attriflow.tracking.genai.evidence` makes it."""

    _judge: Callable[[Any, Any, Any], list[Any]] = PrivateAttr()
    _given: Mapping[str, Any] = PrivateAttr()

    @classmethod
    def of(cls, name: str, judge: Callable[[Any, Any, Any], list[Any]], given: Mapping[str, Any]) -> Evidence:
        """Make one of what scores, and of the arguments that it was made of."""
        made = cls(name=name)
        made._judge, made._given = judge, given
        return made

    def __call__(self, *, inputs: Any = None, outputs: Any = None, expectations: Any = None) -> list[Any]:
        """One feedback per metric on one row."""
        return self._judge(inputs, outputs, expectations)

    def register(self, *, name: str | None = None, experiment_id: str | None = None) -> Scorer:
        """Register with MLflow; `mlflow.genai.scorers.get_scorer` gives it back in any process that has attriflow.

        Raises:
            InputError: It has a model or a function that only this process has.
        """
        given = {**self._given, "name": name or self.name}
        own = [what for what, value in given.items() if not _is_plain(value)]
        if own:
            allowed = "a name, a folder or an address such as models:/NAME/1" if "model" in own else "plain values"
            raise InputError(f"cannot register a scorer whose {', '.join(own)} only this process has: give {allowed}")
        # its source and its defaults are what MLflow keeps, so it uses nothing from outside
        text = json.dumps(given)

        @scorer(name=given["name"])
        def evidence(inputs: Any, outputs: Any, expectations: Any = None, settings: str = text) -> Any:
            from attriflow.doors import opened

            return opened("scorer")(settings)(inputs=inputs, outputs=outputs, expectations=expectations)

        return evidence.register(name=given["name"], experiment_id=experiment_id)


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold it."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
