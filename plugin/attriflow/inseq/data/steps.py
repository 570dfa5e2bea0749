"""Steps of all texts in Inseq's layout, made of the columns of sequences or read from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attriflow.inseq.data.tokens import TokenWithId


@dataclass
class FeatureAttributionStepOutput:
    """One step of all texts: scores `[text, attributed token, ...]` and the tokens of each text."""

    source_attributions: Tensor | None = None
    step_scores: dict[str, Tensor] = field(default_factory=dict)
    target_attributions: Tensor | None = None
    sequence_scores: dict[str, Tensor] = field(default_factory=dict)
    source: list[list[TokenWithId]] | None = None
    prefix: list[list[TokenWithId]] | None = None
    target: list[list[TokenWithId]] | None = None


GranularFeatureAttributionStepOutput = CoarseFeatureAttributionStepOutput = FeatureAttributionStepOutput
MultiDimensionalFeatureAttributionStepOutput = FeatureAttributionStepOutput


def steps_from(sequences: Sequence[Any]) -> list[FeatureAttributionStepOutput]:
    """The columns of sequence attributions, step by step, of the texts that have that step; padded with NaN."""
    found = []
    for step in range(max((s.stop - s.attr_pos_start for s in sequences), default=0)):
        here = [s for s in sequences if s.attr_pos_start + step < s.stop]
        source = [s.source_attributions[:, step] for s in here if s.source_attributions is not None]
        target = [
            s.target_attributions[: s.attr_pos_start + step, step] for s in here if s.target_attributions is not None
        ]
        found.append(
            FeatureAttributionStepOutput(
                source_attributions=_padded(source),
                target_attributions=_padded(target),
                step_scores={k: torch.stack([s.step_scores[k][step] for s in here]) for k in here[0].step_scores},
                source=[s.source for s in here] if source else None,
                prefix=[s.target[: s.attr_pos_start + step] for s in here],
                target=[[s.target[s.attr_pos_start + step]] for s in here],
            )
        )
    return found


def _padded(columns: Sequence[Tensor]) -> Tensor | None:
    if not columns:
        return None
    return torch.nn.utils.rnn.pad_sequence(list(columns), batch_first=True, padding_value=torch.nan)


def step_of(stored: Mapping[str, Any]) -> FeatureAttributionStepOutput:
    """A step that a file holds."""
    known = [f.name for f in dataclasses.fields(FeatureAttributionStepOutput)]
    return FeatureAttributionStepOutput(**{k: _token_of(v) for k, v in stored.items() if k in known})


def _token_of(value: Any) -> Any:
    if isinstance(value, tuple):
        return TokenWithId(*value)
    return [_token_of(v) for v in value] if isinstance(value, list) else value
