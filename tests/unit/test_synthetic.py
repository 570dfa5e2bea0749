"""Planted tasks: the evidence is exact by the rule, and the wired models solve the tasks by it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from attriflow.errors import AttriflowError
from attriflow_metrics import synthetic
from attriflow_metrics.ferret import ferret_available

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import planted_evidence


def answers(task, texts):
    """Greedy next words of a task's wired model, and their probabilities."""
    model, tokenizer = planted_evidence.wired(task)
    out = []
    for text in texts:
        with torch.no_grad():
            top = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1].softmax(-1).max(-1)
        out.append((tokenizer.convert_ids_to_tokens(int(top.indices)), float(top.values)))
    return out


def exchanged(task, text):
    """(index, text) with one word exchanged for every other of its kind."""
    words = text.split()
    for index, word in enumerate(words):
        for kind in synthetic.kinds(task):
            if word in kind:
                for other in kind:
                    if other != word:
                        yield index, " ".join([*words[:index], other, *words[index + 1 :]])


def evidence(row):
    """Indices of the words of the rationale."""
    starts = [sum(len(w) + 1 for w in row["input"].split()[:i]) for i in range(len(row["input"].split()))]
    (spans,) = row["rationale"]
    assert all(row["input"][a:b] == row["input"].split()[starts.index(a)] for a, b in spans)
    return {starts.index(a) for a, _ in spans}


@pytest.mark.parametrize("task", synthetic.TASKS)
@pytest.mark.parametrize("distance", [0, 9])
def test_evidence_is_exact(task, distance):
    frame = synthetic.planted(task, 30, distance=distance, seed=1)
    assert set(frame["target"]) | {w for text in frame["input"] for w in text.split()} <= set(synthetic.words_of(task))
    for row in frame.to_dict("records"):
        assert synthetic.solve(task, row["input"]) == row["target"] != row["contrast_target"]
        found = evidence(row)
        length = len(row["input"].split())
        assert length - 1 - max(found) == distance + len(synthetic.QUESTIONS[task])
        changes = {i for i, text in exchanged(task, row["input"]) if synthetic.solve(task, text) != row["target"]}
        assert changes == found


@pytest.mark.parametrize("task", synthetic.TASKS)
def test_wired_models_follow_the_rule_whatever_else_is_in_the_text(task):
    frame = synthetic.planted(task, 6, distance=7)
    texts = [*frame["input"], *(text for row in frame["input"][:3] for _, text in exchanged(task, row))]
    for distance in (0, 40):
        texts += list(synthetic.planted(task, 6, distance=distance)["input"])
    for text, (answer, probability) in zip(texts, answers(task, texts), strict=True):
        assert answer == synthetic.solve(task, text), text
        assert probability > 0.95


def test_the_distractor_goes_with_the_answer_and_does_not_matter():
    frame = synthetic.planted("distractor", 300, correlation=0.9)
    places = [next(w for w in text.split() if w in synthetic.PLACES) for text in frame["input"]]
    goes_with = dict(zip(synthetic.FOOD, synthetic.PLACES, strict=True))
    agreed = sum(goes_with[target] == place for target, place in zip(frame["target"], places, strict=True)) / 300
    assert 0.87 < agreed < 0.97  # 0.9, and one in six of the others by chance
    without = [" ".join(w for w in text.split() if w not in synthetic.PLACES) for text in frame["input"][:10]]
    assert [a for a, _ in answers("distractor", without)] == list(frame["target"][:10])


def test_attractors_disagree_now_and_then():
    frame = synthetic.planted("agreement", 100)
    nouns = (*synthetic.SINGULAR, *synthetic.PLURAL)
    last = [[w for w in text.split() if w in nouns][-1] in synthetic.SINGULAR for text in frame["input"]]
    assert 20 < sum(a != (t == "is") for a, t in zip(last, frame["target"], strict=True)) < 80


def test_the_same_seed_gives_the_same_examples():
    one, other = synthetic.planted("recall", 5, seed=3), synthetic.planted("recall", 5, seed=3)
    assert one.equals(other) and not one.equals(synthetic.planted("recall", 5, seed=4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthetic.planted("recal"), "did you mean 'recall'"),
        (lambda: synthetic.solve("recal", "red"), "did you mean 'recall'"),
        (lambda: synthetic.kinds("recal"), "did you mean 'recall'"),
        (lambda: synthetic.planted("recall", 0), "examples must be at least 1, not 0"),
        (lambda: synthetic.planted("recall", distance=-1), "distance must be at least 0, not -1"),
        (lambda: synthetic.planted("distractor", correlation=2), "between 0 and 1, not 2"),
        (lambda: synthetic.solve("recall", "no such word"), "no answer to 'recall'"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(AttriflowError, match=message):
        call()


@pytest.mark.skipif(not ferret_available(), reason="ferret is not installed")
def test_methods_are_told_apart():
    """What the table in the docs says, on fewer examples: the pattern follows from how the models are wired."""

    def mean(task, method, **options):
        return planted_evidence.scores(task, 8, [method], "auprc_plau", **options)["mean"][method]

    assert mean("negation", "occlusion") == mean("distractor", "occlusion") == 1
    # another noun of the same number takes over when the first one is hidden: leaving one out finds nothing
    assert mean("agreement", "occlusion") < 0.95 < mean("agreement", "deeplift")
    # a head that looks at the place and reads nothing from it
    assert mean("distractor", "attention") < 0.95 < mean("distractor", "value_norm")
    # the gradient at the last position, straight to the LM head, is larger than that of the evidence
    assert mean("recall", "saliency") < 0.5 < mean("recall", "input_x_gradient")
