"""The console tables on terminals of any width."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from attriflow.types import Attribution, Provenance, Token
from attriflow.views.console import show


@pytest.mark.parametrize("width", [40, 60, 80, 81, 82, 83, 100, 120, 200])
def test_console_never_cuts_a_number(width):
    """Steps that do not fit continue in another table; a score is printed whole or not at all."""
    words = "la casa di il uomo vecchio è rossa </s>".split()
    inputs = tuple(Token(text=w, id=i, segment="source") for i, w in enumerate("the house of the old man".split()))
    targets = tuple(Token(text=w, id=i, segment="generated") for i, w in enumerate(words))
    scores = torch.linspace(-1, 1, len(words) * len(inputs)).reshape(len(words), len(inputs))
    attribution = Attribution(
        scores=scores, inputs=inputs, targets=targets, provenance=Provenance(method="integrated_gradients")
    )
    console = Console(record=True, width=width, file=io.StringIO())
    show(attribution, console=console)
    printed = console.export_text()
    for value in scores.flatten().tolist():
        assert f"{value:.3f}" in printed
