"""Ctrl-C in a command: exit code 130, whatever the interrupted code makes of it."""

from __future__ import annotations

import signal
import weakref

import pytest

import attriflow.cli.app
from attriflow.cli import main
from attriflow.kernels.stopping import terminable


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


class Thing:
    """Something that can be referred to weakly."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)]
)
def test_a_signal_where_errors_are_ignored_is_raised_again(number, error, code):
    """As in the callback of a weak reference: Python prints the error there, and goes on."""
    model = attriflow.load_model("demo/recall")
    before, text = signal.getsignal(number), "what color is the car ?"
    with terminable():
        thing = Thing()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(number))
        del thing
        assert reference() is None
        with pytest.raises(error) as stop:
            model.attribute(text, f"{text} red", method="saliency")
        assert getattr(stop.value, "code", None) == code
        model.attribute(text, f"{text} red", method="saliency")  # once
    assert signal.getsignal(number) is before
