"""Weights that accelerate keeps elsewhere (another device's memory, disk) and brings for each forward.

Between forwards a module holds placeholders: shapes and types without numbers, on the device "meta".
"""

from __future__ import annotations

from collections.abc import Iterator
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
    return next(_executed(module), device)


def devices_of(hf: nn.Module) -> list[torch.device]:
    """Where the parts of a model compute, each device once."""
    places = [p.device for p in hf.parameters() if not p.is_meta]
    return list(dict.fromkeys([*places, *(place for module in hf.modules() for place in _executed(module))]))


def _executed(module: nn.Module) -> Iterator[torch.device]:
    """Where accelerate's hooks on a module have it run."""
    hook: Any = vars(module).get("_hf_hook")
    if hook is None:  # of almost all, and this is asked at every call
        return
    for one in (hook, *getattr(hook, "hooks", ())):
        place = getattr(one, "execution_device", None)
        if place is not None:
            yield torch.device(place)
