"""Baselines that are drawn: from the text itself, or from what the model expects."""

import pytest
import torch

import attriflow
from attriflow.engine.baselines import Draw, every
from attriflow.engine.infill import DRAWS
from attriflow.errors import InputError

PROMPT = "anna has a red hat . tom has a blue car . what color is the car ?"


@pytest.fixture(scope="module")
def model():
    return attriflow.load_model("demo/recall", dtype="float64")


def explain(model, method, baseline, texts=(PROMPT,), **options):
    targets = [f"{text} blue" for text in texts]
    return model.attribute(list(texts), targets, method=method, baseline=baseline, show_progress=False, **options)


def test_draws_of_a_list():
    draws = [Draw("infill", k) for k in range(DRAWS)]
    assert every("unk") == ["unk"] and every("infill") == draws and every(["pad", "infill"]) == ["pad", *draws]


@pytest.mark.parametrize("how", ["infill", "infill_model"])
@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "deeplift"])
def test_the_mean_over_draws_alone_and_in_a_batch(model, method, how):
    (one,) = explain(model, method, how)
    other = f"peter has a green bike . {PROMPT}"
    batched = explain(model, method, how, (other, PROMPT))[1]
    torch.testing.assert_close(one.scores, batched.scores, equal_nan=True)
    assert one.provenance.options["baseline"] == how
    complete = {"integrated_gradients": {"n_steps": 40}}.get(method, {})
    if method != "occlusion":  # complete methods add up to the value less its mean over draws
        found = explain(model, method, how, return_convergence_delta=True, **complete)[0]
        assert abs(float(found.step_scores["deltas"][0])) < 2e-2


def test_occlusion_by_hand(model):
    """The value less its mean over texts with a drawn token in one place."""
    from attriflow.engine import Engine
    from attriflow.engine.baselines import baseline_ids
    from attriflow.engine.job import make_objective

    (example,) = model.encode(PROMPT, f"{PROMPT} blue")
    engine = Engine(model.wrapped, [example], make_objective("probability", {})[0], ("target",))
    ids, own = torch.tensor([example.target_ids[:-1]]), {t.id for t in example.target if not t.special}
    wanted = torch.zeros(ids.shape[1], dtype=torch.float64)
    value = model.model(ids).logits[0, -1].softmax(-1)[example.target_ids[-1]]
    for k in range(DRAWS):
        drawn = baseline_ids(engine, "target", Draw("infill", k))
        assert set(drawn[0].tolist()) <= own
        for i in range(ids.shape[1]):
            changed = ids.clone()
            changed[0, i] = drawn[0, i]
            wanted[i] += (value - model.model(changed).logits[0, -1].softmax(-1)[example.target_ids[-1]]) / DRAWS
    (found,) = explain(model, "occlusion", "infill")
    torch.testing.assert_close(found.scores[0, : len(wanted)], wanted.detach())


def test_what_has_no_distribution():
    model = attriflow.load_model("demo/translate")
    with pytest.raises(InputError, match="'infill_model' draws what a decoder expects"):
        model.attribute("ki nakol", "um", method="occlusion", baseline="infill_model")
    assert model.attribute("ki nakol", "um", method="occlusion", baseline="infill")[0].scores.nan_to_num().any()
