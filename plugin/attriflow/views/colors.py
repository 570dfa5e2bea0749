"""The colour scale of scores, one for terminals, plots and pages: blue below 0, pale at 0, orange above."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.errors import InputError

RGB = tuple[int, int, int]
Ramp = tuple[RGB, ...]

# From 0 outwards. Blues and oranges of ColorBrewer's RdBu and PuOr: told apart with every common colour vision
# deficiency, and ordered in grey.
ZERO: RGB = (247, 247, 247)
POSITIVE: Ramp = (ZERO, (254, 224, 182), (253, 184, 99), (224, 130, 20), (179, 88, 6))
NEGATIVE: Ramp = (ZERO, (209, 229, 240), (146, 197, 222), (67, 147, 195), (33, 102, 172))

# The same on dark paper: the stronger, the lighter.
DARK_ZERO: RGB = (38, 44, 53)
DARK_POSITIVE: Ramp = (DARK_ZERO, (94, 62, 28), (150, 92, 26), (218, 136, 44), (255, 196, 116))
DARK_NEGATIVE: Ramp = (DARK_ZERO, (30, 66, 98), (38, 104, 156), (84, 158, 218), (166, 212, 250))


def color(value: float, *, dark: bool = False) -> RGB:
    """Colour of a share in [-1, 1] (see `Scale.share`)."""
    ramps = (DARK_NEGATIVE, DARK_POSITIVE) if dark else (NEGATIVE, POSITIVE)
    anchors = ramps[int(value >= 0)]
    position = min(abs(value), 1.0) * (len(anchors) - 1)
    low = min(int(position), len(anchors) - 2)
    part = position - low
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(anchors[low], anchors[low + 1], strict=True))
    return red, green, blue


def ink(background: RGB) -> RGB:
    """Black or white, whichever is easier to read on a background (WCAG relative luminance; contrast 4.5 or more)."""
    channels = [c / 255 for c in background]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def hexadecimal(rgb: RGB) -> str:
    """A colour as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


@dataclass(frozen=True)
class Scale:
    """Which scores get the strongest colours.

    Attributes:
        low: Score of the strongest blue, at most 0; or, above 0, the score up to which there is no colour.
        high: Score of the strongest orange, at least 0; or, below 0, the score from which on there is no colour.
    """

    low: float
    high: float

    @classmethod
    def of(cls, scores: Tensor, min_val: float | None = None, max_val: float | None = None) -> Scale:
        """Symmetric around 0 up to the largest magnitude, from 0 on when no score is negative, or up to given limits.

        A limit that is given alone holds for the other side of 0 as well.
        """
        check_limits(min_val, max_val)
        limit = largest(scores)
        low, high = min_val, max_val
        if low is None:
            low = 0.0 if not is_signed(scores) else -max_val if max_val is not None and max_val > 0 else -limit
        if high is None:
            high = -low if min_val is not None and low < 0 else limit
        return cls(low, max(high, low))

    @property
    def limit(self) -> float:
        """The larger magnitude of the two ends."""
        return max(abs(self.low), abs(self.high))

    def share(self, score: float) -> float:
        """Where a score lies: -1 the strongest blue, 0 no colour, 1 the strongest orange."""
        if score >= 0:
            base = max(0.0, self.low)
            return _part(score - base, self.high - base)
        base = min(0.0, self.high)
        return -_part(base - score, base - self.low)

    def shares(self, scores: Tensor) -> Tensor:
        """`share` of many scores; NaN stays NaN."""
        above, below = max(0.0, self.low), min(0.0, self.high)
        # a side of 0 without room has no colours
        up = ((scores - above) / (self.high - above if self.high > above else math.inf)).clamp(0, 1)
        down = ((below - scores) / (below - self.low if self.low < below else math.inf)).clamp(0, 1)
        return torch.where(scores >= 0, up, torch.where(scores < 0, -down, scores))


def check_limits(min_val: float | None, max_val: float | None) -> None:
    """Raise `InputError` for limits of a colour scale that leave nothing between them."""
    for name, value in (("min_val", min_val), ("max_val", max_val)):
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise InputError(f"{name} must be a finite number or None, not {value!r}")
    if min_val is not None and max_val is not None and min_val >= max_val:
        raise InputError(f"min_val must be below max_val, not {min_val!r} and {max_val!r}")


def _part(distance: float, whole: float) -> float:
    return min(distance / whole, 1.0) if distance > 0 and whole > 0 else 0.0


def largest(scores: Tensor) -> float:
    """The largest finite magnitude, 0 when there is none."""
    finite = scores[scores.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def is_signed(scores: Tensor) -> bool:
    """Whether any score is negative."""
    return bool((scores < 0).any())
