"""A pass over the input whose gradients are DeepLIFT multipliers with respect to a pass over a baseline.

The baseline pass is recorded: the operands of every torch function that is not linear, in order. The pass over the
input takes them back in the same order; each such function returns its own value, but with a gradient that carries the
whole difference between the two passes (`value + slope * (x - x.detach())`). So ordinary autograd, batched or not,
multiplies exact slopes, and multipliers times differences add up to the difference of the outputs.

Recording and replaying is in `tape`, the slopes of each kind of function in `secants`; everything else is linear or
left to its gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from attriflow.errors import UnsupportedModelError
from attriflow.methods._deeplift.rows import RowLimits, by_rows
from attriflow.methods._deeplift.rules import Slope, secant
from attriflow.methods._deeplift.tape import Mode, OtherRoute, Recorder, Replayer, Tape
from attriflow.models.attention import implementation, interface_works, listen, replaced


class Paired:
    """A baseline pass and passes over the input that are compared with it.

    Args:
        hf: The Hugging Face model.
        classes: Module classes that are one elementwise function each.
        slope: Their slope between input and baseline.
        functions: Apply the rules of all torch functions; otherwise only modules of `classes` have one.
        skip: Modules whose output is replaced and that therefore have no rule.
        limits: Size from which on attention goes by groups of query rows; all at once when None.
    """

    def __init__(
        self,
        hf: Any,
        classes: Collection[type],
        *,
        slope: Slope = secant,
        functions: bool = True,
        skip: Collection[nn.Module] = (),
        limits: RowLimits | None = None,
    ) -> None:
        self.hf, self.slope, self.functions, self.limits = hf, slope, functions, limits
        self.modules = [m for m in hf.modules() if type(m) in classes and m not in skip]
        self.tape = Tape()

    @property
    def rules(self) -> bool:
        """Whether anything in the model has a rule, so that replays differ from plain passes."""
        return self.functions or bool(self.modules)

    @property
    def by_rows(self) -> bool:
        """Whether attention can go by groups of rows."""
        return self.limits is not None and self.functions and interface_works(self.hf)

    @contextmanager
    def record(self) -> Iterator[None]:
        """The baseline pass, once, without gradients."""
        self.tape = Tape()
        with self._watched(Recorder(self.tape)):
            yield

    @contextmanager
    def replay(self) -> Iterator[None]:
        """A pass over the input, as often as wanted."""
        mode = Replayer(self.tape)
        try:
            with self._watched(mode):
                yield
            mode.finish()
        except OtherRoute as error:
            raise UnsupportedModelError(
                "DeepLIFT needs the same operations on the baseline and on the input, which models that choose "
                f"operations by their data (mixture of experts) do not have: {error}"
            ) from None

    @contextmanager
    def _watched(self, mode: Mode) -> Iterator[None]:
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
                if self.by_rows and self.limits is not None:
                    stack.enter_context(replaced(by_rows(mode, self.limits)))
                stack.enter_context(mode)
            yield


def _written_out(hf: Any) -> AbstractContextManager[None]:
    """Attention as products and a softmax, where the architecture lets us choose."""
    if interface_works(hf):
        return listen(hf, lambda _module, _call: None)
    return implementation(hf, "eager") if hasattr(hf, "set_attn_implementation") else nullcontext()
