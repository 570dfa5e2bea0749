"""Context reliance (PECoRe): which generated tokens depend on context, and on what in it.

Sarti et al. 2024, "Quantifying the Plausibility of Context Reliance in Neural Machine Translation", arXiv:2310.01188.
Names are resolved on first use, so that importing the package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.doors import facade

if TYPE_CHECKING:
    from attriflow.context.attribute import attribute_context as attribute_context
    from attriflow.context.result import ContextAttribution as ContextAttribution
    from attriflow.context.result import ContextCues as ContextCues
    from attriflow.context.result import ContextOutput as ContextOutput
    from attriflow.context.result import load as load
    from attriflow.context.settings import ContextSettings as ContextSettings

_HOMES = {
    "attriflow.context.result": ("ContextAttribution", "ContextCues", "ContextOutput", "load"),
    "attriflow.context.settings": ("ContextSettings",),
    "attriflow.context.attribute": ("attribute_context",),
}
__all__ = [name for names in _HOMES.values() for name in names]
__getattr__ = facade(__name__, _HOMES)
