"""Tiny tokenizers of the kinds that people load, and texts that are hard on them."""

from __future__ import annotations

import json

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

WORDS = "the cat sat on the mat . Then (it) left, you know. naïve étude ünd Жук 猫が好き हिन्दी مرحبا بالعالم café"
TEXTS = (
    "the cat sat on the mat.",
    " the cat",
    "  two  double   spaces ",
    "(it) left, you know. Then it sat.",
    "naïve étude ünd Жук",
    "👩‍👩‍👧 emoji 👍🏽!",
    "cafe\u0301 e\u0308",
    "مرحبا بالعالم",
    "猫が好き。the 猫",
    "हिन्दी text",
    "line\nbreak\n\n\ttab\r\nend",
    "\nthe",
    "a\u00a0b\u3000c",
)
PIECES = ["phen", "omen", "al", "on", "a", "the", "cat", "sat", "s", "t", "e"]
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _fast(tokenizer, **special):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def _characters():
    return sorted({c for text in (WORDS, *TEXTS) for c in text})


def byte_level(merges: int = 80, trim: bool = True, prefix: bool = False):
    """As GPT-2: bytes and merges, spaces at the beginning of tokens."""
    t = Tokenizer(BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = {"vocab_size": 257 + merges, "initial_alphabet": alphabet, "special_tokens": ["<|end|>"]}
    t.train_from_iterator([WORDS] * 3, trainers.BpeTrainer(show_progress=False, **size))
    t.post_processor = processors.ByteLevel(trim_offsets=trim)
    return _fast(t, eos_token="<|end|>", bos_token="<|end|>")


def byte_level_with_bos():
    """As Llama 3 and Qwen: punctuation and line breaks take the spaces before them, a BOS is added."""
    t = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    t.pre_tokenizer, t.decoder = pre_tokenizers.Sequence([split, level]), decoders.ByteLevel()
    size = {"vocab_size": 340, "initial_alphabet": level.alphabet(), "special_tokens": ["<|begin|>", "<|end|>"]}
    t.train_from_iterator([WORDS] * 3, trainers.BpeTrainer(show_progress=False, **size))
    bos = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), bos])
    return _fast(t, eos_token="<|end|>", bos_token="<|begin|>")


def _sentencepiece_decoder():
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(steps)


def byte_fallback():
    """As Llama 2: SentencePiece BPE, bytes for unknown characters."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *"the▁casonmd.,()T"]
    pairs = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("a", "t"), ("▁", "c"), ("▁c", "at"), ("▁", "▁")]
    vocabulary += ["".join(p) for p in pairs]
    t = Tokenizer(BPE({p: i for i, p in enumerate(vocabulary)}, pairs, unk_token="<unk>", fuse_unk=True))
    described = json.loads(t.to_str())
    described["model"]["byte_fallback"] = True
    t = Tokenizer.from_str(json.dumps(described))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = _sentencepiece_decoder()
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _fast(t, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def unigram(fallback: bool = False, scheme: str = "always"):
    """As T5, or with bytes for unknown characters."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("▁▁", -2.5)]
    pieces += [(mark + p, -2.0 - 0.1 * i) for mark in ("", "▁") for i, p in enumerate(PIECES)]
    known = {p for p, _ in pieces}
    characters = "bcdfghijklmnopqruvwxyz.,()é" if fallback else _characters()
    pieces += [(c, -9.0) for c in characters if c not in known and c != " "]
    pieces += [(f"<0x{b:02X}>", -20.0) for b in range(256)] if fallback else []
    t = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=fallback))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    t.decoder = _sentencepiece_decoder() if fallback else decoders.Metaspace(prepend_scheme=scheme)
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _fast(t, unk_token="<unk>", eos_token="</s>")


def wordpiece():
    """As BERT, with case."""
    characters = [c for c in _characters() if not c.isspace()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES, *(f"##{p}" for p in PIECES)]
    vocabulary += [c for c in (*characters, *(f"##{c}" for c in characters)) if c not in vocabulary]
    t = Tokenizer(WordPiece({p: i for i, p in enumerate(vocabulary)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(cleanup=False)
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "eos": "[SEP]", "bos": "[CLS]"}
    return _fast(t, **{f"{name}_token": token for name, token in names.items()})


def characters():
    """A token per character."""
    vocabulary = ["<unk>", "</s>", *_characters()]
    t = Tokenizer(WordLevel({c: i for i, c in enumerate(vocabulary)}, unk_token="<unk>"))
    t.pre_tokenizer, t.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    return _fast(t, unk_token="<unk>", eos_token="</s>")


KINDS = {
    "byte-level BPE": byte_level,
    "byte-level BPE, offsets with spaces": lambda: byte_level(trim=False),
    "byte-level BPE, prefix space": lambda: byte_level(prefix=True),
    "byte-level without merges": lambda: byte_level(merges=0),
    "byte-level BPE with BOS": byte_level_with_bos,
    "SentencePiece BPE with bytes": byte_fallback,
    "unigram": unigram,
    "unigram, first piece only": lambda: unigram(scheme="first"),
    "unigram with bytes": lambda: unigram(fallback=True),
    "WordPiece": wordpiece,
    "bytes": ByT5Tokenizer,
    "characters": characters,
}
EXACT = [k for k in KINDS if (k.startswith("byte") and "prefix" not in k) or k == "characters"]
"""Those that keep every character of a text, the space before it too."""
