"""Explaining again under changed circumstances: right numbers, and the model left as it came."""

from __future__ import annotations

import math

import pytest
import torch

from attriflow.errors import InputError
from attriflow.evaluation.changes import (
    NotApplicableError,
    OtherTarget,
    noisy_embeddings,
    random_parameters,
    stages,
    target_function,
)
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.reexplaining import Reexplainer, spread
from attriflow.evaluation.results import MethodResult
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.scoring import NOT_IN_SAMPLE
from attriflow.registry import methods, metrics
from attriflow.types import Forward


@pytest.fixture(scope="module", params=["gpt2", "bart"])
def model(request, golden_model):
    return golden_model(request.param)


@pytest.fixture
def examples(model):
    texts = ["the cat sat on the mat", "a dog", "where is it now"]
    return model.encode(texts, ["and slept", "barked twice", "here"], continuation=True)


@pytest.fixture
def unchanged(model):
    """The model has the same weights and hooks afterwards."""
    hf = model.model
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    grads = [p.requires_grad for p in hf.parameters()]
    hooks = sum(len(m._forward_hooks) for m in hf.modules())
    yield
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    assert [p.requires_grad for p in hf.parameters()] == grads
    assert sum(len(m._forward_hooks) for m in hf.modules()) == hooks


def reexplainer(model, examples, fn="probability", **settings):
    def explain(method, some, *, seed=0, attributed_fn=None):
        return model.attribute_examples(some, method, seed=seed, attributed_fn=attributed_fn or fn)

    other_target, reason = target_function(fn, {})
    fields = {"sample": range(len(examples)), "other_target": other_target, "why_no_target": reason, **settings}
    return Reexplainer(model, examples, explain, **fields)


def started(model, examples, method, **settings):
    again = reexplainer(model, examples, **settings)
    again.start(method, model.attribute_examples(examples, method))
    return again


