"""Drives ferret's own evaluator classes on generation models: one explanation per target step.

ferret evaluates text classifiers: it takes a text, tokenises it, deletes token ids, decodes the rest, tokenises that
again and reads `softmax(logits)[target]`. On a generation model the round trip through text changes the tokens and the
logits have the wrong shape. Here ferret gets a text that survives its round trip and a model that is a table:

- **text**: the indices of the inputs that may be removed, joined by spaces: "0 1 2 5". Decoding and encoding are exact,
  no token is special, and whatever ferret deletes is a subset of the inputs.
- **model**: looks up the log-probability lp of the target token when just those inputs stay, and returns the two logits
  `[lp, log(1 - exp(lp))]` in float64. ferret reads nothing but the softmax of the logits at the target index, here 0,
  and `exp(lp) / (exp(lp) + 1 - exp(lp)) = exp(lp)`: the number is the same as with the logits of the whole vocabulary.

Works with the call signatures of ferret 0.4 and 0.5. ferret is imported at the first evaluation (it takes seconds).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attriflow.errors import MissingExtraError

Score = Callable[[tuple[int, ...]], float]
"""Indices of the inputs that stay -> log-probability (nats) of the target token."""


def ferret_available() -> bool:
    """Whether ferret is installed; does not import it."""
    return importlib.util.find_spec("ferret") is not None


@functools.cache
def load() -> SimpleNamespace:
    """The evaluator and explanation classes of ferret and its argument helpers, imported once.

    Raises:
        MissingExtraError: ferret, or a package that it imports, is not installed.
    """
    if not ferret_available():
        raise MissingExtraError("scoring explanations with ferret", "ferret-xai", "ferret")
    try:
        from ferret.evaluators import faithfulness_measures, plausibility_measures
        from ferret.evaluators import utils_from_soft_to_discrete as discrete
        from ferret.explainers.explanation import Explanation, ExplanationWithRationale
    except ModuleNotFoundError as error:
        raise MissingExtraError("scoring explanations with ferret", error.name or "ferret-xai", "ferret") from error
    evaluators = (
        faithfulness_measures.AOPC_Comprehensiveness_Evaluation,
        faithfulness_measures.AOPC_Sufficiency_Evaluation,
        faithfulness_measures.TauLOO_Evaluation,
        plausibility_measures.AUPRC_PlausibilityEvaluation,
        plausibility_measures.Tokenf1_PlausibilityEvaluation,
        plausibility_measures.TokenIOU_PlausibilityEvaluation,
    )
    return SimpleNamespace(
        evaluators={evaluator.__name__: evaluator for evaluator in evaluators},
        Explanation=Explanation,
        ExplanationWithRationale=ExplanationWithRationale,
        parse_arguments=discrete.parse_evaluator_args,
        discretiser=discrete._check_and_define_get_id_discrete_rationale_function,
    )


class IndexTokenizer:
    """The exact codec between texts and indices of inputs; the part of a tokenizer's interface that ferret uses."""

    cls_token: str | None = None
    mask_token_id: int | None = None

    def __call__(self, text: str | Sequence[str], **_: Any) -> dict[str, Tensor]:
        """Indices and their mask, `[text, index]`, padded on the right."""
        texts = [text] if isinstance(text, str) else text
        rows = [[int(index) for index in t.split()] for t in texts]
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def decode(self, ids: Any, **_: Any) -> str:
        """The text of some indices."""
        return " ".join(map(str, np.asarray(ids).tolist()))

    def batch_decode(self, ids: Any, **_: Any) -> list[str]:
        """The texts of several lists of indices."""
        return [self.decode(row) for row in ids]


class TableModel:
    """A classifier of index texts whose probability of class 0 is what `score` says."""

    device = torch.device("cpu")

    def __init__(self, score: Score) -> None:
        self.score = score

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        """Logits `[text, 2]`."""
        rows = zip(input_ids.tolist(), attention_mask.numpy().sum(-1).tolist(), strict=True)
        logits = [two_logits(self.score(tuple(row[:length]))) for row, length in rows]
        return SimpleNamespace(logits=torch.from_numpy(np.array(logits)))


def two_logits(log_probability: float) -> tuple[float, float]:
    """Two logits whose softmax is the probability and its complement; never NaN unless the argument is.

    A probability of 1 gives `(0, -inf)` and a probability of 0 `(-inf, 0)`, whose softmax is exact.
    """
    if log_probability >= 0:  # also rounding slightly above 0
        return 0.0, -math.inf
    return log_probability, math.log(-math.expm1(log_probability))


def evaluate(
    evaluator: str,
    indices: Sequence[int],
    scores: np.ndarray,
    *,
    score: Score | None = None,
    rationale: np.ndarray | None = None,
    **arguments: Any,
) -> float:
    """What a ferret evaluator says about the explanation of one step; NaN where ferret says so.

    Args:
        evaluator: Name of ferret's class.
        indices: The inputs that are shown to ferret (and may be removed), ascending; at least one.
        scores: Their scores, float64 `[index]`.
        score: For the faithfulness evaluators.
        rationale: For the plausibility evaluators: 0 or 1 for every index.
        arguments: ferret's evaluation arguments; `remove_first_last` is False, as no index is a special token.
    """
    parts = load()
    make = parts.evaluators[evaluator]
    model, tokenizer = TableModel(score or _no_score), IndexTokenizer()
    task = {"task_name": "text-classification"} if "task_name" in _parameters(make) else {}
    explanation = _explanation(parts, tokenizer.decode(indices), scores, rationale)
    # 0.4 takes the target as an argument; 0.5 reads it from the explanation and ignores the argument.
    output = make(model, tokenizer, **task).compute_evaluation(
        explanation, **{"target": 0, "remove_first_last": False, **arguments}
    )
    return float(output.score if hasattr(output, "score") else output.value)


def _explanation(parts: SimpleNamespace, text: str, scores: np.ndarray, rationale: np.ndarray | None) -> Any:
    kind = parts.Explanation if rationale is None else parts.ExplanationWithRationale
    values = {
        "text": text,
        "tokens": text.split(),
        "scores": scores,
        "explainer": "",
        "target": 0,
        "target_pos_idx": 0,
        "helper_type": "sequence-classification",
        "rationale": rationale,
    }
    return kind(**{name: value for name, value in values.items() if name in _field_names(kind)})


def _no_score(kept: tuple[int, ...]) -> float:
    raise AssertionError("plausibility needs no model")


@functools.cache
def _parameters(obj: Any) -> frozenset[str]:
    return frozenset(inspect.signature(obj).parameters)


@functools.cache
def _field_names(cls: Any) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(cls))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operators on one thread for a while.

    ferret takes softmaxes over ten rows of two numbers, for which torch wakes all threads: on a busy machine this costs
    a hundred times the arithmetic.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
