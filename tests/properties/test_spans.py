"""Spans as steps: what a span gets is what its tokens get together, at the price of one step."""

import functools
import re
from itertools import pairwise

import pytest
import torch
from models import ENCODER_DECODERS, build

import attriflow
from attriflow.errors import InputError, NothingToExplainError, UnknownNameError
from attriflow.registry import methods, step_functions

PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari"]
TARGETS = {
    False: [f"{PROMPTS[0]} pari mitemi kana gemibes", f"{PROMPTS[1]} te pari so"],
    True: ["um nomal rapel Tarsen popite", "so rapel nomal"],
}
LOG = {"logprob": True}
# f of a sum is the sum of f: everything linear in the value, and what is pooled afterwards
ADDITIVE = [
    n
    for n in methods.names()
    if n not in ("saliency", "smooth_grad", "var_grad", "lime", "kernel_shap", "context_cite")
    and methods.info(n).meta["family"] != "control"
]
QUICK = ("gpt2", "llama-gqa", "bart")
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.sweep) for n in (*QUICK, "gemma2", "qwen3", "t5")]
EVERY = [n for n in methods.names() if methods.info(n).meta["explains"]]


@pytest.fixture
def load(tokenizers):
    @functools.cache
    def get(name, dtype="float64"):
        tokenizer = tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"]
        return attriflow.load_model(build(name).to(getattr(torch, dtype)), tokenizer=tokenizer)

    return get


def explain(m, method, inputs=PROMPTS, targets=None, **options):
    targets = TARGETS[m.is_encoder_decoder] if targets is None else targets
    trial = methods.info(method).meta["trial"]
    options = {"attribute_target": m.is_encoder_decoder, "attributed_fn_args": LOG, **trial, **options}
    return m.attribute(inputs, targets, method=method, show_progress=False, **options)


def close(found, wanted, rtol=1e-5):
    found, wanted = found.nan_to_num(), wanted.nan_to_num()
    assert (found - wanted).abs().max() <= rtol * wanted.abs().max().clamp(min=1e-3)


def halves(attribution):
    """Two ranges that tile the steps."""
    first, stop = attribution.start, attribution.start + len(attribution.targets)
    middle = (first + stop) // 2
    return [(first, middle), (middle, stop)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ADDITIVE)
def test_two_spans_tile_a_text(load, name, method):
    m = load(name)
    tokens = explain(m, method)
    spans = explain(m, method, target_spans=[halves(a) for a in tokens], step_scores=["entropy", "surprisal"])
    for one, many in zip(spans, tokens, strict=True):
        ranges = [slice(a - many.start, b - many.start) for a, b in halves(many)]
        assert one.spans == tuple(halves(many)) and one.start == many.start
        for step, inside in enumerate(ranges):
            close(one.scores[step], many.scores[inside].nan_to_num().sum(0))
        assert torch.equal(one.visible, torch.stack([many.visible[r].any(0) for r in ranges]))
        values = m.attribute(
            one.input_text, one.target_text, method="dummy", step_scores=["entropy", "surprisal"], show_progress=False
        )[0].step_scores
        close(one.step_scores["entropy"], torch.stack([values["entropy"][r].mean() for r in ranges]))
        close(one.step_scores["surprisal"], torch.stack([values["surprisal"][r].sum() for r in ranges]))


@pytest.mark.parametrize("name", NAMES[:1] + NAMES[2:])
@pytest.mark.parametrize("method", EVERY)
def test_a_span_of_one_token_is_its_step_and_a_batch_is_alone(load, name, method):
    m = load(name)
    tokens = explain(m, method)
    singles = [[(i, i + 1) for i in range(a.start, a.start + len(a.targets))] for a in tokens]
    spans = explain(m, method, target_spans=singles)
    for i, (one, many) in enumerate(zip(spans, tokens, strict=True)):
        assert one.targets == many.targets
        close(one.scores, many.scores)
        alone = explain(m, method, [PROMPTS[i]], [TARGETS[m.is_encoder_decoder][i]], target_spans="all")[0]
        together = explain(m, method, target_spans="all")[i]
        close(alone.scores, together.scores)


