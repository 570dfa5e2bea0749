"""What a method gets and gives back: the contract that methods are written against, inside this package and outside.

A method is a frozen dataclass with `__call__(engine: Engine) -> Scores`, registered with `attriflow.register_method`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.doors import facade

if TYPE_CHECKING:
    from attriflow.engine.bound import Counter as Counter
    from attriflow.engine.bound import Objective as Objective
    from attriflow.engine.engine import Engine as Engine
    from attriflow.engine.scores import EmbeddingReducer as EmbeddingReducer
    from attriflow.engine.scores import Scores as Scores
    from attriflow.kernels.plain import plain as plain

_HOMES = {
    "attriflow.engine.bound": ("Counter", "Objective"),
    "attriflow.engine.scores": ("EmbeddingReducer", "Scores"),
    "attriflow.engine.engine": ("Engine",),
    "attriflow.kernels.plain": ("plain",),
}
__all__ = ["Counter", "EmbeddingReducer", "Engine", "Objective", "Scores", "plain"]

__getattr__ = facade(__name__, _HOMES)
