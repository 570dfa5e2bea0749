"""Which registered parts an evaluation runs: "all", a list or a comma-separated string, checked against a registry."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from attriflow.errors import AttriflowError, InputError, MissingExtraError, UnknownNameError, unknown
from attriflow.registry import PartInfo, Registry, methods, metrics

ALL = "all"
DEFAULT = "default"
"""The metrics whose registration says `default=True`."""
REDUCTIONS = ("norm", "sum")
BY_NORM = ("input_x_gradient", "layer_gradient_x_activation")
"""Methods whose sum and norm over dimensions are two explanations: with "all", both have a row."""
NO_FOILS = "compares with a foil: add a column 'contrast_target' or 'contrast_source', or name one"


def part_of(name: str) -> str:
    """The part behind a row: "lime.few", say, is "lime" with options of its own, unless a part has that very name."""
    itself = ":" in name or "/" in name or name in methods or name in metrics
    return name if itself else name.partition(".")[0]


def _row(name: str, registry: Registry) -> str:
    """The name of a row with its part's registered name; rows with a label are for methods."""
    label = name[len(part_of(name)) :]
    if not label or registry is not methods:
        return registry.resolve(name)
    if not label[1:].replace("_", "").isalnum():
        raise InputError(f"a row is a method and a label of letters and digits ('lime.few'), not {name!r}")
    return registry.resolve(part_of(name)) + label


def chosen_names(key: str, value: Any, registry: Registry) -> tuple[list[str], bool]:
    """Registered names for a setting, without duplicates, and whether they were asked for one by one."""
    if value is None:
        return [], True
    if isinstance(value, str):
        if value.strip() == ALL:
            every = [part.name for part in registry]
            return [*every, *(f"{name}.norm" for name in BY_NORM if registry is methods and name in every)], False
        if value.strip() == DEFAULT and registry is metrics:
            return [part.name for part in registry if part.meta["default"]], False
        value = [v.strip() for v in value.split(",") if v.strip()]
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(v, str) for v in value):
        raise InputError(f"'{key}' must be 'all', a list of names or a comma-separated string, not {value!r}")
    names = sorted(value) if isinstance(value, (set, frozenset)) else value
    try:
        return list(dict.fromkeys(_row(n, registry) for n in names)), True
    except UnknownNameError as error:
        raise UnknownNameError(f"'{key}': {error}") from None


def checked_options(key: str, value: Any, names: Sequence[str], registry: Registry) -> dict[str, dict[str, Any]]:
    """Options per part, every one of a part that is selected, known to the part and of the right type."""
    if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
        raise InputError(f"'{key}' must be a dictionary of name -> dictionary of options, not {value!r}")
    out = {}
    for given, options in value.items():
        try:
            name = _row(given, registry)
        except UnknownNameError as error:
            raise UnknownNameError(f"'{key}': {error}") from None
        if name not in names:
            raise UnknownNameError(unknown(f"name in '{key}' (it is not selected)", given, names))
        part = registry.info(part_of(name))
        if "how" in options and "how" not in part.options and "perturbation" in part.options:  # its former name
            options = {"perturbation": options["how"], **{k: v for k, v in options.items() if k != "how"}}
        out[name] = part.checked(options)
        part.build(**out[name])
    for name in names:
        part = registry.info(part_of(name))
        if part.name != name:  # a row of its own: the options of its method, and others
            own = {**_labelled(name, part), **out.get(name, {})}
            if not own:
                raise InputError(f"the row '{name}' needs options: name them in '{key}'")
            out[name] = {**out.get(part.name, {}), **own}
            part.build(**out[name])
    return out


def _labelled(name: str, part: PartInfo) -> dict[str, Any]:
    """Options that the label of a row says by itself: how dimensions are reduced."""
    label = name.removeprefix(f"{part.name}.")
    return {"reduction": label} if label in REDUCTIONS and "reduction" in part.options else {}


def buildable(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]], registry: Registry, explicit: bool, contrasted: bool
) -> tuple[list[str], dict[str, str]]:
    """Parts that can run; with "all", those that need an option or a foil that nobody gave are left out."""
    kept: list[str] = []
    left_out: dict[str, str] = {}
    for name in names:
        part = registry.info(part_of(name))
        try:
            if part.meta.get("contrast") and not contrasted:
                raise InputError(f"{registry.kind} '{name}' {NO_FOILS}")
            if not explicit and not part.meta.get("explains", True):
                raise InputError(f"{registry.kind} '{name}' gives no explanation; name it to run it all the same")
            if not explicit and part.name != name and "reduction" in options.get(part.name, {}):
                continue  # chosen for the method itself
            part.build(**options.get(name, {}))
        except AttriflowError as error:
            if explicit or name in options:
                raise
            left_out[name] = str(error)
        else:
            kept.append(name)
    return kept, left_out


def missing_package(part: PartInfo) -> str | None:
    """The first package that a part requires and that is not installed."""
    return next((r for r in part.meta["requires"] if importlib.util.find_spec(r) is None), None)


def usable_metrics(
    names: Sequence[str], registry: Registry, *, explicit: bool, rationale: bool
) -> tuple[list[str], dict[str, str]]:
    """Metrics that can run here and why others, selected only through "all", cannot.

    Raises:
        MissingExtraError: A metric was named, or none is left, and its package is not installed.
        InputError: A metric that compares with rationales was named and there is no rationale column.
    """
    kept: list[str] = []
    left_out: dict[str, str] = {}
    missing: MissingExtraError | None = None
    for name in names:
        part = registry.info(name)
        package = missing_package(part)
        if package is not None:
            missing = MissingExtraError(f"metric '{name}'", package, part.meta["extra"] or package)
            if explicit:
                raise missing
            left_out[name] = str(missing)
        elif "rationale" in part.meta["needs"] and not rationale:
            reason = f"metric '{name}' compares with human or planted rationales: name their column in 'rationale'"
            if explicit:
                raise InputError(reason)
            left_out[name] = reason
        else:
            kept.append(name)
    if missing is not None and not kept:
        raise missing
    return kept, left_out
