"""Where an evaluation lies in its run: several may share one, and each but the first has a folder of its own.

The folder opens the paths of artifacts and the names of params and tags; `metric_prefix` opens the names of metrics.

Processes may choose at the same moment, and stores have no locks. Each writes a claim under a name of its own, then
reads again: it has the folder if nobody else claims it. Of two that see each other's claims, the one whose name comes
later moves on. Two cannot both see nobody: the later to write reads after both have written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from attriflow.errors import InputError
from attriflow.evaluation.identity import weights_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from attriflow.evaluation.runner import Evaluation

T = TypeVar("T")
EVALUATIONS = "attriflow.evaluations"
"""Opens the names of a run's tags that are claims: JSON with `folder`, `began` (milliseconds) and `held`.

Earlier versions had one tag of this name: the folders as JSON.
"""
IDENTITY = "attriflow.evaluation"
"""Tag of an evaluation, in its folder: what tells it from others."""
ENDED = "attriflow.ended"
"""Tag of an evaluation, in its folder: it came to its end."""
PAUSE, TRIES = 0.1, 50
"""Seconds between two looks at a rival's claim, and how many: who has not decided by then has died."""
ROOT = "evaluations"
NO_VALUES = (
    "inputs",
    "rationale",
    "contrast_target",
    "contrast_source",
    "max_examples",
    "report_examples",
    "traces",
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
        ended: Whether that one came to its end.
        others: Folders of the other evaluations of the run.
        claim: Name and value of the tag that keeps others out.
    """

    folder: str = ""
    prefix: str = ""
    again: bool = False
    ended: bool = False
    others: tuple[str, ...] = ()
    claim: tuple[str, str] = ("", "")


def folders(tags: Mapping[str, str]) -> list[str]:
    """Folders of the evaluations that a run has, by its tags, in the order in which they began."""
    before = _json(tags.get(EVALUATIONS, ""))
    names = [f for f in before if isinstance(f, str)] if isinstance(before, list) else []
    claims = [c for c in claims_of(tags).values() if IDENTITY in within(tags, c["folder"])]
    names += [c["folder"] for c in sorted(claims, key=lambda c: c["began"]) if c["folder"] not in names]
    named = [f for f in names if not f or _FOLDER.fullmatch(f)]  # a tag may say "../../x"
    alone = "" not in named and "attriflow.device" in tags and (not named or "attriflow.model" in tags)
    return ["", *named] if alone else named


def claims_of(tags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Claims by their tags' names."""
    found = {k: _json(v) for k, v in tags.items() if k.startswith(f"{EVALUATIONS}.")}
    kinds = {"folder": str, "began": int, "held": bool}
    return {
        k: v for k, v in found.items() if isinstance(v, dict) and all(isinstance(v.get(n), t) for n, t in kinds.items())
    }


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def within(values: Mapping[str, str], folder: str) -> Mapping[str, str]:
    """The params or tags of one evaluation of a run, without its folder."""
    opening = f"{folder}/" if folder else ""
    return {k.removeprefix(opening): v for k, v in values.items() if k.startswith(opening)}


def choose(tags: Mapping[str, str], prefix: str, identity: str) -> Place:
    """A place in a run that has these tags: where the same evaluation lies already, else one that is free."""
    known = folders(tags)
    for folder in known:
        own = within(tags, folder)
        if own.get(IDENTITY) == identity and own.get("attriflow.metric_prefix", "") == prefix:
            return Place(folder, prefix, True, ENDED in own, tuple(f for f in known if f != folder))
    taken = {*known, *(claim["folder"] for claim in claims_of(tags).values())}
    name = re.sub(r"[^\w.-]+", "_", prefix).strip("_.-")[:100]
    wanted = f"{ROOT}/{name}" if name else f"{ROOT}/{len(taken) + 1}" if taken else ""
    free, n = wanted, 2
    while free in taken:
        free, n = f"{wanted}-{n}", n + 1
    return Place(free, prefix, others=tuple(f for f in taken if f != free))


def claim(client: MlflowClient, ask: Callable[[Callable[[], T]], T], run_id: str, prefix: str, identity: str) -> Place:
    """A place in a run that no other process has.

    Args:
        client: Of the store.
        ask: Calls a function that asks the store; asks again while it is away.
        run_id: The run.
        prefix: Opens the names of metrics.
        identity: See `identity_of`.
    """
    name = f"{EVALUATIONS}.{uuid.uuid4().hex[:12]}"

    def read() -> dict[str, str]:
        tags: Any = ask(lambda: client.get_run(run_id).data.tags)  # type: ignore[arg-type, return-value]
        return {k: v for k, v in tags.items() if k != name}

    def write(held: bool) -> str:
        value = json.dumps({"folder": place.folder, "began": began, "held": held})
        ask(lambda: client.set_tag(run_id, name, value))  # type: ignore[arg-type, return-value]
        return value

    claimed = False
    while True:
        place, began = choose(read(), prefix, identity), int(time.time() * 1000)
        if place.again:
            if claimed:
                ask(lambda: client.delete_tag(run_id, name))  # type: ignore[arg-type, return-value]
            return place
        write(held=False)
        claimed = True
        for _ in range(TRIES):
            rivals = {k: c for k, c in claims_of(read()).items() if c["folder"] == place.folder}
            if not rivals:
                return dataclasses.replace(place, claim=(name, write(held=True)))
            if min(rivals) < name or any(c["held"] for c in rivals.values()):
                break
            time.sleep(PAUSE)


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
