"""Spans as the steps of an evaluation: what a span scores, and that metrics mean by it what they mean by a token."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import attriflow
from attriflow.cli.evaluate import EvaluateOptions
from attriflow.errors import InputError, NothingToExplainError, UnknownNameError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.rationale import parse_rationale
from attriflow.evaluation.rescoring import VariantScorer
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.tables import curves_table, each_value, scores_table, step_scores_table
from attriflow.registry import metrics
from attriflow.texts.target_spans import as_json, with_spans
from attriflow_metrics.ferret import ferret_available

PROMPT = "tom has a blue car . what color is the car ?"
ANSWERS = ("the car is blue . the car is blue .", "blue")
DATA = EvaluationData(
    inputs=(PROMPT, PROMPT), targets=ANSWERS, rationales=tuple(parse_rationale([[10, 14]], PROMPT) for _ in ANSWERS)
)
WORDS = {"pattern": r"\S+"}
LOG = {"logprob": True}


@pytest.fixture(scope="module")
def models():
    return {name: attriflow.load_model(f"demo/{name}") for name in ("recall", "translate")}


def evaluated(model, data=DATA, **settings):
    rationale = {"rationale": "rationale"} if data.rationales else {}
    given = {"throughput": False, "step_functions": [], "attributed_fn_args": LOG, **rationale, **settings}
    columns = ["input", *rationale]
    evaluation = Evaluation(model, data, EvaluationConfig.from_dict(given, columns=columns, targets="target"))
    for _ in evaluation.run():
        pass
    return evaluation


QUICK = ["deletion_auc", "logprob_suff", "loo_agreement", "pointing_game", "infidelity", "random_logit", "soft_nc"]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(QUICK, id="some"),
        pytest.param(
            [name for name in metrics.names() if name not in QUICK],
            id="others",
            marks=[pytest.mark.sweep, pytest.mark.skipif(not ferret_available(), reason="ferret is not installed")],
        ),
    ],
)
def test_every_metric_of_a_span_of_one_token_is_that_of_the_step(models, names):
    settings = {"methods": ["integrated_gradients"], "metrics": names, "method_options": {}, "reexplain_examples": 1}
    settings["method_options"] = {"integrated_gradients": {"n_steps": 4}}
    short = dataclasses.replace(DATA, targets=("is blue .", "blue"))
    one = evaluated(models["recall"], short, **settings, target_spans=WORDS).results[0]
    other = evaluated(models["recall"], short, **settings).results[0]
    assert [a.spans for a in one.attributions] == [((12, 13), (13, 14), (14, 15)), ((12, 13),)]
    for name in names:
        for found, wanted in zip(one.values[name], other.values[name], strict=True):
            assert found.skipped == wanted.skipped and found.curves.keys() == wanted.curves.keys(), name
            assert [v for v in found.values if v is not None] == pytest.approx(
                [v for v in wanted.values if v is not None], rel=1e-4, abs=1e-6
            ), name


def log_probability(model, example, kept, span):
    """Of the tokens of a span, each after what is kept of its own prefix, by the bare model; per token."""
    out = []
    for position in range(*span):
        ids = [t.id for i, t in enumerate(example.target[:position]) if i in kept or t.special]
        ids = ids or [model.tokenizer.bos_token_id or model.tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        out.append(float(logits.log_softmax(-1)[example.target[position].id]))
    return out


@pytest.mark.parametrize("value", ["sum", "mean"])
def test_metrics_of_a_span_of_two_tokens_by_hand(models, value):
    model = models["recall"]
    evaluation = evaluated(
        model, methods=["occlusion"], metrics=["deletion_auc", "logprob_compr", "answer_suff"], span_value=value,
        target_spans={"pattern": r"blue \."}, metric_options={"deletion_auc": {"fractions": [0.25, 0.5]}},
    )  # fmt: skip
    assert list(evaluation.data.failed) == [1] and "' blue' has no match of" in evaluation.data.failed[1]
    (example,), result = evaluation.examples, evaluation.results[0]
    (attribution,) = result.attributions
    spans = ((15, 17), (20, 22))
    assert example.spans == attribution.spans == spans and attribution.provenance.span_value == value
    assert [t.text for t in attribution.targets] == ["blue .", "blue ."]
    pooled = sum if value == "sum" else lambda values: sum(values) / len(values)
    for step, span in enumerate(spans):
        # the tokens of a span are inputs of those after them
        inputs = [i for i in range(span[1] - 1) if not example.target[i].special]
        order = sorted(inputs, key=lambda i: -float(attribution.scores[step, i]))

        def kept(n, inputs=inputs, order=order):
            return set(inputs) - set(order[:n])

        n = len(inputs)
        points = [0, int(0.25 * n), int(0.5 * n), n]
        y = [math.exp(pooled(log_probability(model, example, kept(k), span))) for k in points]
        x = [k / n for k in points]
        area = sum((y[i] + y[i + 1]) / 2 * (x[i + 1] - x[i]) for i in range(3))
        assert result.values["deletion_auc"][0].values[step] == pytest.approx(area, rel=1e-4)
        positive = sum(float(attribution.scores[step, i]) > 0 for i in inputs)
        sizes = list(dict.fromkeys(min(k, positive) for k in sorted({int(f * n / 10) for f in range(1, 11)} - {0})))
        whole = pooled(log_probability(model, example, kept(0), span))
        drops = [whole - pooled(log_probability(model, example, kept(k), span)) for k in sizes]
        assert result.values["logprob_compr"][0].values[step] == pytest.approx(sum(drops) / len(drops), rel=1e-4)


def test_metrics_of_a_whole_answer_are_those_of_its_tokens(models):
    """However its tokens are put together: for scores that add up, as those of occlusion do."""
    data = dataclasses.replace(DATA, inputs=(PROMPT,), targets=ANSWERS[:1], rationales=None)
    names = ["answer_compr", "answer_suff", "top_k_drop", "lds"]
    found = [
        evaluated(models["recall"], data, methods=["occlusion"], metrics=names, **more).results[0].metrics
        for more in ({}, {"target_spans": "sentence"}, {"target_spans": "all", "span_value": "mean"})
    ]
    assert len(found[0]) == 4 and found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("name", ["recall", "translate"])
@pytest.mark.parametrize("value", ["sum", "mean"])
def test_rescored_spans_are_their_tokens_together(models, name, value):
    model = models[name]
    target = {"recall": f"{PROMPT} {ANSWERS[0]}", "translate": "il gatto nero dorme qui"}[name]
    (tokens,) = model.encode("the black cat sleeps here" if name == "translate" else PROMPT, target)
    middle = tokens.start + 2
    spans = with_spans(tokens, [(tokens.start, middle), (middle, tokens.stop)], value)
    n, (one, other) = len(tokens.inputs()), (VariantScorer(model, [e]).for_example(0) for e in (spans, tokens))
    keep = torch.rand((4, n), generator=torch.Generator().manual_seed(0)) > 0.4
    pooled = (lambda v: v.sum(-1)) if value == "sum" else (lambda v: v.mean(-1))
    for how in ("delete", "mask", "baseline", "soft"):
        mask = keep.double() * 0.5 if how == "soft" else keep
        found, each = one(mask, how=how), other(mask, how=how)
        wanted = torch.stack([pooled(each[:, :2]), pooled(each[:, 2:])], -1)
        assert found.shape == (4, 2) and torch.allclose(found, wanted, atol=1e-5), how
        single = one(mask, [0, 1, 0, 1], how=how)
        assert torch.allclose(single, wanted[[0, 1, 2, 3], [0, 1, 0, 1]], atol=1e-5), how
    single = with_spans(tokens, [(i, i + 1) for i in range(tokens.start, tokens.stop)], value)
    for how in ("infill", *(("infill_model",) if name == "recall" else ())):
        scored = [VariantScorer(model, [e]).for_example(0)(keep, how=how) for e in (single, tokens)]
        assert torch.allclose(*scored, atol=1e-5), how


def test_infilled_spans_are_averaged_by_their_probability(models, monkeypatch):
    from attriflow.engine import infill, variants

    model = models["recall"]
    (tokens,) = model.encode(PROMPT, f"{PROMPT} {ANSWERS[0]}")
    spans = with_spans(tokens, "all")
    keep = torch.ones((1, len(tokens.inputs())), dtype=torch.bool)
    keep[0, 2:8] = False
    found = VariantScorer(model, [spans]).for_example(0)(keep, how="infill")
    raw = []
    monkeypatch.setattr(variants, "averaged", lambda values: raw.append(values) or infill.averaged(values))
    VariantScorer(model, [tokens]).for_example(0)(keep, how="infill")
    draws = raw[0].view(infill.DRAWS, -1).sum(-1)  # each draw's log-probability of all tokens
    assert float(found) == pytest.approx(float(draws.logsumexp(0)) - math.log(infill.DRAWS), abs=1e-6)


def test_evidence_step_scores_and_tables_of_spans(models):
    wanted = {"methods": ["saliency"], "metrics": ["pointing_game", "deletion_auc"]}
    functions = {"step_functions": ["probability", "surprisal", "entropy"]}
    spans = evaluated(models["recall"], **wanted, **functions, target_spans="sentence")
    tokens = evaluated(models["recall"], **wanted, **functions)
    assert spans.examples[0].n_steps == 2 and spans.n_tokens == tokens.n_tokens == 11
    values = {s.name: s.values[0] for s in tokens.step_scores}
    found = {s.name: s.values[0] for s in spans.step_scores}
    assert found["probability"] == pytest.approx(
        [math.prod(values["probability"][:5]), math.prod(values["probability"][5:])]
    )
    assert found["surprisal"] == pytest.approx([sum(values["surprisal"][:5]), sum(values["surprisal"][5:])], rel=1e-5)
    assert found["entropy"] == pytest.approx([sum(values["entropy"][:5]) / 5, sum(values["entropy"][5:]) / 5], rel=1e-5)
    assert torch.equal(
        spans.rationales[0], torch.stack([tokens.rationales[0][:5].any(0), tokens.rationales[0][5:].any(0)])
    )
    text = "the car is blue ."
    for table in (scores_table(spans.results, spans.examples), step_scores_table(spans.step_scores, spans.examples)):
        assert table.loc[table["example"] == 0, "token"].unique().tolist() == [text]
    assert set(curves_table(each_value([spans.chance]), spans.examples)["token"]) == {text, "blue"}


def test_evidence_per_word_is_that_of_the_words_of_a_span(models):
    lists = [[[0, 3]], [], [[10, 14]], [], []]
    data = dataclasses.replace(
        DATA, inputs=(PROMPT,), targets=("the car is blue .",), rationales=(parse_rationale(lists, PROMPT),)
    )
    spans = {"pattern": "the car|is blue"}
    evaluation = evaluated(models["recall"], data, methods=["saliency"], metrics=["pointing_game"], target_spans=spans)
    (matrix,), inputs = evaluation.rationales, evaluation.examples[0].inputs()
    shown = [[t.text for t, e in zip(inputs, row, strict=True) if e] for row in matrix]
    assert shown == [["tom"], ["blue"]]


def test_what_means_nothing_for_spans_says_so(models):
    data = dataclasses.replace(DATA, rationales=None)
    settings = {"methods": ["integrated_gradients"], "metrics": ["completeness_error"], "attributed_fn_args": {}}
    with pytest.warns(UserWarning, match="a sum of 'perplexity' over a span has no meaning of its own"):
        found = evaluated(models["recall"], data, **settings, attributed_fn="perplexity", target_spans="all").results[0]
    assert "of spans, completeness is checked for the logarithm of probability" in found.problems["completeness_error"]
    assert not found.applies("completeness_error")
    found = evaluated(models["recall"], data, **settings, target_spans="all").results[0]
    assert 0 <= found.metrics["completeness_error"] < 0.5  # of the log-probability, as is explained

    metric = metrics.get("deletion_auc")()
    (attribution,) = models["recall"].attribute(
        PROMPT, f"{PROMPT} {ANSWERS[0]}", method="saliency", target_spans="all", show_progress=False
    )
    values = metric(attribution, lambda keep, steps, how="delete": torch.full((len(keep),), -2000.0).double())
    assert values.values == (None,) and "too improbable" in values.skipped[0]
    nats = metrics.get("logprob_compr")()
    assert nats(attribution, lambda keep, steps, how="delete": torch.full((len(keep),), -2000.0).double()).values == (
        0.0,
    )


def test_settings_are_checked_before_anything_runs():
    made = EvaluationConfig.from_dict({"target_spans": [(3, 5)], "methods": "saliency"})
    assert made.as_dict()["target_spans"] == [[3, 5]] and made.as_dict()["span_value"] == "sum"
    for wrong, error in (("sentences", UnknownNameError), ({"pattern": "("}, InputError), (3, InputError)):
        with pytest.raises(error, match=r"target_spans|pattern"):
            EvaluationConfig.from_dict({"target_spans": wrong})
    assert as_json({"characters": [(0, 2)]}) == {"characters": [(0, 2)]}
    options = EvaluateOptions(model="m", data="d", target_spans=[[3, 5]], methods=["saliency", "occlusion"])
    assert options.settings()["target_spans"] == [[3, 5]] and options.settings()["methods"] == "saliency,occlusion"


def test_answers_are_found_per_row_and_rows_without_one_fail_alone(models):
    data = EvaluationData(inputs=(PROMPT, PROMPT), targets=("the car #### blue", "blue"))
    evaluation = evaluated(
        models["recall"], data, methods=["saliency"], metrics=["deletion_auc"], target_spans="answer"
    )
    assert [a.targets[0].text for a in evaluation.results[0].attributions] == ["blue"]
    assert list(evaluation.data.failed) == [1] and "has no answer" in evaluation.data.failed[1]
    assert issubclass(NothingToExplainError, InputError)


def test_benchmarks_measure_spans(tmp_path):
    from attriflow.tracking.benchmark import measure

    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "tom has a blue car . what color is the car ?", "target": "the car is blue ."}\n')
    settings = {"methods": "saliency", "target_spans": "all"}
    how = {"rounds": (1, 1), "seconds": 0.1, "find_batch": False}
    found = measure("demo/recall", str(path), settings, targets="target", **how)
    assert found.counts == {"n_examples": 1, "n_tokens": 5} and len(found.table) == 1
    (measured,) = found.methods
    numbers = measured.throughput.numbers()
    assert numbers["products"] == 1  # of a span, however long
    assert "floor_forward_equivalents" not in numbers
