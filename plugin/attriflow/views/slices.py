"""Which part of an attribution is shown: ranges of its extra axes, one panel per layer or head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attriflow.errors import InputError, check_choice
from attriflow.types import Attribution

Slices = Mapping["str | int", "int | tuple[int, int] | Sequence[int] | slice"]
"""Axis (by name, or by its index in `scores`) -> one index, or a range `[start, stop)`."""

MAX_SHOW_SIZE = 20


def as_list(item: Attribution | Iterable[Attribution]) -> list[Attribution]:
    """One attribution or several as a list; `InputError` for anything else and for none."""
    try:
        items = [item] if isinstance(item, Attribution) else list(item)
    except TypeError:
        raise InputError(f"expected attributions, not {type(item).__name__}") from None
    for one in items:
        if not isinstance(one, Attribution):
            raise InputError(f"expected attributions; found {type(one).__name__}")
    if not items:
        raise InputError("there are no attributions to show")
    return items


def ranges(attribution: Attribution, dims: Slices | None) -> dict[str, tuple[int, int]]:
    """The range `[start, stop)` of every extra axis that is shown, all of it unless `dims` says otherwise."""
    found = {axis: (0, attribution.scores.shape[i]) for i, axis in enumerate(attribution.axes[2:], 2)}
    for given, wanted in (dims or {}).items():
        axis = axis_name(attribution, given)
        found[axis] = _range(axis, wanted, attribution.scores.shape[attribution.axes.index(axis)])
    return found


def slice_dims(attribution: Attribution, dims: Slices | None) -> Attribution:
    """The attribution with ranges of its extra axes; an axis with one index left stays, with length 1."""
    for axis, (start, stop) in ranges(attribution, dims).items():
        place = attribution.axes.index(axis)
        if stop - start < attribution.scores.shape[place]:
            attribution = attribution.replace(scores=attribution.scores.narrow(place, start, stop - start), norms=None)
    return attribution


def axis_name(attribution: Attribution, axis: str | int) -> str:
    """The name of an extra axis; `InputError` for step and input, and for axes the attribution has not."""
    extra = attribution.axes[2:]
    if isinstance(axis, int) and not isinstance(axis, bool):
        if not 2 <= axis < len(attribution.axes):
            allowed = ", ".join(f"{i} ({name})" for i, name in enumerate(extra, 2))
            raise InputError(f"no axis {axis} to select from. Allowed: {allowed or '(none)'}")
        return attribution.axes[axis]
    check_choice("axis", axis, extra)
    return str(axis)


def _range(axis: str, wanted: int | tuple[int, int] | Sequence[int] | slice, size: int) -> tuple[int, int]:
    if isinstance(wanted, slice):
        start, stop, step = wanted.indices(size)
        pair: tuple[int, int] | None = (start, stop) if step == 1 else None
    elif isinstance(wanted, int) and not isinstance(wanted, bool):
        pair = (wanted, wanted + 1) if wanted >= 0 else (wanted + size, wanted + size + 1)
    elif isinstance(wanted, (tuple, list)) and len(wanted) == 2 and all(isinstance(i, int) for i in wanted):
        pair = (wanted[0] + size * (wanted[0] < 0), wanted[1] + size * (wanted[1] < 0))
    else:
        pair = None
    if pair is None:
        raise InputError(f"{axis} is selected by an index or by a pair (start, stop), not by {wanted!r}")
    if not 0 <= pair[0] < pair[1] <= size:
        raise InputError(f"{axis} has indices 0 to {size - 1}; {wanted!r} selects none of them or goes beyond")
    return pair


def panels(
    attribution: Attribution,
    show_dim: str | int | None = None,
    max_show_size: int | None = None,
    dims: Slices | None = None,
) -> list[tuple[str, Attribution]]:
    """One attribution per index of an extra axis, with a label each; the whole one when there is no such axis.

    Args:
        attribution: What is shown.
        show_dim: The axis; None takes the first extra one.
        max_show_size: Most panels (20); an axis that is longer is an error, so that nothing is left out silently.
        dims: Ranges of the extra axes (see `Slices`).
    """
    if show_dim is None and len(attribution.axes) < 3:
        return [("", slice_dims(attribution, dims))]
    axis = axis_name(attribution, 2 if show_dim is None else show_dim)
    place, limit = attribution.axes.index(axis), MAX_SHOW_SIZE if max_show_size is None else max_show_size
    start, stop = ranges(attribution, dims)[axis]
    if stop - start > limit:
        raise InputError(
            f"axis '{axis}' has {stop - start} entries, more than max_show_size={limit}: select some with "
            f"slice_dims={{'{axis}': (0, {limit})}}, or raise max_show_size"
        )
    attribution = slice_dims(attribution, dims)
    axes = (*attribution.axes[:place], *attribution.axes[place + 1 :])
    return [
        (f"{axis} {start + i}", attribution.replace(scores=attribution.scores.select(place, i), axes=axes, norms=None))
        for i in range(stop - start)
    ]
