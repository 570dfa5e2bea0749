"""Two tiny trained models with planted evidence, shipped with the package together with held-out data sets.

``recall`` is a causal language model that answers questions about facts in its prompt, ``translate`` an encoder-decoder
for a toy English to Italian pair. ``attriflow.demo.grammar`` defines both languages and which source words are the
evidence for each target word, ``attriflow.demo.contexts`` which words of a context sentence an output depends on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DATASETS", "MODELS", "demo_path", "load_demo_dataset"]

MODELS = ("recall", "translate")
CONTEXT = "context"
DATASETS = (*MODELS, CONTEXT)


def demo_path(name: str) -> Path:
    """Return the folder of a demo model's Hugging Face files, given ``"recall"`` or ``"demo/recall"``."""
    short = name.removeprefix("demo/")
    if short not in MODELS:
        known = ", ".join(f"demo/{model}" for model in MODELS)
        raise ValueError(f"Unknown demo model {name!r}. Available: {known}")
    return Path(__file__).parent / short


def load_demo_dataset(name: str) -> pd.DataFrame:
    """Return held-out examples with their evidence.

    For a model (``"recall"``, ``"translate"``) the columns are ``input`` and ``target`` (text), ``rationale``: per
    whitespace-separated target word, the list of ``[start, end)`` character spans in ``input`` of the words that
    determine it, and ``contrast_target``, a target for another input.

    ``"context"`` has examples for both models (column ``model``) with the columns ``input_context``, ``input_current``,
    ``output_context``, ``output_current``, ``contextless_input``, ``contextless_output`` and ``cues``: per word of the
    current output, the spans in ``input_context`` of the words that it depends on.
    """
    import pandas as pd

    path = _context_path() if name.removeprefix("demo/") == CONTEXT else demo_path(name) / "data.jsonl"
    return pd.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])


def _context_path() -> Path:
    return Path(__file__).parent / "context.jsonl"
