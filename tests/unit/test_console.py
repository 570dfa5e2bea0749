"""Attributions and leaderboards in terminals of any width, with and without colours."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from view_data import ANSWER, DIRECTIONS, HOSTILE, PROMPT, board, causal

from attriflow.errors import AttriflowError
from attriflow.types import Attribution, Provenance, Token
from attriflow.views.colors import color
from attriflow.views.console import show
from attriflow.views.console_tokens import show_tokens
from attriflow.views.evaluations.console_leaderboard import leaderboard_table


def printed(*args, width=100, color_system=None, **options):
    console = Console(file=io.StringIO(), width=width, color_system=color_system, force_terminal=bool(color_system))
    show(*args, console=console, **options)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 81, 82, 83, 100, 120, 200])
def test_console_never_cuts_a_number(width):
    """Steps that do not fit continue in another table; a score is printed whole or not at all."""
    words = "la casa di il uomo vecchio è rossa </s>".split()
    inputs = tuple(Token(text=w, id=i, segment="source") for i, w in enumerate("the house of the old man".split()))
    targets = tuple(Token(text=w, id=i, segment="generated") for i, w in enumerate(words))
    scores = torch.linspace(-1, 1, len(words) * len(inputs)).reshape(len(words), len(inputs))
    attribution = Attribution(
        scores=scores, inputs=inputs, targets=targets, provenance=Provenance(method="integrated_gradients")
    )
    console = Console(record=True, width=width, file=io.StringIO())
    show(attribution, console=console)
    printed = console.export_text()
    for value in scores.flatten().tolist():
        assert f"{value:.3f}" in printed


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_column_is_printed_within_the_width(width):
    words = ["la", "vecchia", "donna", "legge", "il", "libro", "rosso", "nella", "piccola", "casa", "di", "legno", "."]
    text = printed(causal(PROMPT, words), width=width)
    assert max(map(len, text.splitlines())) <= width
    heads = [
        line.split() for line, after in zip(text.splitlines(), text.splitlines()[1:], strict=False) if "──────" in after
    ]
    assert [word for head in heads for word in head] == words
    assert len(heads) > 1 if width < 200 else len(heads) == 1
    assert "saliency · logit · toy" in text
    assert "── prompt" in text and "── generated" in text


def test_blank_is_not_zero_and_the_last_token_gets_no_row():
    item = causal(PROMPT, ANSWER)
    item.scores[0, 1] = 0.0
    lines = printed(item).splitlines()
    row = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    assert row["tom"][0] == "0.000" and len(row["tom"]) == 3
    assert len(row["paint"]) == 1  # visible to the last step only
    generated = lines[next(i for i, line in enumerate(lines) if "── generated" in line) :]
    assert not any(line.startswith(" . ") for line in generated)
    assert row["probability"] == ["0.250", "0.500", "0.750"]
    assert "blank: not visible to the step" in lines[-1]


def test_max_columns_splits_into_tables():
    text = printed(causal(PROMPT, ANSWER), max_columns=2)
    assert "steps 0–1 of 3" in text and "steps 2–2 of 3" in text


def test_colors_only_in_a_terminal():
    item = causal(PROMPT, ANSWER)
    assert "\x1b[" not in printed(item) and "blue −" not in printed(item)
    text = printed(item, color_system="truecolor")
    strongest = "48;2;" + ";".join(
        map(str, color(1.0 if item.scores.nan_to_num().max() == item.scores.nan_to_num().abs().max() else -1))
    )
    assert strongest in text and "blue −" in text


def test_small_scores_get_a_common_power_of_ten():
    text = printed(causal(PROMPT, ANSWER, scale=1e-6))
    assert "in units of 1e-0" in text
    assert re.search(r"\d\.\d{3}", text) and "0.000 " not in text.split("probability")[0].split("tom")[1].split("\n")[0]


def test_extra_axes_are_reduced_and_several_are_shown():
    granular = causal(PROMPT, ANSWER, "attention", ("step", "input", "layer", "head"))
    text = printed([granular, causal(PROMPT, ANSWER, "occlusion")], precision=2)
    assert "reduced over layer, head" in text and "attention · logit" in text and "occlusion · logit" in text
    assert f"{granular.token_scores()[0, 1]:.2f}" in text


def test_hostile_tokens_do_not_break_the_terminal():
    text = printed(causal(HOSTILE, ["\x1b[31m", "[bold]x[/bold]"]), width=120)
    assert "\x1b" not in text and "\x00" not in text and "\u202e" not in text
    assert "<U+001B>[31m" in text and "[bold]x" in text


def test_attribution_shows_itself(capsys):
    causal(PROMPT, ANSWER).show()
    assert "── prompt" in capsys.readouterr().out
    causal(PROMPT, ANSWER, "attention", ("step", "input", "layer")).show_granular()
    assert "layer 1" in capsys.readouterr().out
    causal(PROMPT, ANSWER).show_tokens()
    assert "▸ paint" in capsys.readouterr().out


def test_foils_stand_in_the_heads_of_the_columns():
    lines = printed(causal(PROMPT, ANSWER, foil=("red", "paint", "."))).splitlines()
    assert any(line.split() == ["foil:", "red", "paint", "."] for line in lines)
    head = next(i for i, line in enumerate(lines) if line.split() == ANSWER)
    assert lines[head + 1].split() == ["vs", "red"]


def test_one_table_per_layer():
    item = causal(PROMPT, ANSWER, "attention", ("step", "input", "layer", "head"), sizes=(3, 2))
    text = printed(item, granular=True)
    assert [line for line in text.splitlines() if line.startswith("layer ")] == ["layer 0", "layer 1", "layer 2"]
    assert text.count("reduced over head") == 3
    part = printed(item, show_dim="head", dims={"layer": (1, 3), "head": 1})
    assert "head 1" in part and "head 0" not in part and "reduced over layer" in part
    assert f"{item.scores[0, 1, 1:3, 1].mean():.3f}" in part
    with pytest.raises(AttriflowError, match="did you mean 'layer'"):
        printed(item, show_dim="leyer")


def test_limits_of_the_colours():
    item = causal(PROMPT, ANSWER)
    text = printed(item, color_system="truecolor", min_val=-10, max_val=10)
    strongest = ["48;2;" + ";".join(map(str, color(sign))) for sign in (-1, 1)]
    assert "blue −10 … white 0 … orange 10" in text and not any(code in text for code in strongest)
    with pytest.raises(AttriflowError, match="min_val must be below"):
        printed(item, min_val=1, max_val=0)


@pytest.mark.parametrize("width", [12, 20, 30, 60, 250])
def test_long_tokens_and_names_stay_within_the_width(width):
    item = causal(["a" * 80, "汉字" * 30, "שלום", "x"], ["b" * 70, "字" * 40], foil=("c" * 50, "字" * 40))
    item = item.replace(step_scores={"a_step_score_with_a_long_name": torch.tensor([1e-9, 1.0])})
    lines = printed(item, width=width).splitlines()
    assert max(map(cell_len, lines)) <= max(width, 24)


def test_nothing_to_show_is_an_error():
    with pytest.raises(AttriflowError, match="no attributions"):
        printed([])
    with pytest.raises(AttriflowError, match="found str"):
        printed("text")


@pytest.mark.slow
def test_a_pipe_gets_no_escape_codes():
    """What a user sees with `python script.py | less`, in a terminal's environment."""
    code = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(sys.modules[causal.__module__].__file__)!r})
        from view_data import ANSWER, PROMPT, causal
        causal(PROMPT, ANSWER).show()
        import attriflow
        attriflow.show_token_attributions(causal(PROMPT, ANSWER))
    """
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "50"}
    env.pop("FORCE_COLOR", None)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, encoding="utf-8",
        check=True,
    )  # fmt: skip
    assert "\x1b" not in run.stdout and "── prompt" in run.stdout and "▸ blue" in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 50


# --- texts -----------------------------------------------------------------------------------------------------------


def flow(*args, width=100, color_system=None, **options):
    console = Console(file=io.StringIO(), width=width, color_system=color_system, force_terminal=bool(color_system))
    show_tokens(*args, console=console, **options)
    return console.file.getvalue()


def test_every_generated_token_shows_what_it_could_see():
    item = causal(PROMPT, ANSWER, foil=("red", "paint", "."))
    text = flow(item, step_score_highlight="probability")
    parts = text.split("▸ ")[1:]
    assert [part.split()[0] for part in parts] == ANSWER
    assert [part.splitlines()[0].split("probability ")[1].split()[0] for part in parts] == ["0.25", "0.50", "0.75"]
    assert "vs red" in parts[0] and "vs" not in parts[1].splitlines()[0]
    assert f"tom({item.scores[0, 1]:.2f})" in parts[0]
    assert "paint(" not in parts[1] and f"paint({item.scores[2, 14]:.2f})" in parts[2]


def test_texts_are_coloured_instead_of_numbered_in_terminals():
    text = flow(causal(PROMPT, ANSWER), color_system="truecolor")
    assert "tom(" not in text and "48;2;" in text and "orange" in text
    assert "48;2;" not in flow(causal(PROMPT, ANSWER))


@pytest.mark.parametrize("width", [20, 40, 80])
def test_texts_wrap_within_the_width(width):
    lines = flow(causal(PROMPT * 4, ANSWER), width=width).splitlines()
    assert max(map(cell_len, lines)) <= width


def test_lines_break_where_they_are_told_to():
    text = flow(causal(PROMPT, ANSWER), wrap_after=".", precision=1)
    first = text.split("▸ ")[1].splitlines()[1:]
    assert first[0].strip().endswith(")") and ".(" in first[0].split()[-1] and first[1].strip().startswith("what(")


def test_an_unknown_step_score_is_named():
    with pytest.raises(AttriflowError, match="did you mean 'probability'"):
        flow(causal(PROMPT, ANSWER), step_score_highlight="probabilty")


# --- leaderboards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 120])
def test_leaderboard_table_fits_and_says_why_methods_failed(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    console.print(leaderboard_table(board(), DIRECTIONS, "A title"))
    text = console.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "A title" in plain and "compr ↑" in plain and "suff ↓" in plain
    assert "deeplift: no rule for <b>GELU</b>" in " ".join(plain.split())
    assert all(name in plain for name in ("occlusion", "saliency", "random", "22.4", "90"))
    assert re.search(r"\x1b\[1;32m *0\.800", text) and re.search(r"\x1b\[1;32m *0\.100", text)
    assert not re.search(r"\x1b\[1;32m *0\.200", text)
    assert plain.index("occlusion") < plain.index("saliency") < plain.index("random") < plain.index("deeplift")
