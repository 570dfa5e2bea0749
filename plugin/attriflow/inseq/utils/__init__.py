"""Small things that Inseq's users import."""

from __future__ import annotations

from attriflow.doors import facade

_HOMES = {"attriflow.inseq.data.tokens": ("TokenWithId",)}
__getattr__ = facade(__name__, _HOMES, ("typing",))
