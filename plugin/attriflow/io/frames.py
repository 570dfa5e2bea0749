"""Attributions as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attriflow.types import Attribution

if TYPE_CHECKING:
    import pandas as pd


def to_dataframe(attributions: Sequence[Attribution]) -> pd.DataFrame:
    """Tidy table: one row per example, step and input that the step can see, whatever its score is.

    Columns: example, method, step, input, attributed_token, segment, generated_token, score (extra axes reduced as in
    `Attribution.token_scores`).
    """
    import pandas as pd

    rows = []
    for example, a in enumerate(attributions):
        scores, visible = a.token_scores().detach().cpu().tolist(), (a.visible.cpu() | a.preceding).tolist()
        for step, target in enumerate(a.targets):
            for i, token in enumerate(a.inputs):
                if visible[step][i]:
                    head = (example, a.provenance.method, step, i)
                    rows.append((*head, token.text, token.segment, target.text, scores[step][i]))
    columns = ["example", "method", "step", "input", "attributed_token", "segment", "generated_token", "score"]
    return pd.DataFrame(rows, columns=columns)
