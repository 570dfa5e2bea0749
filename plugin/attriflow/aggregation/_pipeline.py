"""One or several aggregators, by name, in the order in which they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attriflow.aggregation._apply import Function
from attriflow.errors import InputError, OptionError, UnknownNameError, check_keywords, unknown
from attriflow.registry import aggregation_functions, aggregators
from attriflow.types import Attribution

Step = str | Callable[[Attribution], Attribution] | tuple[Any, ...]
"""Name of an aggregator or of an aggregation function (which reduces the last extra axis), a callable
`Attribution -> Attribution`, or a pair (name, function), a pair (name, options) or all three."""

Aggregator = Step | Sequence[Step]


@dataclass(frozen=True, kw_only=True)
class Named:
    """A step with its options bound; what it makes says in its provenance that it did.

    Attributes:
        step: What aggregates.
        name: Its name and the options that were given.
    """

    step: Callable[[Attribution], Attribution]
    name: str

    def __call__(self, attribution: Attribution) -> Attribution:
        """The attribution that the step makes; one that it returns as it is stays so."""
        made = self.step(attribution)
        if not isinstance(made, Attribution):
            raise InputError(f"an aggregator must return an Attribution, not {type(made).__name__}")
        if made is attribution:
            return made
        how, before = made.provenance, attribution.provenance.aggregations
        return made.replace(provenance=replace(how, aggregations=(*before, self.name)))


def _called(value: Any) -> str:
    """A function or an attribution by name, anything else as it is written."""
    if isinstance(value, Attribution):
        return value.provenance.method
    return getattr(value, "__name__", type(value).__name__) if callable(value) else repr(value)


def build(
    aggregator: Aggregator = "scores",
    aggregate_fn: Function | Sequence[Function | None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Named]:
    """Bind names, functions and options; all of them are checked here.

    Args:
        aggregator: One step or a list of steps.
        aggregate_fn: Function of the only step, or one per step.
        options: For the steps that take them; one that no step takes is an error.
    """
    several = isinstance(aggregator, (list, tuple))
    steps: list[Any] = list(aggregator) if isinstance(aggregator, (list, tuple)) else [aggregator]
    functions: list[Any] = (
        list(aggregate_fn) if isinstance(aggregate_fn, (list, tuple)) else [aggregate_fn] * (not several)
    )
    if not functions and aggregate_fn is not None:
        raise InputError("several aggregators need one aggregate_fn each, as a list")
    if functions and len(functions) != len(steps):
        raise InputError(f"{len(steps)} aggregators but {len(functions)} functions in aggregate_fn")
    shared, taken = dict(options or {}), set[str]()
    out = []
    for i, step in enumerate(steps):
        name, function, own = _read(step)
        function = functions[i] if function is None and functions else function
        if not isinstance(name, str):
            out.append(Named(step=name, name=_called(name)))
            continue
        info = aggregators.info(name)
        given = {**{k: v for k, v in shared.items() if k in info.options}, **own}
        taken |= set(info.options)
        if function is not None:
            check_keywords(f"aggregator '{name}'", ["aggregate_fn"], info.options)
            given["aggregate_fn"] = function
        stated = ", ".join(f"{key}={_called(value)}" for key, value in given.items())
        out.append(Named(step=info.build(**given), name=f"{name}({stated})" if stated else name))
    check_keywords("aggregate", shared, sorted(taken))
    return out


def unnormalized(aggregator: Aggregator, options: Mapping[str, Any]) -> list[Step]:
    """The steps, which leave sums as they are unless they or the options say otherwise (as Inseq's commands do)."""
    steps: list[Any] = list(aggregator) if isinstance(aggregator, (list, tuple)) else [aggregator]
    if {"normalize", "rescale"} & set(options):
        return steps
    out = []
    for step in steps:
        parts = list(step) if isinstance(step, (list, tuple)) else [step]
        given = parts.pop() if len(parts) > 1 and isinstance(parts[-1], Mapping) else {}
        reduces = parts[0] == "scores" or (isinstance(parts[0], str) and parts[0] in aggregation_functions)
        plain = reduces and not {"normalize", "rescale"} & set(given)
        out.append((*parts, {**given, "normalize": False}) if plain else step)
    return out


def _read(step: Any) -> tuple[Any, Function | None, Mapping[str, Any]]:
    """A step as (name or callable, function, options)."""
    parts = list(step) if isinstance(step, (list, tuple)) else [step]
    if not parts or len(parts) > 3 or not (isinstance(parts[0], str) or callable(parts[0])):
        raise InputError(
            f"an aggregator is a name, a callable, or a pair (name, function) or (name, options), not {step!r}"[:200]
        )
    options = parts.pop() if len(parts) > 1 and isinstance(parts[-1], Mapping) else {}
    name, function = parts[0], parts[1] if len(parts) > 1 else None
    if not isinstance(name, str):
        if function is not None or options:
            raise OptionError("a callable aggregator takes no function and no options: bind them beforehand")
        return name, None, {}
    if name not in aggregators:
        if name not in aggregation_functions:
            known = [*aggregators.names(), *aggregation_functions.names()]
            raise UnknownNameError(unknown("aggregator or aggregation function", name, known))
        if function is not None:
            raise OptionError(f"'{name}' is an aggregation function and takes no other function")
        name, function = "scores", name
    return name, function, options


def aggregate(
    attribution: Attribution,
    aggregator: Aggregator = "scores",
    aggregate_fn: Function | Sequence[Function | None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Attribution:
    """Apply aggregators one after the other (see `build`)."""
    return run(build(aggregator, aggregate_fn, options), attribution)


def run(steps: Sequence[Named], attribution: Attribution) -> Attribution:
    """Each step takes what the one before it made."""
    for step in steps:
        attribution = step(attribution)
    return attribution
