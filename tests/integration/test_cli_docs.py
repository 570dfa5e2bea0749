"""Every command of the page about the command line works as it stands, one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from attriflow.cli import main
from attriflow.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [
        c for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S) for c in block.strip().splitlines()
    ]
    assert len(commands) > 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "attriflow"
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code, f"{command}\n{capsys.readouterr().err}"


def test_settings_files_are_read(tmp_path, capsys):
    """The YAML on the page has options that exist: what is missing is the rest of the command."""
    first, second = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    for command, content, missing in (("attribute", first, "--input-texts"), ("evaluate", second, "model")):
        (tmp_path / "settings.yaml").write_text(content)
        with pytest.raises(SystemExit) as stop:
            main([command, "--config", str(tmp_path / "settings.yaml")])
        error = capsys.readouterr().err.lower()
        assert stop.value.code == 2 and "missing" in error and missing in error


def test_every_command_is_on_the_page():
    import typer

    for name in typer.main.get_command(app).commands:
        assert f"`{name}`" in PAGE, name
