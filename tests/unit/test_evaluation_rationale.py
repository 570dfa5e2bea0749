"""Character spans become rows of input tokens."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import causal_example, seq2seq_example

from attriflow.errors import InputError
from attriflow.evaluation.rationale import Rationale, parse_rationale, rationale_matrix
from attriflow.types import Token

TEXT = "the red hat"


@pytest.mark.parametrize(
    ("value", "spans", "per_word"),
    [
        ([[0, 3]], (((0, 3),),), False),
        ([[0, 3], [4, 7]], (((0, 3), (4, 7)),), False),
        ([], ((),), False),
        ([[[0, 3]], []], (((0, 3),), ()), True),
        (((0, 3),), (((0, 3),),), False),
        (np.array([[0, 3]]), (((0, 3),),), False),
        (np.array([np.array([np.array([0, 3])], dtype=object)], dtype=object), (((0, 3),),), True),
        (json.dumps([[[0, 3]], [[4, 7]]]), (((0, 3),), ((4, 7),)), True),
        ([0, 1, 1], (((4, 7), (8, 11)),), False),
        (np.array([True, False, False]), (((0, 3),),), False),
        ("[0, 0, 1]", (((8, 11),),), False),
        ([[0, 1, 0], [0, 0, 0]], (((4, 7),), ()), True),
        ("0-1 2-0 1-1", (((8, 11),), ((0, 3), (4, 7))), True),
        ("the <hon>red<hoff> <hon>hat<hoff>", (((4, 7), (8, 11)),), False),
    ],
)
def test_parse(value: Any, spans: Any, per_word: bool) -> None:
    parsed = parse_rationale(value, TEXT)
    assert parsed is not None
    assert (parsed.spans, parsed.per_word) == (spans, per_word)


@pytest.mark.parametrize("value", [None, float("nan"), "null"])
def test_missing_rows(value: Any) -> None:
    assert parse_rationale(value, TEXT) is None


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        ("not json", "not JSON"),
        ("red hat", "not JSON"),
        ([[0, 12]], r"span \[0, 12\) is not within the input of 11 characters"),
        ([[-1, 3]], r"span \[-1, 3\)"),
        ([[3, 3]], r"span \[3, 3\)"),
        ([[5, 3]], r"span \[5, 3\)"),
        ([[0, 3, 4]], "one such list per word"),
        ([["a", "b"]], "one such list per word"),
        ([[0.0, 3.0]], "one such list per word"),
        ([True, False], "the mask has 2 entries, the input has 3 words"),
        ([[0, 1, 0], [0, 1, 0, 0]], "the mask has 4 entries, the input has 3 words"),
        ([0, 2, 1], "expected a list of"),
        ("3-0", "there is no word 3 in the input, it has 3 words"),
        ("the <hon>red hat", "a <hon> has no <hoff>"),
        ("the red<hoff> hat", "must take turns"),
        ("the <hon><hon>red<hoff> hat", "must take turns"),
        ("the <hon>blue<hoff> hat", "is not that of the input: 'the blue hat'"),
        (3, "expected lists"),
        ({"a": 1}, "expected lists"),
    ],
)
def test_wrong_values_name_the_row(value: Any, fragment: str) -> None:
    with pytest.raises(InputError, match=rf"row 7: rationale: .*{fragment}"):
        parse_rationale(value, TEXT, "row 7: rationale")


def test_per_word_evidence_of_a_causal_model() -> None:
    example = causal_example("anna has a red hat", "a red")
    parsed = parse_rationale([[[9, 10]], [[0, 4], [11, 14]]], example.input_text)
    assert parsed is not None
    matrix = rationale_matrix(parsed, example)
    # inputs: anna has a red hat | a red; generated tokens are never evidence
    assert matrix.int().tolist() == [[0, 0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0]]


def test_flat_evidence_is_the_same_for_every_step() -> None:
    example = causal_example("anna has a red hat", "a red")
    parsed = parse_rationale([[11, 14]], example.input_text)
    assert parsed is not None
    assert rationale_matrix(parsed, example).int().tolist() == [[0, 0, 0, 1, 0, 0, 0]] * 2


def test_encoder_decoder_with_and_without_target_prefix() -> None:
    example = seq2seq_example("the red hat", "il rosso")
    parsed = parse_rationale([[[0, 3]], [[4, 7], [8, 11]]], example.input_text)
    assert parsed is not None
    assert rationale_matrix(parsed, example).int().tolist() == [[1, 0, 0, 0], [0, 1, 1, 0]]
    wide = rationale_matrix(parsed, example, attribute_target=True)
    assert wide.shape == (2, 7)
    assert wide[:, :4].equal(rationale_matrix(parsed, example))
    assert not wide[:, 4:].any()


def test_a_token_that_shares_one_character_is_evidence() -> None:
    example = seq2seq_example("the redhat", "rosso")
    parsed = parse_rationale([[[4, 5]]], example.input_text)
    assert parsed is not None
    assert rationale_matrix(parsed, example)[0].int().tolist() == [0, 1, 0]


def test_pieces_of_a_word_share_its_evidence_and_a_closing_token_has_none() -> None:
    whole = seq2seq_example("the red", "rosso")
    pieces = (
        whole.target[0],
        Token(text="ros", id=5, start=0, end=3, segment="generated"),
        Token(text="so", id=6, start=3, end=5, segment="generated"),
        Token(text="</s>", id=1, segment="generated", special=True),
    )
    example = dataclasses.replace(whole, target=pieces, stop=4)
    parsed = parse_rationale([[[4, 7]]], example.input_text)
    assert parsed is not None
    assert rationale_matrix(parsed, example).int().tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_number_of_words_must_agree() -> None:
    example = causal_example("anna has", "a red hat")
    with pytest.raises(InputError, match="2 lists of spans, the target has 3 words"):
        rationale_matrix(Rationale(spans=((), ()), per_word=True), example)


def test_no_words_at_all() -> None:
    example = dataclasses.replace(causal_example("anna has", "a"), target_text="anna has")
    assert not rationale_matrix(Rationale(spans=(((0, 2),),), per_word=False), example).any()


def test_words_after_the_last_aligned_one_have_no_evidence() -> None:
    example = causal_example("anna has a red hat", "a red hat")
    parsed = parse_rationale("3-1", example.input_text)
    assert parsed is not None and parsed.open_end
    matrix = rationale_matrix(parsed, example)
    assert matrix.nonzero().tolist() == [[1, 3]]
    with pytest.raises(InputError, match="4 lists of spans, the target has 3 words"):
        rationale_matrix(dataclasses.replace(parsed, spans=((),) * 4), example)
