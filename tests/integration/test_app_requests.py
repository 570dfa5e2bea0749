"""The running app over HTTP: whom it answers, work that is stopped or left alone, its folder after a signal."""

from __future__ import annotations

import importlib.util
import json
import signal
import threading
import time
import urllib.error
import urllib.request

import pytest
from test_app_browser import started

from attriflow.app.jobs import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed: the extra app"),
]
LONG = {"Text": "the red house of the old man", "Methods": ["lime"], "Options (JSON)": '{"n_samples": 1000000}'}
SHORT = {"Text": "the red dog", "Methods": ["saliency"]}


class App:
    """Gradio's protocol, as its page speaks it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.config = json.loads(self.get("config"))
        self.widgets = {w["id"]: w for w in self.config["components"]}
        self.prefix = self.config["api_prefix"].strip("/")
        self.explain = next(
            d for d in self.config["dependencies"] if "Forced target" in map(self._label, d["inputs"])
        )  # fmt: skip
        stop = next(w["id"] for w in self.config["components"] if w["props"].get("value") == "Stop")
        self.stop = next(d for d in self.config["dependencies"] if [stop, "click"] in d["targets"] and d["backend_fn"])

    def _label(self, widget: int) -> str:
        return self.widgets[widget]["props"].get("label")

    def get(self, path: str, body: dict | None = None, **headers: str) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", data, headers), timeout=90) as answer:
            return answer.read()

    def send(self, event: dict, session: str, given: dict) -> None:
        values = [given.get(self._label(i), self.widgets[i]["props"].get("value")) for i in event["inputs"]]
        body = {"data": values, "fn_index": event["id"], "session_hash": session, "event_data": None}
        self.get(f"{self.prefix}/queue/join", {**body, "trigger_id": None})

    def answer(self, session: str) -> dict:
        url = f"{self.url}/{self.prefix}/queue/data?session_hash={session}"
        with urllib.request.urlopen(url, timeout=90) as stream:
            for line in stream:
                if line.startswith(b"data:") and (message := json.loads(line[5:]))["msg"] == "process_completed":
                    return message
        raise AssertionError("no answer")

    def ask(self, session: str, given: dict) -> dict:
        self.send(self.explain, session, given)
        return self.answer(session)


def refused(app: App, status: int, **headers: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        app.get("config", **headers)
    assert error.value.code == status
    error.value.close()


def test_the_running_app(tmp_path, monkeypatch):
    folders = tmp_path / "folders"
    folders.mkdir()
    monkeypatch.setenv("TMPDIR", str(folders))
    process, url = started(tmp_path, "-m", "demo/translate", "--allowed-hosts", "lab.example")
    try:
        app = App(url)
        # hosts
        refused(app, 421, Host="evil.example")
        refused(app, 403, Origin="http://evil.example")
        app.get("config", Host="lab.example:8080")
        big = {"x": "a" * 17_000_000}
        with pytest.raises((urllib.error.URLError, ConnectionError)):  # or the connection is closed while it is sent
            app.get(f"{app.prefix}/queue/join", big)
        assert app.ask("warm", SHORT)["success"]
        assert [p.name[:14] for p in folders.iterdir()] == ["attriflow-app-"]
        # a button that stops
        answers: list[dict] = []
        waiting = threading.Thread(target=lambda: answers.append(app.ask("stopped", LONG)))
        waiting.start()
        time.sleep(3)
        assert waiting.is_alive()
        body = {"data": [], "fn_index": app.stop["id"], "session_hash": "stopped", "event_data": None}
        app.get(f"{app.prefix}/run/predict", body)
        waiting.join(20)
        assert not waiting.is_alive()
        assert not answers[0]["success"]
        assert "Nothing more is computed" in json.dumps(answers[0])
        # a page that is gone
        app.send(app.explain, "gone", LONG)
        began = time.monotonic()
        assert app.ask("next", SHORT)["success"]
        assert time.monotonic() - began < PATIENCE + 15
        # the end, while something runs
        app.send(app.explain, "last", LONG)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert list(folders.iterdir()) == []
    assert "Traceback" not in (tmp_path / "app.log").read_text()


def test_a_signal_while_the_app_starts(tmp_path, monkeypatch):
    folders = tmp_path / "folders"
    folders.mkdir()
    monkeypatch.setenv("TMPDIR", str(folders))
    process, _ = started(tmp_path, until="loading ")
    end = time.monotonic() + 60
    while not list(folders.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    try:
        assert process.wait(60) == 128 + signal.SIGHUP
    finally:
        process.kill()
    assert list(folders.iterdir()) == []
