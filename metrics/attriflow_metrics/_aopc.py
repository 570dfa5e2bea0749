"""What comprehensiveness and sufficiency share: the tokens selected at each threshold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from attriflow.errors import InputError
from attriflow_metrics import ferret
from attriflow_metrics._faithfulness import Faithfulness
from attriflow_metrics._steps import Step, ranks

Selection = Literal["perc", "k", "th"]


@dataclass(frozen=True, kw_only=True)
class AreaOverPerturbationCurve(Faithfulness):
    """Base of comprehensiveness and sufficiency.

    Attributes:
        thresholds: Fractions of the removable tokens ("perc", default 0.1, 0.2, ..., 1.0; a fraction that makes less
            than one token selects nothing), numbers of tokens ("k") or scores to exceed ("th"). ERASER uses
            `(0.01, 0.05, 0.1, 0.2, 0.5)`. A threshold that selects the same tokens as the one before it is left out of
            the mean.
        based_on: What the thresholds are. With "perc" and "k" numpy's argsort decides between equal scores, in an order
            that it does not promise.
        only_pos: Select only tokens with a score above 0. "th" looks at the threshold alone.
    """

    thresholds: tuple[float, ...] | None = None
    based_on: Selection = "perc"
    only_pos: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        if self.thresholds is None:
            if self.based_on != "perc":
                raise InputError(f"based_on='{self.based_on}' needs thresholds")
            return
        thresholds = tuple(self.thresholds)
        if not thresholds:
            raise InputError("thresholds are empty")
        if self.based_on == "perc" and not all(0 < t <= 1 for t in thresholds):
            raise InputError(f"based_on='perc' needs thresholds above 0 and up to 1, not {thresholds}")
        if self.based_on == "k":
            if not all(t >= 1 and t == int(t) for t in thresholds):
                raise InputError(f"based_on='k' needs whole numbers from 1, not {thresholds}")
            thresholds = tuple(int(t) for t in thresholds)
        object.__setattr__(self, "thresholds", thresholds)

    @abstractmethod
    def kept(self, inputs: np.ndarray, selected: np.ndarray) -> np.ndarray:
        """The inputs that stay when some places are selected."""

    def shown(self, scores: np.ndarray) -> np.ndarray:
        """The scores; their ranks when the sign is not to matter."""
        return scores if self.only_pos or self.based_on == "th" else ranks(scores)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the evaluation, as ferret names them."""
        removal: dict[str, Any] = {"based_on": self.based_on}
        if self.thresholds is not None:
            removal["thresholds"] = list(self.thresholds)
        return {"removal_args": removal}

    def kept_inputs(self, step: Step) -> Iterator[tuple[int, ...]]:
        """The inputs that stay, selected at each threshold by ferret's own functions."""
        inputs = np.array(step.inputs)
        for selected in _selected(np.asarray(step.scores, dtype=np.float64).tobytes(), self.based_on, self.thresholds):
            yield tuple(self.kept(inputs, np.array(selected, dtype=np.int64)).tolist())


# Comprehensiveness and sufficiency select the same places, each once to plan and once to measure.
@lru_cache(maxsize=4096)
def _selected(scores: bytes, based_on: str, thresholds: tuple[float, ...] | None) -> tuple[tuple[int, ...], ...]:
    """The places of float64 scores that ferret selects at each threshold, ascending; none where it selects nothing."""
    parts = ferret.load()
    arguments: dict[str, Any] = {"based_on": based_on}
    if thresholds is not None:
        arguments["thresholds"] = list(thresholds)
    removal = parts.parse_arguments({"removal_args": arguments})[2]
    select = parts.discretiser(removal["based_on"])
    values = np.frombuffer(scores, dtype=np.float64)
    found = (select(values, threshold, True) for threshold in removal["thresholds"])
    return tuple(tuple(np.sort(places).tolist()) for places in found if places is not None)
