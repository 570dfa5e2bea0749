"""Two tiny trained models with planted evidence, shipped with the package together with their held-out data sets.

``recall`` is a causal language model that answers questions about facts in its prompt, ``translate`` an encoder-decoder
for a toy English to Italian pair. ``attriflow.demo.grammar`` defines both languages and which source words are the
evidence for each target word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MODELS", "demo_path", "load_demo_dataset"]

MODELS = ("recall", "translate")


def demo_path(name: str) -> Path:
    """Return the folder of a demo model's Hugging Face files, given ``"recall"`` or ``"demo/recall"``."""
    short = name.removeprefix("demo/")
    if short not in MODELS:
        known = ", ".join(f"demo/{model}" for model in MODELS)
        raise ValueError(f"Unknown demo model {name!r}. Available: {known}")
    return Path(__file__).parent / short


def load_demo_dataset(name: str) -> pd.DataFrame:
    """Return a demo model's held-out examples with their evidence.

    The columns are ``input`` and ``target`` (text) and ``rationale``: per whitespace-separated target word, the list of
    ``[start, end)`` character spans in ``input`` of the words that determine it.
    """
    import pandas as pd

    lines = (demo_path(name) / "data.jsonl").read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines], columns=["input", "target", "rationale"])
