"""Dropout whose masks belong to an example, a pass and a position: the same alone, in any batch, under any padding.

PyTorch draws the masks of a whole batch from one stream, so they depend on who else is in it. Here a mask is a hash of
the row's key, the number of the dropout call in the pass and the entry's own place in the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attriflow.kernels.attention import Operands
from attriflow.kernels.devices import same_draws
from attriflow.kernels.seeds import hashed
from attriflow.models.locks import RANDOM
from attriflow.models.offload import devices_of
from attriflow.types import Example

_DROPOUT = {"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
_ODD = (-7046029254386353131, -4417276706812531889, 4768777513237032717, 7046029254386353087, 1609587929392839161)


def example_key(seed: int, example: Example) -> int:
    """A key of the call's seed and the example's source and prompt; later target tokens are no part of it."""
    return hashed(seed, example.source_ids, example.target_ids[: example.start], "dropout", signed=True)


class Dropout(TorchFunctionMode):
    """Replaces every active dropout of a pass.

    Args:
        keys: One integer per row of the pass, `[row]`.
        number: Of the pass.

    Attributes:
        calls: Dropout calls with a probability above 0 so far.
    """

    def __init__(self, keys: Tensor, number: int) -> None:
        super().__init__()
        self.keys, self.number, self.calls = keys, number, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Drop by our own masks; everything else runs as it is."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _DROPOUT:
            names = ("input", "p", "training", "inplace")
            given = {"p": 0.5, "training": True, **dict(zip(names, args, strict=False)), **kwargs}
            if given["training"] and given["p"] > 0:
                return self.drop(given["input"], float(given["p"]))
        elif func is torch.nn.functional.scaled_dot_product_attention:
            call = Operands.of(args, kwargs)
            if call.dropout_p > 0:
                return call.written_out(drop=lambda weights: self.drop(weights, call.dropout_p))
        return func(*args, **kwargs)

    def drop(self, x: Tensor, p: float) -> Tensor:
        """The tensor with entries set to zero with probability p, the others scaled up."""
        self.calls += 1
        rows = len(self.keys)
        # some models put batch and position on one axis
        shaped = x if x.shape[0] == rows or x.shape[0] % rows else x.unflatten(0, (rows, -1))
        kept = self._uniform(shaped.shape, x.device) >= p
        return (shaped * (kept / (1 - p)).to(x.dtype)).view(x.shape)

    def _uniform(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Numbers in [0, 1), one per entry, each a function of the row's key and the entry's place in the row."""
        keys = self.keys.to(device)
        row = torch.arange(shape[0], device=device)
        pass_and_call = int(_mix(torch.tensor(self.number << 32 | self.calls)))
        mixed = _mix(keys[row % len(keys)] ^ pass_and_call)
        for axis, size in enumerate(shape[1:]):
            place = torch.arange(1, size + 1, device=device) * _ODD[axis % len(_ODD)]
            mixed = _mix(mixed.unsqueeze(-1) + place)
        return (mixed & (2**53 - 1)).double() / 2**53


def _mix(x: Tensor) -> Tensor:
    """Finaliser of splitmix64: every bit of the result depends on every bit of x."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & (2**33 - 1))


@contextmanager
def dropout(hf: Any, keys: Tensor, number: int) -> Iterator[Dropout]:
    """One pass in training mode with our own masks; the mode of every module is put back."""
    training = [(module, module.training) for module in hf.modules()]
    mode = Dropout(keys, number)
    try:
        hf.train()
        # layer dropout draws from torch's own stream, once per layer and pass
        with RANDOM, same_draws(devices_of(hf)), mode:
            torch.default_generator.manual_seed(number)
            yield mode
    finally:
        for module, was in training:
            module.training = was
