"""Starting the app."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attriflow.app.guard import LOOPBACK, MOST_BYTES, Guard, served_hosts
from attriflow.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from attriflow.tracking.stored import EvaluationStore, StoredEvaluation

HOST, FIRST_PORT, PORTS = "127.0.0.1", 7860, 100
EVERYWHERE = ("0.0.0.0", "::")
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # Windows has not all of them


def serve(
    model: str = "demo/recall",
    *,
    device: str = "auto",
    dtype: str | None = None,
    device_map: Any = None,
    run: str | None = None,
    tracking_uri: str | None = None,
    host: str = HOST,
    port: int | None = None,
    allowed_hosts: Sequence[str] = (),
    say: Callable[[str], None] = print,
    open_browser: bool = False,
) -> None:
    """Serve the app until it is interrupted.

    Args:
        model: Model to begin with.
        device, dtype, device_map: Where to and as what models are loaded.
        run: Tracked run to open.
        tracking_uri: MLflow store; MLflow's own setting when None.
        host: Address to listen at.
        port: Port; the first free one from 7860 on when None.
        allowed_hosts: Names by which it may be asked for, beside the loopback's and `host`; "*" for any.
        say: Gets the address when the app can be opened.
        open_browser: Open it.

    Raises:
        AttriflowError: gradio is missing, the port is taken, or there is no such model, store or run; all before
            anything listens.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtraError("the app", "gradio", "app")
    hosts = served_hosts(host, allowed_hosts)
    port = free_port(host, port)
    say(f"loading {model}")
    with _ended_by_signals(), _own_folder():
        store, uri, evaluation = _tracked(tracking_uri, run)
        _stay_at_home(host)
        from attriflow.app.models import Models

        models = Models(device, dtype, device_map)
        models.get(model)  # a wrong name is an error before gradio, which takes seconds, is imported
        from starlette.middleware import Middleware

        from attriflow.app.page import CSS, HEAD, build, theme

        blocks = build(models, model, store=store, uri=uri, evaluation=evaluation)
        blocks.launch(
            server_name=host, server_port=port, share=False, inbrowser=open_browser, inline=False, quiet=True,
            prevent_thread_lock=True, ssr_mode=False, pwa=False, enable_monitoring=False, footer_links=["settings"],
            theme=theme(), css=CSS, head=HEAD, max_file_size=MOST_BYTES,
            app_kwargs={"middleware": [Middleware(Guard, hosts=hosts, jobs=models.jobs)]},
        )  # fmt: skip
        say(f"attriflow is at {blocks.local_url} (Ctrl-C stops it)")
        if host in EVERYWHERE and hosts <= {*LOOPBACK, *EVERYWHERE}:
            say("other machines are let in by the names that --allowed-hosts gives, which are none so far")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("stopped")
        finally:
            models.jobs.stop()
            blocks.close(verbose=False)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the block, a signal that ends a process raises here first (`KeyboardInterrupt`, `SystemExit`), once.

    Where somebody ignores one (`nohup`) or handles it otherwise, that stays; only the main thread may ask for it.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler)
    known = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    here = threading.current_thread() is threading.main_thread()
    before = {number: found for number in known if here and (found := signal.getsignal(number)) in usual}

    def end(number: int, _frame: Any) -> None:
        for other in before:  # what is tidied up now takes a moment
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_folder() -> Iterator[None]:
    """All files of the app, gradio's too, in a folder that goes with it."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="attriflow-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            del os.environ["GRADIO_TEMP_DIR"]


def free_port(host: str, wanted: int | None) -> int:
    """A port that nobody listens at.

    Raises:
        InputError: It is taken, or the address is not one of this machine.
    """
    for port in [wanted] if wanted is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                reason = error.strerror or str(error)
            else:
                return int(probe.getsockname()[1])
    where = wanted if wanted is not None else f"{FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    raise InputError(f"cannot listen at {host}, port {where}: {reason}")


def _tracked(uri: str | None, run: str | None) -> tuple[EvaluationStore | None, str, StoredEvaluation | None]:
    """The store, what its field says, and the run; a store that was not asked for may be missing."""
    import mlflow

    from attriflow.tracking.stored import EvaluationStore

    if uri is not None:
        mlflow.set_tracking_uri(uri)  # for models of that store, too
    wanted = uri if uri is not None else str(mlflow.get_tracking_uri())
    try:
        store = EvaluationStore(wanted)
    except InputError:
        if uri is not None or run is not None:
            raise
        return None, wanted, None
    return store, wanted, None if run is None else store.run(run)


def _stay_at_home(host: str) -> None:
    """No telemetry; and gradio's own look at the app must not go through a proxy."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    here = dict.fromkeys(("127.0.0.1", "localhost", host))
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), *here)))
