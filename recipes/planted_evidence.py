"""Which method recovers which kind of evidence: planted tasks, models wired by hand to solve them, a table.

Usage: ``python recipes/planted_evidence.py [--examples 40] [--methods all] [--metric auprc_plau] [--out table.md]``

Each model is a GPT-2 of one layer whose weights are set, not trained, so that what it does is known: attention heads
look for words of a kind (by their kind alone; for `agreement` the earliest one, by position), their values carry the
word that was found, for `negation` the feed-forward block combines adverb and adjective, and the LM head reads the
answer off. For `distractor` a second head looks at the place, and its values are zero: attention without any effect.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import attriflow
from attriflow_metrics import synthetic as s

HEADS = 2
POSITIONS = 64
CONTENT, EARLIER = 400.0, 200.0  # how much a head prefers words of its kind, and (agreement) earlier ones
LOUD = 10.0  # the same where only the kind matters: nearly all of the attention, and not quite saturated
LOGIT = 8.0
SPECIALS = ("<unk>", "<pad>", "</s>")


class Features:
    """Named directions of the residual stream; each has a mirrored copy, so that every state has mean zero."""

    def __init__(self, names: Sequence[str]) -> None:
        self.place = {name: i for i, name in enumerate(names)}
        self.count = math.ceil(len(names) / HEADS) * HEADS
        self.width = 2 * self.count

    def write(self, name: str) -> Tensor:
        """`[width]`, added to the stream to say so."""
        out = torch.zeros(self.width)
        out[self.place[name]], out[self.count + self.place[name]] = 1.0, -1.0
        return out

    def read(self, name: str) -> Tensor:
        """`[width]`: its product with the stream is how much of the feature there is."""
        return self.write(name) / 2

    def scale(self, squares: float) -> float:
        """What layer norm multiplies a state with, given the sum of its squared features."""
        return math.sqrt(self.width / (2 * squares))


@dataclass(frozen=True)
class Head:
    """A head that looks for words of a kind and writes the features that they stand for."""

    kind: Sequence[str]
    found: dict[str, str]
    earliest: bool = False


def heads_of(task: str) -> list[Head]:
    """The heads of a task's model."""
    if task == "recall":
        return [Head(s.COLOURS, {w: f"answer {w}" for w in s.COLOURS})]
    if task == "negation":
        return [
            Head(s.ADVERBS, {w: f"saw {w}" for w in s.ADVERBS}),
            Head(s.ADJECTIVES, {w: f"saw {w}" for w in s.ADJECTIVES}),
        ]
    if task == "agreement":
        found = {**dict.fromkeys(s.SINGULAR, "answer is"), **dict.fromkeys(s.PLURAL, "answer are")}
        return [Head((*s.SINGULAR, *s.PLURAL), found, earliest=True)]
    eats = {a: f"answer {f}" for a, f in zip(s.ANIMALS, s.FOOD, strict=True)}
    return [Head(s.ANIMALS, eats), Head(s.PLACES, {})]


def kind_of(task: str, word: str) -> str:
    """The feature that says which head may look at a word."""
    return next((f"kind {i}" for i, head in enumerate(heads_of(task)) if word in head.kind), "kind other")


