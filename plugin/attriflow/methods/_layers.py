"""Target layers: which module of each block is explained, and what it puts out on the input and on a baseline."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.engine import Engine
from attriflow.engine.baselines import Baseline
from attriflow.engine.bound import Sites, site_output
from attriflow.engine.memory import fits
from attriflow.errors import InputError

SIDES = {"source": "encoder", "target": "decoder"}


Layer = str | nn.Module
Layers = Layer | list[Layer] | None
"""The dotted name of a module, or the module itself; one for each block; None for the input embeddings."""


def check_layers(target_layer: Layers) -> None:
    """Raise `InputError` for an option that names no layers."""
    if target_layer is None:
        return
    if not 1 <= len(_listed(target_layer)) <= 2 or "" in _listed(target_layer):
        raise InputError(
            f"target_layer must be the dotted name of a module, one per block, or None, not {target_layer!r}"
        )


def _listed(target_layer: Any) -> list[Any]:
    return list(target_layer) if isinstance(target_layer, (list, tuple)) else [target_layer]


def resolve(engine: Engine, target_layer: Any) -> Sites | None:
    """Block -> target module; None for the input embeddings, which need no hooks (tables may be shared by both sides).

    A module inside the encoder belongs to "source", any other to "target".
    """
    if target_layer is None:
        return None
    hf = engine.model.hf
    names = dict(hf.named_modules(remove_duplicate=False))
    sites: dict[str, nn.Module] = {}
    for item in _listed(target_layer):
        name, module = _find(names, item)
        block = _block(engine, names, name, module)
        if block not in engine.blocks:
            missing = "; pass attribute_target=True and one target_layer per side" if block == "target" else ""
            raise InputError(f"target_layer {name!r} is in the {SIDES[block]}, which is not attributed{missing}")
        if block in sites:
            raise InputError(f"target_layer names two layers of the {SIDES[block]}: one per side is allowed")
        sites[block] = module
    for block in engine.blocks:
        if block not in sites:
            raise InputError(f"target_layer names no layer of the {SIDES[block]}, which is attributed too: give both")
    if all(module is engine.model.embedding(block) for block, module in sites.items()):
        return None
    for block, module in sites.items():
        if len(_sides(engine, module)) == 2:
            raise InputError(
                f"the target_layer of the {SIDES[block]} is one module that both sides run, each in its own way: "
                "name a layer above it, or the embeddings of all sides (target_layer=None)"
            )
    return sites


def _find(names: Mapping[str, nn.Module], item: str | nn.Module) -> tuple[str, nn.Module]:
    if isinstance(item, str):
        if item and item in names:
            return item, names[item]
        close = difflib.get_close_matches(item, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "; see model.model.named_modules()"
        raise InputError(f"the model has no module {item!r} to take as target_layer{hint}")
    for name, module in names.items():
        if module is item and name:
            return name, module
    raise InputError(f"the target_layer given ({type(item).__name__}) is not a module of the model")


def _block(engine: Engine, names: Mapping[str, nn.Module], name: str, module: nn.Module) -> str:
    if not engine.model.is_encoder_decoder:
        return "target"
    sides = _sides(engine, module)
    if len(sides) == 2:  # a shared table: its name tells which use is meant
        prefixes = [n for n, m in names.items() if m is engine.model.hf.get_decoder()]
        return "target" if any(name.startswith(f"{prefix}.") for prefix in prefixes) else "source"
    return "source" if "source" in sides else "target"


def _sides(engine: Engine, module: nn.Module) -> list[str]:
    """Sides of an encoder-decoder that a module is part of; shared ones are part of both."""
    if not engine.model.is_encoder_decoder:
        return []
    parts = {"source": engine.model.hf.get_encoder(), "target": engine.model.hf.get_decoder()}
    return [block for block, part in parts.items() if any(module is m for m in part.modules())]


ONE_PASS = "with one pass over the batch; use a smaller batch_size"


def endpoints(
    engine: Engine, sites: Sites | None, baseline: Baseline | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of the target layers on the input and on the baseline, block -> `[batch, position, width]`.

    At the input embeddings (`sites=None`) they are the embeddings themselves. With `baseline=None` the second is empty.
    """
    changed = {} if baseline is None else {b: engine.baseline_embeddings(b, baseline) for b in engine.blocks}
    if sites is None:
        inputs, baselines = {b: engine.embeddings(b) for b in engine.blocks}, changed
    else:
        with fits(ONE_PASS):
            inputs, baselines = engine.activations(sites), {}
            # an embedding table does not run when embeddings are given: its output is the baseline before scaling
            tables = {b for b, m in sites.items() if m is engine.model.embedding(b)}
            baselines = {b: changed[b] / engine.model.embedding_scale(b) for b in tables & set(changed)}
            rest = {b: module for b, module in sites.items() if b not in tables}
            if baseline is not None:
                baselines |= engine.activations(rest, {f"{b}_embeds": value for b, value in changed.items()})
    return (
        {b: t.detach().to(engine.dtype) for b, t in inputs.items()},
        {b: t.detach().to(engine.dtype) for b, t in baselines.items()},
    )


@torch.no_grad()
def value_at(engine: Engine, sites: Sites | None, outputs: Mapping[str, Tensor]) -> Tensor:
    """The objective with the target layers' outputs (or the input embeddings) replaced, `[batch, step]`."""
    return engine.of_steps(token_values_at(engine, sites, outputs))


def token_values_at(engine: Engine, sites: Sites | None, outputs: Mapping[str, Tensor]) -> Tensor:
    """The same for every token that is read, `[batch, token]`."""
    values = {b: t.to(engine.model.dtype) for b, t in outputs.items()}
    with ExitStack() as stack:
        stack.enter_context(fits(ONE_PASS))
        for block, module in (sites or {}).items():
            stack.callback(module.register_forward_hook(_put(values[block])).remove)
        changes: dict[str, Any] = {} if sites is not None else {f"{b}_embeds": t for b, t in values.items()}
        return engine.objective(engine.run(engine.rows(**changes))).detach()


def _put(value: Tensor) -> Callable[..., Any]:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        site_output(output, value.shape[:2])
        return type(output)([value, *output[1:]]) if isinstance(output, (tuple, list)) else value

    return hook
