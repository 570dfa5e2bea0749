"""Words of real tokenizers of the three families, in prompts, forced and generated texts: against white space."""

from __future__ import annotations

import itertools
import re

import pytest
from models import build
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import attriflow
from attriflow.texts.units import unit_numbers
from attriflow.types import Token

TEXTS = (
    "the phenomenal   phenomenon, unphased",
    "a phase\nphenomenal\tphenomena end",
    "naïve étude “phenomenal” ünd Жук",
    "phenomenal",
)
PROMPT = "the phenomenal end"
PIECES = ["phen", "omen", "al", "on", "a", "phase", "un", "the", "end", "d", ",", "'", "s", "n", "e", "t", "u", "ï"]


def _fast(tokenizer, **special):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def byte_level():
    """Byte-level BPE with few merges: characters beyond ASCII are several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("p", "h"), ("ph", "e"), ("phe", "n"), ("o", "m"), ("om", "e"), ("ome", "n"), ("a", "l"), ("Ġ", "phen")]
    vocabulary = ["<|end|>", *alphabet, *("".join(m) for m in merges)]
    tokenizer = Tokenizer(BPE({t: i for i, t in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer, eos_token="<|end|>", bos_token="<|end|>")


def sentencepiece():
    """Unigram pieces with "▁" for spaces, also as a token of its own, and bytes for unknown characters."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("▁▁", -2.5)]
    pieces += [(p, -2.0 - 0.1 * i) for i, p in enumerate(PIECES)]
    pieces += [(f"▁{p}", -2.0 - 0.1 * i) for i, p in enumerate(PIECES)]
    pieces += [(c, -9.0) for c in "abcdefghijklmopqrstuvwxyz“”\n\t" if c not in PIECES]
    pieces += [(f"<0x{b:02X}>", -20.0) for b in range(256)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _fast(tokenizer, unk_token="<unk>", eos_token="</s>")


def wordpiece():
    """Word pieces with "##", lower case, unknown words as [UNK]."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES, *(f"##{p}" for p in PIECES), "“", "”"]
    vocabulary += list("bcfghijklmopqrvwxyz") + [f"##{c}" for c in "bcfghijklmopqrvwxyz"]
    tokenizer = Tokenizer(WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return _fast(
        tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", eos_token="[SEP]"
    )


TOKENIZERS = {"bpe": byte_level, "sentencepiece": sentencepiece, "wordpiece": wordpiece}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def causal(tokenizer):
    return attriflow.load_model(build("gpt2", vocab_size=len(tokenizer)), "random", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def translator(tokenizer):
    model = build("t5", vocab_size=len(tokenizer), pad_token_id=0, decoder_start_token_id=0)
    model.generation_config.eos_token_id = None
    return attriflow.load_model(model, "random", tokenizer=tokenizer)


def words(tokens, text):
    """What tokens stand for in a text, without those that stand for nothing (special tokens) or for white space."""
    shown = [text[t.start : t.end] for t in tokens if t.start is not None]
    return [word for word in shown if word.strip()]


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizers_do_split_words(tokenizer, text):
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) > len(text.split())


def test_prompts_and_forced_texts(causal):
    pairs = list(itertools.product(TEXTS, [" phenomenal end", " the naïve phenomenon", "s, unphased"]))
    full = [text + following for text, following in pairs]
    outputs = causal.attribute([text for text, _ in pairs], full).aggregate("subwords")
    for (text, following), whole, out in zip(pairs, full, outputs, strict=True):
        prompt, generated = (words([t for t in out.inputs if t.segment == s], whole) for s in ("prompt", "generated"))
        assert words(out.targets, whole) == generated
        if following.startswith(" "):
            assert (prompt, generated) == (text.split(), following.split())
        else:  # a word on both sides of the border is two, unless one token holds the border
            joined = [*prompt[:-1], prompt[-1] + generated[0], *generated[1:]]
            assert whole.split() in (joined, [*prompt, *generated])


def test_sources_and_targets(translator):
    sources, targets = zip(*itertools.product(TEXTS, TEXTS), strict=True)
    plain = translator.attribute(sources, targets, attribute_target=True)
    for text, target, before, out in zip(sources, targets, plain, plain.aggregate("subwords"), strict=True):
        assert words([t for t in out.inputs if t.segment == "source"], text) == text.split()
        assert words([t for t in out.inputs if t.segment == "generated"], target) == target.split()
        assert words(out.targets, target) == target.split()
        special = [[t for t in a.inputs if t.special and t.start is None] for a in (before, out)]
        assert special[0] == special[1]
        assert special[0]


def test_generated_ids(causal, translator):
    """The last word included."""
    args = {"do_sample": True, "max_new_tokens": 20, "min_new_tokens": 20}
    compared = 0
    for model, plain in ((m, a) for m in (causal, translator) for a in m.attribute([PROMPT] * 6, generation_args=args)):
        if plain.input_text in plain.target_text and plain.targets[0].text.startswith("##"):
            continue  # its span is that of its text without the prompt before it
        text, found = plain.target_text, words(plain.aggregate("subwords").targets, plain.target_text)
        added = text[0 if model.is_encoder_decoder else len(plain.input_text) :]
        assert "".join(found) == re.sub(r"\s", "", added)
        if not any(t.special for t in plain.targets):  # they divide words, and the text does not show them
            assert found == added.split()
            compared += 1
    assert compared >= 2


def _texts(input_text, target_text=""):
    from types import SimpleNamespace

    return SimpleNamespace(input_text=input_text, target_text=target_text, segments=(), turns=())


def _tokens(*parts, segment="prompt"):
    return [
        Token(text=p[0], id=i, start=p[1], end=p[2], segment=segment, special=p[3:] == (True,))
        for i, p in enumerate(parts)
    ]


@pytest.mark.parametrize(
    ("text", "parts", "wanted"),
    [
        # a marker of its own begins the word after it; where the next token has one, too, it stands alone
        ("a Жук", [("a", 0, 1), ("▁", None, None), ("Жук", 2, 5)], [0, 1, 1]),
        ("a  b", [("a", 0, 1), (" ", None, None), ("b", 3, 4)], [0, 1, 2]),
        ("Жук", [("▁", None, None), ("Ж", 0, 1), ("ук", 1, 3)], [0, 0, 0]),
        # the bytes of a character: with the same span, or none
        ("x é", [("x", 0, 1), ("Ã", 2, 3), ("©", 2, 3)], [0, 1, 1]),
        ("é!", [("Ã", 0, 1), ("©", None, None), ("!", 1, 2)], [0, 0, 0]),
        # characters that a normaliser drops
        ("a\u200bb c", [("a", 0, 1), ("b", 2, 3), ("c", 4, 5)], [0, 0, 1]),
        # special tokens that stand in the text are apart; the stand-in for unknown characters is not
        ("<s>ab", [("<s>", 0, 3, True), ("ab", 3, 5)], [0, 1]),
        ("ab<s>", [("ab", 0, 2), ("<s>", 2, 5, True)], [0, 1]),
        ("naïve", [("na", 0, 2), ("<unk>", 2, 3, True), ("ve", 3, 5)], [0, 0, 0]),
        ("ab", [("<s>", None, None, True), ("a", 0, 1), ("b", 1, 2)], [0, 1, 1]),
        ("a\u3000b", [("a", 0, 1), ("\u3000", 1, 2), ("b", 2, 3)], [0, 1, 2]),
    ],
)
def test_rules(text, parts, wanted):
    assert unit_numbers(_texts(text), _tokens(*parts), "word") == wanted


def test_a_word_over_the_border_is_two():
    tokens = [*_tokens(("so", 0, 2)), *_tokens(("um", 2, 4), segment="generated")]
    assert unit_numbers(_texts("so", "soum"), tokens, "word") == [0, 1]


def test_units_never_change_with_later_tokens(causal):
    example = causal.encode(TEXTS[2], TEXTS[2] + " phenomenal. naïve “end")[0]
    for unit in ("word", "sentence"):
        whole = unit_numbers(example, example.target, unit)
        for n in range(1, len(whole)):
            assert unit_numbers(example, example.target[:n], unit) == whole[:n]
