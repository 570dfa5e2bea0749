"""Tokens under Inseq's names."""

from attriflow.inseq.data.tokens import TokenWithId

__all__ = ["OneOrMoreTokenSequences", "TokenWithId"]
OneOrMoreTokenSequences = list[str] | list[list[str]]
