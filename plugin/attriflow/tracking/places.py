"""Where an evaluation lies in its run: several may share one, and each but the first has a folder of its own.

The folder opens the paths of artifacts and the names of params and tags; `metric_prefix` opens the names of metrics.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError
from attriflow.evaluation.identity import weights_digest

if TYPE_CHECKING:
    from attriflow.evaluation.runner import Evaluation

EVALUATIONS = "attriflow.evaluations"
"""Tag of a run: its evaluations' folders as JSON, in the order in which they began. Without it there is one, ""."""
IDENTITY = "attriflow.evaluation"
"""Tag of an evaluation, in its folder: what tells it from others."""
ROOT = "evaluations"
NO_VALUES = (
    "inputs",
    "rationale",
    "contrast_target",
    "contrast_source",
    "max_examples",
    "report_examples",
    "fail_fast",
    "device_map",
    "max_memory",
)
"""Settings that no value depends on, once it is known which rows there are."""
_FOLDER = re.compile(rf"{ROOT}/(?!\.+$)[\w.-]+")


@dataclass(frozen=True)
class Place:
    """A place in a run.

    Attributes:
        folder: "" for an evaluation that has the run to itself, else "evaluations/NAME".
        prefix: Opens the names of metrics.
        again: Whether the same evaluation lies there already.
        others: Folders of the other evaluations of the run.
    """

    folder: str = ""
    prefix: str = ""
    again: bool = False
    others: tuple[str, ...] = ()


def folders(tags: Mapping[str, str]) -> list[str]:
    """Folders of the evaluations that a run has, by its tags."""
    try:
        found = json.loads(tags.get(EVALUATIONS, ""))
    except (ValueError, RecursionError):
        found = None
    names = [f for f in found if isinstance(f, str)] if isinstance(found, list) else []
    named = [f for f in names if not f or _FOLDER.fullmatch(f)]  # a tag may say "../../x"
    return named or ([""] if "attriflow.device" in tags else [])


def within(values: Mapping[str, str], folder: str) -> Mapping[str, str]:
    """The params or tags of one evaluation of a run, without its folder."""
    opening = f"{folder}/" if folder else ""
    return {k.removeprefix(opening): v for k, v in values.items() if k.startswith(opening)}


def choose(tags: Mapping[str, str], prefix: str, identity: str) -> Place:
    """A place in a run that has these tags: where the same evaluation lies already, else one that is free."""
    taken = folders(tags)
    names = {folder: within(tags, folder) for folder in taken}
    for folder, known in names.items():
        if known.get(IDENTITY) == identity and known.get("attriflow.metric_prefix", "") == prefix:
            return Place(folder, prefix, True, tuple(f for f in taken if f != folder))
    name = re.sub(r"[^\w.-]+", "_", prefix).strip("_.-")[:100]
    wanted = f"{ROOT}/{name}" if name else f"{ROOT}/{len(taken) + 1}" if taken else ""
    free, n = wanted, 2
    while free in taken:
        free, n = f"{wanted}-{n}", n + 1
    return Place(free, prefix, False, tuple(taken))


def identity_of(evaluation: Evaluation, model: str) -> str:
    """Digest of weights, rows and settings, and of the model's name: two evaluations with the same one are the same."""
    facts = [
        weights_digest(evaluation.model.model),
        model,
        dataclasses.asdict(evaluation.data),
        {k: v for k, v in evaluation.config.as_dict().items() if k not in NO_VALUES},
    ]
    return hashlib.sha256(json.dumps(facts, default=repr, sort_keys=True).encode()).hexdigest()[:16]


def checked_prefix(value: Any) -> str:
    """`metric_prefix` of an evaluator's configuration."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"'metric_prefix' must be a text, not {value!r}")
    return value
