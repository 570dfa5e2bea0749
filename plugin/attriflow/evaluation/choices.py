"""Which settings of methods and metrics are defensible, and the worlds that they make, within a budget.

A *world* makes every choice once, the same for all methods and metrics that have it; who does not stays as set.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from attriflow.errors import AttriflowError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.families import judges, perturbation
from attriflow.evaluation.selection import part_of
from attriflow.registry import PartInfo, methods, metrics, step_functions

AXES = ("reduction", "baseline", "objective", "perturbation")
HAVE: dict[str, tuple[str, ...]] = {
    "gradient": ("reduction", "baseline", "objective"),
    "path": ("reduction", "baseline", "objective"),
    "perturbation": ("baseline", "objective"),
    "faithfulness": ("perturbation",),
}
"""Family of methods or metrics -> choices that are defensible; other families have none."""
REDUCTIONS = ("norm",)
"""Beside the sum over dimensions. Plain gradients, which have a norm by default, have no sum that says much."""
BASELINES = ("unk", "pad", "eos", "zero", "mean")
"""Those of them that a method takes and the tokenizer has, each token once."""
OBJECTIVES: tuple[dict[str, tuple[str, dict[str, Any]]], ...] = (
    {
        "probability": ("probability", {}),
        "log-probability": ("probability", {"logprob": True}),
        "logits": ("logits", {}),
        "margin": ("margin", {}),
    },
    {"contrast_prob_diff": ("contrast_prob_diff", {}), "contrast_logits_diff": ("contrast_logits_diff", {})},
)
"""Step functions that ask one question, all growing with the target's probability, so that scores keep their sign."""
PERTURBATIONS = ("delete", "mask", "baseline", "infill")
Token = Callable[[Any], Hashable]


class World(NamedTuple):
    """One way to choose; "" is as set."""

    reduction: str = ""
    baseline: str = ""
    objective: str = ""
    perturbation: str = ""

    @property
    def by_axis(self) -> dict[str, str]:
        """Axis -> choice."""
        return dict(zip(AXES, self, strict=True))

    def but(self, **changes: str) -> World:
        """The world with other choices."""
        return World(**{**self.by_axis, **changes})


@dataclass(frozen=True)
class Row:
    """A method with those choices of a world that it, or some metric, has."""

    method: str
    world: World


@dataclass(frozen=True)
class Choices:
    """What is computed.

    Attributes:
        worlds: World -> the row of each method.
        of_worlds, of_rows: How many there would be without a budget.
        metrics: Metrics that are looked at.
    """

    worlds: Mapping[World, tuple[Row, ...]]
    of_worlds: int
    of_rows: int
    metrics: tuple[str, ...]

    @property
    def rows(self) -> list[Row]:
        """All rows, each once."""
        return list(dict.fromkeys(row for rows in self.worlds.values() for row in rows))

    def __str__(self) -> str:
        """One line: what is computed, and what is not and why."""
        rows, left = self.rows, self.of_worlds - len(self.worlds)
        explained = {(row.method, row.world.baseline, row.world.objective) for row in rows}
        text = (
            f"multiverse: {len(rows)} rows (method x reduction x baseline x objective x perturbation) of "
            f"{len(self.worlds)} worlds, from {len(explained)} explanations of the data"
        )
        if not left:
            return text
        most = max(sum(map(bool, world)) for world in self.worlds)
        return (
            f"{text}; {self.of_rows - len(rows)} rows and {left} worlds beyond multiverse_rows are left out: those "
            f"with fewest choices that are not as set come first (here up to {most})"
        )


