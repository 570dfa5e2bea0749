"""Planted chains: evidence is exact by the rule, the wired model follows every one, hops find what is behind."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

import attriflow
from attriflow.errors import InputError
from attriflow_metrics import synthetic

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import planted_hops


@pytest.fixture(scope="module")
def wired():
    return planted_hops.wired()


@pytest.fixture(scope="module")
def model(wired):
    return attriflow.load_model(wired[0], tokenizer=wired[1])


def written_as_it_should_be(wired, texts):
    """How many texts the model continues greedily as the rule says, and the smallest probability of a right word."""
    network, tokenizer = wired
    right, least = 0, 1.0
    rows = [tokenizer(f"{text} {synthetic.follow(text)} </s>")["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    with torch.no_grad():
        chances = network(ids, attention_mask=(ids != 1).long()).logits.softmax(-1)
    for text, row, chance in zip(texts, rows, chances, strict=True):
        first = len(text.split())
        new = torch.tensor(row[first:])
        right += bool((chance[first - 1 : len(row) - 1].argmax(-1) == new).all())
        least = min(least, float(chance[first - 1 : len(row) - 1].gather(-1, new[:, None]).min()))
    return right, least


def test_the_model_solves_every_small_task(wired):
    """All lists of three names and a colour, in every order, asked for every name; and every direct question."""
    names = synthetic.NAMES[:3]
    texts = []
    for values in itertools.product((*names, "red"), repeat=3):
        pairs = [f"{name} {value} ." for name, value in zip(names, values, strict=True) if name != value]
        for order, start in itertools.product(itertools.permutations(pairs), names):
            text = f"list {' '.join(order)} from {start} :"
            try:
                synthetic.follow(text)
            except InputError:
                continue
            texts.append(text)
    assert {synthetic.follow(t).count(".") for t in texts} == {1, 2, 3} and len(set(texts)) > 200
    some = "list ann bob . cat red ."
    texts += [f"{some} pick {c} wait {n} :" for c in synthetic.COLOURS for n in synthetic.COUNTS[1:]]
    for hops, through in itertools.product(range(1, 5), (True, False)):
        texts += list(synthetic.chains(5, hops=hops, through=through, distractors=8)["input"])
    right, least = written_as_it_should_be(wired, texts)
    assert right == len(texts)
    assert least > 0.9


@pytest.mark.parametrize("through", [True, False])
def test_evidence_is_what_the_rule_reads(through):
    for hops in range(1, 5):
        for row in synthetic.chains(10, hops=hops, through=through, seed=hops).itertuples():
            words, starts = row.input.split(), [start for start, _ in row.evidence]
            assert set(words) | set(row.target.split()) <= set(synthetic.words_of_chains())
            assert row.target == synthetic.follow(row.input) and row.target.split()[-1] == row.answer
            assert row.target.count(".") == hops
            place = 0
            for i, word in enumerate(words):
                assert (place in starts) == ((place, place + len(word)) in map(tuple, row.evidence))
                if i < len(words) - 1 and word not in (".", "list", "from", "wait", *synthetic.COUNTS):
                    without = " ".join([*words[:i], "list", *words[i + 1 :]])
                    try:
                        same = synthetic.follow(without) == row.target
                    except InputError:
                        same = False
                    assert same == (place not in starts), (row.input, word)
                place += len(word) + 1


def test_how_far_evidence_is_behind():
    """The pair that the last sentence is read from is one hop away, the first one and the question are three."""
    (row,) = synthetic.chains(1, hops=3).itertuples()
    start, *said = [row.input.split()[-2], *row.target.split()[:-2:2]]
    found = {(row.input[a:b], n) for (a, b), n in zip(row.evidence, row.behind, strict=True)}
    assert found == {(start, 3), (said[0], 3), (said[0], 2), (said[1], 2), (said[1], 1), (said[2], 1)}
    pairs = [(row.input[a:b], n) for (a, b), n in zip(row.evidence, row.behind, strict=True)]
    assert sorted(n for _, n in pairs) == [1, 1, 2, 2, 3, 3, 3]
    assert pairs[-1] == (start, 3)
    (row,) = synthetic.chains(1, hops=2, through=False).itertuples()
    assert row.behind == [0, 0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: synthetic.chains(0), "examples must be at least 1"),
        (lambda: synthetic.chains(hops=5), "hops must lie between 1 and 4"),
        (lambda: synthetic.chains(hops=4, distractors=9), "distractors must lie between 0 and 8"),
        (lambda: synthetic.follow("list ann bob ."), "does not end with"),
        (lambda: synthetic.follow("list ann bob . from ann :"), "'bob' leads nowhere"),
        (lambda: synthetic.follow("list ann bob . ann red . from ann :"), "'ann' leads nowhere, in two ways"),
        (lambda: synthetic.follow("list ann bob . bob ann . from ann :"), "in a circle"),
    ],
)
def test_mistakes_are_named(call, said):
    with pytest.raises(InputError, match=said):
        call()


@pytest.mark.parametrize("method", ["input_x_gradient", "occlusion", "deeplift", "value_zeroing"])
def test_hops_find_what_is_behind_and_do_not_hurt_where_nothing_is(model, method):
    for hops in (1, 3):
        direct, hopped = planted_hops.recovered(model, method, 3, hops, True)
        assert direct < 0.35 and hopped > direct + 0.3
        if method == "occlusion":
            assert hopped == 1
    direct, hopped = planted_hops.recovered(model, method, 3, 3, False)
    assert hopped >= direct - 0.05
    assert direct == 1 or method == "value_zeroing"


def test_each_hop_reaches_one_pair_further(model):
    """By hand: of occlusion's credit, what stands n hops behind gets none from fewer hops, and some from n."""
    frame = synthetic.chains(2, hops=3)
    texts = [f"{row.input} {row.target}" for row in frame.itertuples()]
    out = attriflow.attribute_reasoning(model, list(frame["input"]), texts, method="occlusion", hops=3)
    for a, row in zip(out, frame.itertuples(), strict=True):
        place = {t.start: i for i, t in enumerate(a.inputs) if t.segment == "prompt"}
        for (start, _), behind in zip(row.evidence, row.behind, strict=True):
            shares = a.scores[:-1, place[start]]
            assert (shares[:behind] < 1e-3).all() and shares[behind] > 1e-2
