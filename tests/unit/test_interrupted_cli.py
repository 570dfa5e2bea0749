"""Ctrl-C in a command: exit code 130, whatever the interrupted code makes of it."""

from __future__ import annotations

import signal

import pytest

import attriflow.cli.app
from attriflow.cli import main


@pytest.fixture(autouse=True)
def _heard():
    """Who was started in the background, or by nohup, is deaf to some signals."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interrupted_import_is_an_interruption(monkeypatch, capsys, swallowed):
    def app(*_arguments, **_settings):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if not swallowed:
                raise
        raise ModuleNotFoundError("Could not import module 'BartForConditionalGeneration'")

    monkeypatch.setattr(attriflow.cli.app, "app", app)
    with pytest.raises(SystemExit) as stop:
        main(["methods"])
    assert stop.value.code == 130 and capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_it_the_error_is_told(monkeypatch, capsys):
    def app(*_arguments, **_settings):
        raise ModuleNotFoundError("no module")

    monkeypatch.setattr(attriflow.cli.app, "app", app)
    with pytest.raises(SystemExit) as stop:
        main(["methods"])
    assert stop.value.code == 1 and "no module" in capsys.readouterr().err
