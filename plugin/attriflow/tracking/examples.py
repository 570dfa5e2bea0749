"""Examples as a reader sees them: texts, what each method points to, and how far that is to be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attriflow.texts.chats import text_of_chat

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.evaluation.runner import Evaluation
    from attriflow.types import Attribution, Example

TOP = 3
"""Inputs that are named."""


def evidence(attribution: Attribution, top: int = TOP) -> str:
    """The inputs with the largest scores over all steps, each with its sum: "red 0.81, hat -0.2"."""
    shown = [i for i, token in enumerate(attribution.targets) if not token.special]
    sums = attribution.token_scores()[shown].nan_to_num(nan=0.0).sum(0)
    order = sums.abs().argsort(descending=True, stable=True).tolist()[:top]
    return ", ".join(f"{attribution.inputs[i].text.strip()} {float(sums[i]):.3g}" for i in order if float(sums[i]))


def examples_table(evaluation: Evaluation, found: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row per example: texts, each method's evidence and mean values, and its number.

    MLflow compares runs by the first column, which is the input for that, and shows the second one of each.

    Args:
        evaluation: What is known so far.
        found: Method -> `evidence` of every example.
    """
    import pandas as pd

    data, examples = evaluation.data, evaluation.examples
    texts: dict[str, Any] = {
        "input": [text if isinstance(text, str) else text_of_chat(text) for text in data.inputs],
    }
    if data.targets is None:
        texts["generated"] = [_written(example) for example in examples]
    else:
        texts["target"] = list(data.targets)
    for result in evaluation.results:
        if len(named := found.get(result.name, ())) == len(examples):
            texts[f"{result.name}: evidence"] = list(named)
        for metric, values in result.values.items():
            if len(values) == len(examples):
                texts[f"{result.name}: {metric}"] = [value.mean for value in values]
    return pd.DataFrame({**texts, "example": list(data.numbers)})


def _written(example: Example) -> str:
    """What the model wrote, as a text."""
    tokens = [t for t in example.target[example.start : example.stop] if not t.special and t.start is not None]
    return example.target_text[tokens[0].start : tokens[-1].end].strip() if tokens else ""
