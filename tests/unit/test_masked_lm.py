"""Infilling by a masked language model, against its own logits read one mask at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from words import stirred

import attriflow
from attriflow.engine.infill import DRAWS, Fills
from attriflow.errors import InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.kernels.seeds import hashed
from attriflow.types import Variant

PROMPT = "anna has a red hat . what color is the hat ?"
TEXT = f"{PROMPT} red . tom"
MASK = "<mask>"


def roberta(pieces, folder=None, places=64):
    """A RoBERTa of random weights that knows these pieces, none under the id it has elsewhere, and its tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    words = ["<cls>", "<sep>", "<pad>", "<unk>", MASK, *(p for p in reversed(pieces) if not p.startswith("<"))]
    vocabulary = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    named = {"cls_token": "<cls>", "sep_token": "<sep>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": MASK}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, **named)
    config = RobertaConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=places, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = stirred(RobertaForMaskedLM(config).double())
    if folder is not None:
        hf.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return hf, tokenizer


@pytest.fixture
def model():
    return attriflow.load_model("demo/recall", dtype="float64")


def pieces_of(model):
    return sorted(model.tokenizer.get_vocab())


@torch.no_grad()
def by_hand(model, hf, tokenizer, example):
    """The draws of every decoder token, `[position, draw]`, from one pass for each."""
    given = example.prompt_length
    u = np.random.default_rng(hashed("infill/target", example.target_ids[:given], size=4)).random((example.stop, DRAWS))
    both = sorted(set(model.tokenizer.get_vocab()) & set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    both = [p for p in both if p not in model.tokenizer.all_special_tokens]
    ours, theirs = (t.convert_tokens_to_ids(both) for t in (model.tokenizer, tokenizer))
    order = np.argsort(ours)
    out = {}
    for i, token in enumerate(example.target[: example.stop]):
        if token.special:
            continue
        shown = [
            MASK if j == i else model.tokenizer.convert_ids_to_tokens(t.id)
            for j, t in enumerate(example.target[: max(given, i + 1)])
            if not t.special
        ]
        ids = tokenizer.convert_tokens_to_ids(["<cls>", *shown, "<sep>"])
        logits = hf(input_ids=torch.tensor([ids])).logits[0, 1 + shown.index(MASK)]
        p = logits[theirs].softmax(-1).numpy()[order]
        out[i] = [ours[order[min(np.searchsorted(p.cumsum(), x, side="right"), len(p) - 1)]] for x in u[i]]
    return out


def test_draws_are_those_of_its_logits(model):
    hf, tokenizer = roberta(pieces_of(model))
    attriflow.use_masked_lm(model, hf, tokenizer)
    (example,) = model.encode(PROMPT, TEXT)
    fills = Fills(model.wrapped, [example])(0, "masked_lm")
    wanted = by_hand(model, hf, tokenizer, example)
    assert {i: [target[i] for _, target in fills] for i in wanted} == wanted
    assert len({id for ids in wanted.values() for id in ids}) > 10
    # what is removed is its mean probability over these draws
    gone = {1, 3}
    texts = [
        [new if i in gone else t.id for i, (t, new) in enumerate(zip(example.target, drawn, strict=True))]
        for _, drawn in fills
    ]
    step = example.start
    with torch.no_grad():
        p = [float(model.model(torch.tensor([t[:step]])).logits[0, -1].softmax(-1)[t[step]]) for t in texts]
    keep = tuple(i not in gone for i in range(len(example.inputs())))
    (found,) = model.rescore([example], [(0, Variant(keep=keep, step=0, how="masked_lm"))])
    assert float(found.exp()) == pytest.approx(sum(p) / DRAWS, abs=1e-9)


def test_later_tokens_are_not_read(model):
    attriflow.use_masked_lm(model, *roberta(pieces_of(model)))
    short, long = model.encode([PROMPT] * 2, [f"{PROMPT} red .", f"{PROMPT} red . tom has"])
    fills = [Fills(model.wrapped, [e])(0, "masked_lm") for e in (short, long)]
    assert [t[: short.stop] for _, t in fills[1]] == [t for _, t in fills[0]]
    (one,) = model.attribute(PROMPT, f"{PROMPT} red", method="occlusion", baseline="masked_lm", show_progress=False)
    (two,) = model.attribute(PROMPT, f"{PROMPT} red .", method="occlusion", baseline="masked_lm", show_progress=False)
    width = one.scores.shape[1]
    torch.testing.assert_close(two.scores[:1, :width], one.scores, equal_nan=True)
    assert one.provenance.options["baseline"] == "masked_lm" and bool(one.scores.nan_to_num().any())


def test_an_evaluation_takes_a_folder(model, tmp_path):
    hf, tokenizer = roberta(pieces_of(model), tmp_path)
    names = ["logprob_compr"]
    settings = {
        "methods": ["occlusion"], "metrics": names, "step_functions": [], "throughput": False, "fail_fast": True,
        "metric_options": {name: {"perturbation": "masked_lm"} for name in names}, "masked_lm": str(tmp_path),
    }  # fmt: skip

    def values():
        data = EvaluationData(inputs=(PROMPT,), targets=("red",))
        evaluation = Evaluation(model, data, EvaluationConfig.from_dict(settings))
        for _ in evaluation.run():
            pass
        return [evaluation.results[0].metrics[name] for name in names]

    found = values()
    del settings["masked_lm"]
    attriflow.use_masked_lm(model, hf, tokenizer)
    assert values() == found and all(found)


def test_what_cannot_fill_in(model, tmp_path):
    (example,) = model.encode(PROMPT, TEXT)
    with pytest.raises(InputError, match=r"'masked_lm' needs a masked language model.*use_masked_lm"):
        Fills(model.wrapped, [example])(0, "masked_lm")
    few = [p for p in pieces_of(model) if "hat" not in p]
    attriflow.use_masked_lm(model, *roberta(few))
    with pytest.raises(InputError, match=r"does not know the token '.*hat.*must have the same pieces"):
        Fills(model.wrapped, [example])(0, "masked_lm")
    attriflow.use_masked_lm(model, *roberta(pieces_of(model), places=10))
    with pytest.raises(InputError, match="reads 7 tokens, not"):
        Fills(model.wrapped, [example])(0, "masked_lm")
    hf, tokenizer = roberta(pieces_of(model))
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="has no mask token"):
        attriflow.use_masked_lm(model, hf, tokenizer)
    with pytest.raises(InputError, match="is no masked language model"):
        attriflow.use_masked_lm(model, str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="a local folder, a Hugging Face name or a loaded model"):
        attriflow.use_masked_lm(model, 3)
