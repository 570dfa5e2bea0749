"""What a method returns, and what it asks of the engine, is checked once: one line that names the method."""

from __future__ import annotations

import pytest
import torch

import attriflow
from attriflow.engine import Scores
from attriflow.errors import InputError, OptionError

TEXTS = ["anna has a red hat . what color is the hat ?", "anna has a red hat . ben has a blue cup . what color"]


@pytest.fixture(scope="module")
def recall():
    return attriflow.load_model("demo/recall")


@pytest.fixture(scope="module")
def translate():
    return attriflow.load_model("demo/translate")


def zeros(engine, *more, block="target"):
    return torch.zeros(engine.batch.size, engine.batch.n_steps, engine.ids(block).shape[1], *more)


def explain(model, method, texts=TEXTS, **options):
    attriflow.register_method(method, "mine", overwrite=True)
    return model.attribute(texts, method="mine", generation_args={"max_new_tokens": 2}, show_progress=False, **options)


def test_scores_of_the_right_shape_are_taken(recall):
    assert len(list(explain(recall, lambda engine: Scores({"target": zeros(engine)})))) == 2
    out = explain(recall, lambda engine: Scores({"target": zeros(engine, 2, 3)}, ("layer", "head")))
    assert out[0].axes == ("step", "input", "layer", "head")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (lambda e: {"target": zeros(e)}, r"must return attriflow\.engine\.Scores, not dict"),
        (lambda e: None, r"must return attriflow\.engine\.Scores, not NoneType"),
        (lambda e: Scores({"source": zeros(e)}), r"begin with \[2, 2, 1\d\] for the block 'target', not nothing"),
        (lambda e: Scores({"target": zeros(e).numpy()}), "not a ndarray"),
        (lambda e: Scores({"target": zeros(e)[:, :1]}), r"scores \[batch, step, position\] .*, not \[2, 1, 1\d\]"),
        (lambda e: Scores({"target": zeros(e, 4)}), r"scores \[batch, step, position\] .*, not \[2, 2, 1\d, 4\]"),
        (lambda e: Scores({"target": zeros(e)}, ("layer",)), r"scores \[batch, step, position, layer\]"),
    ],
)
def test_anything_else_is_one_line_that_names_the_method(recall, method, says):
    with pytest.raises(InputError, match=f"method 'mine' (must return )?.*{says}") as error:
        explain(recall, method)
    assert "\n" not in str(error.value)


def test_a_missing_block_of_an_encoder_decoder(translate):
    method = lambda e: Scores({"source": zeros(e, block="source")})  # noqa: E731
    assert explain(translate, method, ["the house is red"])
    with pytest.raises(InputError, match="for the block 'target', not nothing"):
        explain(translate, method, ["the house is red"], attribute_target=True)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        (lambda e, n: {"target_id": e.ids("target").repeat(n, 1)}, OptionError, "did you mean 'target_ids'"),
        (lambda e, n: {"target_ids": e.ids("target")}, InputError, "3 versions of 2 examples need 6 rows in 'target_"),
        (lambda e, n: {"target_mask": e.present("target").repeat(n + 1, 1)}, InputError, "'target_mask', not 8"),
    ],
)
@pytest.mark.parametrize("in_order", [False, True])
def test_changes_that_do_not_fit(recall, changes, error, says, in_order):
    def method(engine):
        engine.rescore(3, lambda start, stop: changes(engine, stop - start), in_order=in_order)

    with pytest.raises(error, match=says):
        explain(recall, method)
