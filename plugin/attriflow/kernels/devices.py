"""What torch knows of this machine's devices, whoever made them: nothing else asks for a kind of device by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attriflow.errors import InputError

_CPU = torch.device("cpu")
_DRAWS = ("bernoulli", "multinomial", "normal", "rand", "randint", "randn", "randperm")
_LIKE = ("rand_like", "randint_like", "randn_like")
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_FILLS = ("bernoulli_", "exponential_", "geometric_", "normal_", "random_", "uniform_")


def accelerator() -> torch.device | None:
    """The kind of accelerator that is there (CUDA, ROCm, XPU, MPS, ...); None where there are only CPUs."""
    if not torch.accelerator.is_available():
        return None
    return torch.accelerator.current_accelerator()


def best() -> torch.device:
    """What "auto" means."""
    return accelerator() or _CPU


def known() -> list[str]:
    """Names of the devices that are there."""
    kind = accelerator()
    n = 0 if kind is None else torch.accelerator.device_count()
    return ["cpu", *([] if kind is None else [kind.type]), *(f"{kind}:{i}" for i in range(n) if n > 1)]


def named(name: str | torch.device) -> torch.device:
    """The device of a name: right when a tensor can be made there.

    Raises:
        InputError: There is none.
    """
    try:
        device = torch.device(name)
        if device.type != "meta" and (device.type == "cpu" or _counted(device)):
            torch.empty(1, device=device)
            return device
    except (AssertionError, ImportError, NotImplementedError, RuntimeError):
        pass
    raise InputError(f"there is no device {str(name)!r} here; use auto, {', '.join(known())}")


def _counted(device: torch.device) -> bool:
    """Whether a device's number is one of those that its maker's module counts, where it counts."""
    count = _has(device, "device_count")
    return count is None or (device.index or 0) < count()


def _has(device: torch.device, name: str) -> Callable[..., Any] | None:
    """A function of the module that torch has for a kind of device."""
    found: Callable[..., Any] | None = getattr(getattr(torch, device.type, None), name, None)
    return None if device.type == "cpu" else found


def about(device: torch.device) -> dict[str, Any]:
    """What an accelerator is, and what changes its speed; nothing for CPUs."""
    if device.type == "cpu":
        return {}
    name, space = _has(device, "get_device_name"), memory(device)
    found: dict[str, Any] = {"device_name": device.type if name is None else str(name(device))}
    found |= {k: str(v) for k in ("cuda", "hip", "xpu") if (v := getattr(torch.version, k, None))}
    if torch.backends.cuda.is_built():
        tf32 = torch.backends.cuda.matmul.allow_tf32
        found |= {"cudnn_benchmark": torch.backends.cudnn.benchmark, "tf32": tf32}
    return found if space is None else {**found, "total_memory_gib": space[1] / 2**30}


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what was asked of it."""
    found = _has(device, "synchronize")
    if found is not None:
        found(*([device] if inspect.signature(found).parameters else []))  # MPS has but one


def empty_cache() -> None:
    """Give memory that no tensor holds back to the accelerators."""
    device = best()
    used, give = _has(device, "is_initialized"), _has(device, "empty_cache")
    if give is not None and (used is None or used()):
        give()


# -- memory -----------------------------------------------------------------------------------------------------------


def counts_memory(device: torch.device) -> bool:
    """Whether a device counts the memory of its tensors and their peak."""
    names = ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats")
    return all(_has(device, name) is not None for name in names)


def reset_peak(device: torch.device) -> int:
    """Forget the highest count so far; bytes that tensors hold now."""
    torch.get_device_module(device).reset_peak_memory_stats(device)
    return int(torch.get_device_module(device).memory_allocated(device))


def peak(device: torch.device) -> int:
    """Most bytes that tensors held since the last `reset_peak`."""
    return int(torch.get_device_module(device).max_memory_allocated(device))


def memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes that are free on a device, and all it has; None where it does not say."""
    found = _has(device, "mem_get_info")
    if found is None:
        return None
    free, total = found(device)
    return int(free), int(total)


def free_memory(device: torch.device) -> float:
    """Bytes that this process may still take on a device; a container's limit counts."""
    if (space := memory(device)) is not None:
        reserved, held = _has(device, "memory_reserved"), _has(device, "memory_allocated")
        kept = reserved(device) - held(device) if reserved and held else 0  # by torch, for tensors to come
        return float(space[0] + kept)
    import psutil

    found = [float(psutil.virtual_memory().available)]
    for limit, used in _CGROUPS:
        try:
            found.append(float(Path(limit).read_text()) - float(Path(used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return max(0.0, min(found))


# -- draws ------------------------------------------------------------------------------------------------------------


class _OnCPU(TorchFunctionMode):
    """Draws by CPU generators, whose numbers are then moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        given = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if name in _FILLS and given is not None and given.device != _CPU:
            return given.copy_(func(torch.empty_like(given, device=_CPU), *map(_home, args[1:]), **_homes(kwargs)))
        if name not in _DRAWS + _LIKE:
            return func(*args, **kwargs)
        place = kwargs.get("device") or (None if given is None else given.device) or torch.get_default_device()
        if torch.device(place) == _CPU:
            return func(*args, **kwargs)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _CPU}
        return func(*map(_home, args), **_homes(kwargs)).to(place)


def _home(value: Any) -> Any:
    return value.to(_CPU) if isinstance(value, torch.Tensor) else value


def _homes(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: _home(v) for k, v in kwargs.items() if not isinstance(v, torch.Generator) or v.device == _CPU}


@contextmanager
def same_draws(devices: Iterable[torch.device]) -> Iterator[None]:
    """Have a model on these devices draw the numbers that it would draw on a CPU, whose generator is put back."""
    away = any(device.type != "cpu" for device in devices)
    with torch.random.fork_rng(devices=()):
        if not away:
            yield
            return
        with _OnCPU():
            yield
