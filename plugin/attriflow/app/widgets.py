"""What the tabs share: fields by name, frames for pages, errors as one message."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr

from attriflow.app.explaining import message_of
from attriflow.app.jobs import Jobs
from attriflow.kernels.stopping import Stopped
from attriflow.registry import PartInfo, Registry
from attriflow.views.page import framed

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""For every event that uses a model: methods change it while they run."""
PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class Fields(dict[str, Any]):
    """Widgets by name; handlers get the values by these names."""

    def call(self, jobs: Jobs, function: Callable[..., Any]) -> Callable[..., Any]:
        """A handler for gradio: values in the order of the widgets, mistakes as one message, ended with its page."""

        def handle(
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008 (as gradio finds it)
            *values: Any,
        ) -> Any:
            with jobs.running(str(request.session_hash)):
                return function(dict(zip(self, values, strict=True)), progress)

        return told(handle)

    @property
    def inputs(self) -> list[Any]:
        """The widgets in their order."""
        return list(self.values())


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with every error as one message in the page."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except gr.Error:
            raise
        except Stopped:
            raise gr.Error("Nothing more is computed.", 5, title="Stopped", print_exception=False) from None
        except Exception as error:  # whatever it is, the page has to say so
            raise gr.Error(html.escape(message_of(error)), duration=20, print_exception=False) from error

    return call


def warn(problems: Mapping[str, str]) -> None:
    """Say what was left out, and why."""
    for name, reason in problems.items():
        gr.Warning(html.escape(f"{name}: {reason}"), duration=20, title="Left out")


def tracker(progress: gr.Progress, what: str) -> Callable[[Iterable[str]], Iterable[str]]:
    """Shows how many of several are done."""

    def track(names: Iterable[str]) -> Iterable[str]:
        names = list(names)
        for i, name in enumerate(names):
            progress((i, len(names)), desc=name, unit=what)
            yield name

    return track


# -- fields -----------------------------------------------------------------------------------------------------------


def names(registry: Registry, label: str, value: str | Sequence[str], **settings: Any) -> gr.Dropdown:
    """A choice among what is registered; several where the value is a list."""
    several = not isinstance(value, str)
    chosen = value if isinstance(value, str) else list(value)
    return gr.Dropdown(registry.names(), value=chosen, multiselect=several, label=label, **settings)


def text(label: str, value: str = "", lines: int = 1, **settings: Any) -> gr.Textbox:
    """A text."""
    return gr.Textbox(value, label=label, lines=lines, max_lines=max(6, lines), **settings)


def options_field() -> gr.Textbox:
    """Options of methods and step functions."""
    return gr.Textbox(
        "", label="Options (JSON)", lines=2, max_lines=8, placeholder='{"n_steps": 20}', elem_classes="code"
    )


def generation_fields() -> dict[str, Any]:
    """How much is generated, and the seed."""
    return {
        "max_new_tokens": gr.Slider(1, 256, value=20, step=1, label="Longest output (tokens)"),
        "seed": gr.Number(0, label="Seed", precision=0, minimum=0),
    }


def explained_options(chosen: Sequence[tuple[Registry, str | Sequence[str] | None]]) -> str:
    """Markdown about the chosen parts: what they are and which options they take, from the registries."""
    lines = []
    for registry, given in chosen:
        for name in dict.fromkeys([given] if isinstance(given, str) else given or ()):
            lines.append(_about(registry.info(name)))
    return "\n".join(lines) or "Nothing is chosen."


def options_help(*widgets: tuple[Registry, gr.Dropdown]) -> None:
    """What the chosen methods and step functions are; follows the choice."""
    registries = [registry for registry, _ in widgets]
    inputs = [widget for _, widget in widgets]

    def explain(*values: Any) -> str:
        return explained_options(list(zip(registries, values, strict=True)))

    with gr.Accordion("What is chosen, and its options", open=False):
        shown = gr.Markdown(explain(*(widget.value for widget in inputs)), elem_classes="options")
    gr.on([w.change for w in inputs], told(explain), inputs, shown, show_progress="hidden", **PRIVATE)


def _about(part: PartInfo) -> str:
    summary = re.sub(r",?\s*\$[^$]*\$", "", part.summary)
    options = ", ".join(f"`{name}={value!r}`" for name, value in part.options.items()) or "no options"
    cost = f" Cost: {part.meta['cost']}." if "cost" in part.meta else ""
    return f"- **{part.name.replace('_', chr(92) + '_')}**: {summary}{cost}\n  {options}"


def action(label: str) -> tuple[gr.Button, gr.Button]:
    """The button that begins, and the one that stops."""
    with gr.Row(elem_classes="actions"):
        return gr.Button(label, variant="primary", scale=3), gr.Button("Stop", variant="stop", scale=0, min_width=90)


def stops(button: gr.Button, jobs: Jobs, event: Any) -> None:
    """Let a button end the work that an event of the same page began, or take it out of the queue."""

    def stop(request: gr.Request) -> None:
        jobs.stop(str(request.session_hash))

    button.click(told(stop), None, None, cancels=[event], queue=False, show_progress="hidden", **PRIVATE)


# -- results ----------------------------------------------------------------------------------------------------------


def page_frame(page: str, title: str, height: int = 640) -> str:
    """A page of ours in the app; it takes the app's colours and tells its height (see `page.HEAD`)."""
    return f'<div class="attriflow-page">{framed(page, height, title)}</div>'


def download(label: str) -> gr.DownloadButton:
    """A button that appears when there is something to save."""
    return gr.DownloadButton(label, visible=False, size="sm", variant="secondary")


def ready(path: Path) -> dict[str, Any]:
    """The button's file."""
    return gr.update(value=str(path), visible=True)


def fresh_folder() -> Path:
    """A folder for files to save; it goes when the app ends."""
    return Path(mkdtemp())
