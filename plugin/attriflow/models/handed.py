"""A Hugging Face model as it was handed over: what it takes and returns, what was compiled, what users change of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from attriflow.errors import UnsupportedModelError


def logits_of(output: Any) -> Tensor:
    """The logits among what a model returns, whatever it returns them in."""
    found: Any = getattr(output, "logits", None)
    if found is None and isinstance(output, (tuple, list)):
        found = next((t for t in output if isinstance(t, Tensor) and t.ndim == 3), None)
    if not isinstance(found, Tensor):
        raise UnsupportedModelError(f"it returns a {type(output).__name__} without logits")
    return found


def parameters_of(hf: Any) -> set[str]:
    """Names of what a forward takes; adapters inside a model (PEFT) hand on what the model takes."""
    found = set(inspect.signature(hf.forward).parameters)
    config = getattr(hf, "active_peft_config", None)
    if config is not None and not config.is_prompt_learning:
        found |= set(inspect.signature(hf.get_base_model().forward).parameters)
    return found


_OURS = ("attriflow", "transformers", "accelerate", "peft", "torch")


def state_of(hf: Any) -> object:
    """What users change about a model between calls, apart from its weights: adapters, hooks, causal masks."""
    hooks = [
        id(hook)
        for module in hf.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if not str(getattr(hook, "__module__", "")).startswith(_OURS)
    ]
    causal = [getattr(owner, "is_causal", None) for owner in (hf.config, *hf.modules())]
    adapters = [
        (str(getattr(m, "active_adapter", None)), getattr(m, "_disable_adapters", None))
        for m in hf.modules()
        if hasattr(m, "active_adapter")
    ]
    # prompt and prefix tuning are switched off by another forward
    forward = getattr(hf.forward, "__func__", hf.forward) if hasattr(hf, "peft_config") else None
    return hooks, causal, adapters, forward


def compiled_parts(hf: Any) -> list[str]:
    """Names of the modules that torch.compile has made faster, "" for the whole model."""
    return [
        name
        for name, module in hf.named_modules()
        if getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
        or hasattr(module.forward, "_torchdynamo_orig_callable")
    ]


@contextmanager
def uncompiled(hf: Any) -> Iterator[None]:
    """Run what was compiled as it was written: compiled code neither shows its parts nor takes other derivatives."""
    if compiled_parts(hf):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield
