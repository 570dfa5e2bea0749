"""A Hugging Face model as it was handed over: what it takes and returns, what was compiled, what users change of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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


def state_of(hf: Any, modules: Sequence[nn.Module]) -> object:
    """What users change about a model between calls, apart from its weights: adapters, hooks, causal masks.

    Args:
        hf: The model.
        modules: All of its modules; walking over them takes longer than looking at them.
    """
    hooks = [
        id(hook)
        for module in modules
        for held in (module._forward_hooks, module._forward_pre_hooks)
        if held
        for hook in held.values()
        if not str(getattr(hook, "__module__", "")).startswith(_OURS)
    ]
    # not by `getattr`, for which a module without the attribute searches everything that it holds, at every call
    own = [vars(module) for module in modules]
    causal = [getattr(hf.config, "is_causal", None), *(held.get("is_causal") for held in own)]
    adapters = [
        (str(getattr(module, "active_adapter", None)), getattr(module, "_disable_adapters", None))
        for module, held in zip(modules, own, strict=True)
        if "active_adapter" in held or hasattr(type(module), "active_adapter")
    ]
    # prompt and prefix tuning are switched off by another forward
    forward = getattr(hf.forward, "__func__", hf.forward) if hasattr(hf, "peft_config") else None
    return hooks, causal, adapters, forward


def compiled(module: nn.Module) -> bool:
    """Whether torch.compile has made a module, or its forward, faster."""
    held = vars(module)  # see `state_of`
    return (
        held.get("_compiled_call_impl") is not None
        or "_orig_mod" in held.get("_modules", ())
        or hasattr(module.forward, "_torchdynamo_orig_callable")
    )


@contextmanager
def uncompiled(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run what was compiled as it was written: compiled code neither shows its parts nor takes other derivatives."""
    if any(map(compiled, modules)):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield
