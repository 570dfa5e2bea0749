"""Aggregators: against plain loops, in pipelines, with what is not visible; what they are given never changes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import re

import numpy as np
import pytest
import torch
from test_segments import CHAT, TEMPLATE

import attriflow
from attriflow.aggregation.scores import ScoresAggregator
from attriflow.errors import AttriflowError, InputError, OptionError, UnknownNameError
from attriflow.output import AttributionOutput
from attriflow.registry import aggregation_functions, aggregators, step_functions
from attriflow.types import Attribution, Provenance, Token

WORDS = ("na", "ïve", " so", " um", "b", ".", " te", " pa", "ri", " mi")


def tokens_of(parts, segment, offset=0):
    out, at = [], offset
    for i, part in enumerate(parts):
        start = at + (part[0] == " ")
        at += len(part)
        out.append(Token(text=part.strip(), id=10 + i, start=start, end=at, segment=segment))
    return out


def make(kind="causal", extra=(), start=None, seed=0, **changes):
    """An attribution with random scores: "causal", "both" (source and target prefix) or "source"."""
    generator = torch.Generator().manual_seed(seed)
    rand = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    sizes = {"layer": 2, "head": 3, "embedding": 4}
    if kind == "causal":
        source, decoder = [], [*tokens_of(WORDS[:4], "prompt"), *tokens_of(WORDS[4:], "generated", 11)]
        start, texts = start or 4, ("".join(WORDS[:4]), "".join(WORDS))
    else:
        source = [*tokens_of(WORDS[:5], "source"), Token(text="</s>", id=1, segment="source", special=True)]
        begin = Token(text="<pad>", id=0, segment="generated", special=True)
        decoder = [begin, *tokens_of(WORDS[5:], "generated")]
        start, texts = start or 1, ("".join(WORDS[:5]), "".join(WORDS[5:]).lstrip())
    inputs = [*source, *(decoder if kind != "source" else ())]
    targets, shape = decoder[start:], tuple(sizes[a] for a in extra)
    scores = rand(len(targets), len(inputs), *shape)
    if kind != "source":
        for step in range(len(targets)):
            scores[step, len(source) + start + step :] = torch.nan
    maps = {}
    if "layer" in extra:
        maps["decoder_self"] = rand(len(decoder) - 1, len(decoder) - 1, *shape)
        if source:
            maps["encoder_self"] = rand(len(source), len(source), *shape)
    fields = {
        "scores": scores,
        "axes": ("step", "input", *extra),
        "inputs": tuple(inputs),
        "targets": tuple(targets),
        "start": start,
        "step_scores": {"probability": rand(len(targets)).abs(), "entropy": rand(len(targets))},
        "sequence_scores": maps,
        "provenance": Provenance(method="occlusion", options={}),
        "input_text": texts[0],
        "target_text": texts[1],
    }
    return Attribution(**{**fields, **changes})


ALL_KINDS = [
    ("causal", (), None),
    ("causal", ("embedding",), 6),
    ("both", ("layer", "head"), None),
    ("both", (), 3),
    ("source", ("layer",), None),
    ("source", (), 3),
]
NEEDED = {
    "pair": lambda a: {"paired_attr": a},
    "split": lambda a: {"split_pattern": r"\."},
    "spans": lambda a: {"source_spans": (1, 3)},
    "slices": lambda a: {"source_spans": [(0, 1), (2, 4)]},
    "segments": lambda a: {"segments": ["ïve so"]},
}


def same(a, b):
    """Whether two attributions agree in everything but the way to get there."""
    for field in dataclasses.fields(Attribution):
        one, two = getattr(a, field.name), getattr(b, field.name)
        if field.name == "provenance":
            one, two = (dataclasses.replace(how, aggregations=()) for how in (one, two))
        if isinstance(one, torch.Tensor):
            np.testing.assert_array_equal(one.numpy(), two.numpy())
        elif field.name in ("step_scores", "sequence_scores"):
            assert list(one) == list(two)
            for name in one:
                np.testing.assert_array_equal(one[name].numpy(), two[name].numpy())
        else:
            assert one == two, field.name


@pytest.mark.parametrize("name", aggregators.names())
@pytest.mark.parametrize(("kind", "extra", "start"), ALL_KINDS)
def test_every_aggregator_makes_a_new_attribution(name, kind, extra, start):
    """Consistent (its constructor checks), the one given untouched, twice the same, and loadable."""
    given = make(kind, extra, start, turns=((0, 5), (5, 8)))
    if name == "hops":  # for explanations of spans
        given = given.replace(spans=tuple((given.start + i, given.start + i + 1) for i in range(len(given.targets))))
    kept = copy.deepcopy(given)
    options = NEEDED.get(name, lambda a: {})(given)
    out = given.aggregate(name, **options)
    same(given, kept)
    same(out, given.aggregate(name, **options))
    assert out is not given
    if name == "hops":  # its steps are no tokens
        return
    if name != "scores":
        assert out.axes == given.axes
    decoder = [t for t in out.inputs if t.segment != "source"]
    assert out.start <= given.start
    if decoder:  # the steps follow their prefix
        assert len(decoder) == out.start + len(out.targets)
        for step in range(len(out.targets)):
            first = len(out.inputs) - len(decoder) + out.start + step
            assert bool(out.visible[step, : first - (out.start > 0)].all()) or name == "slices"
            assert not bool(out.visible[step, first + 1 :].any())


# -- merging -----------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "sum": np.sum,
    "prod": np.prod,
    "absmax": lambda v: max(v, key=abs),
    "vnorm": lambda v: np.sqrt(np.sum(np.square(v))),
}


def merged_by_loops(scores, steps, inputs, function):
    """Steps first, inputs then, over what is not NaN."""

    def one(values):
        known = [v for v in values if not np.isnan(v)]
        return function(known) if len(known) > 1 else (known or [np.nan])[0]

    def one_or_all(values):  # functions of a single visible score apply, too: the norm of -1 is 1
        known = [v for v in values if not np.isnan(v)]
        if not known:
            return np.nan
        return function(known) if len(values) > 1 else known[0]

    rows = [[one_or_all([scores[s][i] for s in span]) for i in range(len(scores[0]))] for span in steps]
    return np.array([[one_or_all([row[i] for i in span]) for span in inputs] for row in rows])


def spans_of(groups):
    edges = [0, *itertools.accumulate(groups)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("kind", "start", "inputs", "steps", "new_start"),
    [
        # na ïve | so | um || b. | te | pa ri | mi
        ("causal", None, [2, 1, 1, 2, 1, 2, 1], [2, 1, 2, 1], 3),
        # the first explained token is the second half of a word: "ri" of "pa ri"
        ("causal", 8, [2, 1, 1, 2, 1, 2, 1], [1, 1], 5),
        # na ïve | so | um b | </s> || <pad> | . | te | pa ri | mi
        ("both", None, [2, 1, 2, 1, 1, 1, 1, 2, 1], [1, 1, 2, 1], 1),
        ("source", 2, [2, 1, 2, 1], [1, 2, 1], 2),
    ],
)
def test_words_against_loops(function, kind, start, inputs, steps, new_start):
    given = make(kind, start=start)
    out = given.aggregate("subwords", function)
    wanted = merged_by_loops(given.scores.tolist(), spans_of(steps), spans_of(inputs), FUNCTIONS[function])
    np.testing.assert_allclose(out.scores.numpy(), wanted, rtol=1e-12)
    assert out.start == new_start
    if kind == "causal" and start is None:
        assert [t.text for t in out.inputs] == ["naïve", "so", "um", "b.", "te", "pari", "mi"]
        assert [(t.start, t.end) for t in out.targets] == [(11, 13), (14, 16), (17, 21), (22, 24)]
        assert [t.id for t in out.targets] == [-1, 12, -1, 15]


def test_extra_axes_norms_and_maps_are_merged_alike():
    given = make("both", ("layer", "head"))
    out = given.aggregate("subwords", "mean")
    for layer, head in itertools.product(range(2), range(3)):
        plain = given.replace(scores=given.scores[..., layer, head], axes=("step", "input"), sequence_scores={})
        np.testing.assert_allclose(out.scores[..., layer, head], plain.aggregate("subwords", "mean").scores)
    for name, groups in (("encoder_self", [2, 1, 2, 1]), ("decoder_self", [1, 1, 1, 2])):
        before, after = given.sequence_scores[name][..., 1, 2].tolist(), out.sequence_scores[name][..., 1, 2]
        np.testing.assert_allclose(after, merged_by_loops(before, spans_of(groups), spans_of(groups), np.mean))
    normed = make("causal", norms=make("causal", seed=1).scores.abs())
    merged = normed.aggregate("subwords", "max")
    np.testing.assert_array_equal(merged.norms, normed.replace(scores=normed.norms).aggregate("subwords", "max").scores)


def test_what_is_visible():
    """A merged input is visible to a merged step if any part is to any part; nothing else is."""
    given = make("causal")
    out = given.aggregate("spans", target_spans=[(3, 6), (7, 9)], aggregate_fn="sum")
    steps, inputs = spans_of([2, 1, 2, 1]), spans_of([1, 1, 1, 3, 1, 2, 1])
    for (row, step), (column, group) in itertools.product(enumerate(steps), enumerate(inputs)):
        assert bool(out.visible[row, column]) == bool(given.visible[list(step)][:, list(group)].any())
    assert float(out.scores.nansum()) == pytest.approx(float(given.scores.nansum()))  # "sum" loses nothing
    assert [t.text for t in out.inputs] == ["na", "ïve", "so", "umb.", "te", "pari", "mi"]
    assert out.start == 3  # "umb." is the first explained token, of which "b." is explained
    assert out.targets[0].text == "b."
    assert out.inputs[3].segment == "generated"


def test_sides_can_be_left_alone():
    given = make("causal")
    only_prompt = given.aggregate("subwords", aggregate_target=False)
    assert [t.text for t in only_prompt.inputs] == ["naïve", "so", "um", "b", ".", "te", "pa", "ri", "mi"]
    assert only_prompt.targets == given.targets
    only_generated = given.aggregate("subwords", aggregate_source=False)
    assert [t.text for t in only_generated.inputs] == ["na", "ïve", "so", "um", "b.", "te", "pari", "mi"]
    both = make("both").aggregate("subwords", aggregate_source=False)
    assert [t.text for t in both.inputs][:6] == ["na", "ïve", "so", "um", "b", "</s>"]


class TestStepScores:
    def probability(self, given):
        p = given.step_scores["probability"].tolist()
        return [p[0] * p[1], p[2], p[3] * p[4], p[5]]

    def test_by_registration(self):
        given = make("causal")
        out = given.aggregate("subwords", "mean")
        e = given.step_scores["entropy"].tolist()
        assert out.step_scores["probability"].tolist() == pytest.approx(self.probability(given))
        assert step_functions.info("entropy").meta["span"] == "mean"
        assert out.step_scores["entropy"].tolist() == pytest.approx([(e[0] + e[1]) / 2, e[2], (e[3] + e[4]) / 2, e[5]])

    def test_of_a_logarithm(self):
        """The product of probabilities is a sum of their logarithms."""
        for args in ({"logprob": True}, {"probability": {"logprob": True}}):
            given = make("causal", provenance=Provenance(method="x", step_scores_args=args))
            given = given.replace(step_scores={"probability": given.step_scores["probability"].log()})
            out = given.aggregate("subwords").step_scores["probability"].exp().tolist()
            assert out == pytest.approx(self.probability(make("causal")))

    def test_overridden(self):
        given = make("causal")
        out = given.aggregate("subwords", step_scores={"entropy": "max", "probability": lambda values: values[..., -1]})
        e, p = (given.step_scores[n].tolist() for n in ("entropy", "probability"))
        assert out.step_scores["entropy"].tolist() == [max(e[:2]), e[2], max(e[3:5]), e[5]]
        assert out.step_scores["probability"].tolist() == [p[1], p[2], p[4], p[5]]
        with pytest.raises(UnknownNameError, match="'entropi'; did you mean 'entropy'"):
            given.aggregate("subwords", step_scores={"entropi": "max"})

    def test_aggregate_map(self):
        """An aggregator's own entry, "spans" for all that merge, then `span`; a callable is as good as a name."""

        def bits(forward):
            """Bits."""

        given = make("causal", step_scores={"bits": torch.arange(6.0)})
        cases = [
            ({"aggregate_map": {"subwords": "min", "spans": "max"}, "span": "sum"}, "subwords", [0, 2, 3, 5]),
            ({"aggregate_map": {"spans": "max"}, "span": "sum"}, "subwords", [1, 2, 4, 5]),
            ({"aggregate_map": {"sentences": lambda v: v.sum(-1) * 10}}, "subwords", [1, 2, 4, 5]),
            ({"aggregate_map": {"sentences": lambda v: v.sum(-1) * 10}}, "sentences", [10, 140]),
            ({"span": lambda v, dim: v.mean(dim)}, "subwords", [0.5, 2, 3.5, 5]),
            ({}, "subwords", [1, 2, 4, 5]),
        ]
        try:
            for meta, name, wanted in cases:
                attriflow.register_step_function(bits, "bits", overwrite=True, **meta)
                assert given.aggregate(name).step_scores["bits"].tolist() == wanted
        finally:
            step_functions.unregister("bits")

    def test_unknown_ones_keep_the_largest(self):
        given = make("causal", step_scores={"deltas": torch.tensor([1.0, -2, 0, 3, 1, 1])})
        assert given.aggregate("subwords").step_scores["deltas"].tolist() == [-2, 0, 3, 1]

    def test_a_name_in_a_file_never_runs_code(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
        given = make("causal", step_scores={"evil.py:f": torch.arange(6.0)})
        assert given.aggregate("subwords").step_scores["evil.py:f"].tolist() == [1, 2, 4, 5]


# -- what is merged ----------------------------------------------------------------------------------------------------


def test_sentences_are_those_of_the_perturbation_unit():
    out = make("causal").aggregate("sentences")
    assert [t.text for t in out.inputs] == ["naïve so um", "b.", "te pari mi"]
    assert [t.text for t in out.targets] == ["b.", "te pari mi"]


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("single", ["naïve", "so", "um", "b", ".", "te pari mi"]),
        ("start", ["naïve", "so um", "b", ". te pari mi"]),
        ("end", ["naïve so", "um", "b.", "te pari mi"]),
    ],
)
def test_split_modes(mode, wanted):
    """As in Inseq, but that nothing is merged over the border of prompt ("um") and generated text ("b")."""
    out = make("causal").aggregate("split", split_pattern=r"so|\.", split_mode=mode)
    assert [t.text for t in out.inputs] == wanted


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (r"\s+", ["naïve", "so", "um", "b.", "te", "pari", "mi"]),
        (r"ve s", ["na", "ïve so", "um", "b. te pari mi"]),  # a match takes whole tokens
        (r"(?= te)", ["naïve so um", "b.", "te pari mi"]),
        (re.compile("TE", re.I), ["naïve so um", "b.", "te", "pari mi"]),
        (r"q", ["na", "ïve", "so", "um", "b", ".", "te", "pa", "ri", "mi"]),
    ],
)
def test_split_patterns(pattern, wanted):
    assert [t.text for t in make("causal").aggregate("split", split_pattern=pattern).inputs] == wanted


def test_split_keeps_special_tokens_apart():
    out = make("both").aggregate("split", split_pattern="so")
    assert [t.text for t in out.inputs][:4] == ["naïve", "so", "umb", "</s>"]
    assert [t.text for t in out.inputs][4:] == ["<pad>", ".", "te", "pa", "ri", "mi"]  # no match on that side


def test_segments_of_the_call_or_of_the_attribution():
    given = make("causal", segments=((0, 5), (6, 10)))
    assert [t.text for t in given.aggregate("segments").inputs][:3] == ["naïve", "so um", "b"]
    assert [t.text for t in given.aggregate("segments", segments=["ïve so"]).inputs][:3] == ["na", "ïve so", "um"]
    whole = given.aggregate("segments", aggregate_target=True)
    assert [t.text for t in whole.targets] == ["b. te pari mi"]
    assert whole.scores.shape == (1, 3)
    with pytest.raises(InputError, match="needs segments="):
        make("causal").aggregate("segments")
    with pytest.raises(InputError, match="is not found"):
        given.aggregate("segments", segments=["nowhere"])


@pytest.fixture(scope="module")
def gpt2(golden_model):
    return golden_model("gpt2")


def test_turns_of_a_chat(gpt2, tmp_path):
    tokenizer = copy.deepcopy(gpt2.tokenizer)
    tokenizer.chat_template = TEMPLATE
    m = attriflow.load_model(gpt2.model, "saliency", tokenizer=tokenizer)
    out = m.attribute(CHAT, "pari mitemi", step_scores=["probability"])
    turns = out.aggregate("turns")[0]
    assert [t.text for t in turns.inputs[1:5]] == [f"[{c['role']}] {c['content']}\n" for c in CHAT]
    assert turns.inputs[0].special
    assert turns.targets == out[0].targets
    reply = out.aggregate("turns", aggregate_target=True)[0]
    assert [t.text for t in reply.targets] == ["pari mitemi"]
    assert reply.step_scores["probability"].tolist() == pytest.approx([float(out[0].step_scores["probability"].prod())])
    loaded = attriflow.load(out.save(tmp_path / "chat.safetensors"))
    again = loaded.aggregate("turns")[0]
    same(again.replace(provenance=turns.provenance, turns=turns.turns), turns)
    with pytest.raises(InputError, match="needs a chat"):
        m.attribute("ki nakol", "ki nakol temo").aggregate("turns")


def test_segments_travel_with_the_attribution(gpt2):
    out = gpt2.attribute("ki nakol temo", "ki nakol temo te", method="saliency", segments=["nakol temo"])
    assert [t.text for t in out.aggregate("segments")[0].inputs] == ["ki", "nakol temo", "te"]


@pytest.mark.parametrize(
    ("spans", "fragment"),
    [
        ({"source_spans": (2, 2)}, r"\(2, 2\) is not a range of the 4 tokens"),
        ({"source_spans": (2, 5)}, "not a range of the 4 tokens"),
        ({"target_spans": (-1, 2)}, "not a range of the 10 tokens"),
        ({"target_spans": [(2, 4), (1, 2)]}, "ascending order"),
        ({"target_spans": [(2, 4), (3, 5)]}, "ascending order"),
        ({"source_spans": (0, 2), "target_spans": (1, 3)}, "together"),
        ({"target_spans": "1:2"}, r"must be tuple\[int, int\] \| Sequence"),
        ({"target_spans": [1, 2, 3]}, r"must be tuple\[int, int\] \| Sequence"),
        ({"target_spans": [(1, 2.0)]}, r"must be tuple\[int, int\] \| Sequence"),
    ],
)
@pytest.mark.parametrize("name", ["spans", "slices"])
def test_wrong_spans(name, spans, fragment):
    with pytest.raises(InputError, match=fragment):
        make("causal").aggregate(name, **spans)


