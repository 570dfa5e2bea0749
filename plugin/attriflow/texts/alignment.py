"""Monotone alignment of a target with its foil, from the tokens alone: no aligner, no downloads."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

GAP = 0.3
"""What a token without a counterpart costs; two unlike tokens are aligned rather than left out on both sides."""

SPELLING, MEANING = 0.8, 0.6
"""Weight of two tokens that are spelled alike, and of two with similar embeddings; identical ids count 1."""


def align_tokens(
    own: Sequence[int], other: Sequence[int], own_texts: Sequence[str], other_texts: Sequence[str], table: Tensor
) -> list[int | None]:
    """For each token of a sequence, the position of its counterpart in another one, or None.

    Needleman-Wunsch over similarities: 1 for the same id; else how alike the spellings are, or, where these have little
    in common, the cosine of the model's own input embeddings.

    Args:
        own, other: Ids.
        own_texts, other_texts: Readable tokens.
        table: Input embeddings of the vocabulary, `[vocab, hidden]`.

    Complexity: O(len(own) * len(other)).
    """
    similar = _similarities(own, other, own_texts, other_texts, table)
    n, m = len(own), len(other)
    best = [[-GAP * (i + j) if not (i and j) else 0.0 for j in range(m + 1)] for i in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            best[i][j] = max(best[i - 1][j - 1] + similar[i - 1][j - 1], best[i - 1][j] - GAP, best[i][j - 1] - GAP)
    found: list[int | None] = [None] * n
    i, j = n, m
    while i and j:
        if best[i][j] == best[i - 1][j - 1] + similar[i - 1][j - 1]:
            i, j = i - 1, j - 1
            found[i] = j
        elif best[i][j] == best[i - 1][j] - GAP:
            i -= 1
        else:
            j -= 1
    return found


def filled(found: Sequence[int | None], length: int) -> list[int]:
    """A counterpart for every token: what follows the last counterpart, where a token has none of its own."""
    out, after = [], 1
    for place in found:
        out.append(min(after, length - 1) if place is None else place)
        after = out[-1] + 1 if place is not None else after
    return [max(1, p) for p in out]


def _similarities(
    own: Sequence[int], other: Sequence[int], own_texts: Sequence[str], other_texts: Sequence[str], table: Tensor
) -> list[list[float]]:
    a, b = (torch.nn.functional.normalize(_rows(table, ids), dim=-1) for ids in (own, other))
    meaning = (a @ b.T).clamp(min=0).tolist()
    out = []
    for i, x in enumerate(own):
        row = []
        for j, y in enumerate(other):
            alike = 1.0 if x == y else SPELLING * _spelling(own_texts[i], other_texts[j])
            row.append(alike if alike >= SPELLING / 2 else MEANING * meaning[i][j])
        out.append(row)
    return out


def _rows(table: Tensor, ids: Sequence[int]) -> Tensor:
    return table[torch.tensor(list(ids), dtype=torch.long, device=table.device)].float()


def _spelling(a: str, b: str) -> float:
    return SequenceMatcher(None, a.strip().lower(), b.strip().lower(), autojunk=False).ratio()
