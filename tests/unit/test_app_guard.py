"""Who is let into the app, by real requests; what runs for a page, and when it ends; the folder under signals."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

import attriflow
from attriflow.app.explaining import Request, explain
from attriflow.app.guard import MOST_BYTES, Guard, served_hosts
from attriflow.app.jobs import Jobs
from attriflow.app.models import Models
from attriflow.errors import InputError
from attriflow.kernels.stopping import Stopped, check_stop, stoppable

# -- hosts and sizes --------------------------------------------------------------------------------------------------


def test_hosts_are_the_loopback_the_address_and_those_given():
    assert served_hosts("127.0.0.1") == {"127.0.0.1", "localhost", "::1"}
    assert served_hosts("192.0.2.7", ["Lab.Example.", "[2001:db8::1]"]) == {
        "127.0.0.1", "localhost", "::1", "192.0.2.7", "lab.example", "2001:db8::1",
    }  # fmt: skip
    for name in ("http://lab", "lab:80", "lab/x", "a@lab", ""):
        with pytest.raises(InputError, match="an allowed host is a name"):
            served_hosts("127.0.0.1", [name])


@pytest.fixture
def serving():
    """`serving(hosts)` is the port of a server that answers every request with the bytes it was sent."""
    uvicorn = pytest.importorskip("uvicorn")
    servers = []

    async def echo(scope, receive, send):
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(body)})

    def start(hosts: frozenset[str], jobs: Jobs | None = None) -> int:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # whoever asks before the server is there waits
        config = uvicorn.Config(Guard(echo, hosts, jobs or Jobs()), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        servers.append((server, thread, listening))
        return listening.getsockname()[1]

    yield start
    for server, thread, listening in servers:
        server.should_exit = True
        thread.join(10)
        listening.close()


def ask(port: int, headers: dict[str, str], body: bytes = b"", length: str | None = None) -> tuple[int, str]:
    """Status and text of a request with exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", "/x", skip_host=True, skip_accept_encoding=True)
    for name, value in {"Content-Length": length or str(len(body)), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    if body:
        connection.send(body)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_a_name_that_somebody_lets_point_here_is_refused(serving):
    port = serving(served_hosts("127.0.0.1", ["lab.example"]))
    for host in ("localhost", "LOCALHOST:1", f"127.0.0.1:{port}", "[::1]:7860", "lab.example:443", "lab.example."):
        assert ask(port, {"Host": host}, b"abc") == (200, "3"), host
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "[::1",
        "",
    ):
        status, text = ask(port, {"Host": host}, b"abc")
        assert status in (400, 421), host  # the server itself answers what is no HTTP
        assert status == 400 or "--allowed-hosts" in text
    assert ask(port, {}, b"abc")[0] in (400, 421)
    here = {"Host": "localhost"}
    assert ask(port, {**here, "Origin": "http://localhost:7860"})[0] == 200
    for origin in ("http://evil.example", "null", "http://[", "https://evil.example:7860"):
        assert ask(port, {**here, "Origin": origin})[0] == 403, origin
    assert ask(serving(served_hosts("127.0.0.1", ["*"])), {"Host": "evil.example"})[0] == 200


def test_requests_have_a_length_and_it_is_not_large(serving):
    port, here = serving(served_hosts("127.0.0.1")), {"Host": "localhost"}
    assert ask(port, here, length=str(MOST_BYTES + 1)) == (413, "a request may have 16 MB at most\n")
    assert ask(port, here, bytes(MOST_BYTES)) == (200, str(MOST_BYTES))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/x", iter([b"a", b"b"]), {"Host": "localhost"}, encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


# -- work -------------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ends(jobs: Jobs) -> bool:
    try:
        check_stop()
    except Stopped:
        return True
    return False