def test_spans_of_both_sides():
    out = make("both").aggregate("spans", source_spans=[(0, 2), (3, 5)], target_spans=(0, 2))
    assert [t.text for t in out.inputs] == ["naïve", "so", "umb", "</s>", "<pad>.", "te", "pa", "ri", "mi"]
    assert (out.start, out.targets[0].text) == (0, ".")


def test_slices():
    given = make("both", ("layer", "head"))
    out = given.aggregate("slices", source_spans=[(0, 1), (3, 5)])
    np.testing.assert_array_equal(out.scores, given.scores[:, [0, 3, 4, 6, 7, 8, 9, 10, 11]])
    np.testing.assert_array_equal(
        out.sequence_scores["encoder_self"], given.sequence_scores["encoder_self"][[0, 3, 4]][:, [0, 3, 4]]
    )
    same(given[1:3], given.aggregate("slices", source_spans=(1, 3)))
    same(given[-2:], given.aggregate("slices", source_spans=(4, 6)))
    cut = given.aggregate("slices", target_spans=(1, 3))  # generated tokens stay, the decoder start token goes
    assert (cut.start, len(cut.inputs)) == (0, 11)
    assert cut.sequence_scores["decoder_self"].shape[:2] == (4, 4)
    causal = make("causal")
    sliced = causal[1:3]
    assert [t.text for t in sliced.inputs] == ["ïve", "so", "b", ".", "te", "pa", "ri", "mi"]
    assert (sliced.start, sliced.targets) == (2, causal.targets)
    for wrong in (1, slice(0, 4, 2), "a"):
        with pytest.raises(InputError, match="ranges"):
            causal[wrong]
    with pytest.raises(InputError, match="no token lies"):
        causal[3:2]


