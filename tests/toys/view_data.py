"""Attributions and tables made up for tests of the views."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import torch

from attriflow.types import Attribution, Provenance, Token

DIRECTIONS = {"aopc_compr": True, "aopc_suff": False, "token_f1_plau": True}
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "\"'`=",
    "\x00",
    "\u202eevil",
    "\n",
    "\t",
    " ",
    "",
    "שלום",
    "{{ 7*7 }}",
]


def tokens(words, segment, special=()):
    return tuple(Token(text=w, id=i, segment=segment, special=w in special) for i, w in enumerate(words))


def causal(
    prompt, generated, method="saliency", axes=("step", "input"), scale=1.0, seed=0, sizes=None, foil=(), scores=None
):
    """A decoder-only attribution: every step sees the prompt and the tokens generated before it."""
    inputs = tokens(prompt, "prompt", ("<bos>",)) + tokens(generated, "generated")
    steps, extra = len(generated), sizes or (2,) * (len(axes) - 2)
    if scores is None:
        scores = torch.randn(steps, len(inputs), *extra, generator=torch.Generator().manual_seed(seed)) * scale
    scores[torch.arange(len(inputs))[None] >= len(prompt) + torch.arange(steps)[:, None]] = float("nan")
    return Attribution(
        scores=scores, axes=axes, inputs=inputs, targets=tokens(generated, "generated"), start=len(prompt),
        step_scores={"probability": torch.linspace(0.25, 0.75, steps)},
        provenance=Provenance(method=method, attributed_fn="logit", model="toy", foil=foil),
        input_text=" ".join(prompt), target_text=" ".join(generated),
    )  # fmt: skip


PROMPT = ["<bos>", "tom", "has", "a", "blue", "car", ".", "what", "color", "is", "the", "car", "?"]
ANSWER = ["blue", "paint", "."]


CARD = {
    "method": "occlusion", "part": "occlusion", "family": "perturbation", "definition": "Score <b>minus</b> score.",
    "source": "Zeiler and Fergus 2014", "objective": {"step_function": "probability", "options": {}}, "options": {},
    "baseline_name": "unk", "baselines": [{"id": 1, "text": "<unk>", "norm_percentile": 93.9}],
    "reduction": "sum over dimensions", "samples": {"n_steps": "auto", "n_steps_used": 40.0},
    "residual": {"completeness_error": 0.003, "own": None}, "promises_to_add_up": True,
    "cost": {"declared": "L + 1 forwards", "forward_passes": 26.0, "backward_passes": 0.0, "seconds": 0.5},
    "status": "gated", "reason": "x" * 60, "same_as": "", "rank": None, "blind_spots": "One token at a time.",
    "gates": [
        {"gate": g, "passed": p, "value": 0.4, "limit": 0.0, "p_holm": None, "n": 12, "why": "too few examples"}
        for g, p in (("control", False), ("randomisation", None), ("completeness", True))
    ],
}  # fmt: skip
"""A card as `attriflow.evaluation.cards` makes them."""


def board(rows=None):
    rows = rows or [
        ("occlusion", "perturbation", 1.0, (0.8, 0.1, 0.5), 22.4),
        ("saliency", "gradient", 2.0, (0.6, 0.2, 0.6), 2.1),
        ("random", "baseline", 3.0, (0.2, 0.6, None), 0.0),
    ]
    table = [
        {
            "method": m, "family": f, "status": "ok", "reason": None, "rank": rank,
            **dict(zip(DIRECTIONS, values, strict=True)),
            "seconds": 0.5, "target_tokens_per_second": 90.0, "forward_equivalents": cost, "peak_memory_mb": 10.0,
            "n_examples": 4,
        }
        for m, f, rank, values, cost in rows
    ]  # fmt: skip
    failed = {"method": "deeplift", "family": "gradient", "status": "failed", "reason": "no rule for <b>GELU</b>"}
    return pd.DataFrame([failed, *table])


def metric_table(methods=("occlusion", "saliency", "random"), examples=4):
    values = np.random.default_rng(0).random
    return pd.DataFrame(
        [
            {"example": e, "step": s, "token": "t", "method": m, "metric": k, "value": float(values()), "skipped": None}
            for e in range(examples) for s in range(2) for m in methods for k in DIRECTIONS
        ]
        + [{"example": 0, "step": 2, "token": "t", "method": m, "metric": "token_f1_plau", "value": None,
            "skipped": "empty rationale"} for m in methods]
    )  # fmt: skip


def step_table(names=(("probability", "probability"), ("entropy", "nats")), examples=4):
    return pd.DataFrame(
        [
            {"example": e, "step": s, "token": "t", "step_function": n, "value": e + s / 10, "unit": unit}
            for e in range(examples) for s in range(3) for n, unit in names
        ]
    )  # fmt: skip


class Page(HTMLParser):
    """Collects elements, and checks that tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "wbr"})

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def data(self):
        """What the page's script knows."""
        return json.JSONDecoder().raw_decode(self.texts["script"])[0]
