"""Laying a model that is loaded already over several devices, as `from_pretrained` does with a `device_map`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from attriflow.errors import InputError, reason_of
from attriflow.kernels import devices
from attriflow.models.blocks import find_blocks

NAMES = ("auto", "balanced", "balanced_low_0", "sequential")
"""Maps that accelerate makes by itself."""


def check_map(device_map: Any, max_memory: Any, device: Any = None) -> None:
    """Raise `InputError` for places that are not there, and for settings that contradict each other."""
    if device_map is None and max_memory is not None:
        raise InputError("max_memory limits the devices of a device_map: pass that, too, e.g. device_map='auto'")
    if device_map is not None and device not in (None, "auto"):
        raise InputError(f"device={str(device)!r} and a device_map both say where the model goes: pass one of them")
    if device_map is None or (isinstance(device_map, str) and device_map in NAMES):
        return
    if not isinstance(device_map, (str, int, torch.device, Mapping)):
        raise InputError(f"a device_map is {', '.join(NAMES)}, a device, or module -> device, not {device_map!r}")
    for place in device_map.values() if isinstance(device_map, Mapping) else [device_map]:
        if place == "disk":
            continue
        kind = devices.accelerator()
        if isinstance(place, int) and kind is None:
            raise InputError(f"device_map: there is no accelerator {place} here; use {', '.join(devices.known())}")
        try:
            devices.named(f"{kind}:{place}" if isinstance(place, int) else place)
        except InputError as error:
            raise InputError(f"device_map: {error}") from None


def lay(hf: Any, device_map: Any, max_memory: Mapping[int | str, int | str] | None = None) -> Any:
    """The model itself, laid over devices.

    Args:
        hf: A model with all its weights in memory.
        device_map: "auto", "balanced", ..., a device, or module -> device.
        max_memory: Device -> how much of it that may take.

    Raises:
        InputError: accelerate cannot do that; its reason in one line.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    if getattr(hf, "hf_device_map", None) or any(p.is_meta for p in hf.parameters()):
        raise InputError("the model is laid over devices already: load it anew with another device_map")
    places, limits = device_map, None if max_memory is None else dict(max_memory)
    try:
        if isinstance(places, str) and places in NAMES:
            whole = sorted({type(block).__name__ for block in find_blocks(hf)})
            if places != "sequential":
                limits = get_balanced_memory(
                    hf, limits, no_split_module_classes=whole, low_zero=places == "balanced_low_0"
                )
            places = infer_auto_device_map(hf, limits, no_split_module_classes=whole)
        elif not isinstance(places, Mapping):
            places = {"": places}
        if "disk" in places.values():
            raise InputError("weights on disk need a folder: load the model by its name or from its own folder")
        return dispatch_model(hf, dict(places))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot lay the model over devices: {reason_of(error)}") from error


@contextmanager
def laid(hf: Any, device_map: Any, max_memory: Mapping[int | str, int | str] | None) -> Iterator[None]:
    """The model laid over devices for a while; afterwards it is where it was."""
    from accelerate.hooks import remove_hook_from_submodules

    before = next(iter(hf.parameters())).device
    lay(hf, device_map, max_memory)
    try:
        yield
    finally:
        remove_hook_from_submodules(hf)
        hf.__dict__.pop("hf_device_map", None)
        hf.to(before)