# -- scores ------------------------------------------------------------------------------------------------------------


class TestScores:
    def test_normalised_over_source_and_target_together(self):
        out = make("both", ("embedding",)).aggregate("scores")
        np.testing.assert_allclose(out.scores.abs().nansum(1), np.ones(5))
        assert out.axes == ("step", "input")

    def test_each_axis_has_its_function(self):
        given = make("causal", ("layer", "head"))
        out = given.aggregate("scores", head="max", layer="sum", normalize=False)
        np.testing.assert_allclose(out.scores, given.scores.amax(-1).sum(-1))
        pipeline = given.aggregate([("scores", "max"), ("scores", "sum")], normalize=False)
        same(out, pipeline)
        same(out, given.aggregate(["max", "sum"], normalize=False))
        same(out, given.aggregate(["scores", "scores"], aggregate_fn=["max", "sum"], normalize=False))
        swapped = given.aggregate(["sum", "max"], normalize=False)
        assert not torch.allclose(out.scores.nan_to_num(), swapped.scores.nan_to_num())
        one = given.aggregate("max", normalize=False)
        assert one.axes == ("step", "input", "layer")
        np.testing.assert_allclose(one.sequence_scores["decoder_self"], given.sequence_scores["decoder_self"].amax(-1))

    @pytest.mark.parametrize(
        ("function", "plain"),
        [
            (torch.logsumexp, lambda x: x.exp().sum(-1).log()),
            (torch.median, lambda x: x.sort(-1).values[..., 1]),
            (lambda values: values[..., 0], lambda x: x[..., 0]),
            (lambda values, dim: values.std(dim), lambda x: x.std(-1)),
            (functools.partial(torch.quantile, q=0.5), lambda x: x.sort(-1).values[..., 1]),
        ],
    )
    def test_callables(self, function, plain):
        given = make("causal", ("layer", "head"))
        out = given.aggregate("scores", aggregate_fn=function, normalize=False)
        np.testing.assert_allclose(out.scores, plain(given.scores))

    def test_a_callable_that_does_not_reduce(self):
        given = make("causal", ("embedding",))
        with pytest.raises(
            InputError, match=r"'<lambda>' must reduce the last axis of \(6, 10, 4\), but returned shape"
        ):
            given.aggregate("scores", embedding=lambda values: values)
        with pytest.raises(InputError, match="but returned float"):
            given.aggregate("subwords", lambda values: 1.0)

    @pytest.mark.parametrize(
        ("chosen", "index"),
        [(1, [1]), (-1, [2]), ([0, 2], [0, 2]), ((0, 2), [0, 1]), ((-2, 3), [1, 2]), ({"head": [2]}, [2])],
    )
    def test_select(self, chosen, index):
        given = make("causal", ("layer", "head"))
        out = given.aggregate("max", select_idx=chosen, normalize=False)
        np.testing.assert_array_equal(out.scores, given.scores[..., index].amax(-1))
        whole = given.aggregate("scores", head="max", select_idx={"head": index, "layer": 1}, normalize=False)
        np.testing.assert_array_equal(whole.scores, given.scores[..., 1, index].amax(-1))

    @pytest.mark.parametrize("chosen", [3, -4, [0, 3], (2, 2), (0, 4), [0, 0], [0, -3], [], "a", (0, 1, 2), 1.0, True])
    def test_wrong_selection(self, chosen):
        with pytest.raises(InputError, match="select_idx"):
            make("causal", ("layer", "head")).aggregate("max", select_idx=chosen)

    def test_an_index_leaves_nothing_to_reduce(self):
        """So signs survive a norm."""
        given = make("causal", ("embedding",))
        out = given.aggregate("vnorm", select_idx=2, normalize=False)
        np.testing.assert_array_equal(out.scores, given.scores[..., 2])

    def test_an_axis_of_another_package(self):
        given = make("causal", ("layer",), sequence_scores={}).replace(axes=("step", "input", "expert"))
        np.testing.assert_allclose(given.aggregate(normalize=False).scores, given.scores.mean(-1))

    def test_rescale(self):
        out = make("causal", ("embedding",)).aggregate("sum", rescale=True)
        assert float(out.scores.nan_to_num().abs().max()) == 1
        with pytest.raises(InputError, match="only one"):
            ScoresAggregator(normalize=True, rescale=True)

    def test_plain_scores_stay(self):
        given = make("causal")
        same(given.aggregate(), given)
        np.testing.assert_allclose(given.aggregate(normalize=True).scores.abs().nansum(1), np.ones(6))
        with pytest.raises(InputError, match="no axis that 'mean' could reduce"):
            given.aggregate("mean")

    def test_what_a_reduced_axis_cannot_tell(self, gpt2):
        texts = "ki nakol temo", "ki nakol temo te so"
        signed = gpt2.attribute(*texts, method="input_x_gradient")
        lengths = gpt2.attribute(*texts, method="saliency")
        np.testing.assert_array_equal(signed.aggregate("sum", normalize=False)[0].scores, signed[0].scores)
        for out, options in [
            (signed, {"aggregator": "max"}),
            (signed, {"aggregator": "vnorm", "vnorm_ord": 1}),
            (signed, {"embedding": "mean"}),
            (signed, {"select_idx": 3}),
            (lengths, {"aggregator": "sum"}),
        ]:
            with pytest.raises(InputError, match="granular=True"):
                out.aggregate(**options)
        assert lengths.aggregate("vnorm")[0].scores.shape == (2, 6)