def choices(config: EvaluationConfig, token: Token) -> Choices:
    """The worlds of an evaluation; the first one is as set, and always there.

    Worlds are ordered by how many choices are not as set, then by how far down their lists these stand. They are taken
    in this order until the next one would need more rows than `config.multiverse_rows`.

    Args:
        config: Checked settings.
        token: What a name of a token is for the model, see `circularity.token_of`.
    """
    judging = judges(config.metrics)
    own = {name: _of_method(name, config, token) for name in _methods(config)}
    axes = [("", *dict.fromkeys(v for has in own.values() for v in has[axis])) for axis in AXES[:-1]]
    axes.append(("", *(how for how in PERTURBATIONS if scored_as(how, judging, config.metric_options))))
    every: dict[tuple[Row, ...], World] = {}
    for places in sorted(itertools.product(*(range(len(axis)) for axis in axes)), key=_distance):
        world = World(*(axis[i] for axis, i in zip(axes, places, strict=True)))
        every.setdefault(tuple(Row(name, _owned(world, has)) for name, has in own.items()), world)
    kept, taken = dict[World, tuple[Row, ...]](), set[Row]()
    for rows, world in every.items():
        if kept and len(taken | set(rows)) > config.multiverse_rows:
            break
        kept[world] = rows
        taken |= set(rows)
    return Choices(kept, len(every), len({row for rows in every for row in rows}), judging)


def explained_as(world: World) -> dict[str, Any]:
    """Arguments of an explanation in a world: options of the method, and the attributed function if another one."""
    out: dict[str, Any] = {"options": {a: getattr(world, a) for a in ("reduction", "baseline") if getattr(world, a)}}
    if world.objective:
        function, options = next(group[world.objective] for group in OBJECTIVES if world.objective in group)
        out |= {"attributed_fn": function, "attributed_fn_args": options}
    return out


def scored_as(how: str, names: Sequence[str], given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Options of the metrics that a perturbation changes."""
    found = {}
    for name in names:
        part, options = metrics.info(name), {**given.get(name, {}), "perturbation": how}
        has = "perturbation" in HAVE.get(part.meta["family"], ()) and "perturbation" in part.options
        if has and perturbation(name, given) != how and _buildable(part, options):
            found[name] = options
    return found


def _distance(places: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
    return sum(map(bool, places)), max(places), places


def _methods(config: EvaluationConfig) -> list[str]:
    """Rows of the evaluation, without those that are another one with a choice made."""
    found: dict[str, str] = {}
    for name in config.methods:
        part = methods.info(part_of(name))
        options = {**part.options, **config.method_options.get(name, {})}
        rest = {k: v for k, v in options.items() if k not in AXES}
        found.setdefault(f"{part.name} {json.dumps(rest, sort_keys=True, default=repr)}", name)
    return list(found.values())


def _of_method(name: str, config: EvaluationConfig, token: Token) -> dict[str, tuple[str, ...]]:
    """Choice -> what a method may have beside what is set."""
    part, given = methods.info(part_of(name)), config.method_options.get(name, {})
    has = HAVE.get(str(part.meta["family"]), ())
    found: dict[str, tuple[str, ...]] = dict.fromkeys(AXES[:-1], ())
    if "reduction" in has and part.options.get("reduction") == "sum":
        usual = given.get("reduction", "sum")
        found["reduction"] = tuple(r for r in REDUCTIONS if r != usual and _buildable(part, {**given, "reduction": r}))
    if "baseline" in has and "baseline" in part.options:
        usual = given.get("baseline", part.options["baseline"])
        known = {None if isinstance(usual, (list, tuple)) else token(usual)}
        for value in BASELINES:
            one = token(value)
            there = isinstance(one, int) or value in ("zero", "mean")
            if there and one not in known and _buildable(part, {**given, "baseline": value}):
                known.add(one)
                found["baseline"] += (value,)
    if "objective" in has:
        found["objective"] = _objectives(config)
    return found


def _objectives(config: EvaluationConfig) -> tuple[str, ...]:
    """Objectives that ask what the configured one asks; none where that is another question."""
    if not isinstance(config.attributed_fn, str):
        return ()
    part = step_functions.info(config.attributed_fn)
    usual = part.name, {**part.options, **config.attributed_fn_args}
    for group in OBJECTIVES:
        names = [n for n, (fn, given) in group.items() if (fn, {**step_functions.info(fn).options, **given}) == usual]
        if names:
            return tuple(name for name in group if name not in names)
    return ()


def _owned(world: World, has: Mapping[str, Sequence[str]]) -> World:
    """What of a world concerns a method; perturbations concern all."""
    made = {axis: value for axis, value in zip(AXES, world, strict=True) if axis not in has or value in has[axis]}
    return World(**made)


def _buildable(part: PartInfo, options: Mapping[str, Any]) -> bool:
    try:
        part.build(**options)
    except AttriflowError:
        return False
    return True
