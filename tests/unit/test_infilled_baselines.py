"""Baselines that are drawn: from the text itself, or from what the model expects."""

import pytest
import torch
from transformers import AddedToken

import attriflow
from attriflow.engine import Engine
from attriflow.engine.baselines import Draw, baseline_ids, every
from attriflow.engine.infill import DRAWS, Fills
from attriflow.engine.job import make_objective
from attriflow.engine.masked import NONE
from attriflow.errors import InputError
from attriflow.evaluation.circularity import own_metrics
from attriflow.evaluation.families import families
from attriflow.evaluation.results import MethodResult

PROMPT = "anna has a red hat . tom has a blue car . what color is the car ?"


@pytest.fixture(scope="module")
def model():
    return attriflow.load_model("demo/recall", dtype="float64")


@pytest.fixture(scope="module")
def translator():
    return attriflow.load_model("demo/translate", dtype="float64")


def explain(model, method, baseline, texts=(PROMPT,), after=" blue", **options):
    targets = [f"{text}{after}" for text in texts]
    return model.attribute(list(texts), targets, method=method, baseline=baseline, show_progress=False, **options)


def test_draws_of_a_list():
    draws = [Draw("infill", k) for k in range(DRAWS)]
    assert every("unk") == ["unk"] and every("infill") == draws and every(["pad", "infill"]) == ["pad", *draws]


@pytest.mark.parametrize("how", ["infill", "infill_model"])
@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "deeplift"])
def test_the_mean_over_draws_alone_and_in_a_batch(model, method, how):
    complete = {"deeplift": {}, "integrated_gradients": {"n_steps": 40}}.get(method)
    options = {} if complete is None else {"return_convergence_delta": True, **complete}
    (one,) = explain(model, method, how, **options)
    other = f"peter has a green bike . {PROMPT}"
    batched = explain(model, method, how, (other, PROMPT), **options)[1]
    torch.testing.assert_close(one.scores, batched.scores, equal_nan=True)
    assert one.provenance.options["baseline"] == how and one.provenance.baseline_ids == ()
    if complete is not None:  # complete methods add up to the value less its mean over draws
        assert abs(float(one.step_scores["deltas"][0])) < 2e-2


@pytest.mark.parametrize("how", ["infill", "infill_model"])
@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "kernel_shap"])
def test_later_tokens_change_nothing(model, method, how):
    options = (
        {"n_steps": 4} if method == "integrated_gradients" else {"n_samples": 16} if method == "kernel_shap" else {}
    )
    (short,) = explain(model, method, how, after=" blue .", **options)
    (long,) = explain(model, method, how, after=" blue . tom has a green hat .", **options)
    n, width = short.scores.shape[0], short.scores.shape[1]
    torch.testing.assert_close(long.scores[:n, :width], short.scores, equal_nan=True)


def wanted_by_hand(hf, example, fills, blocks=("target",)):
    """Probability of the last token less its mean over texts with a drawn token in one place."""
    source, target = torch.tensor([example.source_ids]), torch.tensor([example.target_ids[:-1]])

    def probability(source, target):
        inputs = {"input_ids": source, "decoder_input_ids": target} if len(blocks) == 2 else {"input_ids": target}
        return hf(**inputs).logits[0, -1].softmax(-1)[example.target_ids[-1]].detach()

    value = probability(source, target)
    out = []
    for side, block in enumerate(("source", "target")):
        for i in range((source if block == "source" else target).shape[1] if block in blocks else 0):
            total = 0.0
            for fill in fills:
                texts = [source.clone(), target.clone()]
                if fill[side][i] != NONE:
                    texts[side][0, i] = fill[side][i]
                total += value - probability(*texts)
            out.append(total / len(fills))
    return torch.stack(out)


def test_occlusion_by_hand(model):
    (example,) = model.encode(PROMPT, f"{PROMPT} blue")
    engine = Engine(model.wrapped, [example], make_objective("probability", {})[0], ("target",))
    drawn = [baseline_ids(engine, "target", Draw("infill", k))[0].tolist() for k in range(DRAWS)]
    own = {t.id for t in example.target[: example.prompt_length] if not t.special}
    assert all(set(ids) <= own for ids in drawn) and len({tuple(ids) for ids in drawn}) == DRAWS
    (found,) = explain(model, "occlusion", "infill")
    wanted = wanted_by_hand(model.model, example, [((), ids) for ids in drawn])
    torch.testing.assert_close(found.scores[0, : len(wanted)], wanted)


def test_a_position_draws_from_what_is_before_it(model, translator):
    (example,) = model.encode(PROMPT, f"{PROMPT} blue . tom")
    fills = Fills(model.wrapped, [example], own=True)(0, "infill")
    for i in range(example.stop):
        before = {t.id for t in example.target[: max(i, example.prompt_length)] if not t.special}
        assert all(target[i] in before for _, target in fills)
    (example,) = translator.encode("the red house", "la casa rossa")
    fills = Fills(translator.wrapped, [example], own=True)(0, "infill")
    known = {t.id for t in example.source if not t.special}
    first, *later = [i for i, t in enumerate(example.target) if not t.special]
    assert all(set(source) <= known and target[first] == NONE for source, target in fills)
    for i in later:
        before = {t.id for t in example.target[:i] if not t.special}
        assert all(target[i] in before for _, target in fills)


def test_a_first_target_token_is_unk_and_provenance_says_so(translator):
    (example,) = translator.encode("the red house", "la casa rossa")
    fills = Fills(translator.wrapped, [example], own=True)(0, "infill")
    unk = translator.wrapped.special_id("unk")
    first = next(i for i, t in enumerate(example.target) if not t.special)
    eos = translator.tokenizer.eos_token_id
    cleaned = [
        (
            [t.id if t.id == eos else new for t, new in zip(example.source, source, strict=True)],
            [unk if new == NONE and i == first else new for i, new in enumerate(target)],
        )
        for source, target in fills
    ]
    found = translator.attribute(
        "the red house",
        "la casa rossa",
        method="occlusion",
        baseline="infill",
        attribute_target=True,
        show_progress=False,
    )[0]
    n = example.stop - 1 - example.start
    wanted = wanted_by_hand(translator.model, example, cleaned, ("source", "target"))
    torch.testing.assert_close(found.scores[n, : len(wanted)], wanted)
    assert found.provenance.baseline_ids == (unk,)


def test_no_special_token_is_drawn_from_what_the_model_expects():
    """A token that was added as special, like those of a chat's template, and has no name in the tokenizer."""
    model = attriflow.load_model("demo/recall")
    red = model.tokenizer.convert_tokens_to_ids("red")

    def expected():
        (example,) = model.encode(PROMPT, f"{PROMPT} blue")
        return Fills(model.wrapped, [example])._expected(example).diff(dim=1)[:, red - 1]

    assert expected().max() > 0
    model.tokenizer.add_tokens([AddedToken("red", special=True)])
    assert red not in model.tokenizer.all_special_ids
    assert expected().abs().max() == 0


def test_what_has_no_distribution(translator):
    with pytest.raises(InputError, match="'infill_model' draws what a decoder expects"):
        translator.attribute("the red house", "la casa", method="occlusion", baseline="infill_model")


def test_who_is_scored_by_such_draws():
    options = {"log_odds": {"perturbation": "infill"}}
    results = [MethodResult(name="occlusion", options={"baseline": "infill"}), MethodResult(name="lime")]
    assert own_metrics(results, families(["log_odds", "infidelity"]), options) == {
        "occlusion": ["log_odds"],
        "lime": ["infidelity"],
    }