# -- pipelines ---------------------------------------------------------------------------------------------------------


class TestPipelines:
    def test_order_is_respected(self):
        given = make("causal", ("embedding",))
        first, last = given.aggregate(["subwords", "scores"]), given.aggregate(["scores", "subwords"])
        step = given.aggregate("subwords")
        np.testing.assert_allclose(first.scores, step.aggregate("scores").scores)
        np.testing.assert_allclose(last.scores, given.aggregate("scores").aggregate("subwords").scores)
        assert first.inputs == last.inputs
        assert not torch.allclose(first.scores.nan_to_num(), last.scores.nan_to_num())

    def test_functions_and_options(self):
        given = make("causal", ("embedding",))
        wanted = given.aggregate("scores", aggregate_fn="sum", normalize=False)
        wanted = wanted.aggregate("subwords", "mean", aggregate_target=False)
        options = {"normalize": False, "aggregate_target": False}
        same(wanted, given.aggregate([("scores", "sum"), ("subwords", "mean")], **options))
        same(
            wanted, given.aggregate([("sum", {"normalize": False}), ("subwords", "mean", {"aggregate_target": False})])
        )
        same(wanted, given.aggregate(["sum", "subwords"], [None, "mean"], **options))
        same(wanted, given.aggregate([lambda a: wanted]))
        same(
            wanted,
            given.aggregate(
                [("sum", {"normalize": False}), lambda a: a, ("subwords", "mean")],
                **{k: v for k, v in options.items() if k == "aggregate_target"},
            ),
        )

    def test_nothing_is_remembered(self, gpt2):
        """Gradient attributions do not change what "scores" means for attention (nor the order of calls anything)."""
        texts = "ki nakol temo", "ki nakol temo te so"
        attention = gpt2.attribute(*texts, method="attention")
        before = attention.aggregate("scores")[0].scores
        granular = gpt2.attribute(*texts, method="input_x_gradient", granular=True)
        granular.aggregate("sum")
        granular.aggregate(["vnorm", "subwords"])
        np.testing.assert_array_equal(attention.aggregate("scores")[0].scores, before)
        vnorm = granular.aggregate("scores")[0].scores
        np.testing.assert_allclose(vnorm, granular.aggregate("vnorm")[0].scores)

    @pytest.mark.parametrize(
        ("call", "error", "fragment"),
        [
            ({"aggregator": "subword"}, UnknownNameError, "'subword'; did you mean 'subwords'"),
            ({"aggregator": "scores", "aggregate_fn": "meen"}, UnknownNameError, "'meen'; did you mean 'mean'"),
            ({"aggregator": ["scores", "subwords"], "normalise": True}, OptionError, "did you mean 'normalize'"),
            ({"aggregator": "subwords", "normalize": True}, OptionError, "'normalize'"),
            ({"aggregator": ("mean", "max"), "aggregate_fn": ["max"]}, InputError, "2 aggregators but 1 functions"),
            ({"aggregator": ["scores", "subwords"], "aggregate_fn": "max"}, InputError, "one aggregate_fn each"),
            ({"aggregator": [("mean", "max")]}, OptionError, "takes no other function"),
            ({"aggregator": [("slices", "max")], "source_spans": (0, 1)}, OptionError, "aggregate_fn"),
            ({"aggregator": [(lambda a: a, "max")]}, OptionError, "callable aggregator"),
            ({"aggregator": [3]}, InputError, "an aggregator is a name"),
            ({"aggregator": [("a", "b", "c", "d")]}, InputError, "an aggregator is a name"),
            ({"aggregator": lambda a: 3}, InputError, "must return an Attribution, not int"),
            ({"aggregator": "split"}, AttriflowError, "needs the option 'split_pattern'"),
            ({"aggregator": "split", "split_pattern": "("}, InputError, "no regular expression"),
            ({"aggregator": "split", "split_pattern": "a", "split_mode": "begin"}, UnknownNameError, "split_mode"),
            ({"aggregator": "scores", "select_idx": {"depth": 1}}, UnknownNameError, "depth"),
            (
                {"aggregator": "pair", "paired_attr": 3},
                InputError,
                "'pair' must be Attribution, not 3",
            ),
        ],
    )
    def test_wrong_calls(self, call, error, fragment):
        with pytest.raises(error, match=fragment):
            make("causal", ("embedding",)).aggregate(**call)
        if "must return" not in fragment:  # checked before anything is computed: with no attribution at all
            with pytest.raises(error, match=fragment):
                AttributionOutput([]).aggregate(**call)


