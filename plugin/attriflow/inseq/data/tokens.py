"""Tokens as Inseq has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class TokenWithId:
    """A token and its id (-1: of several); equal to a text, an id or another token that says the same."""

    token: str
    id: int

    def __str__(self) -> str:
        """The token."""
        return self.token

    def __eq__(self, other: object) -> bool:
        """Compare with a text, an id or a token."""
        if isinstance(other, str):
            return self.token == other
        if isinstance(other, int):
            return self.id == other
        return isinstance(other, TokenWithId) and (self.token, self.id) == (other.token, other.id)

    def __hash__(self) -> int:
        """Of token and id."""
        return hash((self.token, self.id))
