"""Seeds that belong to what they are for, such as an example, and not to its place in a batch."""

from __future__ import annotations

import hashlib


def hashed(*parts: object, size: int = 8, signed: bool = False) -> int:
    """An integer of so many bytes that depends on all the parts (their `str`)."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:size], "big", signed=signed)
