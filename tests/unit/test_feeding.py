"""Embeddings that go in by hook: the numbers of embeddings in place of ids, and the model's own where it wants ids."""

import functools
import json
import sys
from types import ModuleType

import pytest
import torch
from models import ENCODER_DECODERS, build
from torch import nn
from transformers import FSMTConfig, FSMTForConditionalGeneration, FSMTTokenizer
from words import SOURCE, TARGET, WORDS, word_tokenizer

import attriflow
from attriflow.errors import UnsupportedModelError
from attriflow.models.feeding import Fed, Feed, embedded


def same(found, wanted, atol=1e-10):
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "gemma2", "bart", "marian", "t5"])
def test_both_ways_give_the_same(name):
    """Tables that both sides share, scales inside and outside of them, texts of several lengths."""
    both = []
    for feed in ("argument", "hook"):
        m = attriflow.load_model(build(name), tokenizer=word_tokenizer())
        pair = name in ENCODER_DECODERS
        if feed == "hook":
            assert m.wrapped.checked.works("embeddings")
            m.wrapped.feeds = dict.fromkeys(("source", "target"), Feed("hook"))
        targets = [TARGET, "el gato"] if pair else [f"{SOURCE} {TARGET}", "the cat was old"]
        sources = [SOURCE, SOURCE] if pair else [SOURCE, "the cat"]
        options = {"attribute_target": True} if pair else {}
        both.append(
            [
                m.attribute(sources, targets, method=method, show_progress=False, **options, **more)
                for method, more in (
                    ("input_x_gradient", {}),
                    ("occlusion", {}),
                    ("integrated_gradients", {"n_steps": 3}),
                )
            ]
        )
        assert {found.way for found in m.wrapped.feeds.values()} == {feed}
    for first, second in zip(*both, strict=True):
        for a, b in zip(first, second, strict=True):
            same(a.scores, b.scores, 1e-9)


class Counting(nn.Module):
    """A language model that takes embeddings, but counts positions from ids that are not 0, and else from 7."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = build("gpt2")
        self.config, self.dtype, self.generation_config = self.inner.config, self.inner.dtype, None

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    @property
    def base_model(self):
        return self.inner.base_model

    def generate(self):
        raise NotImplementedError

    def forward(self, input_ids=None, inputs_embeds=None, use_cache=None, logits_to_keep=0):
        if input_ids is None:
            places = torch.arange(7, 7 + inputs_embeds.shape[1]).unsqueeze(0)
            return self.inner(inputs_embeds=inputs_embeds, position_ids=places, logits_to_keep=logits_to_keep)
        places = ((input_ids != 0).long().cumsum(1) * 2).clamp(max=100)
        embeds = self.get_input_embeddings()(input_ids)
        return self.inner(inputs_embeds=embeds, position_ids=places, logits_to_keep=logits_to_keep)


def test_a_model_that_counts_ids():
    hf = Counting().eval()
    m = attriflow.load_model(hf, tokenizer=word_tokenizer())
    example = m.encode("the cat was", "the cat was old in")[0]
    (out,) = m.attribute(
        "the cat was", "the cat was old in", method="saliency", attributed_fn="probability", show_progress=False
    )
    assert m.wrapped.feeds["target"].way == "hook"
    for j, end in enumerate(range(example.start, example.stop)):
        ids = torch.tensor([example.target_ids[:end]])
        leaf = hf.get_input_embeddings()(ids).detach().requires_grad_(True)
        logits = hf.inner(inputs_embeds=leaf, position_ids=2 * torch.arange(1, end + 1).unsqueeze(0)).logits[0, -1]
        (grad,) = torch.autograd.grad(logits.softmax(-1)[example.target_ids[end]], leaf)
        same(out.scores[j, :end], grad[0].norm(dim=-1))


def test_ids_that_are_not_embedded_are_an_error():
    table = nn.Embedding(5, 2)
    side = Fed(table, torch.tensor([[1, 2]]), torch.zeros(1, 2, 2))
    with pytest.raises(UnsupportedModelError, match="does not embed its ids as they are"), embedded([side]):
        table(torch.tensor([[2, 1]]))
    assert not table._forward_hooks


def test_sides_with_the_same_ids_are_told_apart_by_their_order():
    table, ids = nn.Embedding(5, 2), torch.tensor([[1, 2]])
    first, second = torch.ones(1, 2, 2), torch.full((1, 2, 2), 2.0)
    with embedded([Fed(table, ids, first), Fed(table, ids, second)]):
        assert torch.equal(table(ids), first)
        assert not torch.equal(table(torch.tensor([[2, 1]])), second)
        assert torch.equal(table(input=ids), second)
        assert torch.equal(table(ids), table.weight[ids])


@functools.lru_cache
def fsmt():
    """As facebook/wmt19-*: a vocabulary for each side, positions and the decoder's masks made from ids."""
    torch.manual_seed(0)
    config = FSMTConfig(
        langs=["en", "de"],
        src_vocab_size=len(WORDS),
        tgt_vocab_size=len(WORDS) + 3,
        tie_word_embeddings=False,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        max_length=12,
        num_beams=1,
        init_std=0.3,
    )
    return FSMTForConditionalGeneration(config).eval()  # does not run in double precision


