"""Work in parts that fit into memory; memory of tensors that are gone, given back to the system.

glibc keeps what tensors of up to 32 MB leave behind: after a batch of gradients of a model of GPT-2's size, 300 MB that
a process shows as its own, and that the next, different call grows beyond.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from attriflow.engine.sizes import Sizes, least
from attriflow.errors import OutOfMemoryError, out_of_memory
from attriflow.kernels.devices import empty_cache, free_memory
from attriflow.kernels.stopping import check_stop
from attriflow.models.base import LanguageModel
from attriflow.types import Example

T = TypeVar("T")

LONG = 1.0
"""Seconds of work from which on giving memory back costs little beside it: 10 ms, and 20 ms to get it again."""


KNOWN = 0.8
"""Share of what is planned that is surely needed: plans are right to a fifth."""

LOOKED_AT = 2**28
"""Bytes from which on it is looked whether they are there."""


def check_room(model: LanguageModel, method: str, options: Mapping[str, Any], examples: Sequence[Example]) -> None:
    """Make sure, before any work, that a method of the longest example has the memory that it needs in smallest parts.

    Raises:
        OutOfMemoryError: It is not there.
    """
    if not examples or not model.shape.known:
        return
    longest = max(examples, key=lambda e: len(e.source) + e.stop)
    need = least(method, options, Sizes.of_examples(model, [longest]))
    if need < LOOKED_AT:
        return
    free = sum(map(free_memory, model.devices))
    if free < KNOWN * need:
        where, tokens = ", ".join(map(str, model.devices)), len(longest.source) + longest.stop
        raise OutOfMemoryError(
            f"'{method}' needs about {need / 2**30:.1f} GiB beyond the weights for {tokens:,} tokens, "
            f"in the smallest parts, and {free / 2**30:.1f} GiB are free on {where}: shorten the text, explain "
            "fewer tokens of it, or take another method or a device with more memory"
        )


@contextmanager
def fits(what: str) -> Iterator[None]:
    """Work that cannot be done in parts: `what` says what it is, where memory runs out."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory {what}") from None


def give_back() -> bool:
    """Give free memory back; whether it could be tried (not outside of glibc)."""
    trim = _trim()
    if trim is None:
        return False
    trim(0)
    return True


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # other C libraries; Windows does not open None
        return None


@dataclass
class Halving:
    """Work in parts: one that runs out of memory is halved, and those after it stay that small.

    Attributes:
        smallest: What a part of one is, for the message when that runs out of memory, too.
        nested: Whether the work halves its own parts, so that an `OutOfMemoryError` of ours, too, asks for less of it.
        limit: Size of parts that is known to fit; None before anything has failed.
    """

    smallest: str
    nested: bool = False
    limit: int | None = None

    def parts(self, n: int, size: int | Callable[[int], int], work: Callable[[int, int], T]) -> Iterator[T]:
        """What `work(start, stop)` returns for the parts of `range(n)`, in order.

        Args:
            n: How much there is to do.
            size: Of a part, or of the part that begins at a place.
            work: Does one part; called again for less of it when it runs out of memory.

        Raises:
            OutOfMemoryError: A part of one does not fit.
        """
        at = 0
        while at < n:
            check_stop()
            wanted = max(1, size if isinstance(size, int) else size(at))
            end = min(n, at + (wanted if self.limit is None else min(wanted, self.limit)))
            try:
                found = work(at, end)
            except Exception as error:
                if not out_of_memory(error) and not (self.nested and isinstance(error, OutOfMemoryError)):
                    raise
                if end == at + 1:
                    raise OutOfMemoryError(f"out of memory with {self.smallest}") from None
                self.limit = (end - at) // 2
            else:
                yield found
                at = end
                continue
            give_back()  # with the error, what the failed part held is gone
            empty_cache()

    def each(self, n: int, size: int | Callable[[int], int], work: Callable[[int, int], Any]) -> None:
        """The same for work that returns nothing."""
        for _ in self.parts(n, size, work):
            pass

    def over(self, items: Sequence[T], work: Callable[[Sequence[T]], Any]) -> None:
        """All of some items at once, or as many of them as fit."""
        self.each(len(items), len(items), lambda start, stop: work(items[start:stop]))
