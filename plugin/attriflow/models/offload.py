"""Weights that accelerate keeps elsewhere (another device's memory, disk) and brings for each forward.

Between forwards a module holds placeholders: shapes and types without numbers, on the device "meta".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def weight_of(module: nn.Module, name: str = "weight") -> Tensor:
    """A weight of a module as its forward sees it."""
    found: Tensor = getattr(module, name)
    hook = getattr(module, "_hf_hook", None)
    if found.is_meta and hook is not None:
        hook.pre_forward(module)
        try:
            found = getattr(module, name)
        finally:
            hook.post_forward(module, None)  # the module lets go of it, the caller keeps it
    return found.detach()


def device_of(module: nn.Module) -> torch.device:
    """Where a module with a weight computes."""
    device: torch.device = module.weight.device  # type: ignore[union-attr,assignment]
    if device.type != "meta":
        return device
    hook: Any = getattr(module, "_hf_hook", None)
    for one in (hook, *getattr(hook, "hooks", ())):
        if getattr(one, "execution_device", None) is not None:
            return torch.device(one.execution_device)
    return device
