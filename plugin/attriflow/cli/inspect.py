"""`inspect`: what attriflow makes of a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from attriflow.cli.console import console
from attriflow.cli.options import device_map_option, json_option, max_memory_option, option

_MODEL, _OUTPUT = "Model", "Output"


@dataclass(kw_only=True)
class InspectOptions:
    """Options of `inspect`."""

    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Local folder, Hugging Face name, MLflow model URI, or demo/<name>.")
    ]
    device: Annotated[str, option("auto, cpu, cuda, cuda:1, mps, ...", panel=_MODEL)] = "auto"
    device_map: Annotated[Any, device_map_option(_MODEL)] = None
    max_memory: Annotated[Any, max_memory_option(_MODEL)] = None
    dtype: Annotated[str | None, option("float32, bfloat16, ...; the checkpoint's own by default.", panel=_MODEL)] = (
        None
    )
    tokenizer: Annotated[str | None, option("Its name or folder; the model's own by default.", panel=_MODEL)] = None
    model_kwargs: Annotated[
        dict[str, Any] | None, json_option("Arguments of the model's from_pretrained", panel=_MODEL)
    ] = None
    as_json: Annotated[bool, option("Print JSON instead of tables.", "--json", panel=_OUTPUT)] = False


def inspect(options: InspectOptions) -> None:
    """Tell what attriflow makes of a model.

    Its architecture, precision, devices and tokenizer, what the model check found, and for every method whether it is
    exact on this model, tried on one short text.
    """
    from attriflow.model import load_model

    model = load_model(
        options.model,
        tokenizer=options.tokenizer,
        device=options.device,
        dtype=options.dtype,
        model_kwargs=options.model_kwargs,
        device_map=options.device_map,
        max_memory=options.max_memory,
    )
    report = model.report()
    if options.as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    from attriflow.views.inspection import model_report

    console().print(model_report(report))
