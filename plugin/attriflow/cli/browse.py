"""`app`: everything in a browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from attriflow.cli.console import say
from attriflow.cli.options import device_map_option, option, store_option

_MODEL, _RUN, _SERVER = "Model", "Tracked evaluations", "Server"


@dataclass(kw_only=True)
class AppOptions:
    """Options of `app`."""

    model: Annotated[
        str,
        option(
            "Local folder, Hugging Face name, MLflow model URI, or demo/recall or demo/translate.",
            "--model",
            "--model-name-or-path",
            "-m",
            panel=_MODEL,
        ),
    ] = "demo/recall"
    device: Annotated[str, option("auto, cpu, cuda, cuda:1, mps, ...", "--device", "--dev", panel=_MODEL)] = "auto"
    dtype: Annotated[str | None, option("float32, bfloat16, ...; the checkpoint's own by default.", panel=_MODEL)] = (
        None
    )
    device_map: Annotated[Any, device_map_option(_MODEL)] = None
    run: Annotated[str | None, option("Id of a tracked evaluation to open.", metavar="RUN_ID", panel=_RUN)] = None
    tracking_uri: Annotated[str | None, store_option(panel=_RUN)] = None
    host: Annotated[str, option("Address to listen at; 0.0.0.0 lets other machines in.", panel=_SERVER)] = "127.0.0.1"
    port: Annotated[
        int | None, option("Port; the first free one from 7860 on by default.", min=0, max=65535, panel=_SERVER)
    ] = None
    allowed_hosts: Annotated[
        list[str] | None,
        option(
            "Names by which others may ask for the app, beside this machine's own and --host; '*' for any.",
            "--allowed-hosts",
            metavar="NAME",
            panel=_SERVER,
            show_default=False,
        ),
    ] = None
    open: Annotated[bool, option("Open the app in the browser.", "--open", panel=_SERVER)] = False


def app(options: AppOptions) -> None:
    """Explain texts, compare methods and look at tracked evaluations in a browser.

    It needs pip install 'attriflow[app]'.
    """
    from attriflow.app.server import serve

    serve(
        options.model,
        device=options.device,
        dtype=options.dtype,
        device_map=options.device_map,
        run=options.run,
        tracking_uri=options.tracking_uri,
        host=options.host,
        port=options.port,
        allowed_hosts=options.allowed_hosts or (),
        say=say,
        open_browser=options.open,
    )
