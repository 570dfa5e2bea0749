"""Weights that accelerate keeps elsewhere (another device's memory, disk) and brings for each forward.

Between forwards a module holds placeholders: shapes and types without numbers, on the device "meta".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

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


def places_of(hf: nn.Module, devices: Iterable[torch.device]) -> tuple[str, ...]:
    """Names of the devices that a model computes on, then where other weights are: "cuda:0", "offloaded: cpu"."""
    kept: list[str] = []
    if any(p.is_meta for p in hf.parameters()):
        mapped = {str(place) for place in (getattr(hf, "hf_device_map", None) or {}).values()}
        kept = [f"offloaded: {place}" for place in ("cpu", "disk") if place in mapped] or ["offloaded"]
    return (*map(str, devices), *kept)


def bring_each(hf: nn.Module) -> None:
    """Have every weight brought that is kept elsewhere, none taken for another that is on the device already.

    accelerate knows shared weights by their address in memory, where by then another weight may lie that has just been
    read from disk: the model then computes with the wrong one, or fails.
    """
    for module in hf.modules():
        hook = _kept(module)
        if hook is not None:
            hook.tied_params_map, hook.tied_params_names = None, set()


def _executed(module: nn.Module) -> Iterator[torch.device]:
    """Where accelerate's hooks on a module have it run."""
    for hook in _hooks(module):
        place = getattr(hook, "execution_device", None)
        if place is not None:
            yield torch.device(place)


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook: Any = vars(module).get("_hf_hook")  # not by `getattr`: see `handed.state_of`
    return () if hook is None else (hook, *getattr(hook, "hooks", ()))


# -- changes ----------------------------------------------------------------------------------------------------------


class Weight(NamedTuple):
    """A weight by the first of its names, and all its copies: modules, each with its own name for it."""

    name: str
    copies: list[tuple[nn.Module, str]]

    @property
    def parameter(self) -> Tensor:
        """The first of the copies, a placeholder where it is kept elsewhere."""
        return getattr(*self.copies[0])  # type: ignore[no-any-return]

    @property
    def why_fixed(self) -> str | None:
        """Why it cannot be changed; None where it can."""
        if not self.parameter.is_floating_point():
            return "it is quantised"
        unknown = any(getattr(*copy).is_meta and _kept(copy[0]) is None for copy in self.copies)
        return "it is not in memory, and nothing says where it is kept" if unknown else None


def weights_of(hf: nn.Module) -> list[Weight]:
    """Every weight of a model once. A table that modules share has copies where accelerate keeps each one's apart."""
    placed = any(hasattr(module, "_hf_hook") for module in hf.modules())
    tables = {m.weight.shape for m in hf.modules() if placed and isinstance(m, nn.Embedding)}
    found: list[Weight] = []
    for name, parameter in list(hf.named_parameters()):
        owner, _, own = name.rpartition(".")
        here = hf.get_submodule(owner), own
        alike = [w for w in found if parameter.shape in tables and w.parameter.shape == parameter.shape]
        same = next((w for w in alike if torch.equal(weight_of(*w.copies[0]).cpu(), weight_of(*here).cpu())), None)
        if same is None:
            found.append(Weight(name, [here]))
        else:
            same.copies.append(here)
    return found


class Changed(Mapping[str, Tensor]):
    """Weights as they are kept, one of them changed whenever it is brought: nothing is held or put back."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # one change is not another, whatever it holds

    def __init__(self, kept: Mapping[str, Tensor], name: str, change: Callable[[Tensor], Tensor]) -> None:
        self.kept, self.name, self.change = kept, name, change

    def __getitem__(self, name: str) -> Tensor:
        """A weight, as it is brought."""
        found = self.kept[name]
        return self.change(found) if name == self.name else found

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self.kept)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.kept)


@contextmanager
def changed(module: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A weight of a module changed for a while.

    Args:
        module: The module.
        name: Its own name for the weight.
        change: From the weight's values, on the CPU, to others of the same shape.
    """
    parameter, hook = getattr(module, name), _kept(module)
    if parameter.is_meta and hook is not None:
        kept = hook.weights_map
        hook.weights_map = Changed(kept, name, change)
        try:
            yield
        finally:
            hook.weights_map = kept
        return
    values = parameter.detach().to("cpu", copy=True)
    try:
        with torch.no_grad():
            parameter.copy_(change(values))
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(values)


def changes_of(module: nn.Module) -> tuple[Changed, ...]:
    """What changes the weights of a module at the moment that are kept elsewhere."""
    maps = (getattr(hook, "weights_map", None) for hook in _hooks(module))
    return tuple(kept for kept in maps if isinstance(kept, Changed))


def _kept(module: nn.Module) -> Any:
    """The hook that knows where a module's weights are kept."""
    return next((hook for hook in _hooks(module) if getattr(hook, "weights_map", None) is not None), None)
