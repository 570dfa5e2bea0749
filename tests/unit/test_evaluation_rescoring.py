"""Each distinct change of an input is scored once, in packed calls, and shared where it can be."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
import torch
from evaluation_fakes import FakeModel, causal_example, seq2seq_example

from attriflow.errors import InputError
from attriflow.evaluation.rescoring import VariantScorer
from attriflow.types import Variant


@pytest.fixture
def examples() -> list:
    return [causal_example("a b c", "d e"), causal_example("f g", "h i j")]


def keep_all_but(n: int, *removed: int) -> tuple[bool, ...]:
    return tuple(i not in removed for i in range(n))


def test_answers_the_protocol(examples: list) -> None:
    rescore = VariantScorer(FakeModel(), examples).for_example(0)
    keep = torch.tensor([keep_all_but(5, 0), keep_all_but(5, 0, 1)])
    assert rescore(keep, [0, 1]).tolist() == [-1.0, -2.0]
    every = rescore(keep)
    assert every.shape == (2, 2) and every.dtype == torch.float64
    assert every.tolist() == [[-1.0, -1.0], [-2.0, -2.0]]


def test_no_variants_give_empty_answers_of_the_right_shape(examples: list) -> None:
    rescore = VariantScorer(FakeModel(), examples).for_example(1)
    nothing = torch.ones((0, 5), dtype=torch.bool)
    assert rescore(nothing, []).shape == (0,)
    assert rescore(nothing).shape == (0, 3)


def test_the_same_change_is_scored_once(examples: list) -> None:
    model = FakeModel()
    scorer = VariantScorer(model, examples)
    change = Variant(keep=keep_all_but(5, 0), step=0)
    scorer.prefetch([(0, change), (0, change), (1, change)])
    assert len(model.rescored) == 2
    scorer.scores([(0, change), (1, change)])
    assert len(model.rescored) == 2 == scorer.computed


def test_changes_a_step_cannot_see_are_the_same_change(examples: list) -> None:
    model = FakeModel()
    scorer = VariantScorer(model, examples)
    # step 0 of example 0 is predicted from inputs 0, 1, 2
    asked = [Variant(keep=keep_all_but(5, 0, *beyond), step=0) for beyond in ((), (3,), (4,), (3, 4))]
    assert [v.item() for v in scorer.scores((0, v) for v in asked)] == [-1.0] * 4
    assert len(model.rescored) == 1
    assert model.rescored[0][1].keep == keep_all_but(5, 0)


def test_all_of_one_step_is_that_step() -> None:
    """Metrics of whole answers and of steps share what they ask for where an answer has one token."""
    model = FakeModel()
    scorer = VariantScorer(model, [causal_example("a b c", "d")])
    found = scorer.scores(
        (0, Variant(keep=keep_all_but(4, 0, *more), step=step)) for step in (None, 0) for more in ((), (3,))
    )
    assert [v.tolist() for v in found] == [[-1.0]] * 4 and len(model.rescored) == 1


def test_special_tokens_stay() -> None:
    model = FakeModel()
    example = seq2seq_example("a b", "c d")
    scorer = VariantScorer(model, [example])
    scorer.prefetch([(0, Variant(keep=(False, True, False), step=1)), (0, Variant(keep=(False, True, True), step=1))])
    assert [v.keep for _, v in model.rescored] == [(False, True, True)]


def test_source_tokens_are_seen_by_every_step_and_target_tokens_only_by_later_ones() -> None:
    model = FakeModel()
    example = seq2seq_example("a b", "c d")  # inputs: a b </s> | <s> c d
    scorer = VariantScorer(model, [example], attribute_target=True)
    scorer.prefetch([(0, Variant(keep=(False, True, True, True, False, False), step=step)) for step in (0, 1)])
    assert [v.keep for _, v in model.rescored] == [
        (False, True, True, True, True, True),
        (False, True, True, True, False, True),
    ]


def test_what_does_not_depend_on_an_explanation_is_kept_for_all_methods(examples: list) -> None:
    model = FakeModel()
    scorer = VariantScorer(model, examples)
    loo = [(0, Variant(keep=keep_all_but(5, i), step=1)) for i in range(4)]
    whole = (0, Variant(keep=keep_all_but(5), step=1))
    top = (0, Variant(keep=keep_all_but(5, 0, 1), step=1))
    for _method in range(3):
        scorer.scores([*loo, whole, top])
        scorer.release()
    assert len(model.rescored) == 5 + 3


def test_everything_gone_and_what_is_said_to_be_shared_are_kept_too(examples: list) -> None:
    model = FakeModel()
    scorer = VariantScorer(model, examples)
    nothing = Variant(keep=keep_all_but(5, 0, 1, 2), step=0)  # step 0 sees inputs 0, 1, 2
    thinned = Variant(keep=(0.0, 0.0, 0.0, 1.0, 1.0), step=0, how="soft")
    pair = Variant(keep=keep_all_but(5, 0, 1), step=0)
    for _method in range(3):
        scorer.prefetch([(0, pair)], shared=True)
        scorer.scores([(0, nothing), (0, thinned), (0, pair)])
        scorer.release()
    assert len(model.rescored) == 3


def test_soft_changes_keep_their_chances_and_draws(examples: list) -> None:
    model = FakeModel()
    scorer = VariantScorer(model, examples)
    rescore = scorer.for_example(0)
    keep = torch.tensor([[0.25, 0.5, 1.0, 0.125, 0.0]], dtype=torch.float64)
    for draw in (0, 1, 0):
        rescore(keep, [0], how="soft", draw=draw)
    # step 0 does not see inputs 3 and 4
    assert [(v.keep, v.how, v.draw) for _, v in model.rescored] == [((0.25, 0.5, 1, 1, 1), "soft", d) for d in (0, 1)]
    scorer.release()
    rescore(keep, [0], how="soft", draw=0)
    assert len(model.rescored) == 3


def test_large_requests_run_in_chunks(examples: list) -> None:
    class Counting(FakeModel):
        sizes: ClassVar[list[int]] = []

        def rescore(self, examples, variants, **options):  # type: ignore[no-untyped-def]
            self.sizes.append(len(variants))
            return super().rescore(examples, variants, **options)

    model = Counting()
    scorer = VariantScorer(model, examples, chunk=4)
    pairs = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    asked = [(1, Variant(keep=keep_all_but(5, *removed), step=2)) for removed in pairs]
    assert [v.item() for v in scorer.scores(asked)] == [-2.0] * 6
    assert model.sizes == [4, 2]


def test_how_matters(examples: list) -> None:
    model = FakeModel()
    scorer = VariantScorer(model, examples)
    base = Variant(keep=keep_all_but(5, 0), step=0)
    scorer.prefetch([(0, base), (0, dataclasses.replace(base, how="mask"))])
    assert len(model.rescored) == 2


@pytest.mark.parametrize(
    ("keep", "steps"), [(torch.ones(5, dtype=torch.bool), None), (torch.ones((2, 5), dtype=torch.bool), [0])]
)
def test_wrong_shapes(examples: list, keep: torch.Tensor, steps: list[int] | None) -> None:
    with pytest.raises(InputError, match="keep must be"):
        VariantScorer(FakeModel(), examples).for_example(0)(keep, steps)


def test_wrong_width(examples: list) -> None:
    with pytest.raises(InputError, match="keep has 4 inputs, the attribution has 5"):
        VariantScorer(FakeModel(), examples).for_example(0)(torch.ones((1, 4), dtype=torch.bool), [0])
