"""The demo models and the toy grammars behind them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attriflow.demo import MODELS, demo_path, grammar, load_demo_dataset

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "train_demo_models.py"
DRAW: dict[str, Callable[..., grammar.Example]] = {
    "recall": grammar.recall_example,
    "translate": grammar.translate_example,
}


def spanned_words(row: Any) -> list[list[str]]:
    """Return the evidence words per target word, as text."""
    return [[row.input[start:end] for start, end in spans] for spans in row.rationale]


def facts_of(prompt: str) -> list[tuple[str, ...]]:
    """Parse the (name, article, color, object) facts of a prompt back from its text."""
    *facts, _ = prompt.split(" . ")
    return [(words[0], *words[2:5]) for words in (fact.split() for fact in facts)]


def answer_of(prompt: str) -> str:
    """Answer a prompt by other means than the grammar."""
    question = prompt.split(" . ")[-1].split()
    name, article, color, thing = next(fact for fact in facts_of(prompt) if set(fact) & set(question))
    if question[0] == "who":
        return name
    return color if question[1] == "color" else f"{article} {color} {thing}"


def test_demo_path_takes_both_spellings() -> None:
    for name in MODELS:
        assert demo_path(name) == demo_path(f"demo/{name}")
        assert (demo_path(name) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["other", "demo/other", "", "demo/", "demo/demo/recall", "../recall"])
def test_demo_path_lists_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=r"demo/recall, demo/translate"):
        demo_path(name)


@pytest.mark.parametrize("name", MODELS)
def test_dataset_shape_and_spans(name: str) -> None:
    data = load_demo_dataset(name)
    assert list(data.columns) == ["input", "target", "rationale", "contrast_target"]
    assert len(data) >= 240
    assert data.input.is_unique
    for row in data.itertuples():
        assert row.contrast_target != row.target
        assert len(row.contrast_target.split()) == len(row.target.split())
        assert len(row.rationale) == len(row.target.split())
        whole = grammar.word_spans(row.input.split())
        for spans in row.rationale:
            assert spans, "every target word has evidence"
            assert len({tuple(span) for span in spans}) == len(spans)
            assert all(tuple(span) in whole for span in spans)
            assert len(spans) < len(whole), "some words are no evidence"


def test_recall_answers_and_evidence() -> None:
    kinds = set()
    for row in load_demo_dataset("recall").itertuples():
        assert row.target == answer_of(row.input)
        question = row.input.split(" . ")[-1].split()
        fact = next(fact for fact in facts_of(row.input) if set(fact) & set(question))
        kinds.add(tuple(word for word in question if word not in fact))
        key = next(word for word in question if word in fact)
        for position, (word, evidence) in enumerate(zip(row.target.split(), spanned_words(row), strict=True)):
            assert word in evidence, "the value is evidence"
            differ = word not in grammar.ARTICLES or len({fact[1] for fact in facts_of(row.input)}) > 1
            assert evidence.count(key) == 2 * differ, "so is the key, in the fact and in the question"
            attribute = {"who", "color", "have"} & set(evidence)
            assert len(attribute) == (position == 0), "the first word also needs what is asked"
            assert attribute <= set(question)
        assert 2 <= len(facts_of(row.input)) <= 3
    assert len(kinds) == 4


def test_translate_evidence() -> None:
    gendered = 0
    for row in load_demo_dataset("translate").itertuples():
        assert 3 <= len(row.input.split()) <= 12
        for word, evidence in zip(row.target.split(), spanned_words(row), strict=True):
            if len(evidence) == 1:
                (source,) = evidence
                invariable = source in grammar.ADJECTIVES and set(grammar.ADJECTIVES[source].values()) == {word}
                noun = source in grammar.NOUNS and grammar.NOUNS[source][0] == word
                assert invariable or noun or grammar.LINKS.get(source) == word
                continue
            (noun_word,) = set(evidence) & set(grammar.NOUNS)
            (own,) = set(evidence) - {noun_word}
            forms = grammar.ADJECTIVES.get(own) or grammar.DETERMINERS[own]
            assert forms[grammar.NOUNS[noun_word][1]] == word
            gendered += 1
    assert gendered > 500


def test_agreement_at_a_distance() -> None:
    words = "the house of the old man is red".split()
    noun_phrase = [grammar.Slot("determiner", 0, 1), grammar.Slot("noun", 1), grammar.Slot("link", 2)]
    complement = [grammar.Slot("determiner", 3, 5), grammar.Slot("noun", 5), grammar.Slot("adjective", 4, 5)]
    predicate = [grammar.Slot("link", 6), grammar.Slot("adjective", 7, 1)]
    example = grammar.Translation(tuple(words), tuple(noun_phrase + complement + predicate)).example()
    assert example.target == "la casa di il uomo vecchio è rossa"
    assert [example.input[start:end] for start, end in example.rationale[-1]] == ["house", "red"]


@pytest.mark.parametrize("name", MODELS)
def test_grammar_is_deterministic(name: str) -> None:
    runs = [[DRAW[name](rng) for _ in range(50)] for rng in (random.Random(3), random.Random(3), random.Random(4))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("name", MODELS)
def test_only_evidence_changes_the_answer(name: str) -> None:
    """Hiding a word changes the distribution of a target word if and only if the word is in its rationale."""
    draw: Callable[..., Any] = {"recall": grammar.recall_item, "translate": grammar.translate_item}[name]
    words: Callable[..., list[str]] = {"recall": grammar.answer_words, "translate": grammar.translate_words}[name]
    rng = random.Random(0)
    for _ in range(40):
        item = draw(rng)
        example = item.example()
        for index, span in enumerate(grammar.word_spans(item.source)):
            draws = [words(item, frozenset({index}), rng) for _ in range(40)]
            for position, word in enumerate(example.target.split()):
                # Without its attribute word a question may get an answer of another length: only the first word counts.
                if position > 0 and index == getattr(item, "attribute_index", -1):
                    continue
                varies = any(other[position] != word for other in draws)
                assert varies == (span in example.rationale[position]), (example, index, position)


def test_held_out_combinations_never_occur_in_training() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        assert not any(fact.held_out for fact in grammar.recall_item(rng).facts)
        assert not any(grammar.held_out(*pair) for pair in grammar.translate_item(rng).pairs)
    for row in load_demo_dataset("recall").itertuples():
        question = set(row.input.split(" . ")[-1].split())
        (asked,) = [fact for fact in facts_of(row.input) if set(fact) & question]
        assert grammar.held_out(asked[0], asked[2], asked[3])
    for row in load_demo_dataset("translate").itertuples():
        words = row.input.split()
        pairs = [(words[at], words[at + 1]) for at in range(len(words) - 1) if words[at] in grammar.ADJECTIVES]
        if "is" in words:  # the adjective after "is" goes with the first noun
            subject = next(word for word in words if word in grammar.NOUNS)
            pairs.append((words[-1], subject))
        assert any(grammar.held_out(*pair) for pair in pairs)


def test_size_and_metadata() -> None:
    files = [file for name in MODELS for file in demo_path(name).iterdir()]
    assert sum(file.stat().st_size for file in files) < 6_000_000
    for name in MODELS:
        metadata = json.loads((demo_path(name) / "metadata.json").read_text())
        assert metadata["held_out_examples"] >= 500
        assert metadata["exact_match_batched"] > 0.99
        assert metadata["exact_match_alone"] > 0.99


@pytest.mark.parametrize("name", MODELS)
def test_exact_match(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    auto = transformers.AutoModelForCausalLM if name == "recall" else transformers.AutoModelForSeq2SeqLM
    model = auto.from_pretrained(demo_path(name)).eval()
    assert model.dtype == torch.float32
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_path(name))
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    data = load_demo_dataset(name)
    answers: list[str] = []
    for start in range(0, len(data), 50):
        encoded = tokenizer(list(data.input[start : start + 50]), return_tensors="pt", padding=True)
        assert not (encoded.input_ids == tokenizer.unk_token_id).any()
        with torch.no_grad():
            output = model.generate(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask)
        if name == "recall":
            output = output[:, encoded.input_ids.shape[1] :]
        answers += tokenizer.batch_decode(output, skip_special_tokens=True)
    assert sum(answer == target for answer, target in zip(answers, data.target, strict=True)) > 0.99 * len(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n == "recall" else pytest.param(n, marks=pytest.mark.sweep) for n in MODELS])
def test_recipe_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    command = [sys.executable, str(RECIPE), name, "--quick", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    shipped = {file.name for file in demo_path(name).iterdir()}
    assert {file.name for file in (tmp_path / name).iterdir()} == shipped
    # The data set does not depend on how long the model was trained.
    assert (tmp_path / name / "data.jsonl").read_bytes() == (demo_path(name) / "data.jsonl").read_bytes()
    assert (tmp_path / name / "tokenizer.json").read_bytes() == (demo_path(name) / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_recipe_does_not_replace_the_models_by_a_quick_run() -> None:
    pytest.importorskip("transformers")
    command = [sys.executable, str(RECIPE), "recall", "--quick"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert "--out" in result.stderr
