"""Which methods find evidence behind written steps: planted chains, a model wired by hand to follow them, a table.

Usage: ``python recipes/planted_hops.py [--examples 20] [--methods a,b] [--unit sentence]``

The model is a GPT-2 of two layers whose weights are set, not trained. In the first, two heads look one and two
positions back and write which word stands there. In the second, a head looks for the word of the list that stands
behind the name just written, another one for what follows "pick"; where there is none, they look at the first place,
where nothing is to be read. The LM head writes what was found; after a colour `</think>`, and then the word two
positions back or the one picked. So an answer of `synthetic.chains` goes through every sentence, and one with
`through=False` through none.

Recall at k: the share of the k words of evidence that are among the k highest absolute scores of the input, without
hops (step "direct") and with as many as there are parts of reasoning ("all hops"). What is less than a thousandth of
all credit counts as 0; of equal scores, the mean over their orders.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from planted_evidence import SPECIALS, Features, word_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import attriflow
from attriflow_metrics import synthetic as s

POSITIONS = 80
SIGHT = 16.0  # how much more a head attends to what it looks for than to anything else
VALUE, SYNTAX = 6.0, 20.0  # logits: of a word that was found, and of one that has to come next
NOTHING = 1e-3  # of all credit
METHODS = {
    "attention": {},
    "value_zeroing": {},
    "information_flow_routes": {},
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 16},
    "deeplift": {},
    "occlusion": {},
    "shapley_sampling": {"n_samples": 8},
    "saliency": {},
    "random": {},
}


def wired() -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """The model, and its tokenizer with one token per word."""
    words, values = (*SPECIALS, *s.words_of_chains()), (*s.NAMES, *s.COLOURS)
    before, found = [f"before {w}" for w in words], [f"found {w}" for w in values]
    twice, picked = [f"twice before {c}" for c in s.COLOURS], [f"picked {c}" for c in s.COLOURS]
    places = [f"place {p}" for p in range(POSITIONS)]
    kinds = ["value", "other", "here"]
    f = Features([*(f"word {w}" for w in words), *kinds, *places, *before, *twice, *found, *picked])
    config = GPT2Config(
        vocab_size=len(words), n_positions=POSITIONS, n_embd=f.width, n_layer=2, n_head=2, n_inner=1,
        activation_function="relu", tie_word_embeddings=False, bos_token_id=None, eos_token_id=2, pad_token_id=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    size = f.width // 2
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        for i, word in enumerate(words):
            model.transformer.wte.weight[i] = f.write(f"word {word}") + f.write("value" if word in values else "other")
        for p in range(POSITIONS):
            model.transformer.wpe.weight[p] = f.write("here") + f.write(places[p])

        norm = f.scale(4)  # a token's word and kind, here, its place
        attention = model.transformer.h[0].attn
        query, key, value = attention.c_attn.weight.split(f.width, dim=1)
        for back, (seen, written) in enumerate([(words, before), (s.COLOURS, twice)], start=1):
            at = (back - 1) * size
            for p in range(POSITIONS - back):
                query[:, at + p] = f.read(places[p + back]) / norm
                key[:, at + p] = 2 * SIGHT * math.sqrt(size) * f.read(places[p]) / norm
            for j, (word, feature) in enumerate(zip(seen, written, strict=True)):
                value[:, at + j] = f.read(f"word {word}") / norm
                attention.c_proj.weight[at + j] = f.write(feature)

        norm = f.scale(5)  # and the word before
        attention = model.transformer.h[1].attn
        query, key, value = attention.c_attn.weight.split(f.width, dim=1)
        sight = SIGHT * math.sqrt(size) / norm
        # wanted: a value (one) that follows the name just written (two); the first place beats what has one of these
        for j, name in enumerate(s.NAMES):
            query[:, j] = f.read(f"before {name}") / norm
            key[:, j] = 2 * sight * f.read(f"before {name}")
        query[:, len(s.NAMES)] = f.read("here") / norm
        key[:, len(s.NAMES)] = sight * (2 * f.read("value") + 3 * f.read(places[0]))
        query[:, size] = f.read(f"word {s.THOUGHT}") / norm
        key[:, size] = 2 * sight * f.read("before pick")
        query[:, size + 1] = f.read("here") / norm
        key[:, size + 1] = sight * f.read(places[0])
        for at, seen, written in ((0, values, found), (size, s.COLOURS, picked)):
            for j, (word, feature) in enumerate(zip(seen, written, strict=True)):
                value[:, at + j] = f.read(f"word {word}") / norm
                attention.c_proj.weight[at + j] = f.write(feature)

        norm = f.scale(6)
        head = {word: torch.zeros(f.width) for word in words}
        for word in (*values, *s.COUNTS):
            head["."] += SYNTAX * f.read(f"word {word}")
        head["</s>"] += 2 * SYNTAX * f.read(f"before {s.THOUGHT}")
        for word in (*s.COLOURS, s.COUNTS[0]):
            head[s.THOUGHT] += SYNTAX * f.read(f"before {word}")
        for fewer, count in zip(s.COUNTS, s.COUNTS[1:], strict=False):
            head[fewer] += VALUE * f.read(f"before {count}")
        for word in values:
            head[word] += VALUE * f.read(f"found {word}")
        for colour in s.COLOURS:
            head[colour] += VALUE * (f.read(f"twice before {colour}") + f.read(f"picked {colour}"))
        for i, word in enumerate(words):
            model.lm_head.weight[i] = head[word] / norm
    return model, word_tokenizer(words)


def recall(scores: np.ndarray, evidence: np.ndarray) -> float:
    """Recall at k of the evidence, bool `[input]`, k its size, by absolute scores `[input]`."""
    k, size = int(evidence.sum()), np.abs(scores)
    size = np.where(size < NOTHING, 0.0, size)
    least = np.sort(size)[-k]
    surely, maybe = size > least, size == least
    return float(evidence[surely].sum() + (k - surely.sum()) * evidence[maybe].mean()) / k


def recovered(
    model: attriflow.AttributionModel,
    method: str,
    examples: int,
    hops: int,
    through: bool,
    *,
    unit: Literal["sentence", "token"] = "sentence",
    **options: Any,
) -> tuple[float, float]:
    """Mean recall at k without hops and with them."""
    frame = s.chains(examples, hops=hops, through=through)
    texts = [f"{row.input} {row.target}" for row in frame.itertuples()]
    out = attriflow.attribute_reasoning(
        model, list(frame["input"]), texts, method=method, hops=2 * hops, unit=unit, **options
    )
    found = []
    for a, row in zip(out, frame.itertuples(), strict=True):
        prompt = [i for i, t in enumerate(a.inputs) if t.segment == "prompt"]
        starts = [start for start, _ in row.evidence]
        evidence = np.array([a.inputs[i].start in starts for i in prompt])
        scores = a.scores[:, prompt].nan_to_num().double().numpy()
        found.append((recall(scores[0], evidence), recall(scores[-1], evidence)))
    direct, hopped = np.mean(found, 0)
    return float(direct), float(hopped)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description="Which methods find evidence behind written steps.")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas")
    parser.add_argument("--unit", default="sentence", choices=("sentence", "token"))
    given = parser.parse_args(arguments)
    network, tokenizer = wired()
    model = attriflow.load_model(network, tokenizer=tokenizer)
    tasks = [*((n, True) for n in range(1, 5)), (3, False)]
    names = [f"{n} hop{'s' * (n > 1)} behind" if through else f"control, {n} idle sentences" for n, through in tasks]
    print("| method | " + " | ".join(names) + " |\n|" + " --- |" * (len(tasks) + 1))
    for method in given.methods.split(","):
        cells = []
        for hops, through in tasks:
            options = {**METHODS.get(method, {}), "unit": given.unit}
            direct, hopped = recovered(model, method, given.examples, hops, through, **options)
            cells.append(f"{direct:.2f} → {hopped:.2f}")
        print(f"| `{method}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
