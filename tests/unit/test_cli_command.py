"""How arguments are read: both spellings, several values, flags, nested settings, settings files."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from typing import Annotated, Any

import pandas as pd
import pytest
import typer
from rich.console import Console

from attriflow.cli import main
from attriflow.cli.app import app
from attriflow.cli.command import Command, add_command, assignments, json_object, read_config
from attriflow.cli.console import console
from attriflow.cli.options import json_option, known, option


@dataclasses.dataclass(kw_only=True)
class Base:
    number: Annotated[int, option("A number.", "--number", "-n", min=1, panel="A")] = 3
    config: Annotated[str | None, option("File.", panel="A", is_eager=True, callback=read_config)] = None


@dataclasses.dataclass(kw_only=True)
class Options(Base):
    the_texts: Annotated[list[str], option("Texts.", "--the-texts", "-i", panel="B")]
    more_texts: Annotated[list[str] | None, option("Texts.", "--more-texts", "-in", panel="B")] = None
    with_flag: Annotated[bool, option("Flag.", "--with-flag", "--wf", panel="B")] = False
    nested_kwargs: Annotated[dict[str, Any] | None, json_option("Nested", panel="B")] = None


def parse(*arguments: str) -> Options:
    """What a command with these options is given."""
    found: list[Options] = []
    test_app = typer.Typer()
    add_command(test_app, "one", Options, found.append)
    test_app.command("other")(lambda: None)
    test_app(["one", *arguments], standalone_mode=False)
    return found[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--the-texts", "a", "b c", "--number", "5", "--with-flag"),
        ("--the_texts", "a", "b c", "--number=5", "--with_flag"),
        ("-i", "a", "b c", "-n", "5", "--wf"),
        ("--the_texts=a", "b c", "-n", "5", "--wf", "true"),
        ("-i", "a", "-i", "b c", "--with-flag", "YES", "-n", "5"),
        ("--with_flag=1", "-n", "5", "-i", "a", "--the-texts", "b c"),
    ],
)
def test_spellings(arguments):
    found = parse(*arguments)
    assert (list(found.the_texts), found.number, found.with_flag) == (["a", "b c"], 5, True)


@pytest.mark.parametrize("value", ["false", "No", "0", "F"])
def test_flags_with_a_value(value):
    assert parse("-i", "a", "--with_flag", value, "-n", "4") == Options(
        the_texts=["a"], number=4, more_texts=parse("-i", "a").more_texts
    )


def test_a_file_after_a_flag_is_not_its_value():
    found: list[tuple[str, bool]] = []
    test_app = typer.Typer()

    @test_app.command(cls=Command)
    def one(file: str, flag: Annotated[bool, typer.Option("--flag")] = False) -> None:
        found.append((file, flag))

    for arguments in (["--flag", "1"], ["1", "--flag"], ["--flag=false", "1"], ["1"]):
        test_app(arguments, standalone_mode=False)
    assert found == [("1", True), ("1", True), ("1", False), ("1", False)]


def test_values_that_look_like_options():
    assert list(parse("-i", "--the_dash", "-5", "- item", "--number", "2").the_texts) == ["--the_dash", "-5", "- item"]
    assert list(parse("-i", "a_b=c_d", "--more_texts=x=--y_z").more_texts or ()) == ["x=--y_z"]
    assert list(parse("-i", "", "b").the_texts) == ["", "b"]


def test_names_of_two_letters():
    found = parse("-in", "n", "m", "-i", "x")
    assert (list(found.the_texts), list(found.more_texts or ())) == (["x"], ["n", "m"])


def test_nested():
    assert parse("-i", "a", "--nested_kwargs", '{"a": {"b": [1, null]}}').nested_kwargs == {"a": {"b": [1, None]}}
    for wrong in ("{a}", "[1]", "3"):
        with pytest.raises(typer.BadParameter):
            json_object(wrong)


def test_assignments():
    given = ["n_steps=5", "window-size = x=y", 'b={"c": [1]}', "on=true", "t=0.5"]
    given += ["abs=False", "norms=True", "layer=None", "unit=word"]
    expected = {"n_steps": 5, "window_size": " x=y", "b": {"c": [1]}, "on": True, "t": 0.5}
    expected |= {"abs": False, "norms": True, "layer": None, "unit": "word"}
    assert assignments(given) == expected
    with pytest.raises(typer.BadParameter):
        assignments(["n_steps"])


class TestConfig:
    def test_the_command_line_wins(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text("the-texts: [a, 1]\nnumber: 7\nwf: true\nnested_kwargs: {x: [1, 2]}\nmore_texts: one\n")
        found = parse("--config", str(path))
        assert (list(found.the_texts), found.number, found.with_flag) == (["a", "1"], 7, True)
        assert (found.nested_kwargs, list(found.more_texts or ())) == ({"x": [1, 2]}, ["one"])
        found = parse("-n", "2", "--config", str(path), "-i", "z")
        assert (list(found.the_texts), found.number, found.nested_kwargs) == (["z"], 2, {"x": [1, 2]})

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("numbr: 3", "did you mean 'number'"),
            ("number: many", "--number"),
            ("number: 0", "--number"),
            ("[1]", "settings by name"),
            ("a: [", "is not YAML"),
            ("nested_kwargs: 3", "nested"),
        ],
    )
    def test_mistakes(self, content, message, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text(content)
        try:
            parse("--config", str(path), "-i", "a")
        except Exception as error:  # typer's, whose classes moved from release to release
            assert error.exit_code == 2 and message in error.format_message()
        else:
            pytest.fail("nothing was wrong")

    def test_other_files(self, tmp_path):
        for path in ("nowhere.yaml", "name"):
            with pytest.raises(typer.BadParameter):
                parse("--config", path, "-i", "a")


def test_completion_of_names():
    assert known("methods")("integ") == ["integrated_gradients"]
    assert "probability" in known("step_functions")("prob")
    assert known("metrics")("nope") == []


INSEQ = {
    "attribute": """model_name_or_path m attribution_method a device dev attributed_fn fn attribution_selectors
        attribution_aggregators normalize_attributions rescale_attributions model_kwargs tokenizer_kwargs
        generation_kwargs attribution_kwargs attribute_target generate_from_target_prefix step_scores
        output_step_attributions include_eos_baseline eos batch_size bs aggregate_output hide_attributions hide
        save_path o viz_path start_pos s end_pos e verbose v very_verbose vv input_texts i generated_texts g""",
    "attribute-dataset": """model_name_or_path m attribution_method a device dev attributed_fn fn attribution_selectors
        attribution_aggregators normalize_attributions rescale_attributions model_kwargs tokenizer_kwargs
        generation_kwargs attribution_kwargs attribute_target generate_from_target_prefix step_scores
        output_step_attributions include_eos_baseline eos batch_size bs aggregate_output hide_attributions hide
        save_path o viz_path start_pos s end_pos e verbose v very_verbose vv dataset_name d dataset input_text_field in
        input generated_text_field gen generated dataset_config config dataset_dir dir dataset_files files dataset_split
        split dataset_revision revision dataset_auth_token auth dataset_kwargs""",
}


@pytest.mark.parametrize("command", INSEQ)
def test_every_option_of_inseq(command):
    """The names of Inseq 0.7.1's argument classes; short ones have one dash there, as here."""
    found = typer.main.get_command(app).commands[command]
    names = {name for p in found.params for name in p.opts}
    for name in INSEQ[command].split():
        dashed = name.replace("_", "-")
        assert {f"--{dashed}", f"-{dashed}"} & names, name


