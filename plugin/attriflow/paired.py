"""A pass over the input whose gradients are DeepLIFT multipliers with respect to a pass over a baseline.

The baseline pass is recorded: the operands of every torch function that is not linear, in order. The pass over the
input takes them back in the same order; each such function returns its own value, but with a gradient that carries the
whole difference between the two passes (`value + slope * (x - x.detach())`). So ordinary autograd, batched or not,
multiplies exact slopes, and multipliers times differences add up to the difference of the outputs.

The slopes of each kind of function are in `secants`; everything else is linear or left to its gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from attriflow.errors import UnsupportedModelError
from attriflow.models.attention import implementation, interface_works, listen
from attriflow.secants import ALIASES, MANY, RULES, Call, Slope, secant, sloped


class _OtherRoute(Exception):
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


class _Mode(TorchFunctionMode, ABC):
    """Sees every torch function of a pass, except within activation modules, which are one function each."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.paused: Tensor | None = None  # the input of the activation module that runs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused is not None:
            return func(*args, **kwargs)
        raw = getattr(func, "__name__", "").removeprefix("special_")
        name = raw if raw.startswith("__") else raw.rstrip("_")
        target = args[0] if args and (name != raw or raw == "__setitem__" or kwargs.get("inplace")) else None
        return self.call(func, ALIASES.get(name, name), target, args, kwargs)

    @abstractmethod
    def call(self, func: Any, name: str, target: Any, args: Any, kwargs: Any) -> Any: ...

    @abstractmethod
    def module(self, module: nn.Module, x: Tensor, output: Tensor, slope: Slope) -> Tensor: ...


def _operands(name: str, leaves: Sequence[Any]) -> list[int]:
    """Places of the computed tensors of a call that has a rule; empty where there is nothing to do."""
    found = [
        i
        for i, t in enumerate(leaves)
        if isinstance(t, Tensor) and not isinstance(t, nn.Parameter) and t.is_floating_point()
    ]
    return found if len(found) > (name in MANY) else []


class _Recorder(_Mode):
    def call(self, func: Any, name: str, target: Any, args: Any, kwargs: Any) -> Any:
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
        self.tape.add("module", [x])
        return output


class _Replayer(_Mode):
    at = 0

    def take(self, name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The operands of the same call in the baseline pass."""
        wanted = [tuple(t.shape) for t in tensors]
        found, before = self.tape.entries[self.at] if self.at < len(self.tape.entries) else ("nothing", [])
        if found != name or [tuple(t.shape) for t in before] != wanted:
            raise _OtherRoute(
                f"found {name} of {wanted} where the baseline had {found} of {[tuple(t.shape) for t in before]}"
            )
        self.at += 1
        return before

    def call(self, func: Any, name: str, target: Any, args: Any, kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        if name == "topk":
            out = func(*args, **kwargs)
            if not torch.equal(self.take(name, [out[1]])[0], out[1]):
                raise _OtherRoute("topk chose other entries")
            return out
        places = _operands(name, leaves) if name in RULES else []
        if not places:
            return func(*args, **kwargs)
        before = self.take(name, [leaves[i] for i in places])
        if not any(leaves[i].requires_grad for i in places):
            return func(*args, **kwargs)
        for i, b in zip(places, before, strict=True):
            t = leaves[i]
            if t.requires_grad or t is b or torch.allclose(t, b, rtol=1e-3, equal_nan=True):
                continue
            raise _OtherRoute(f"an operand of {name} that gets no gradient is another one")
        if target is not None:
            leaves, spec = tree_flatten((args, {k: v for k, v in kwargs.items() if k != "inplace"}))
        made = RULES[name](Call(name, _out_of_place(func), leaves, spec, dict(zip(places, before, strict=True))))
        if made is None:
            return func(*args, **kwargs)
        return target.copy_(made) if isinstance(target, Tensor) else made

    def module(self, module: nn.Module, x: Tensor, output: Tensor, slope: Slope) -> Tensor:
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


class Paired:
    """A baseline pass and passes over the input that are compared with it.

    Args:
        hf: The Hugging Face model.
        classes: Module classes that are one elementwise function each.
        slope: Their slope between input and baseline.
        functions: Apply the rules of all torch functions; otherwise only modules of `classes` have one.
        skip: Modules whose output is replaced and that therefore have no rule.
    """

    def __init__(
        self,
        hf: Any,
        classes: Collection[type],
        *,
        slope: Slope = secant,
        functions: bool = True,
        skip: Collection[nn.Module] = (),
    ) -> None:
        self.hf, self.slope, self.functions = hf, slope, functions
        self.modules = [m for m in hf.modules() if type(m) in classes and m not in skip]
        self.tape = Tape()

    @contextmanager
    def record(self) -> Iterator[None]:
        """The baseline pass, once, without gradients."""
        self.tape = Tape()
        with self._watched(_Recorder(self.tape)):
            yield

    @contextmanager
    def replay(self) -> Iterator[None]:
        """A pass over the input, as often as wanted."""
        mode = _Replayer(self.tape)
        try:
            with self._watched(mode):
                yield
            if mode.at != len(self.tape.entries):
                raise _OtherRoute(f"the baseline had {len(self.tape.entries) - mode.at} operations more")
        except _OtherRoute as error:
            raise UnsupportedModelError(
                "DeepLIFT needs the same operations on the baseline and on the input, which models that choose "
                f"operations by their data (mixture of experts) do not have: {error}"
            ) from None

    @contextmanager
    def _watched(self, mode: _Mode) -> Iterator[None]:
        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            mode.paused = args[0]
            # what a module changes in place is still needed as it was
            return (args[0].clone(), *args[1:]) if getattr(module, "inplace", False) else None

        def after(module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            x, out = mode.paused, output
            if x is not None:
                out = mode.module(module, x, output, self.slope)
            mode.paused = None
            return out

        with ExitStack() as stack:
            for module in self.modules:
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
            if self.functions:
                stack.enter_context(_written_out(self.hf))
                stack.enter_context(mode)
            yield


def _written_out(hf: Any) -> AbstractContextManager[None]:
    """Attention as products and a softmax, where the architecture lets us choose."""
    if interface_works(hf):
        return listen(hf, lambda _module, _call: None)
    return implementation(hf, "eager") if hasattr(hf, "set_attn_implementation") else nullcontext()