def test_registration():
    @attriflow.register_aggregation_function
    def spread(scores, dim):
        """Largest minus smallest."""
        return scores.amax(dim) - scores.amin(dim)

    @attriflow.register_aggregator(identifier="doubled")
    def twice(attribution, *, times=2):
        """Scores times a number."""
        return attribution.replace(scores=attribution.scores * times)

    try:
        assert "spread" in attriflow.list_aggregation_functions()
        assert "doubled" in attriflow.list_aggregators()
        given = make("causal", ("embedding",))
        wanted = 3 * (given.scores.amax(-1) - given.scores.amin(-1))
        out = given.aggregate(["spread", "doubled"], normalize=False, times=3)
        np.testing.assert_allclose(out.scores, wanted)
        with pytest.raises(AttriflowError, match="already registered"):
            attriflow.register_aggregation_function(lambda v: v, "spread")
    finally:
        aggregation_functions.unregister("spread")
        aggregators.unregister("doubled")


# -- pairs -------------------------------------------------------------------------------------------------------------


class TestPair:
    def test_minus(self):
        a, b = make("both", ("layer", "head")), make("both", ("layer", "head"), seed=1)
        out = a - b
        np.testing.assert_array_equal(out.scores, a.scores - b.scores)
        for name in a.step_scores:
            np.testing.assert_array_equal(out.step_scores[name], a.step_scores[name] - b.step_scores[name])
        for name in a.sequence_scores:
            np.testing.assert_array_equal(out.sequence_scores[name], a.sequence_scores[name] - b.sequence_scores[name])
        # as in Inseq, "pair" is the change from an attribution to the paired one
        np.testing.assert_array_equal(a.aggregate("pair", paired_attr=b).scores, b.scores - a.scores)
        ratio = a.aggregate("pair", paired_attr=b, aggregate_fn=lambda x, y: x / y)
        np.testing.assert_array_equal(ratio.scores, a.scores / b.scores)
        outputs = AttributionOutput([a, b]) - AttributionOutput([b, b])
        same(outputs[0], out)
        assert float(outputs[1].scores.nansum()) == 0
        with pytest.raises(TypeError):
            a - 3

    def test_tokens_that_differ(self):
        a = make("causal")
        other = dataclasses.replace(a.inputs[2], text="ta", id=99)
        b = make("causal", inputs=(*a.inputs[:2], other, *a.inputs[3:]))
        assert (b - a).inputs[2] == dataclasses.replace(other, text="so → ta", id=-1)
        assert (b - a).inputs[:2] == a.inputs[:2]

    def test_the_length_of_a_difference_is_not_known(self):
        a = make("causal", norms=make("causal").scores.abs())
        assert (a - a).norms is None

    def test_unequal_lengths_are_aligned(self):
        """A word more in the prompt, and a piece more in what follows: counterparts are compared, the rest left out."""
        longer, shorter = make("causal", ("layer",)), make("causal", ("layer",), seed=1)
        # without the input "ïve" (1) and the step and input "ri" (8)
        columns, steps = [0, 2, 3, 4, 5, 6, 7, 9], [0, 1, 2, 3, 5]
        maps = {"decoder_self": longer.sequence_scores["decoder_self"][:7, :7]}
        cut = shorter.replace(
            scores=shorter.scores[steps][:, columns],
            inputs=tuple(shorter.inputs[i] for i in columns),
            targets=tuple(shorter.targets[i] for i in steps),
            step_scores={n: v[steps] for n, v in shorter.step_scores.items()},
            sequence_scores=maps,
            start=3,
        )
        for out, sign in ((longer - cut, 1), (cut - longer, -1)):
            assert [t.text for t in out.inputs] == ["na", "so", "um", "b", ".", "te", "pa", "mi"]
            assert out.start == 3
            wanted = longer.scores[steps][:, columns] - shorter.scores[steps][:, columns]
            np.testing.assert_array_equal(sign * out.scores, wanted)
            assert out.sequence_scores["decoder_self"].shape[:2] == (7, 7)
        words = longer.aggregate("subwords") - cut.aggregate("subwords")
        assert [t.text for t in words.inputs] == ["na → naïve", "so", "um", "b.", "te", "pa → pari", "mi"]

    def test_what_cannot_be_compared(self):
        a = make("causal", ("layer",))
        for other, fragment in [
            (make("causal"), "same axes"),
            (make("causal", ("layer",), step_scores={}), "no step score 'entropy'"),
            (make("causal", ("layer",), sequence_scores={}), "no sequence score 'decoder_self'"),
            (make("source", ("layer",), sequence_scores=a.sequence_scores), "in common"),
        ]:
            with pytest.raises(InputError, match=fragment):
                a.aggregate("pair", paired_attr=other)
        with pytest.raises(InputError, match="one to one: 1 and 2"):
            AttributionOutput([a]) - AttributionOutput([a, a])
        with pytest.raises(InputError, match="not AttributionOutput"):
            a.aggregate("pair", paired_attr=AttributionOutput([a]))


