"""Every recorded aggregation: functions, selections, normalisation, words, spans, patterns, slices, weights."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from load_golden import Golden, check
from test_golden_attributions import attribute

reference = functools.lru_cache(Golden)

# What Inseq records and we do otherwise on purpose; each is undone below before numbers are compared.
DEVIATIONS = {
    "no marker": "its default marker of words is not the tokenizer's, so nothing is merged; we need no marker",
    "last word": "a word whose last piece ends the sequence keeps that piece apart; we merge it",
    "special tokens": "special tokens are merged into the word or part that follows; we keep them apart",
    "partly visible": "a mean over what is partly invisible is NaN; we take the mean of what is visible",
    "decoder start": "a slice of the source also drops the decoder start token; we leave a side without ranges whole",
}


def _kinds(model: str) -> list:
    return [
        pytest.param(model, run["id"], i, kind, id=f"{model}-{run['id']}-{i}-{kind}")
        for run in reference(model).runs()
        for i, sequence in enumerate(run["sequences"])
        for kind in sequence.get("other_aggregations", ())
    ]


ALL = [*_kinds("gpt2"), *_kinds("bart")]


@pytest.fixture(scope="module")
def attributed(golden_model):
    """Outputs with the embedding axis kept, once per run."""

    @functools.cache
    def get(model, run_id, granular=True):
        golden = reference(model)
        run = golden.run(run_id)
        whole = {"output_encoder_self_scores": True} if model == "bart" and run["method"] == "attention" else {}
        whole |= {"output_decoder_self_scores": True} if whole else {}
        return attribute(golden_model, golden, run, model, granular=granular, **whole)

    return get


def _call(run: dict, index: int, kind: str) -> dict:
    """Recorded keywords in Python's types, without tokenizer markers."""
    options = dict(run["sequences"][index]["other_aggregations"][kind]["aggregate_kwargs"])
    options.pop("special_chars", None)
    if isinstance(options["aggregator"], list):
        options["aggregator"] = [tuple(s) if isinstance(s, list) else s for s in options["aggregator"]]
    if isinstance(options.get("select_idx"), list):
        options["select_idx"] = tuple(options["select_idx"])
    if "split_pattern" in options:
        options["split_pattern"] = " t"  # the text's own space, not a marker
    return options


def _merge_last(values: np.ndarray, axis: int) -> np.ndarray:
    """The last two entries of an axis as one: the one of the largest magnitude."""
    values = np.moveaxis(values, axis, 0)
    pair = values[-2:]
    chosen = np.take_along_axis(pair, np.nan_to_num(np.abs(pair), nan=-1).argmax(0)[None], 0)
    return np.moveaxis(np.concatenate([values[:-2], chosen]), 0, axis)


def test_the_runs_are_there():
    assert len(_kinds("gpt2")) == 92
    assert len(_kinds("bart")) == 184


@pytest.mark.parametrize(("model", "run_id", "index", "kind"), ALL)
def test_recorded(attributed, model, run_id, index, kind):
    golden = reference(model)
    run = golden.run(run_id)
    if kind == "weighted":
        mine = attributed(model, run_id)[index].weight_attributions("probability")
        wanted = {f: golden.array(run, f, index, kind) for f in golden.fields(run, index, kind)}
    else:
        name = "vnorm_subwords_special" if kind == "vnorm_subwords" else kind  # no marker
        wanted = {f: golden.array(run, f, index, name) for f in golden.fields(run, index, name)}
        mine = attributed(model, run_id)[index].aggregate(**_call(run, index, kind))
    if model == "bart" and "subwords" in kind:  # special tokens
        function = "mean" if kind.endswith("mean") else "absmax"
        mine = mine.aggregate("spans", source_spans=(0, 2), target_spans=(0, 3), aggregate_fn=function)
    if model == "bart" and "split" in kind:  # special tokens
        mine = mine.aggregate("spans", source_spans=(0, 2))
    if kind == "vnorm_subwords_special" and run["case"] == "batch2" and model == "gpt2" and index == 1:  # last word
        assert [t.text for t in mine.targets[-2:]] == ["popite", "temo"]
        wanted = {"target_attributions": _merge_last(_merge_last(wanted["target_attributions"], 0), 1)}
    else:
        recorded = run["sequences"][index]["other_aggregations"][name if kind != "weighted" else kind]
        first_side = [t.text for t in mine.inputs if (t.segment == "source") == (model == "bart")]
        tokens = recorded["source" if model == "bart" else "target"]
        assert first_side == [text.replace("Ġ", " ").strip() for text, _ in tokens]
        assert len(mine.targets) == recorded["attr_pos_end"] - recorded["attr_pos_start"]
        start = recorded["attr_pos_start"] + (model == "bart" and "slices" in kind)  # decoder start
        assert mine.start == start
    compared = 0
    for field, expected in wanted.items():
        part, _, score = field.partition(".")
        value = getattr(mine, part) if not score else getattr(mine, part)[score.removesuffix("_attentions")]
        value = value.float().numpy()
        if field == "target_attributions" and model == "bart" and "slices" in kind:  # decoder start
            value = value[1:]
        if kind.endswith("subwords_mean") and field == "target_attributions":  # partly visible
            assert (np.isnan(value) <= np.isnan(expected)).all()
            value = np.where(np.isnan(expected), np.nan, value)
        _close(golden, run, value, expected, kind, field)
        compared += 1
    assert compared


def _close(golden, run, value, expected, kind, field):
    tolerance = run["tolerance"]
    rtol, atol = (1e-4, 1e-6) if run["dtype"] == "f64" else (1e-3, 1e-4)
    if "nonorm" in kind:
        rtol, atol = tolerance["rtol"], tolerance["atol"]
    check(value, expected, rtol, max(atol, tolerance["atol"]), f"{run['id']} {kind} {field}")


@pytest.mark.parametrize("model", ["gpt2", "bart"])
@pytest.mark.parametrize("kind", ["vnorm_nonorm", "sum", "sum_nonorm", "vnorm_rescale", "vnorm_subwords_special"])
def test_reduced_as_they_are_produced(attributed, model, kind):
    """Norms and sums need no embedding axis: the same numbers without `granular=True`."""
    golden = reference(model)
    run = golden.run("f64/single/integrated_gradients")
    options = _call(run, 0, kind)
    kept, reduced = (attributed(model, run["id"], granular)[0].aggregate(**options) for granular in (True, False))
    assert reduced.axes == ("step", "input")
    np.testing.assert_allclose(reduced.scores.numpy(), kept.scores.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("run", reference("bart").runs(method="attention", group="methods"))
def test_sequence_scores_of_the_default_aggregation(golden_model, run):
    """Averaged over heads and layers, and not normalised."""
    golden = reference("bart")
    options = {"output_encoder_self_scores": True, "output_decoder_self_scores": True}
    out = attribute(golden_model, golden, run, "bart", **options).aggregate()
    compared = 0
    for i in range(len(run["sequences"])):
        for field in golden.fields(run, i, kind="aggregated"):
            if field.startswith("sequence_scores."):
                name = field.removeprefix("sequence_scores.").removesuffix("_attentions")
                golden.compare(run, field, out[i].sequence_scores[name].float().numpy(), sequence=i, kind="aggregated")
                compared += 1
    assert compared