def by_hand(hf, source, target, embeds):
    """Logits of the last position, with the outputs of the embedding modules replaced."""
    tables = {"source": hf.model.encoder.embed_tokens, "target": hf.model.decoder.embed_tokens}
    hooks = [tables[b].register_forward_hook(lambda _m, _a, _o, e=e: e) for b, e in embeds.items()]
    try:
        ids = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([target])}
        return hf(**ids, use_cache=False).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()


def test_fsmt_has_the_gradients_of_its_own_forward():
    hf = fsmt()
    m = attriflow.load_model(hf, tokenizer=word_tokenizer())
    texts, targets = [SOURCE, "the cat"], [TARGET, "el gato roja la casa ."]
    options = {"attribute_target": True, "attributed_fn": "probability", "show_progress": False}
    found = {name: m.attribute(texts, targets, method=name, **options) for name in ("saliency", "occlusion")}
    for k, example in enumerate(m.encode(texts, targets)):
        source = list(example.source_ids)
        for j, end in enumerate(range(example.start, example.stop)):
            target, token = list(example.target_ids[:end]), example.target_ids[end]
            leaves = {
                "source": hf.model.encoder.embed_tokens.weight[source].detach().unsqueeze(0).requires_grad_(True),
                "target": hf.model.decoder.embed_tokens.weight[target].detach().unsqueeze(0).requires_grad_(True),
            }
            value = by_hand(hf, source, target, leaves).softmax(-1)[token]
            grads = torch.autograd.grad(value, list(leaves.values()))
            wanted = torch.cat([g[0].norm(dim=-1) for g in grads])
            scores = found["saliency"][k].scores[j]
            same(scores[torch.isfinite(scores)], wanted, 1e-5)
            with torch.no_grad():
                changed = leaves["source"].detach().clone()
                changed[0, 1] = hf.model.encoder.embed_tokens.weight[3]
                effect = value - by_hand(hf, source, target, {**leaves, "source": changed}).softmax(-1)[token]
            same(found["occlusion"][k].scores[j, 1], effect.detach(), 1e-6)


def test_fsmt_reads_prefixes_only_and_generates():
    hf = fsmt()
    m = attriflow.load_model(hf, tokenizer=word_tokenizer())
    (out,) = m.attribute(SOURCE, method="dummy", step_scores=["probability"], show_progress=False)
    ids = hf.generate(torch.tensor([m.encode(SOURCE)[0].source_ids]))[0].tolist()
    assert [2, *[t.id for t in out.targets]] == ids
    for j, token in enumerate(out.targets):
        logits = by_hand(hf, list(m.encode(SOURCE)[0].source_ids), ids[: j + 1], {})
        same(out.step_scores["probability"][j], logits.softmax(-1)[token.id].detach(), 1e-6)


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
VOCABULARIES = {"src": ["the</w>", "cat</w>", "old</w>"], "tgt": ["la</w>", "gato</w>", "casa</w>", "viejo</w>"]}


class Moses:
    """What FSMT's tokenizer asks of sacremoses, for texts of plain words."""

    def __init__(self, lang):
        self.lang = lang

    def normalize(self, text):
        return text

    def tokenize(self, text, **_):
        return text.split()

    def detokenize(self, tokens):
        return " ".join(tokens)


def test_a_vocabulary_for_each_side(tmp_path, monkeypatch):
    names = ("MosesPunctNormalizer", "MosesTokenizer", "MosesDetokenizer")
    fake = ModuleType("sacremoses")
    fake.__dict__.update(dict.fromkeys(names, Moses))
    monkeypatch.setitem(sys.modules, "sacremoses", fake)
    merges = []
    for word in (w.removesuffix("</w>") for words in VOCABULARIES.values() for w in words):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        merges += [f"{''.join(parts[:i])} {parts[i]} 1" for i in range(1, len(parts))]
    (tmp_path / "merges.txt").write_text("\n".join(dict.fromkeys(merges)) + "\n")
    for side, words in VOCABULARIES.items():
        (tmp_path / f"{side}.json").write_text(json.dumps({w: i for i, w in enumerate([*SPECIAL, *words])}))
    files = {"src_vocab_file": tmp_path / "src.json", "tgt_vocab_file": tmp_path / "tgt.json"}
    two = FSMTTokenizer(
        langs=["en", "es"], merges_file=str(tmp_path / "merges.txt"), **{k: str(v) for k, v in files.items()}
    )
    m = attriflow.load_model(fsmt(), tokenizer=two)
    (out,) = m.attribute("the old cat", "la casa", method="dummy", attribute_target=True, show_progress=False)
    assert [(t.text, t.id, t.start, t.end) for t in out.inputs if not t.special] == [
        ("the", 4, 0, 3),
        ("old", 6, 4, 7),
        ("cat", 5, 8, 11),
        ("la", 4, 0, 2),
        ("casa", 6, 3, 7),
    ]
