"""Families that metrics are ranked in: faithfulness by what becomes of the tokens, the others as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attriflow.registry import metrics

REMOVAL, REPLACEMENT = "removal", "replacement"
FAITHFUL = (REMOVAL, REPLACEMENT)
"""Families that score changed inputs."""


def families(names: Iterable[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, str]:
    """Metric -> family; empty for metrics that are not installed here.

    Faithfulness metrics that delete tokens are of the family "removal"; those that put something in their place (a
    baseline, a mask, thinned embeddings) are of the family "replacement": the two often disagree.

    Args:
        names: The metrics.
        options: Metric -> options that were given.
    """
    found = {}
    for name in names:
        part = metrics.known(name)
        if part is None:
            found[name] = ""
            continue
        family = str(part.meta["family"])
        if family == "faithfulness":
            family = REMOVAL if perturbation(name, options) == "delete" else REPLACEMENT
        found[name] = family
    return found


def judges(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics that a multiverse ranks by: those of the explanation alone, which every choice may change.

    Robustness and sanity metrics explain again, and judge a method as it is set.
    """
    parts = [metrics.info(name) for name in names]
    families = ("faithfulness", "plausibility")
    return tuple(
        p.name for p in parts if p.meta["family"] in families and isinstance(p.meta.get("higher_is_better"), bool)
    )


def perturbation(name: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """What a metric does to tokens ("delete", "baseline", ...); empty for those that have no such option."""
    part, given = metrics.known(name), (options or {}).get(name, {})
    default = "" if part is None else part.options.get("perturbation", "")
    return str(given.get("perturbation", given.get("how", default)))  # its former name, which stored runs have