@pytest.mark.usefixtures("unchanged")
def test_noise_is_that_of_its_tokens(model, examples):
    """Wherever a token stands it has the same noise, of the given size relative to the embeddings."""
    block = "source" if model.is_encoder_decoder else "target"
    ids = torch.tensor([[5, 6, 5]])
    with torch.no_grad():
        plain = model.wrapped.embed(ids, block)
        with noisy_embeddings(model.wrapped, 0.1, 0):
            noisy, again = model.wrapped.embed(ids, block), model.wrapped.embed(ids[:, 1:], block)
        with noisy_embeddings(model.wrapped, 0.1, 1):
            other = model.wrapped.embed(ids, block)
    noise = noisy - plain
    assert torch.allclose(noise[0, 0], noise[0, 2], atol=1e-12) and torch.equal(noisy[:, 1:], again)
    assert not torch.equal(noise[0, 0], noise[0, 1]) and not torch.equal(other, noisy)
    every = torch.arange(model.wrapped.embedding(block).num_embeddings)
    with torch.no_grad():
        table = model.wrapped.embed(every, block)
        with noisy_embeddings(model.wrapped, 0.1, 0):
            moved = model.wrapped.embed(every, block) - table
    assert float(moved.std() / table.square().mean().sqrt()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.usefixtures("unchanged")
def test_more_noise_moves_an_explanation_further(model, examples):
    again = started(model, examples, "input_x_gradient")
    base = model.attribute_examples(examples, "input_x_gradient")[0].scores.nan_to_num()
    moved = [
        (again.for_example(0)(noise=s, draw=0).scores.nan_to_num() - base).norm().item() for s in (0.0, 1e-6, 1e-5, 0.1)
    ]
    assert moved[0] < 1e-12 < moved[1] < moved[2] < moved[3]
    assert moved[2] / moved[1] == pytest.approx(10, rel=0.1)  # linear, where it is small


@pytest.mark.usefixtures("unchanged")
def test_parameters_are_drawn_anew_from_the_output_on(model):
    hf = model.model
    found = stages(hf)
    assert sum(len(stage) for stage in found) == len(list(hf.parameters()))
    before = {name: p.clone() for name, p in hf.named_parameters()}
    for share in (0.01, 0.5, 1.0):
        with random_parameters(hf, share, 0):
            moved = [
                any(not torch.equal(w.parameter, before[w.name]) for w in stage if before[w.name].std() > 0)
                for stage in found
            ]
        k = max(1, round(share * len(found)))
        varied = [any(w.parameter.std() > 0 for w in stage) for stage in found]
        assert moved == [False] * (len(found) - k) + varied[len(found) - k :]
    name, parameter = max(hf.named_parameters(), key=lambda pair: pair[1].numel())
    with random_parameters(hf, 1.0, 0):
        drawn = parameter.clone()
    with random_parameters(hf, 1.0, 1):
        assert not torch.equal(drawn, parameter)
    assert drawn.std().item() == pytest.approx(before[name].std().item(), rel=0.1)
    assert torch.equal(parameter, before[name])


@pytest.mark.usefixtures("unchanged")
def test_the_model_comes_back_after_an_error(model):
    for context in (random_parameters(model.model, 1.0, 0), noisy_embeddings(model.wrapped, 0.1, 0)):
        with pytest.raises(RuntimeError, match="inside"), context:
            raise RuntimeError("inside")


def test_quantised_parameters_are_refused():
    hf = torch.nn.Linear(2, 2)
    hf.weight = torch.nn.Parameter(torch.ones((2, 2), dtype=torch.int8), requires_grad=False)
    with pytest.raises(NotApplicableError, match="'weight' cannot be randomised"), random_parameters(hf, 1.0, 0):
        pass


def test_another_target_is_another_token_everywhere_the_same():
    logits = torch.randn((2, 3, 50), generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[3, 7, 3], [7, 7, 49]])

    def chosen(forward):
        return forward.target_ids

    first, again, other = (OtherTarget(chosen, k, True)(Forward(logits=logits, target_ids=ids)) for k in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert bool((first != ids).all()) and bool(((first >= 0) & (first < 50)).all())
    assert first[0, 0] == first[0, 2] and first[0, 1] == first[1, 0] == first[1, 1]
    every = OtherTarget(chosen, 0, True)(Forward(logits=logits[:1, :1], target_ids=torch.arange(50)[None]))
    assert sorted(every[0].tolist()) == list(range(50))


@pytest.mark.parametrize("method", ["input_x_gradient", "occlusion"])
def test_the_explanation_of_another_target_is_that_of_a_function_of_it(model, examples, method):
    again = started(model, examples, method).for_example(1)(other_target=0)
    others = OtherTarget(lambda f: f.target_ids, 0, True)

    def plain(forward):
        return forward.log_probs().exp().gather(-1, others(forward).unsqueeze(-1)).squeeze(-1)

    expected = model.attribute_examples(examples, method, attributed_fn=plain)[1].token_scores()
    assert torch.allclose(again.scores.nan_to_num(), expected.nan_to_num(), atol=1e-10)
    base = model.attribute_examples(examples, method)[1].token_scores()
    assert not torch.allclose(again.scores.nan_to_num(), base.nan_to_num(), atol=1e-4)


@pytest.mark.parametrize("fn", ["entropy", "kl_divergence", "mc_dropout_prob_avg", lambda f: f.logits[..., 0]])
def test_functions_without_a_target_have_no_other(fn):
    other_target, reason = target_function(fn, {})
    assert other_target is None and "not one of the target token alone" in reason


@pytest.mark.parametrize("fn", ["probability", "logit", "crossentropy", "perplexity", "margin", "rank"])
def test_functions_of_the_target_have_others(fn):
    assert target_function(fn, {})[0] is not None


def test_a_seed_matters_to_methods_that_draw(model, examples):
    drawing = started(model, examples, "random")
    base = model.attribute_examples(examples, "random")
    seeded = model.attribute_examples(examples, "random", seed=1)
    got = drawing.for_example(2)(seed=1).scores
    assert torch.allclose(got.nan_to_num(), seeded[2].scores.nan_to_num(), atol=1e-10)
    assert not torch.equal(got.nan_to_num(), base[2].scores.nan_to_num())
    still = started(model, examples, "saliency")
    assert still.for_example(0)(seed=3) is still._given[0]
    assert still.explanations == 0  # it says that it draws nothing
    unknown = started(model, examples, "saliency")
    unknown._method = "somebody's"
    explain = unknown.explain
    unknown.explain = lambda _method, some, **settings: explain("saliency", some, **settings)
    assert unknown.for_example(0)(seed=3) is unknown._given[0]
    assert unknown.explanations == 2  # tried on one example, twice


def test_each_change_is_made_once_for_the_whole_sample(model, examples):
    again = started(model, examples, "saliency", sample=[0, 2])
    for i in (0, 2, 0):
        again.for_example(i)(noise=0.1, draw=0)
    assert again.explanations == 2
    again.start("occlusion", model.attribute_examples(examples, "occlusion"))
    again.for_example(0)(noise=0.1, draw=0)
    assert again.explanations == 4 and again.seconds > 0


def test_unknown_changes_are_named(model, examples):
    with pytest.raises(InputError, match=r"cannot change noise\. Allowed: seed; draw with noise"):
        started(model, examples, "saliency").for_example(0)(noise=0.1)


@pytest.mark.parametrize(("n", "most", "expected"), [(5, None, range(5)), (3, 9, range(3)), (10, 3, [0, 3, 6])])
def test_samples_are_spread(n, most, expected):
    assert spread(n, most) == list(expected)


REEXPLAINING = ["efficient_mprt", "noise_stability", "random_logit", "seed_variance"]


def evaluation(model, fn="probability", n=3, **settings):
    texts = ("where is it now", "a dog", "the cat sat on the mat")[:n]
    data = EvaluationData(inputs=texts, targets=("here", "barked", "and slept")[:n])
    given = {"methods": ["saliency"], "step_functions": [], "throughput": False, "attributed_fn": fn, **settings}
    return Evaluation(model, data, EvaluationConfig.from_dict(given))


def run(evaluated: Evaluation) -> MethodResult:
    for _ in evaluated.run():
        pass
    return evaluated.results[-1]


@pytest.mark.usefixtures("unchanged")
def test_an_evaluation_explains_again_a_sample_and_says_so(model):
    result = run(evaluation(model, metrics=REEXPLAINING, reexplain_examples=2))
    assert not result.problems and set(result.metrics) == set(REEXPLAINING)
    for name in REEXPLAINING:
        means = [v.mean for v in result.values[name]]
        assert [m is None for m in means] == [False, False, True], name
        assert set(result.values[name][2].skipped.values()) == {NOT_IN_SAMPLE}
    assert result.metrics["seed_variance"] == 0.0
    assert result.metrics["random_logit"] < 1 and result.metrics["noise_stability"] < 1


def test_metrics_under_other_seeds_are_those_of_an_evaluation_with_that_seed(model):
    names = {"methods": ["smooth_grad", "saliency"], "metrics": ["aopc_compr", "loo_agreement", "seed_variance"]}
    evaluated, other = evaluation(model, **names), evaluation(model, seed=2, **names)
    run(evaluated), run(other)
    drawn, still = evaluated.results
    assert still.seeded == [] and len(drawn.seeded) == 2 and set(drawn.seeded[1]) == {"aopc_compr", "loo_agreement"}
    for metric, found in drawn.seeded[1].items():
        assert found == {i: pytest.approx(v.mean) for i, v in enumerate(other.results[0].values[metric])}
        assert found != {i: v.mean for i, v in enumerate(drawn.values[metric])}
    without = evaluation(model, n=1, metrics=["aopc_compr"])
    assert run(without).seeded is None


def test_a_metric_that_does_not_apply_says_why(model):
    result = run(evaluation(model, fn="entropy", metrics=["random_logit", "completeness_error"], fail_fast=True))
    assert "'entropy', is not one of the target token alone" in result.problems["random_logit"]
    assert "saliency does not promise completeness" in result.problems["completeness_error"]
    assert result.metrics == {}


def test_completeness_is_measured_for_those_who_promise_it():
    import attriflow
    from attriflow.demo import load_demo_dataset

    rows = load_demo_dataset("recall").head(3)
    data = EvaluationData(inputs=tuple(rows["input"]), targets=tuple(rows["target"]))
    options = {
        "integrated_gradients": {"n_steps": 50},
        "integrated_gradients.five": {"baseline": 5},
        "integrated_gradients.eos": {"baseline": "eos"},
        "integrated_gradients.zero": {"baseline": "zero"},
        "integrated_gradients.two": {"baseline": ["unk", "eos"]},
        "deeplift": {"reduction": "norm"},
    }
    given = {"methods": [*options, "shapley_sampling"], "method_options": options, "metrics": ["completeness_error"]}
    config = EvaluationConfig.from_dict({**given, "step_functions": [], "throughput": False})
    evaluated = Evaluation(attriflow.load_model("demo/recall", device="cpu"), data, config)
    run(evaluated)
    path, five, eos, zero, two, norm, shapley = evaluated.results
    for other in (five, eos):  # measured against the token that they were given
        assert 0 < other.metrics["completeness_error"] < 0.1
    for other in (zero, two):
        assert "the method's baseline is no single token" in other.problems["completeness_error"]
    assert "deeplift does not promise completeness" in norm.problems["completeness_error"]
    assert 0 < path.metrics["completeness_error"] < 0.1
    assert 0 < shapley.metrics["completeness_error"] < 0.1


def test_top_k_is_the_mean_size_of_the_rationales(model):
    from attriflow.evaluation.rationale import parse_rationale, rationale_size

    if model.is_encoder_decoder:
        return
    text = "the cat sat on the mat"
    rationale = parse_rationale([[4, 7], [8, 11]], text)
    data = EvaluationData(inputs=(text,), targets=("and slept",), rationales=(rationale,))
    given = {"methods": ["saliency"], "step_functions": [], "throughput": False, "rationale": "r"}
    chosen = {}
    for options in ({}, {"token_f1_plau": {"top_k": 4}}):
        names = ["token_f1_plau", "precision_at_k"]
        evaluated = Evaluation(
            model, data, EvaluationConfig.from_dict({**given, "metrics": names, "metric_options": options})
        )
        run(evaluated)
        size = rationale_size(evaluated.rationales)
        sizes = evaluated.rationales[0].sum(-1)
        assert size == max(1, round(sizes[sizes > 0].double().mean().item()))
        chosen[len(options)] = evaluated.metric_options
        assert evaluated.metric_options["precision_at_k"] == {"top_k": size}
    assert chosen[0]["token_f1_plau"] == {"top_k": size} and chosen[1]["token_f1_plau"] == {"top_k": 4}
    assert rationale_size([None, torch.zeros((2, 3), dtype=torch.bool)]) is None


def test_a_method_in_two_rows(model):
    """By sum and by norm: each row has explanations of its own, also those that are made again."""
    names = ["input_x_gradient", "input_x_gradient.norm"]
    evaluated = evaluation(model, n=2, methods=names, metrics=["random_logit", "seed_variance"], fail_fast=True)
    run(evaluated)
    signed, norms = evaluated.results
    assert [signed.name, norms.name] == names and norms.family == "gradient" and norms.options["reduction"] == "norm"
    for one, other in zip(signed.attributions, norms.attributions, strict=True):
        torch.testing.assert_close(one.norms, other.scores, equal_nan=True)
    assert signed.metrics["random_logit"] != norms.metrics["random_logit"]
    assert norms.metrics["seed_variance"] == 0  # known to draw nothing: nothing is made again for it


@pytest.mark.slow
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("model", ["gpt2", pytest.param("bart", marks=pytest.mark.sweep)], indirect=True)
def test_all_metrics_of_all_methods(model):
    """Everything at once: a value or a stated reason for every method and metric, the model as it came."""
    few = {"n_samples": 8, "n_steps": 4, "num_probes": 2, "max_probe_steps": 2, "n_interpolations": 2}
    options = {p.name: {o: n for o, n in few.items() if o in p.options} for p in methods}
    options = {name: given for name, given in options.items() if given}
    evaluated = evaluation(
        model, n=2, methods="all", metrics="all", fail_fast=True, reexplain_examples=1, method_options=options
    )
    run(evaluated)
    rows = {"input_x_gradient.norm", "layer_gradient_x_activation.norm"}
    assert {r.name for r in evaluated.results} == {*(p.name for p in methods), *rows} - {"dummy"}
    for result in evaluated.results:
        for name in evaluated.config.metrics:
            low, high = metrics.info(name).meta["range"]
            assert name in result.metrics or result.problems[name], (result.name, name)
            for example in result.values[name]:
                for value in example.values:
                    assert value is None or math.isfinite(value)
                    assert value is None or (low is None or value >= low - 1e-9), (result.name, name, value)
                    assert value is None or (high is None or value <= high + 1e-9), (result.name, name, value)