# -- outputs -----------------------------------------------------------------------------------------------------------


def test_weights():
    given = make("both", ("embedding",))
    kept = copy.deepcopy(given)
    out = AttributionOutput([given]).weight_attributions("entropy")[0]
    np.testing.assert_allclose(out.scores, given.aggregate().scores * given.step_scores["entropy"][:, None])
    same(given, kept)
    same(out.aggregate(), out)  # nothing is normalised away afterwards
    with pytest.raises(UnknownNameError, match="did you mean 'entropy'"):
        given.weight_attributions("entropie")


@pytest.mark.parametrize(("kind", "start"), [("causal", None), ("causal", 6), ("both", None), ("source", 3)])
def test_scores_dicts(kind, start):
    import pandas as pd

    given = make(kind, ("embedding",), start)
    flat = given.aggregate()
    (out,) = AttributionOutput([given]).get_scores_dicts()
    assert list(out) == ["source_attributions", "target_attributions", "step_scores"]
    keys = [(given.start + i, t.text) for i, t in enumerate(given.targets)]
    source, target = flat.source_attributions, flat.target_attributions
    for name, matrix, side in (("source_attributions", source, True), ("target_attributions", target, False)):
        tokens = [t.text for t in given.inputs if (t.segment == "source") == side]
        if not tokens:
            assert matrix is None
            assert out[name] == {}
            continue
        frame = pd.DataFrame(out[name])
        assert list(frame.columns) == keys
        assert list(frame.index) == list(enumerate(tokens))
        np.testing.assert_array_equal(frame.to_numpy(), matrix.numpy())
    assert out["step_scores"][keys[1]] == {n: float(v[1]) for n, v in given.step_scores.items()}
    words = given.get_scores_dicts(["scores", "subwords"])
    assert len(words["step_scores"]) < len(keys) or start == 6
    with pytest.raises(InputError, match="more than one score per token"):
        given.get_scores_dicts(do_aggregation=False)


def test_extremes():
    given = make("causal")
    assert given.minimum == float(given.scores.nan_to_num().min()) < 0
    assert given.maximum == float(given.scores.nan_to_num().max()) > 0
    assert given.replace(scores=given.scores.abs() + 1).minimum == 0
    assert given.replace(scores=-given.scores.abs() - 1).maximum == 0


def test_merge(gpt2, tmp_path):
    def run(text, **options):
        settings = {"method": "integrated_gradients", "n_steps": 2, "step_scores": ["entropy"], **options}
        texts = [text] if isinstance(text, str) else text
        return gpt2.attribute(texts, [f"{t} te" for t in texts], **settings)

    one, two = run("ki"), run(["nakol", "temo so"])
    merged = attriflow.merge_attributions([one, two])
    assert [a.input_text for a in merged] == ["ki", "nakol", "temo so"]
    assert list(one + two) == list(one.merge(two)) == list(sum([one, two])) == list(merged)
    loaded = attriflow.load(two.save(tmp_path / "two.safetensors"))
    assert len(one + loaded) == 3
    for options, what in [
        ({"n_steps": 3}, "options"),
        ({"method": "input_x_gradient", "n_steps": None}, "method"),
        ({"step_scores": []}, "step_scores"),
        ({"attributed_fn": "logits"}, "attributed_fn"),
        ({"granular": True}, "axes"),
        ({"include_eos_baseline": True}, "include_eos_baseline"),
        ({"baseline": "mean"}, "options"),
        ({"seed": 1}, "seed"),
        ({"contrast_force_inputs": True}, "contrast_force_inputs"),
        ({"attributed_fn_args": {"logprob": True}}, "attributed_fn_args"),
    ]:
        options = {k: v for k, v in options.items() if v is not None}
        other = (
            run("so", **options)
            if "method" not in options
            else gpt2.attribute("so", "so te", method="input_x_gradient", step_scores=["entropy"])
        )
        with pytest.raises(InputError, match=f"cannot be merged: {what} is"):
            one.merge(other)
        assert len(one + other) == 2  # joined as they are
    with pytest.raises(InputError, match="expected an AttributionOutput, not list"):
        attriflow.merge_attributions([one, list(two)])
    assert len(attriflow.merge_attributions([])) == 0


def test_sequence_scores_must_be_square():
    with pytest.raises(InputError, match=r"'decoder_self' has shape \(2, 3, 2\), expected \[token, token, layer\]"):
        make("causal", ("layer",), sequence_scores={"decoder_self": torch.zeros(2, 3, 2)})
