"""Show attributions where the user is: as pages in notebooks, as tables in terminals."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attriflow.aggregation._pipeline import Aggregator, build, run
from attriflow.errors import check_choice
from attriflow.types import Attribution, Token
from attriflow.views.slices import Slices, as_list

if TYPE_CHECKING:
    from rich.console import Console

    from attriflow.views.common import Wraps

View = Literal["auto", "console", "notebook"]


def show_attributions(
    attributions: Attribution | Iterable[Attribution],
    *,
    min_val: float | None = None,
    max_val: float | None = None,
    slice_dims: Slices | None = None,
    show_dim: str | int | None = None,
    max_show_size: int | None = None,
    aggregator: Aggregator | None = None,
    do_aggregation: bool = True,
    display: bool = True,
    return_html: bool = False,
    view: View = "auto",
    console: Console | None = None,
    max_columns: int | None = None,
    precision: int = 3,
) -> str | None:
    """Show attributions: a heat map and coloured text in notebooks, coloured tables in terminals.

    Args:
        attributions: One attribution or several; in notebooks those of the same text stand side by side.
        min_val, max_val: Scores of the strongest colours; the largest magnitude by default.
        slice_dims: Ranges of the extra axes, such as `{"layer": 3, "head": (0, 4)}`.
        show_dim: Terminals: one table per index of this axis ("layer", "head"). Pages have sliders for it.
        max_show_size: Most such tables per attribution (20).
        aggregator: What is applied first: a name, a callable or a list (see `AttributionOutput.aggregate`).
        do_aggregation: Apply `aggregator`.
        display: Show it; False only returns the page.
        return_html: Return the page as a text.
        view: "notebook" or "console"; found out by default.
        console: Terminals: where to print.
        max_columns: Terminals: most steps per table.
        precision: Terminals: decimals.

    Returns:
        The page when `return_html` is set, else None.
    """
    items = _aggregated(attributions, aggregator if do_aggregation else None)
    html = {"min_val": min_val, "max_val": max_val, "slice_dims": slice_dims}

    def on_console() -> None:
        from attriflow.views.console import show

        show(
            items, console=console, max_columns=max_columns, precision=precision, min_val=min_val, max_val=max_val,
            dims=slice_dims, show_dim=show_dim, max_show_size=max_show_size,
        )  # fmt: skip

    return _show(items, html, on_console, "console" if console is not None else view, display, return_html)


def show_granular_attributions(
    attributions: Attribution | Iterable[Attribution],
    *,
    min_val: float | None = None,
    max_val: float | None = None,
    max_show_size: int | None = None,
    show_dim: str | int | None = None,
    slice_dims: Slices | None = None,
    display: bool = True,
    return_html: bool = False,
    view: View = "auto",
    console: Console | None = None,
    precision: int = 3,
) -> str | None:
    """Show layers and heads one by one: heat maps with sliders in notebooks, one table per index in terminals.

    Args:
        attributions: One attribution or several, with extra axes.
        min_val, max_val, slice_dims, display, return_html, view, console, precision: See `show_attributions`.
        max_show_size: Terminals: most tables per attribution (20).
        show_dim: Terminals: the axis with one table per index; the first extra one by default.
    """
    items = as_list(attributions)
    html = {"min_val": min_val, "max_val": max_val, "slice_dims": slice_dims, "mode": "heatmap"}

    def on_console() -> None:
        from attriflow.views.console import show

        show(
            items, console=console, precision=precision, min_val=min_val, max_val=max_val, dims=slice_dims,
            granular=True, show_dim=show_dim, max_show_size=max_show_size,
        )  # fmt: skip

    return _show(items, html, on_console, "console" if console is not None else view, display, return_html)


def show_token_attributions(
    attributions: Attribution | Iterable[Attribution],
    *,
    min_val: float | None = None,
    max_val: float | None = None,
    slice_dims: Slices | None = None,
    replace_char: Mapping[str, str] | None = None,
    wrap_after: Wraps | None = None,
    step_score_highlight: str | None = None,
    aggregator: Aggregator | None = None,
    do_aggregation: bool = True,
    display: bool = True,
    return_html: bool = False,
    view: View = "auto",
    console: Console | None = None,
    precision: int = 2,
) -> str | None:
    """Show the attributed text, coloured for the generated token that is pointed at (terminals: for every one).

    Args:
        attributions: One attribution or several.
        min_val, max_val, slice_dims, aggregator, do_aggregation, display, return_html, view, console, precision: See
            `show_attributions`.
        replace_char: Texts in tokens -> what is shown in their place.
        wrap_after: Begin a new line after so many tokens, after a token, or after punctuation marks (".!?").
        step_score_highlight: A step score that is shown with the generated tokens.
    """
    items = [_replaced(a, replace_char) for a in _aggregated(attributions, aggregator if do_aggregation else None)]
    html = {
        "min_val": min_val, "max_val": max_val, "slice_dims": slice_dims, "mode": "text", "wrap_after": wrap_after,
        "step_score": step_score_highlight,
    }  # fmt: skip

    def on_console() -> None:
        from attriflow.views.console_tokens import show_tokens

        show_tokens(
            items, console=console, precision=precision, min_val=min_val, max_val=max_val, dims=slice_dims,
            wrap_after=wrap_after, step_score_highlight=step_score_highlight,
        )  # fmt: skip

    return _show(items, html, on_console, "console" if console is not None else view, display, return_html)


def in_notebook() -> bool:
    """Whether output is shown by a notebook: Jupyter, VS Code, Colab."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _show(
    items: Sequence[Attribution],
    html: Mapping[str, Any],
    on_console: Callable[[], None],
    view: str,
    display: bool,
    return_html: bool,
) -> str | None:
    check_choice("view", view, ("auto", "console", "notebook"))
    from attriflow.views.html import to_html, to_iframe

    if display and (view == "notebook" or (view == "auto" and in_notebook())):
        from IPython.display import display as put  # type: ignore[import-not-found]

        # as data: for an HTML object that is a frame, IPython recommends one that shows files
        put({"text/html": to_iframe(items, **html), "text/plain": f"{len(items)} attributions"}, raw=True)
    elif display:
        on_console()
    return to_html(items, **html) if return_html else None


def _aggregated(attributions: Attribution | Iterable[Attribution], aggregator: Aggregator | None) -> list[Attribution]:
    items = as_list(attributions)
    if aggregator is None:
        return items
    steps = build(aggregator)
    return [run(steps, item) for item in items]


def _replaced(attribution: Attribution, replace: Mapping[str, str] | None) -> Attribution:
    """The attribution with other texts in its tokens."""
    if not replace:
        return attribution

    def changed(token: Token) -> Token:
        text = token.text
        for old, new in replace.items():
            text = text.replace(old, new)
        return dataclasses.replace(token, text=text)

    inputs, targets = (tuple(map(changed, tokens)) for tokens in (attribution.inputs, attribution.targets))
    return attribution.replace(inputs=inputs, targets=targets)
