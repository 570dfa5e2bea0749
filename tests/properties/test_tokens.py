"""Every kind of tokenizer in hard texts: generated ids have the spans, words, groups and labels of forced ones."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from models import build
from tokenizer_kinds import EXACT, KINDS, TEXTS

import attriflow
from attriflow.errors import NothingToExplainError
from attriflow.texts.tokens import decoded_spans, ids_to_tokens, tokenize

PROMPTS = ("the cat", "Say:", "猫 👍", "")


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind):
    return KINDS[kind]()


@pytest.fixture(scope="module")
def causal(tokenizer):
    return attriflow.load_model(build("gpt2", vocab_size=len(tokenizer), n_positions=256), "dummy", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def translator(tokenizer):
    model = build("bart", vocab_size=len(tokenizer), decoder_start_token_id=1, max_position_embeddings=256)
    return attriflow.load_model(model, "dummy", tokenizer=tokenizer)


def generated(monkeypatch, model, prompt, new):
    """What is made of a `generate` that writes these ids."""

    def generate(input_ids, **arguments):
        begin = torch.tensor([[model.wrapped.start_id]]) if model.is_encoder_decoder else input_ids
        return torch.cat([begin, torch.tensor([new])], 1)

    monkeypatch.setattr(model.model, "generate", generate)
    return model.attribute(prompt, attribute_target=True, show_progress=False)[0]


def views(out):
    """All that is read off the spans."""
    of = lambda tokens: [(t.text, t.id, t.start, t.end) for t in tokens]  # noqa: E731
    merged = [("subwords", {}), ("sentences", {}), ("split", {"split_pattern": r"[.,\n]"})]
    return [of(out.inputs), of(out.targets), *(of(out.aggregate(name, **o).inputs) for name, o in merged)]


def forced_and_generated(monkeypatch, model, prompts):
    """Pairs of explanations of the same ids, for every prompt and text."""
    for prompt, text in itertools.product(prompts, TEXTS):
        full = text
        if not model.is_encoder_decoder:
            full = f"{prompt}{text}" if not prompt or text[0].isspace() else f"{prompt} {text}"
        try:
            forced = model.attribute(prompt, full, attribute_target=True, show_progress=False)[0]
        except NothingToExplainError:
            assert model.tokenizer(text, add_special_tokens=False)["input_ids"] == []
            continue
        given = [t.id for t in forced.inputs if t.segment == "prompt"]
        if not model.is_encoder_decoder and given != model.wrapped.source_ids(prompt):
            continue  # one token holds the border, which generation after the prompt never has
        with monkeypatch.context() as patched:
            yield forced, generated(patched, model, prompt, [t.id for t in forced.targets])


def check(kind, forced, made, begin):
    """Whether the two have one text, and then all in common; in any case every character has its token."""
    assert [t.id for t in made.targets] == [t.id for t in forced.targets]
    assert [t.text for t in (*made.inputs, *made.targets)] == [t.text for t in (*forced.inputs, *forced.targets)]
    own = [t for t in made.targets if t.start is not None]
    shown = {i for t in own for i in range(t.start, t.end)}
    assert [c for i, c in enumerate(made.target_text) if i >= begin and i not in shown and not c.isspace()] == []
    assert [t.start for t in own] == sorted(t.start for t in own)
    if made.target_text != forced.target_text:
        assert kind not in EXACT
        return False
    assert views(made) == views(forced)
    return True


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.sweep if n % 2 else ()) for n, k in enumerate(KINDS)], indirect=True
)
def test_continuations(kind, causal, monkeypatch):
    prompts = PROMPTS if causal.tokenizer.bos_token_id is not None else PROMPTS[:3]
    pairs = forced_and_generated(monkeypatch, causal, prompts)
    same = [check(kind, forced, made, len(forced.input_text)) for forced, made in pairs]
    assert sum(same) >= 15
    assert all(same) or kind not in EXACT


def test_targets(kind, translator, monkeypatch):
    same = [check(kind, forced, made, 0) for forced, made in forced_and_generated(monkeypatch, translator, ["the cat"])]
    assert sum(same) >= 3
    assert all(same) or kind not in EXACT


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_finds_what_the_tokenizer_says(kind, tokenizer, text):
    """The way for ids that are not those of their text, tried on ids that are."""
    ids, spans = tokenize(tokenizer, text, special=False)
    if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
        pytest.skip("this kind does not keep the text")
    marker = {i for i, t in enumerate(tokenizer.convert_ids_to_tokens(ids)) if t == "▁"}  # of no character of its own
    found = decoded_spans(tokenizer, ids)
    assert [s for i, s in enumerate(found) if i not in marker] == [s for i, s in enumerate(spans) if i not in marker]


@pytest.mark.parametrize("side", ["causal", "translator"])
def test_any_ids_cover_their_text(side, request, tokenizer, monkeypatch):
    """Ids that a tokenizer would not choose, torn characters and special tokens among them."""
    model, draw = request.getfixturevalue(side), random.Random(0)
    for _ in range(25):
        new = [draw.randrange(len(tokenizer)) for _ in range(draw.randint(1, 12))]
        with monkeypatch.context() as patched:
            made = generated(patched, model, "the cat", new)
        begin = 0 if model.is_encoder_decoder else len("the cat")
        own = [t for t in made.targets if t.start is not None]
        shown = {i for t in own for i in range(t.start, t.end)}
        assert [t.id for t in made.targets] == new
        assert [c for i, c in enumerate(made.target_text) if i >= begin and i not in shown and not c.isspace()] == []
        assert [t.start for t in own] == sorted(t.start for t in own)
        assert all(begin <= t.start < t.end <= len(made.target_text) for t in own)


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_in_place_of_merges(text):
    """Ids that no tokenizer chooses: each byte a token, which has the span of its character."""
    tokenizer = KINDS["byte-level BPE"]()
    ids = KINDS["byte-level without merges"]()(text)["input_ids"]  # the alphabet has the same ids in both
    owners = [i for i, c in enumerate(text) for _ in c.encode()]
    assert decoded_spans(tokenizer, ids) == [None if text[i] == " " else (i, i + 1) for i in owners]


def test_generated_bytes_that_are_no_text(monkeypatch):
    """The beginning of a character and no end of it."""
    tokenizer = KINDS["byte-level without merges"]()
    model = attriflow.load_model(build("gpt2", vocab_size=len(tokenizer)), "dummy", tokenizer=tokenizer)
    a, torn = tokenizer("a")["input_ids"], tokenizer("猫")["input_ids"][:2]
    out = generated(monkeypatch, model, "so", [*a, *torn, *a])
    assert out.target_text == "soa\ufffda"
    assert [(t.start, t.end) for t in out.targets] == [(2, 3), (3, 4), (None, None), (4, 5)]
    assert len({t.text for t in out.targets[1:3]}) == 2  # by their vocabulary entries


def test_ids_beyond_the_tokenizer_have_a_label():
    assert ids_to_tokens(KINDS["byte-level BPE"](), [100_000])[0].text == "<100000>"