def test_usage_errors_are_one_line(capsys):
    for arguments in (["attribute"], ["attribute", "--modle", "x"], ["no-such"], ["show"], ["attribute", "-bs", "0"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: ") and len(error.splitlines()) == 1
        assert "--help)" in error


def test_no_arguments_is_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert not stop.value.code and "attribute-dataset" in capsys.readouterr().out


@pytest.mark.parametrize("command", [None, *typer.main.get_command(app).commands])
def test_help_has_its_brackets(command, capsys):
    """What stands in square brackets is no markup: the extra of `pip install 'attriflow[app]'`, `train[:20]`."""
    found = typer.main.get_command(app)
    if command is not None:
        found = found.commands[command]
    with pytest.raises(SystemExit):
        main([*([command] if command else []), "--help"])
    printed = capsys.readouterr().out
    texts = [found.help or "", *(getattr(p, "help", None) or "" for p in found.params)]
    for bracket in re.findall(r"\S*\[\S*\]", " ".join(texts)):
        assert bracket in printed
    assert command != "app" or "pip install 'attriflow[app]'." in printed


def test_help_of_markup(capsys):
    """Also where rich would end a tag that was never begun; and in the same way the second time."""

    def one(file: Annotated[str, typer.Option(help="A [bold]file[/bold] \\[x] or [/red].")] = "[a]") -> None:
        """Reads [link] of [/nothing]."""

    test_app = typer.Typer()
    test_app.command(cls=Command)(one)
    made = typer.main.get_command(test_app)
    for _ in range(2):
        made(["--help"], standalone_mode=False)
        printed = " ".join(capsys.readouterr().out.split())
        assert "Reads [link] of [/nothing]." in printed and "A [bold]file[/bold] \\[x] or [/red]." in printed


def test_what_commands_print_is_no_markup(capsys, tmp_path):
    from attriflow.views.evaluations.throughput import throughput_table

    console().print(f"wrote [red]{tmp_path.name}[/red]/:cat:.json [/nothing]", soft_wrap=True)
    assert capsys.readouterr().out == f"wrote [red]{tmp_path.name}[/red]/:cat:.json [/nothing]\n"
    row = {"method": "mine.py:[red]", "status": "ok", "reason": "", "seconds": 1.0}
    Console().print(throughput_table(pd.DataFrame([row])))
    assert "mine.py:[red]" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell, tmp_path):
    """The script of each shell, and what it asks for when a name is begun."""
    import os
    import subprocess
    import sys

    code = "import sys; sys.argv[0] = 'attriflow'; from attriflow.cli import main; main()"

    def ask(arguments: list[str], **extra: str) -> str:
        environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", **extra}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
        ).stdout

    assert "_ATTRIFLOW_COMPLETE" in ask(["--show-completion", shell])
    words = "attriflow attribute -a integ"
    told = {
        "COMP_WORDS": words,
        "COMP_CWORD": "3",
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    assert "integrated_gradients" in ask([], _ATTRIFLOW_COMPLETE=f"complete_{shell}", **told)


def test_runs_without_its_script():
    command = [sys.executable, "-m", "attriflow.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage: attriflow " in done.stdout
