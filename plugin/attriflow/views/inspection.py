"""What attriflow makes of a model, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attriflow.views.common import printable

if TYPE_CHECKING:
    from attriflow.measuring.inspection import ModelReport, TokenizerReport

STYLES: Mapping[str, str] = {
    "ok": "green",
    "exact": "green",
    "off": "yellow",
    "refused": "yellow",
    "differs": "bold red",
    "error": "bold red",
}


WHAT: Mapping[str, str] = {
    "logits": "every token has its row of logits",
    "causality": "a later token leaves earlier predictions alone",
    "rows": "rows of a batch leave each other alone",
    "positions": "counted from the first token",
    "padding": "changes nothing",
    "embeddings": "give the logits of their ids",
    "encoder": "its states can be kept",
    "gradient": "is that of the logits",
}
"""What a finding of the model check without further words says."""


def model_report(report: ModelReport) -> RenderableType:
    """Facts, the model check, and a row per method."""
    title = Text(printable(report.name), style="bold")
    title.append(f"  {printable(report.architecture)}, {report.kind}, {report.model_type}", style="not bold")
    return Group(
        title, Text(), _pairs(_facts(report)), Text(), _check(report), Text(), _methods(report), _summary(report)
    )


def show(report: ModelReport) -> None:
    """Print it."""
    Console(markup=False, emoji=False).print(model_report(report))


def _pairs(rows: Iterator[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    return table


def _facts(report: ModelReport) -> Iterator[tuple[str, str]]:
    total = sum(report.precision.values())
    kinds = (f"{name} ({count / total:.0%})" if count < total else name for name, count in report.precision.items())
    yield "parameters", f"{total:,}"
    yield "precision", ", ".join(kinds)
    yield "devices", ", ".join(report.devices)
    yield from _tokenizer(report.tokenizer)


def _tokenizer(tokenizer: TokenizerReport) -> Iterator[tuple[str, str]]:
    yield "tokenizer", f"{tokenizer.name} ({tokenizer.kind})"
    beyond = max(0, tokenizer.size - tokenizer.embeddings)
    fits = f", {beyond} more than the embeddings: texts that need them are refused" if beyond else ""
    yield "vocabulary", f"{tokenizer.size:,} tokens, {tokenizer.embeddings:,} embeddings{fits}"
    yield "special tokens", ", ".join(f"{n} {t} {i}" for n, (t, i) in tokenizer.special.items()) or "none"
    adds = (f"{' '.join(tokens)} {side} a text" for side, tokens in tokenizer.adds.items())
    yield "adds by itself", ", ".join(adds) or "nothing"
    stands = "none: methods need a baseline" if tokenizer.absent is None else "{} {}".format(*tokenizer.absent)
    yield "absent token", stands
    yield "chat template", "yes" if tokenizer.chat_template else "no"


def _check(report: ModelReport) -> Table:
    """Findings, and shortcuts that were tried."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model check", no_wrap=True)
    table.add_column("")
    table.add_column("", overflow="fold")
    for finding in report.check:
        table.add_row(
            finding.name,
            Text(finding.state, style=STYLES.get(finding.state, "")),
            Text(printable(finding.detail or WHAT.get(finding.name, ""))),
        )
    for name, on in report.shortcuts.items():
        state = "not tried" if on is None else "ok" if on else "off"
        table.add_row("shortcut", Text(state, style=STYLES.get(state, "dim")), name)
    return table


def _methods(report: ModelReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("off by", justify="right", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("against, or why not", overflow="fold")
    for method in report.methods:
        table.add_row(
            method.name,
            Text(method.state, style=STYLES[method.state]),
            "" if method.difference is None else f"{method.difference:.0e}" if method.difference else "0",
            "" if method.seconds is None else f"{method.seconds:.2f}",
            Text(printable(method.detail)),
        )
    return table


def _summary(report: ModelReport) -> Text:
    counts = ", ".join(f"{n} {state}" for state, n in report.counts.items())
    tokens = printable(" ".join(report.tokens))
    packages = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    text = Text(f"{counts}; {report.seconds:.0f} s")
    text.append(f"\nTried on {tokens}", style="dim")
    for name, what in report.compared.items():
        text.append(f"\n{name}: {what}", style="dim")
    text.append(f"\n{packages}", style="dim")
    return text
