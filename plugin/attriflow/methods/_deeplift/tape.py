"""Record and replay: the torch functions of a baseline pass, and of a pass over the input that is compared with it.

The recorder keeps the operands of every function that has a rule, in order; the replayer takes them back in the same
order and gives each function the gradient of its rule (see `secants`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from attriflow.kernels.transfer import home
from attriflow.methods._deeplift.rules import ALIASES, MANY, RULES, Call, Slope, sloped


class OtherRoute(Exception):
    """The two passes differ; no TypeError, which Python's operators would swallow."""


class Tape:
    """Operands of the baseline pass, in order."""

    def __init__(self) -> None:
        """Start empty."""
        self.entries: list[tuple[str, list[Tensor]]] = []
        self._places: dict[int, list[tuple[list[Tensor], int]]] = {}

    def add(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Keep the operands of a call."""
        kept = [t.detach() for t in tensors]
        self.entries.append((name, kept))
        for i, t in enumerate(kept):
            self._places.setdefault(t.untyped_storage().data_ptr(), []).append((kept, i))

    def protect(self, changed: Tensor) -> None:
        """Copy what was kept of a tensor that is about to be changed in place."""
        for kept, i in self._places.pop(changed.untyped_storage().data_ptr(), []):
            kept[i] = kept[i].clone()


class Mode(TorchFunctionMode, ABC):
    """Sees every torch function of a pass, except within activation modules, which are one function each."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.paused: Tensor | None = None  # the input of the activation module (or attention) that runs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused is not None:
            return func(*args, **kwargs)
        raw = getattr(func, "__name__", "").removeprefix("special_")
        name = raw if raw.startswith("__") else raw.rstrip("_")
        target = args[0] if args and (name != raw or raw == "__setitem__" or kwargs.get("inplace")) else None
        return self.call(func, ALIASES.get(name, name), target, args, kwargs)

    @abstractmethod
    def call(self, func: Any, name: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Run a function (plain name, tensor changed in place or None)."""

    @abstractmethod
    def module(self, module: nn.Module, x: Tensor, output: Tensor, slope: Slope) -> Tensor:
        """What an activation module puts out."""


def _operands(name: str, leaves: Sequence[Any]) -> list[int]:
    """Places of the computed tensors of a call that has a rule; empty where there is nothing to do."""
    found = [
        i
        for i, t in enumerate(leaves)
        if isinstance(t, Tensor) and not isinstance(t, nn.Parameter) and t.is_floating_point()
    ]
    return found if len(found) > (name in MANY) else []


class Recorder(Mode):
    """The baseline pass."""

    def call(self, func: Any, name: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Run a function."""
        leaves, _ = tree_flatten((args, kwargs))
        if name in RULES and (places := _operands(name, leaves)):
            self.tape.add(name, [leaves[i] for i in places])
        if isinstance(target, Tensor):
            self.tape.protect(target)
        out = func(*args, **kwargs)
        if name == "topk":
            self.tape.add(name, [out[1]])
        return out

    def module(self, module: nn.Module, x: Tensor, output: Tensor, slope: Slope) -> Tensor:
        """Keep the input."""
        self.tape.add("module", [x])
        return output


class Replayer(Mode):
    """A pass over the input."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape)
        self.at = 0
        self.same: list[tuple[str, Tensor]] = []  # functions, and whether an operand without gradient is as before

    def finish(self) -> None:
        """At the end, ask once for all whether the route was the same: each question makes the host wait.

        Raises:
            OtherRoute: It was not.
        """
        found = home([same for _, same in self.same])
        for (name, _), same in zip(self.same, found, strict=True):
            if not same:
                raise OtherRoute(f"an operand of {name} that gets no gradient is another one")
        if self.at != len(self.tape.entries):
            raise OtherRoute(f"the baseline had {len(self.tape.entries) - self.at} operations more")

    def take(self, name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The operands of the same call in the baseline pass."""
        wanted = [tuple(t.shape) for t in tensors]
        found, before = self.tape.entries[self.at] if self.at < len(self.tape.entries) else ("nothing", [])
        if found != name or [tuple(t.shape) for t in before] != wanted:
            raise OtherRoute(
                f"found {name} of {wanted} where the baseline had {found} of {[tuple(t.shape) for t in before]}"
            )
        self.at += 1
        return before

    def call(self, func: Any, name: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Run a function."""
        leaves, spec = tree_flatten((args, kwargs))
        if name == "topk":
            out = func(*args, **kwargs)
            if not torch.equal(self.take(name, [out[1]])[0], out[1]):
                raise OtherRoute("topk chose other entries")
            return out
        places = _operands(name, leaves) if name in RULES else []
        if not places:
            return func(*args, **kwargs)
        before = self.take(name, [leaves[i] for i in places])
        if not any(leaves[i].requires_grad for i in places):
            return func(*args, **kwargs)
        for i, b in zip(places, before, strict=True):
            t = leaves[i]
            if not t.requires_grad and t is not b:
                self.same.append((name, torch.isclose(t, b, rtol=1e-3, equal_nan=True).all()))
        if target is not None:
            leaves, spec = tree_flatten((args, {k: v for k, v in kwargs.items() if k != "inplace"}))
        made = RULES[name](Call(name, _out_of_place(func), leaves, spec, dict(zip(places, before, strict=True))))
        if made is None:
            return func(*args, **kwargs)
        return target.copy_(made) if isinstance(target, Tensor) else made

    def module(self, module: nn.Module, x: Tensor, output: Tensor, slope: Slope) -> Tensor:
        """Give the output its slope."""
        (before,) = self.take("module", [x])
        if not x.requires_grad:
            return output
        copies = bool(getattr(module, "inplace", False))
        return sloped(output, x, slope(lambda t: module.forward(t.clone() if copies else t), x.detach(), before))


def _out_of_place(func: Any) -> Callable[..., Any]:
    name = getattr(func, "__name__", "")
    if not name.endswith("_") or name.startswith("__"):
        return func  # type: ignore[no-any-return]
    return getattr(Tensor, name[:-1], None) or getattr(F, name[:-1])  # type: ignore[no-any-return]