def wired(task: str) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """A model that solves a task, and its tokenizer with one token per word."""
    words, heads = (*SPECIALS, *s.words_of(task)), heads_of(task)
    answers = [f"answer {w}" for w in words]
    seen = [f"saw {w}" for w in (*s.ADVERBS, *s.ADJECTIVES)]
    kinds = [f"kind {i}" for i in range(HEADS)]
    f = Features([*(f"word {w}" for w in words), *kinds, "kind other", "here", "early", "late", *seen, *answers])
    config = GPT2Config(
        vocab_size=len(words), n_positions=POSITIONS, n_embd=f.width, n_layer=1, n_head=HEADS,
        n_inner=len(s.ADVERBS) * len(s.ADJECTIVES), activation_function="relu", tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=2, pad_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    block, size = model.transformer.h[0], f.width // HEADS
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        for i, word in enumerate(words):
            model.transformer.wte.weight[i] = f.write(f"word {word}") + f.write(kind_of(task, word))
        for p in range(POSITIONS):  # in the middle of a quarter turn a cosine falls almost evenly
            angle = math.pi / 4 + math.pi / 2 * p / POSITIONS
            model.transformer.wpe.weight[p] = (
                f.write("here") + math.cos(angle) * f.write("early") + math.sin(angle) * f.write("late")
            )
        tokens = 4.0  # squared features of a token: its word, its kind, here, and one for its place
        norm = f.scale(tokens)
        query, key, value = block.attn.c_attn.weight.split(f.width, dim=1)
        for h, head in enumerate(heads):
            at = h * size
            query[:, at] = f.read("here") / norm
            content = CONTENT if head.earliest else LOUD
            wanted = content * f.read(f"kind {h}") + (EARLIER * f.read("early") if head.earliest else 0.0)
            key[:, at] = wanted / norm * math.sqrt(size)
            for j, feature in enumerate(dict.fromkeys(head.found.values())):
                for word in (w for w, found in head.found.items() if found == feature):
                    value[:, at + j] += f.read(f"word {word}") / norm
                block.attn.c_proj.weight[at + j] = f.write(feature)
        squares = tokens + sum(bool(head.found) for head in heads)
        if task == "negation":
            norm = f.scale(squares)
            for unit, (adverb, adjective) in enumerate((a, b) for a in s.ADVERBS for b in s.ADJECTIVES):
                block.mlp.c_fc.weight[:, unit] = 2 * (f.read(f"saw {adverb}") + f.read(f"saw {adjective}")) / norm
                block.mlp.c_fc.bias[unit] = -3.0  # 1 when both are there, 0 when one is missing
                answer = s.solve("negation", f"{adverb} {adjective}")
                block.mlp.c_proj.weight[unit] = f.write(f"answer {answer}")
            squares += 1
        for i, word in enumerate(words):
            model.lm_head.weight[i] = LOGIT * f.read(f"answer {word}") / f.scale(squares)
    return model, word_tokenizer(words)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per word, `SPECIALS` among them."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def explained(task: str) -> attriflow.AttributionModel:
    """The wired model as attriflow takes it."""
    model, tokenizer = wired(task)
    return attriflow.load_model(model, tokenizer=tokenizer)


def scores(task: str, examples: int, methods: Any, metric: str, **options: Any) -> pd.DataFrame:
    """Mean and interval per method, see `attriflow.evaluation.significance.summary_table`."""
    from attriflow.evaluation.config import EvaluationConfig
    from attriflow.evaluation.data import EvaluationData
    from attriflow.evaluation.runner import Evaluation
    from attriflow.evaluation.significance import summary_table
    from attriflow.evaluation.tables import scores_table
    from attriflow.registry import methods as known

    frame = s.planted(task, examples, **options)
    features, targets = frame.drop(columns=["target", "contrast_target"]), list(frame["target"])
    settings = {"inputs": "input", "rationale": "rationale", "methods": methods, "metrics": [metric],
                "step_functions": [], "throughput": False}  # fmt: skip
    chosen = EvaluationConfig.from_dict(settings, columns=list(features), targets="target").methods
    # few points and samples, as in the demo: the texts are short
    settings["method_options"] = {
        name: {k: v for k, v in known.info(name).meta["demo"].items() if k != "reduction"}
        for name in chosen
        if name in known  # rows such as input_x_gradient.norm have options of their own
    }
    config = EvaluationConfig.from_dict(settings, columns=list(features), targets="target")
    evaluation = Evaluation(explained(task), EvaluationData.from_frame(features, config, targets), config)
    for _ in evaluation.run():
        pass
    for result in evaluation.results:
        if not result.ok:
            print(f"{task}: {result.name} failed: {result.reason}")
    return summary_table(scores_table(evaluation.results, evaluation.examples)).set_index("method")


COLUMNS = {
    "recall, 4 words back": ("recall", {"distance": 4}),
    "recall, 32 words back": ("recall", {"distance": 32}),
    "negation": ("negation", {}),
    "agreement": ("agreement", {}),
    "distractor": ("distractor", {}),
}


def table(examples: int, methods: Any = "all", metric: str = "auprc_plau") -> pd.DataFrame:
    """Methods x kinds of evidence, as texts "mean [low, high]"."""
    columns = {}
    for label, (task, options) in COLUMNS.items():
        found = scores(task, examples, methods, metric, **options)
        columns[label] = found.apply(lambda row: f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]", axis=1)
    return pd.DataFrame(columns).fillna("-").sort_index()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description="Which method recovers which kind of evidence.")
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--methods", default="all", help="names, separated by commas")
    parser.add_argument("--metric", default="auprc_plau")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    found = table(options.examples, options.methods, options.metric)
    lines = ["| method | " + " | ".join(found.columns) + " |", "| --- |" + " --- |" * len(found.columns)]
    lines += [f"| `{method}` | " + " | ".join(row) + " |" for method, row in found.iterrows()]
    text = "\n".join(lines)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
