"""Names and texts of others: no terminal obeys them, and no spreadsheet."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from attriflow import errors
from attriflow.cli import console as printing
from attriflow.cli import main
from attriflow.context.result import ContextAttribution
from attriflow.errors import AttriflowError, InputError, reason_of
from attriflow.progress import track
from attriflow.views import context
from attriflow.views.common import to_csv
from attriflow.views.evaluations.console_leaderboard import leaderboard_table
from attriflow.views.evaluations.verdicts import verdict_table

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\u202ereversed\u2066"
SHOWN = "<U+001B>]0;owned<U+0007><U+001B>[2J<U+009B>31m<U+0008><U+202E>reversed<U+2066>"


def clean(text: str) -> bool:
    return text != "" and not any(char in text for char in EVIL if not char.isprintable())


def test_errors_of_ours_wherever_they_are_printed():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, AttriflowError)]
    assert len(kinds) > 8
    for kind in kinds:
        error = kind(EVIL, EVIL, EVIL) if kind is errors.MissingExtraError else kind(EVIL)
        assert SHOWN in str(error) and SHOWN in f"{error}" and clean(f"{error}"), kind
    assert str(InputError("two\nlines\tstay")) == "two\nlines\tstay"
    assert reason_of(ValueError(EVIL)) == f"ValueError: {SHOWN}"


def test_what_commands_print(capsys):
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    for attempt in (
        lambda: printing.console().print(EVIL),
        lambda: printing.console().print(table),
        lambda: printing.whole(printing.console(), EVIL),
        lambda: printing.say(EVIL),
    ):
        attempt()
        said = capsys.readouterr()
        assert clean(said.out + said.err) and "owned" in said.out + said.err


def test_colours_of_our_own_stay(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = printing.console()
    with out.capture() as captured:
        out.print("a", style="bold red")
        out.print(EVIL, highlight=False)
    assert captured.get().startswith("\x1b[1;31ma\x1b[0m") and clean(captured.get().split("\n", 1)[1])


@pytest.mark.parametrize(
    "command",
    [
        ["attribute", "-m", "demo/recall", "-i", "a", "-a", EVIL], ["show", f"{EVIL}.json"],
        ["convert", EVIL, "a.json"], ["attribute", "-m", f"/no/{EVIL}", "-i", "a"], [EVIL],
        ["leaderboard", "-e", "x", "--tracking-uri", f"/no/{EVIL}"], ["check", "--baseline", EVIL, "--current", "x"],
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(command)
    said = capsys.readouterr()
    assert stop.value.code in (1, 2) and clean(said.out + said.err) and said.err.count("\n") == 1


def printed(thing: object) -> str:
    out = Console(file=io.StringIO(), width=400)
    out.print(thing)
    return out.file.getvalue()


def test_views_with_a_console_of_somebody_else(capsys, monkeypatch):
    board = pd.DataFrame({"method": [EVIL], "status": ["failed"], "reason": [EVIL], "rank": [None]})
    assert clean(printed(leaderboard_table(board, {}, title=EVIL))) and clean(printed(verdict_table([], EVIL)))
    out = Console(file=io.StringIO(), width=400)
    found = ContextAttribution(
        input_current=EVIL, output_current=EVIL, output_current_tokens=[EVIL], cti_scores=[0.0], cti_threshold=1.0,
        cci_scores=[], info={"context_sensitivity_metric": EVIL, "attribution_method": EVIL, "attributed_fn": EVIL},
    )  # fmt: skip
    context.show(found, console=out)
    assert clean(out.file.getvalue())
    monkeypatch.setattr("attriflow.progress.EVERY", 0.0)
    list(track([1, 2], EVIL))
    assert clean(capsys.readouterr().err)


def test_no_cell_is_a_formula():
    texts = ["=1+1", "+a", "-a", "@SUM(1)", "\tx", "\rx", "a\r=b", "", "-1.5", "+2", None]
    frame = pd.DataFrame({"=head": texts, "n": [-1.5, *[2.0] * 10], "whole": range(-3, 8)}, index=["=row", *range(10)])
    rows = list(csv.reader(io.StringIO(to_csv(frame))))
    assert rows[0] == ["", "'=head", "n", "whole"] and rows[1] == ["'=row", "'=1+1", "-1.5", "-3"]
    assert [row[1] for row in rows[1:]] == [
        "'=1+1", "'+a", "'-a", "'@SUM(1)", "'\tx", "'\nx", "a\n=b", "", "-1.5", "+2", "",
    ]  # fmt: skip
    assert to_csv(frame[["n"]], index=False) == frame[["n"]].to_csv(index=False)
    assert to_csv(frame.iloc[:0], index=False) == "'=head,n,whole\n"
