"""What the check of a model found (see `checking`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attriflow.errors import UnsupportedModelError

State = Literal["ok", "off", "refused"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it was.
        state: "ok"; "off": another way is taken on this model; "refused": there is none.
        detail: In words, for people.
    """

    name: str
    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """What the check of a model found.

    Attributes:
        findings: In the order they were made; after one that leaves nothing to compare, there are no more.
        rows: Sequences that were sent through the model.
    """

    findings: tuple[Finding, ...]
    rows: int

    def __getitem__(self, name: str) -> Finding:
        """A finding; one that was not made (there is no encoder, say) is "ok"."""
        return next((f for f in reversed(self.findings) if f.name == name), Finding(name, "ok"))

    def works(self, name: str) -> bool:
        """Whether what a finding is about can be relied on."""
        return self[name].state == "ok"

    def require(self, *names: str) -> None:
        """Raise `UnsupportedModelError` for the first of some findings that is "refused"."""
        for name in names:
            if self[name].state == "refused":
                raise UnsupportedModelError(self[name].detail)


ALWAYS = ("logits", "causality")
"""Findings without which nothing can be said about a model."""
