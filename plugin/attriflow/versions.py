"""The version of attriflow, and of the packages that its numbers depend on."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

COMPUTING = ("torch", "transformers")
"""Packages that compute the numbers of an attribution."""


def versions(packages: Iterable[str] = COMPUTING) -> dict[str, str]:
    """Versions of attriflow and of those packages that are installed, by name; imports none of them."""
    found = {name: _version(name) for name in packages}
    return {"attriflow": __version__, **{name: v for name, v in found.items() if v is not None}}


@functools.cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