@pytest.mark.parametrize("name", ["gpt2", "bart", "t5"])
def test_saliency_of_a_span_by_hand(load, name):
    """The norm of one plain gradient of the sum of log-probabilities."""
    m = load(name)
    for found in explain(m, "saliency", target_spans="all"):
        example = m.encode(found.input_text, found.target_text)[0]
        target = m.wrapped.embed(torch.tensor([example.target_ids[:-1]]), "target").detach().requires_grad_(True)
        given = {"inputs_embeds": target}
        leaves = [target]
        if m.is_encoder_decoder:
            source = m.wrapped.embed(torch.tensor([example.source_ids]), "source").detach().requires_grad_(True)
            scaled = {s: e / m.wrapped.feeds[s].inner for s, e in (("source", source), ("target", target))}
            given = {"inputs_embeds": scaled["source"], "decoder_inputs_embeds": scaled["target"]}
            leaves = [source, target]
        logits = m.model(**given, use_cache=False).logits[0].log_softmax(-1)
        value = sum(logits[i - 1, example.target_ids[i]] for i in range(example.start, example.stop))
        wanted = torch.cat([g[0].norm(dim=-1) for g in torch.autograd.grad(value, leaves)])
        close(found.scores[0, : len(wanted)], wanted)
        assert found.scores[0, len(wanted) :].isnan().all()


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "deeplift", "occlusion"])
def test_a_span_costs_one_step_however_long_it_is(load, method):
    m = load("llama-gqa")
    prompt = PROMPTS[0]
    target = f"{prompt} {' '.join(PROMPTS) * 3}"
    tokens, span = (explain(m, method, [prompt], [target], **k)[0] for k in ({}, {"target_spans": "all"}))
    n = len(tokens.targets)
    assert n > 40 and len(span.targets) == 1
    assert span.provenance.backward_rows * n <= tokens.provenance.backward_rows * 1.01
    assert span.provenance.forward_rows <= tokens.provenance.forward_rows
    close(span.scores[0], tokens.scores.nan_to_num().sum(0)) if method != "saliency" else None


@pytest.mark.parametrize(
    "method",
    ["occlusion", "integrated_gradients", pytest.param("sequential_integrated_gradients", marks=pytest.mark.slow)],
)
def test_spans_behind_a_reused_prefix_and_in_part_of_a_text(load, method):
    """Long enough for keys and values to be reused; tokens between, before and behind the spans count for nothing."""
    m = load("llama-gqa")
    prompts = [" ".join(PROMPTS) * 2, PROMPTS[1]]
    targets = [f"{p} {' '.join(PROMPTS) * 3}" for p in prompts]
    tokens = explain(m, method, prompts, targets)
    asked = [[(a.start + 2, a.start + 5), (a.start + 9, a.start + 20)] for a in tokens]
    for one, many, ranges in zip(explain(m, method, prompts, targets, target_spans=asked), tokens, asked, strict=True):
        for step, (first, stop) in enumerate(ranges):
            close(one.scores[step], many.scores[first - many.start : stop - many.start].nan_to_num().sum(0))


def test_the_mean_and_half_precision(load):
    m = load("llama-gqa")
    total, mean = (explain(m, "input_x_gradient", target_spans="all", span_value=v) for v in ("sum", "mean"))
    for a, b in zip(total, mean, strict=True):
        n = a.spans[0][1] - a.spans[0][0]
        close(a.scores, b.scores * n)
    half, full = load("gpt2", "float16"), load("gpt2", "float32")
    for a, b in zip(*(explain(x, "input_x_gradient", target_spans="sentence") for x in (half, full)), strict=True):
        close(a.scores, b.scores, 0.05)


