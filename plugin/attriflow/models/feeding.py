"""How embeddings go into a call: in place of ids, or beside them by hook, or looked up as ids.

By hook, ids go in as ever, and what the embedding module puts out for them is replaced. Some models cannot do without
ids whatever stands in their place: they count positions from the ids that are no padding, look up further embeddings in
every layer, or make their masks from them. Some take no embeddings at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attriflow.errors import UnsupportedModelError

Way = Literal["argument", "hook", "ids"]


@dataclass(frozen=True, slots=True)
class Feed:
    """How embeddings of a block go in; found out by the check of the model.

    Attributes:
        way: "argument": in place of the ids; "hook": as what the embedding module puts out for the ids; "ids": only
            those of tokens, looked up in the table, as their ids.
        scale: Factor between the embedding module's output and the space embeddings are given and explained in.
        inner: What the model itself multiplies by after they have gone in.
    """

    way: Way
    scale: float = 1.0
    inner: float = 1.0


@dataclass(frozen=True, eq=False)
class Fed:
    """What one side of a call reads: ids `[row, position]`, and the embeddings `[row, position, hidden]` for them."""

    module: nn.Module
    ids: Tensor
    embeds: Tensor

    def fits(self, module: nn.Module, given: Any) -> bool:
        """Whether a call of an embedding module is the one that embeds these ids."""
        if module is not self.module or not isinstance(given, Tensor) or given.shape != self.ids.shape:
            return False
        return bool((given == self.ids.to(given.device)).all())


@contextmanager
def embedded(sides: Sequence[Fed]) -> Iterator[None]:
    """Within it, one call of the model embeds the ids of each side as these embeddings, which gradients go through.

    Args:
        sides: In the order in which the model embeds them: the sides of a model may share their module and even ids.

    Raises:
        UnsupportedModelError: The call did not embed the ids of a side.
    """
    waiting = list(sides)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else next(iter(kwargs.values()), None)
        side = next((s for s in waiting if s.fits(module, given)), None)
        if side is None:
            return output
        waiting.remove(side)
        return side.embeds.to(output.device)

    with ExitStack() as stack:
        for module in dict.fromkeys(side.module for side in sides):
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield
    if waiting:
        raise UnsupportedModelError(
            f"the model does not embed its ids as they are with {type(waiting[0].module).__name__}, "
            "so that embeddings cannot stand for them"
        )


def looked_up(embeds: Tensor, table: Tensor) -> Tensor | None:
    """Ids of embeddings `[..., hidden]` in a table `[vocab, hidden]`; None if some are no token's."""
    kinds, place = embeds.flatten(0, -2).unique(dim=0, return_inverse=True)
    same = [(table == kind).all(-1).nonzero() for kind in kinds]
    return torch.stack([s[0, 0] for s in same])[place].view(embeds.shape[:-1]) if all(map(len, same)) else None
