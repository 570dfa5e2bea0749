"""Random numbers that belong to an example: the same alone, in any batch, in any order, and for any continuation."""

from __future__ import annotations

import numpy as np

from attriflow.kernels.seeds import hashed
from attriflow.types import Example


def generator(seed: int, example: Example, purpose: str = "") -> np.random.Generator:
    """A generator seeded by the example's source and prompt.

    Later target tokens must not change what earlier steps see, so they are no part of the seed, and whoever draws
    puts the position (or unit) on the FIRST axis: numpy fills arrays in order, so a longer target only adds draws.
    """
    return np.random.default_rng(hashed(seed, example.source_ids, example.target_ids[: example.start], purpose))