def test_contrasts_are_added_up(load):
    m = load("bart")
    options = {"attributed_fn": "contrast_logits_diff", "attributed_fn_args": {}, "contrast_targets": ["so um Tarsen"]}
    tokens = explain(m, "input_x_gradient", PROMPTS[:1], ["um so Tarsen"], **options)[0]
    with pytest.warns(UserWarning, match="a sum of 'contrast_logits_diff' over a span has no meaning"):
        span = explain(m, "input_x_gradient", PROMPTS[:1], ["um so Tarsen"], target_spans="all", **options)[0]
    close(span.scores[0], tokens.scores.nan_to_num().sum(0))


def test_probabilities_become_logarithms_unless_told_otherwise(load):
    m = load("gpt2")
    out = m.attribute(PROMPTS[0], TARGETS[False][0], method="saliency", target_spans="all")
    assert out.info["attributed_fn_args"] == {"logprob": True}
    for name in step_functions.names():
        info = step_functions.info(name)
        if info.meta.get("span") == "sum" and not info.meta.get("contrast") and not info.meta.get("passes"):
            m.attribute(PROMPTS[0], TARGETS[False][0], method="dummy", attributed_fn=name, target_spans="all")
    with pytest.warns(UserWarning, match="span_value='mean' explains their mean"):
        m.attribute(PROMPTS[0], TARGETS[False][0], method="dummy", attributed_fn="entropy", target_spans="all")


class TestWhichSpans:
    PROMPT = "what color is the car ?"
    TEXT = f"{PROMPT} tom has a car . anna has a hat . #### red hat"

    @pytest.fixture(scope="class")
    def model(self):
        return attriflow.load_model("demo/recall")

    def found(self, model, spans, text=TEXT):
        out = model.attribute(self.PROMPT, text, method="dummy", target_spans=spans)[0]
        assert all(a < b for a, b in out.spans) and all(one[1] <= two[0] for one, two in pairwise(out.spans))
        return [t.text for t in out.targets]

    def test_names(self, model):
        assert self.found(model, "all") == ["tom has a car . anna has a hat . #### red hat"]
        assert self.found(model, "sentence") == ["tom has a car .", "anna has a hat .", "#### red hat"]
        assert self.found(model, "answer") == ["red hat"]
        thought = f"{self.PROMPT} <think> tom </think> has a </think> car ."
        assert self.found(model, "answer", thought) == ["car ."]

    def test_ranges_and_patterns(self, model):
        assert self.found(model, {"characters": [(1, 4), (17, 23)]}) == ["tom", "anna has"]
        assert self.found(model, re.compile("has a (car|hat)")) == ["car", "hat"]
        assert self.found(model, {"pattern": "has a"}) == ["has a", "has a"]
        assert self.found(model, [(7, 9)]) == self.found(model, {"tokens": [(7, 9)]}) == ["has a"]
        chat = model.attribute(
            [self.PROMPT] * 2, [self.TEXT] * 2, method="dummy", target_spans=["all", [(6, 7), (8, 9)]]
        )
        assert [len(a.targets) for a in chat] == [1, 2]

    @pytest.mark.parametrize(
        ("spans", "error", "said"),
        [
            ("words", UnknownNameError, "Allowed: all, answer, sentence, turn"),
            ("turn", InputError, "has no turns"),
            ([(0, 2)], InputError, "not explained; the explained ones are"),
            ([(8, 7)], InputError, "no range of the"),
            ([(7, 9), (8, 10)], InputError, "not overlap"),
            ({"characters": [(0, 999)]}, InputError, "characters there"),
            ({"pattern": "("}, InputError, "is no pattern"),
            ({"pattern": "xyz"}, NothingToExplainError, "has no match of 'xyz'"),
            ({"words": 1}, InputError, "one of the keys tokens, characters, pattern"),
            ([(1, 2, 3)], InputError, "pairs of integers"),
            (7, InputError, "not 7"),
        ],
    )
    def test_what_cannot_be_spans(self, model, spans, error, said):
        with pytest.raises(error, match=re.escape(said)):
            self.found(model, spans)

    def test_a_text_without_an_answer_leaves_the_others(self, model):
        with pytest.warns(UserWarning, match="text 1: .* has no answer after"):
            out = model.attribute(
                [self.PROMPT] * 2, [self.TEXT, f"{self.PROMPT} tom"], method="saliency", target_spans="answer"
            )
        assert [a.spans is not None and len(a.spans) for a in out] == [1, 0]

    def test_a_list_of_another_length(self, model):
        with pytest.raises(InputError, match="3 entries for 1 texts"):
            self.found(model, ["all", "all", "all"])


