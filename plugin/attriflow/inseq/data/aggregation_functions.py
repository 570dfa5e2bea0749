"""Aggregation functions of one's own, as Inseq has them: subclasses, which are known by their name at once."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from attriflow.registry import aggregation_functions


class AggregationFunction:
    """A function `(scores, dim) -> scores` of one's own; defining a subclass registers it."""

    aggregation_function_name: ClassVar[str] = ""

    def __init_subclass__(cls, **given: Any) -> None:
        """Register the class under `aggregation_function_name`."""
        super().__init_subclass__(**given)
        if not cls.aggregation_function_name:
            return

        def call(values: Tensor, dim: int) -> Tensor:
            out: Tensor = cls()(values, dim)
            return out

        call.__doc__ = cls.__doc__ or f"{cls.__name__}."
        aggregation_functions.register(cls.aggregation_function_name, overwrite=True)(call)

    def __call__(self, scores: Tensor, dim: int) -> Tensor:
        """Reduce an axis."""
        raise NotImplementedError
