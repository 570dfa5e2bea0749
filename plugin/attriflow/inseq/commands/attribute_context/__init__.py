"""Context attribution under Inseq's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.doors import facade

if TYPE_CHECKING:
    from attriflow.inseq.commands.attribute_context.attribute_context import (
        AttributeContextArgs as AttributeContextArgs,
    )
    from attriflow.inseq.commands.attribute_context.attribute_context import (
        AttributeContextOutput as AttributeContextOutput,
    )
    from attriflow.inseq.commands.attribute_context.attribute_context import CCIOutput as CCIOutput
    from attriflow.inseq.commands.attribute_context.attribute_context import (
        visualize_attribute_context as visualize_attribute_context,
    )

_HOMES = {
    "attriflow.inseq.commands.attribute_context.attribute_context": (
        "AttributeContextArgs", "AttributeContextOutput", "CCIOutput", "visualize_attribute_context",
    ),
}  # fmt: skip
__all__ = [name for names in _HOMES.values() for name in names]
__getattr__ = facade(__name__, _HOMES)
