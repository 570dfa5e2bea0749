"""Language codes that a tokenizer lacks are errors, however it writes and keeps them."""

from __future__ import annotations

import pytest

import attriflow
from attriflow.errors import UnknownNameError
from attriflow.texts.languages import check_languages, check_prefix, language_id


class Tokenizer:
    """As transformers' multilingual ones: ids of tokens, the unknown one for all others."""

    unk_token_id = 3

    def __init__(self, *tokens: str, **own: str) -> None:
        self.ids = {token: 10 + i for i, token in enumerate(tokens)}
        self.all_special_tokens = list(tokens)
        self.__dict__.update(own)

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.ids.get(token, self.unk_token_id)


class Multilingual(Tokenizer):
    def set_src_lang_special_tokens(self, code: str) -> None:
        raise AssertionError("nothing is changed")


MBART, M2M = ("en_XX", "fr_XX", "de_DE"), ("__en__", "__fr__")


def test_ids_of_languages():
    assert language_id(Tokenizer(*MBART), "fr_XX") == 11
    assert language_id(Tokenizer(*M2M), "fr") == 11
    with pytest.raises(UnknownNameError, match="no language code 'fr_XY'; did you mean 'fr_XX'"):
        language_id(Tokenizer(*MBART), "fr_XY")
    with pytest.raises(UnknownNameError, match="no language code 'zz'; it has en, fr, "):
        language_id(Tokenizer(*M2M), "zz")
    with pytest.raises(UnknownNameError, match=r"no language code 'fr'$"):
        language_id(Tokenizer("<s>"), "fr")


def test_a_tokenizer_has_the_languages_that_it_was_told():
    check_languages(Multilingual(*MBART, src_lang="de_DE", tgt_lang=None), {})
    check_languages(Multilingual("fr_XX", src_lang="en_XX"), {})  # nobody asked for it
    check_languages(Tokenizer(src_lang="zz"), {})  # which has no such tokens at all
    for own, given in (({"src_lang": "zz"}, {}), ({"tgt_lang": "zz"}, {}), ({}, {"tgt_lang": "zz"})):
        with pytest.raises(UnknownNameError, match="'zz'"):
            check_languages(Multilingual(*MBART, **own), given)
    two_vocabularies = Tokenizer(src_lang="en", get_src_vocab=None)
    check_languages(two_vocabularies, {"src_lang": "en", "tgt_lang": "de"})


def test_languages_in_front_of_a_source():
    marian = Tokenizer(">>fra<<", supported_language_codes=[">>fra<<"])
    for text in (">>fra<< a house", "a house", ">> a house", ">"):
        check_prefix(marian, text)
    with pytest.raises(UnknownNameError, match=">>fre<<"):
        check_prefix(marian, ">>fre<< a house")
    check_prefix(Tokenizer(), ">>fre<< a house")


def test_a_model_is_not_loaded_with_a_language_that_is_none():
    with pytest.raises(UnknownNameError, match="no language code 'Klingon'"):
        attriflow.load_model("demo/translate", device="cpu", tokenizer_kwargs={"tgt_lang": "Klingon"})