def test_work_ends_when_its_page_says_so_or_is_gone_for_long():
    clock = Clock()
    jobs = Jobs(patience=10, clock=clock)
    with jobs.listening("a"), jobs.running("a"):
        clock.now = 100
        assert not ends(jobs)
        assert jobs.stop("b") == 0
        assert not ends(jobs)
        assert jobs.stop("a") == 1
        assert ends(jobs)
    assert not ends(jobs)  # outside of work there is nothing to stop
    with jobs.running("a"):
        with jobs.listening("a"), jobs.listening("a"):
            clock.now = 200
            assert not ends(jobs)
        assert not ends(jobs)
        clock.now = 209
        assert not ends(jobs)
        with jobs.listening("a"):  # reloaded
            assert not ends(jobs)
        clock.now = 215
        assert not ends(jobs)
        clock.now = 226
        assert ends(jobs)
    jobs.stop()
    with jobs.listening("a"), jobs.running("a"):
        assert ends(jobs)


def test_connections_of_a_page_keep_its_work_going(serving):
    """The guard knows from the paths of gradio's streams who is there."""
    jobs = Jobs(patience=0, clock=Clock())
    port = serving(served_hosts("127.0.0.1"), jobs)
    seen = []
    listening = jobs.listening
    jobs.listening = lambda session: seen.append(session) or listening(session)
    for path in ("/gradio_api/queue/data?session_hash=s1", "/gradio_api/heartbeat/s2", "/gradio_api/queue/join"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        assert connection.getresponse().status == 200
        connection.close()
    assert seen == ["s1", "s2"]


@contextmanager
def stopping_after(hf, checks: int):
    """Work that is to end at such a check; `made()`: how many calls its model had after that."""
    asked, calls, until = [], [], []
    hook = hf.register_forward_pre_hook(lambda *_: calls.append(1))

    def over() -> bool:
        asked.append(1)
        if len(asked) == checks:
            until.append(len(calls))
        return len(asked) >= checks

    with pytest.raises(Stopped), stoppable(over):
        yield lambda: len(calls) - until[0]
    hook.remove()
    assert len(asked) == checks


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sequential_integrated_gradients", '{"n_steps": 500}'),
        ("lime", '{"n_samples": 1000000}'),
        ("occlusion", ""),
    ],
)
def test_a_method_is_stopped_between_model_calls(method: str, options: str):
    """And no other method is done instead of it."""
    models, begun = Models("cpu"), []
    asked = Request(model="demo/recall", text="the red hat", methods=[method, "dummy"], options=options)
    with stopping_after(models.get("demo/recall").model, 3) as made:
        explain(models, asked, lambda names: (begun.append(n) or n for n in names))
    assert begun == [method]
    assert made() == 0
    explain(models, Request(model="demo/recall", text="the red hat", methods=["dummy"]))  # the model is as it was


def test_generation_is_stopped():
    model = attriflow.load_model("demo/translate", device="cpu")
    with stopping_after(model.model, 2) as made:
        model.attribute("the red house", method="dummy", generation_args={"min_new_tokens": 50, "max_new_tokens": 60})
    assert made() == 0


# -- the end ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, tempfile, time
from attriflow.app.server import _ended_by_signals, _own_folder
with _ended_by_signals(), _own_folder():
    open(tempfile.mkdtemp() + "/page.html", "w").write("made")
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(0.5)  # a second signal meanwhile changes nothing
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_folder_goes_on_any_signal(tmp_path):
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
    awake = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    awake += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup has it ignored
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", awake + SCRIPT], env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for _ in numbers
    ]  # fmt: skip
    try:
        for process, number in zip(processes, numbers, strict=True):
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(30) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.stdout.close()
    late = -signal.SIGTERM  # on a busy machine the second signal comes when all is tidied up
    assert codes[0] in (1, -signal.SIGINT, 130, late)  # of an interrupt nobody caught
    either = {late, 128 + signal.SIGTERM}  # ... or is the first to be heard
    assert all(code in {128 + number, *either} for code, number in zip(codes[1:], numbers[1:], strict=True)), codes
    assert list(tmp_path.iterdir()) == []
