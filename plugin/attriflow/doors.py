"""Doors upstairs: the one place where lower rooms open upper ones, by name and on first use.

Imports point down only, so that each room can be read and tested without those above it. A few calls upward are worth
having all the same: an attribution can `show()` itself, a model can be loaded from an MLflow run. They go through
here, where they can be seen and tested.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

DOORS: Mapping[str, str] = {
    "aggregate": "attriflow.aggregation._pipeline:aggregate",
    "scores_dict": "attriflow.aggregation._operations:scores_dict",
    "sliced": "attriflow.aggregation._operations:sliced",
    "weighted": "attriflow.aggregation._operations:weighted",
    "attributions.show": "attriflow.views.display:show_attributions",
    "attributions.show_granular": "attriflow.views.display:show_granular_attributions",
    "attributions.show_tokens": "attriflow.views.display:show_token_attributions",
    "attributions.to_html": "attriflow.views.html:to_html",
    "attributions.to_iframe": "attriflow.views.html:to_iframe",
    "context.show": "attriflow.views.context:show",
    "context.to_html": "attriflow.views.context:to_html",
    "context.to_iframe": "attriflow.views.context:to_iframe",
    "report": "attriflow.measuring.inspection:inspect_model",
    "report.show": "attriflow.views.inspection:show",
    "units": "attriflow.texts.units:input_units",
    "resolve_uri": "attriflow.tracking.loading:resolve_uri",
    "scorer": "attriflow.tracking.genai:registered",
}
"""Name -> "module:function"."""


def opened(name: str) -> Any:
    """The function behind a door."""
    module, _, function = DOORS[name].partition(":")
    return getattr(importlib.import_module(module), function)


def facade(package: str, homes: Mapping[str, Sequence[str]], rooms: Sequence[str] = ()) -> Callable[[str], Any]:
    """A package's `__getattr__`: public names that are found on first use, by the module where they are at home.

    `rooms` are modules of the package that are found by their own names.
    """
    modules = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in rooms:
            return importlib.import_module(f"{package}.{name}")
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return find


class Shown:
    """Something that can show itself: in the terminal, in a notebook, as a page."""

    __slots__ = ()
    _shown_as: ClassVar[str]

    def show(self, **options: Any) -> str | None:
        """Show it, in the terminal or in the notebook (options: see `attriflow.show_attributions`)."""
        return opened(f"{self._shown_as}.show")(self, **options)

    def to_html(self, path: Any = None, **options: Any) -> str:
        """A self-contained page, also written to `path` (options: see `attriflow.views.html.to_html`)."""
        return opened(f"{self._shown_as}.to_html")(self, path, **options)

    def _repr_html_(self) -> str:
        return opened(f"{self._shown_as}.to_iframe")(self)


class ShownAttributions(Shown):
    """One attribution or several."""

    __slots__ = ()
    _shown_as = "attributions"

    def show_granular(self, **options: Any) -> str | None:
        """Show layers or heads one by one (options: see `attriflow.show_granular_attributions`)."""
        return opened("attributions.show_granular")(self, **options)

    def show_tokens(self, **options: Any) -> str | None:
        """Show the texts, coloured for each generated token (options: see `attriflow.show_token_attributions`)."""
        return opened("attributions.show_tokens")(self, **options)


class ShownContext(Shown):
    """The context reliance of one text or several."""

    __slots__ = ()
    _shown_as = "context"