class TestResults:
    @pytest.fixture(scope="class")
    def out(self):
        model = attriflow.load_model("demo/recall")
        return model.attribute(
            TestWhichSpans.PROMPT,
            TestWhichSpans.TEXT,
            method="input_x_gradient",
            target_spans="sentence",
            step_scores="probability",
        )

    @pytest.mark.parametrize("suffix", ["safetensors", "json", "jsonl", "parquet"])
    def test_files(self, out, tmp_path, suffix):
        (back,) = attriflow.load(out.save(tmp_path / f"a.{suffix}"))
        assert back.spans == out[0].spans and back.targets == out[0].targets
        assert torch.equal(back.scores.nan_to_num(), out[0].scores.nan_to_num())

    def test_aggregators_merge_inputs_and_leave_spans(self, out):
        (a,) = out
        (merged,) = out.aggregate("sentences", "sum")
        assert merged.targets == a.targets and [t.text for t in merged.inputs][-3:-1] == [t.text for t in a.targets[:2]]
        assert merged.spans == ((1, 2), (2, 3), (3, 4))
        close(merged.scores.nan_to_num().sum(1), a.scores.nan_to_num().sum(1), 1e-5)
        (cut,) = out.aggregate("slices", source_spans=(0, 2))
        assert len(cut.inputs) == len(a.inputs) - 4 and cut.spans[0] == (a.spans[0][0] - 4, a.spans[0][1] - 4)
        assert torch.equal(cut.preceding, cut.visible) and torch.equal(a.preceding, a.visible)
        assert ((a - a).scores.nan_to_num() == 0).all() and (a - a).spans == a.spans

    def test_what_is_shown(self, out, capsys):
        out.show(view="console")
        assert "anna has a hat ." in capsys.readouterr().out
        assert "anna has a hat ." in out.to_html()
        assert list(out.get_scores_dicts()[0]["target_attributions"])[1] == (11, "anna has a hat .")
        assert set(out.to_dataframe()["generated_token"]) == {t.text for t in out[0].targets}


def test_from_the_command_line(tmp_path, capsys):
    from attriflow.cli import main

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["attribute", *given, *arguments])
        return stop.value.code or 0

    path = tmp_path / "a.json"
    given = ["-i", TestWhichSpans.PROMPT, "-g", TestWhichSpans.TEXT, "-m", "demo/recall", "--hide"]
    assert run("-o", str(path), "--target-spans", '{"pattern": "has a"}', "--span-value", "mean") == 0
    assert [t.text for t in attriflow.load(path)[0].targets] == ["has a", "has a"]
    text = f"{TestWhichSpans.PROMPT} <think> tom has a car . </think> red"
    given = [*given[:3], text, *given[4:]]
    assert run("-o", str(path), "--overwrite", "--reasoning", "think", "--hops", "2") == 0
    assert [t.text for t in attriflow.load(path)[0].targets] == ["direct", "hop 1", "hop 2", "all hops"]
    assert run("--reasoning", "think", "--target-spans", "all") == 1
    assert "--target-spans has no place beside it" in capsys.readouterr().err
    assert run("--target-spans", "words") == 1
    assert "Allowed: all, answer, sentence, turn" in capsys.readouterr().err
