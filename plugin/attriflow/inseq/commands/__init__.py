"""Inseq's commands as functions."""

from __future__ import annotations

from attriflow.doors import facade

__getattr__ = facade(__name__, {}, ("attribute_context",))
