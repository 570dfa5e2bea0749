"""Context reliance in the terminal and as a page: sensitive tokens marked, and the cues they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.context.result import ContextAttribution
from attriflow.io import check_outputs, write_content
from attriflow.views.common import printable, token_text
from attriflow.views.page import LEVELS, framed, render

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from attriflow.context.result import ContextAttribution, ContextCues

_SIDES = (("input_context", "Input context"), ("output_context", "Output context"))


def show(results: ContextAttribution | Sequence[ContextAttribution], *, console: Console | None = None) -> None:
    """Print each result: its contexts with cues in bold green, its output with the sensitive token in bold blue.

    Args:
        results: One result or several.
        console: Where to; the terminal when None. Without colours (in a file, say) cues are in [brackets] and sensitive
            tokens in *stars*.
    """
    from rich.console import Console

    out = console or Console()
    plain = not out.is_terminal or out.no_color
    for number, result in enumerate(_as_list(results)):
        if number:
            out.print()
        out.print(_summary(result), style="" if plain else "dim", highlight=False, markup=False)
        if not result.cci_scores:
            out.print(_line("Output", result.output_current_tokens, {}, plain, "dodger_blue1", "*{}*"))
            out.print("No token of the output is sensitive to context.", highlight=False)
        for i, cues in enumerate(result.cci_scores):
            if i:
                out.print()
            for name, label in _SIDES:
                tokens, marked = _context(result, cues, name)
                if tokens is not None:
                    out.print(_line(label, tokens, marked, plain, "green", "[{}]"))
            out.print(_text_line("Input", result.input_current))
            marks = {cues.cti_idx: cues.cti_score}
            out.print(_line("Output", result.output_current_tokens, marks, plain, "dodger_blue1", "*{}*"))
            if cues.contrast_token is not None:
                out.print(_text_line("Instead of", _foil(cues) or ""))


def _context(result: ContextAttribution, cues: ContextCues, name: str) -> tuple[Sequence[str] | None, dict[int, float]]:
    tokens = getattr(result, f"{name}_tokens")
    scores = getattr(cues, f"{name}_scores") or []
    places = cues.input_cues if name == "input_context" else cues.output_cues
    return tokens, {i: scores[i] for i in places}


def _foil(cues: ContextCues) -> str | None:
    if cues.contrast_token is None:
        return None
    same = cues.contrast_token == cues.cti_token
    return token_text(cues.contrast_token) + (" (the same, after the input without context)" if same else "")


def _line(label: str, tokens: Sequence[str], marks: dict[int, float], plain: bool, color: str, mark: str) -> Text:
    from rich.text import Text

    text = Text(f"{label + ':':<16}")
    for i, token in enumerate(tokens):
        shown = token_text(token)
        if i in marks:
            text.append(
                f"{mark.format(shown) if plain else shown}({marks[i]:.3g})", style="" if plain else f"bold {color}"
            )
        else:
            text.append(shown)
        text.append(" ")
    return text


def _text_line(label: str, content: str) -> Text:
    from rich.text import Text

    return Text(f"{label + ':':<16}{' '.join(printable(content).split())}")


def _summary(result: ContextAttribution) -> str:
    info = result.info or {}
    parts = [
        f"CTI: {info['context_sensitivity_metric']} ≥ {result.cti_threshold:.3g}" if info else "",
        f"CCI: {info['attribution_method']} of {info['attributed_fn']}" if info else "",
        str(info.get("model", "")),
    ]
    return printable(" · ".join(p for p in parts if p))


def to_html(
    results: ContextAttribution | Sequence[ContextAttribution],
    path: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> str:
    """A page that needs nothing but itself: choose a sensitive token, and the cues it depends on light up.

    Args:
        results: One result or several.
        path: Where to write the page (UTF-8).
        overwrite: Replace an existing file; otherwise that is an error.

    Returns:
        The page.
    """
    results = _as_list(results)
    check_outputs([path], overwrite)
    page = render(
        "context.html.j2",
        title="Context reliance",
        scripts=("dom", "theme", "context"),
        styles=("context",),
        summary=_summary(results[0]) if results else "",
        results=[_view(r) for r in results],
    )
    if path is not None:
        write_content(page, path, overwrite=overwrite)
    return page


def to_iframe(results: ContextAttribution | Sequence[ContextAttribution]) -> str:
    """The page in a frame, for notebooks."""
    n = len(_as_list(results))
    return framed(to_html(results), 320 + 60 * min(6, n), "Context reliance")


def _as_list(results: ContextAttribution | Sequence[ContextAttribution]) -> list[ContextAttribution]:
    return [results] if isinstance(results, ContextAttribution) else list(results)


def _view(result: ContextAttribution) -> dict[str, Any]:
    contexts = [
        {"name": name, "label": label, "tokens": [token_text(t) for t in tokens]}
        for name, label in _SIDES
        if (tokens := getattr(result, f"{name}_tokens")) is not None
    ]
    sensitive = {c.cti_idx: i for i, c in enumerate(result.cci_scores)}
    largest = max((abs(s) for s in result.cti_scores), default=0.0)
    return {
        "contexts": contexts,
        "input": result.input_current,
        "output": [
            {
                "text": token_text(token),
                "score": f"{score:.3g}",
                "share": 0 if not largest else round(100 * abs(score) / largest),
                "chosen": sensitive.get(i),
            }
            for i, (token, score) in enumerate(zip(result.output_current_tokens, result.cti_scores, strict=True))
        ],
        "threshold": f"{result.cti_threshold:.3g}",
        "cues": [_cues(result, c) for c in result.cci_scores],
    }


def _cues(result: ContextAttribution, cues: ContextCues) -> dict[str, Any]:
    scores = {name: getattr(cues, f"{name}_scores") or [] for name, _ in _SIDES}
    largest = max((abs(s) for values in scores.values() for s in values), default=0.0)
    named = []
    for name, _ in _SIDES:
        tokens, marked = _context(result, cues, name)
        named += [
            {"token": token_text(tokens[i]), "score": f"{s:.3g}"} for i, s in marked.items() if tokens is not None
        ]
    levels = {k: [0 if not largest else round(LEVELS * v / largest) for v in values] for k, values in scores.items()}
    return {
        "token": token_text(cues.cti_token),
        "score": f"{cues.cti_score:.3g}",
        "foil": _foil(cues),
        "cues": named,
        "levels": levels,
        "scores": {k: [f"{v:.3g}" for v in values] for k, values in scores.items()},
        "marked": {"input_context": cues.input_cues, "output_context": cues.output_cues},
    }
