"""The arithmetic floor of a problem on one of the shapes; attriflow does the counting."""

from __future__ import annotations

from shapes import Shape

from attriflow.measuring.floors import Problem, Work, floor

__all__ = ["floor", "problem_of"]


def problem_of(shape: Shape, source: int, length: int, first: int) -> Problem:
    """One sequence: source tokens, decoder tokens that are read, and the first position that a step is read at."""
    sizes = {"layers": shape.layers, "width": shape.width, "encoder_layers": shape.encoder_layers}
    return Problem(Work.of_shape(**sizes, vocabulary=shape.vocabulary), source, length, first)
