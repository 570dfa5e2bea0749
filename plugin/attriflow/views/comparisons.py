"""Attributions of one text side by side: what belongs together, and what each is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attriflow.types import Attribution
from attriflow.views.common import foil_text, printable


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What one part of a page shows.

    Attributes:
        name: Heading.
        attributions: Label -> attribution; all of them explain the same tokens.
        rationale: The evidence according to the data, bool `[step, input]`, or None.
        metrics: Label -> (metric, value as text).
        missing: Label -> why there is no attribution.
        step_scores: Name, unit and values per step; those of the attributions when empty.
    """

    name: str
    attributions: Mapping[str, Attribution]
    rationale: Tensor | None = None
    metrics: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    step_scores: Sequence[tuple[str, str, Sequence[float]]] = ()

    @property
    def first(self) -> Attribution:
        """One of the attributions: for what they share."""
        return next(iter(self.attributions.values()))


def compare(items: Sequence[Attribution]) -> list[Comparison]:
    """Attributions of the same text and the same explained tokens together, in the order they come."""
    groups: dict[Any, list[Attribution]] = {}
    for item in items:
        key = (item.input_text, foil_text(item), item.start, tuple(t.text for t in item.targets))
        groups.setdefault(key, []).append(item)
    return [
        Comparison(name=f"Example {i}", attributions=dict(zip(labels(group), group, strict=True)))
        for i, group in enumerate(groups.values(), 1)
    ]


def labels(items: Sequence[Attribution]) -> list[str]:
    """The methods' names; where one occurs more than once, with what tells its attributions apart."""
    found = [printable(item.provenance.method) for item in items]
    for name in {label for label in found if found.count(label) > 1}:
        places = [i for i, label in enumerate(found) if label == name]
        facts = [_facts(items[i]) for i in places]
        keys = list(dict.fromkeys(key for fact in facts for key in fact))
        differing = [key for key in keys if len({fact.get(key, "") for fact in facts}) > 1]
        for number, (place, fact) in enumerate(zip(places, facts, strict=True), 1):
            parts = [fact[key] for key in differing if key in fact]
            found[place] = f"{name} ({', '.join(parts)})" if parts else f"{name} #{number}"
    # still not told apart
    return [
        f"{label} #{found[: i + 1].count(label)}" if found.count(label) > 1 else label for i, label in enumerate(found)
    ]


def _facts(item: Attribution) -> dict[str, str]:
    how = item.provenance
    facts = {"attributed_fn": how.attributed_fn, "model": how.model, "seed": f"seed={how.seed}"}
    facts |= {f"{key}": f"{key}={value}" for key, value in {**how.attributed_fn_args, **how.options}.items()}
    facts["axes"] = " x ".join(item.axes)
    return {key: printable(value) for key, value in facts.items() if value}
