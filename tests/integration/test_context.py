"""Context attribution on real models: planted cues, forced and generated outputs, templates, files."""

from __future__ import annotations

import functools
import json
import math
import sys
from pathlib import Path

import pytest
import torch

import attriflow
from attriflow.context import ContextOutput, attribute_context, load
from attriflow.context.selection import select, threshold
from attriflow.context.settings import fill
from attriflow.demo import load_demo_dataset
from attriflow.errors import AttriflowError, InputError, OptionError, UnknownNameError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@functools.lru_cache
def demo(name: str):
    return attriflow.load_model(f"demo/{name}")


def recall(current="what color is the hat ?", context="anna has a red hat .", **options):
    return attribute_context(demo("recall"), current, context, show_progress=False, **options)


def translate(**options):
    options = {"output_context_text": "la casa", **options}
    return attribute_context(
        demo("translate"),
        "of the old man is red",
        "the house",
        contextless_input_current_text="<unk> <unk> {current}",
        contextless_output_current_text="<unk> <unk> {current}",
        show_progress=False,
        **options,
    )


class TestSelection:
    def test_magnitudes_with_magnitudes(self):
        """Inseq's threshold is the mean and deviation of SIGNED scores: here 0 + 1 * 3.3, and all would pass."""
        scores = [3.0, -3.0, 3.0, -3.0, 3.5, -3.5]
        sizes = torch.tensor(scores).abs()
        least = threshold(scores, 1.0)
        assert least == pytest.approx(float(sizes.mean() + sizes.std()))
        assert select(scores, least) == [4, 5]

    def test_no_threshold_takes_all_but_zeros(self):
        assert threshold([1.0, -2.0, 0.0], None) == 0
        assert select([1.0, -2.0, 0.0], 0) == [1, 0]

    def test_one_score_is_its_own_mean(self):
        assert select([0.3], threshold([0.3], 1.0)) == [0]

    def test_equal_scores(self):
        scores = [0.1] * 7
        assert len(select(scores, threshold(scores, 1.0))) == 7

    def test_topk(self):
        assert select([1.0, 3.0, -2.0], 0, 2) == [1, 2]

    def test_nothing(self):
        assert select([], threshold([], 1.0)) == []


class TestTemplates:
    def test_places(self):
        text, spans = fill("<user>{context}\n{current} {other}", "now", "before")
        assert text == "<user>before\nnow {other}"
        assert {k: text[a:b] for k, (a, b) in spans.items()} == {"context": "before", "current": "now"}

    def test_a_context_that_looks_like_a_template(self):
        assert fill("{context} {current}", "{context}", "{current}")[0] == "{current} {context}"

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"input_template": "{context}"}, "input_template must have {current} once"),
            ({"input_template": "{current} {current}"}, "once"),
            ({"output_template": "{current} {context}"}, "must come before"),
            ({"contextless_input_current_text": "nothing"}, "placeholder"),
            ({"input_template": "{current}"}, "has no place {context}"),
            ({"context_sensitivity_topk": 0}, "positive"),
            ({"handle_output_context_strategy": "guess"}, "handle_output_context_strategy"),
            ({"context_sensitivity_scope": "corpus"}, "scope"),
            ({"context_sensitivity_metric": "kl"}, "unknown step function 'kl'; did you mean|unknown step function"),
            ({"attribution_method": "salience"}, "did you mean 'saliency'"),
            ({"attribution_kwargs": {"steps": 3}}, "option of attribution method"),
            ({"attribution_topq": 3}, "did you mean 'attribution_topk'"),
            ({"output_template": "{context} {current}", "handle_output_context_strategy": "pre"}, "must be given"),
            ({"handle_output_context_strategy": "manual", "output_template": "{context} {current}"}, "asks the user"),
            (
                {"contextless_output_next_tokens": ["a"], "prompt_user_for_contextless_output_next_tokens": True},
                "not both",
            ),
        ],
    )
    def test_wrong(self, settings, message):
        with pytest.raises(AttriflowError, match=message):
            recall(**settings)

    def test_wrong_texts(self):
        with pytest.raises(InputError, match="not empty"):
            recall(current=" ")
        with pytest.raises(InputError, match="there is no context"):
            recall(context=None)
        with pytest.raises(InputError, match="2 current inputs but 1 values of input_context"):
            recall(["a ?", "b ?"], ["red"])
        with pytest.raises(InputError, match="is empty"):
            recall([], [])
        with pytest.raises(InputError, match="input_template has a place"):
            recall(context=None, input_template="{context} {current}", output_context_text="a")


class TestRecall:
    @pytest.mark.parametrize(
        "fn", ["probability", "contrast_prob_diff", "contrast_logits_diff", "kl_divergence", "pcxmi"]
    )
    @pytest.mark.parametrize("method", ["saliency", "occlusion", "lime"])
    def test_the_cue_is_found(self, fn, method):
        (found,) = recall(attributed_fn=fn, attribution_method=method)
        assert found.output_current == "red"
        (cues,) = found.cci_scores
        assert cues.cti_token == "red"
        assert "red" in [found.input_context_tokens[i] for i in cues.input_cues]
        assert cues.contextual_output == "anna has a red hat . what color is the hat ? red"
        if fn.startswith("contrast"):
            assert cues.contrast_token != "red"
            assert cues.contextless_output == f"what color is the hat ? {cues.contrast_token}"
        else:
            assert (cues.contrast_token is None) == (fn == "probability")

    def test_scores_by_hand(self):
        """CTI: divergence of two plain passes; CCI: the aggregated attribution of the contextual text."""
        (found,) = recall(output_current_text="a red hat", current="what does anna have ?")
        m = demo("recall")
        with torch.no_grad():
            p, q = (
                m.model(torch.tensor([m.tokenizer(text).input_ids])).logits[0, -4:-1].log_softmax(-1)
                for text in ("what does anna have ? a red hat", "anna has a red hat . what does anna have ? a red hat")
            )
        wanted = (p.exp() * (p - q)).sum(-1)
        torch.testing.assert_close(torch.tensor(found.cti_scores), wanted, atol=1e-4, rtol=1e-4)
        assert found.cti_threshold == pytest.approx(float(wanted.mean() + wanted.std()), rel=1e-4)
        assert found.sensitive == [
            i for i in wanted.argsort(descending=True).tolist() if wanted[i] >= found.cti_threshold
        ]
        prompt = "anna has a red hat . what does anna have ?"
        whole = m.attribute(prompt, f"{prompt} a red hat", method="saliency", show_progress=False).aggregate(
            normalize=False
        )[0]
        for cues in found.cci_scores:
            row = whole.scores[cues.cti_idx][: len(found.input_context_tokens)]
            torch.testing.assert_close(torch.tensor(cues.input_context_scores), row, atol=1e-5, rtol=1e-4)

    def test_a_fact_in_the_text_needs_no_context(self):
        (found,) = recall("tom has a blue car . what color is the car ?")
        assert found.output_current == "blue"
        assert found.cti_scores[0] < 0.1 < recall()[0].cti_scores[0]

    def test_all_tokens_and_the_likeliest_foil(self):
        (found,) = recall(
            "tom has a blue car . what does anna have ?", context_sensitivity_std_threshold=None,
            attributed_fn="contrast_prob_diff",
        )  # fmt: skip
        assert found.output_current == "a red hat"
        assert sorted(found.sensitive) == [0, 1, 2]
        by_token = {c.cti_token: c for c in found.cci_scores}
        assert (by_token["red"].contrast_token, by_token["hat"].contrast_token) == ("blue", "car")
        # the same article with and without context: the predictions after both inputs are compared
        assert by_token["a"].contrast_token == "a"
        assert max(map(abs, by_token["a"].input_context_scores)) > 0

    def test_named_foils(self):
        options = {"attributed_fn": "contrast_prob_diff"}
        (found,) = recall(contextless_output_next_tokens=["blue"], **options)
        assert found.cci_scores[0].contrast_token == "blue"
        with pytest.raises(InputError, match="2 tokens for 1 sensitive tokens: 'red'"):
            recall(contextless_output_next_tokens=["blue", "green"], **options)

    def test_foils_that_are_asked_for(self):
        asked = []

        def ask(question, proposed):
            asked.append(question)
            return "green"

        options = {"attributed_fn": "contrast_prob_diff", "prompt_user_for_contextless_output_next_tokens": True}
        (found,) = recall(ask=ask, **options)
        assert found.cci_scores[0].contrast_token == "green"
        assert len(asked) == 1
        assert "'red'" in asked[0]
        with pytest.raises(InputError, match="asks the user"):
            recall(**options)

    def test_topk(self):
        options = {"context_sensitivity_std_threshold": None, "context_sensitivity_topk": 1}
        (found,) = recall("what does anna have ?", attribution_std_threshold=None, attribution_topk=2, **options)
        assert len(found.cci_scores) == 1
        assert len(found.cci_scores[0].input_cues) == 2

    def test_a_separator_and_templates(self):
        (found,) = recall(input_template="{context} {current}", output_template="{current}")
        (other,) = recall(decoder_input_output_separator="")
        torch.testing.assert_close(torch.tensor(found.cti_scores), torch.tensor(recall()[0].cti_scores))
        assert other.output_current == "red"

    def test_context_after_the_text(self):
        (found,) = recall(
            "anna has a red hat .", "what color is the hat ?", input_template="{current} {context}",
            output_current_text="red",
        )  # fmt: skip
        assert [found.input_context[a:b] for a, b in found.token_spans["input_context"]] == found.input_context_tokens
        assert found.input_context_tokens == ["what", "color", "is", "the", "hat", "?"]

    def test_batch_is_alone(self):
        texts = [("what color is the hat ?", "anna has a red hat ."), ("who has the car ?", "leo has a pink car .")]
        options = {"attributed_fn": "contrast_prob_diff", "attribution_method": "occlusion"}
        both = recall([a for a, _ in texts], [b for _, b in texts], **options)
        assert len(both) == 2
        for (current, context), found in zip(texts, both, strict=True):
            (alone,) = recall(current, context, **options)
            assert alone.output_current == found.output_current
            torch.testing.assert_close(
                torch.tensor(alone.cti_scores), torch.tensor(found.cti_scores), atol=1e-4, rtol=1e-4
            )
            for a, b in zip(alone.cci_scores, found.cci_scores, strict=True):
                assert a.contrast_token == b.contrast_token
                torch.testing.assert_close(
                    torch.tensor(a.input_context_scores), torch.tensor(b.input_context_scores), atol=1e-4, rtol=1e-3
                )

    def test_an_output_context(self):
        """A part of the continuation as context (a chain of thought, say)."""
        (found,) = recall(
            "anna has a red hat . what does anna have ?", None, output_context_text="a red", output_current_text="hat",
            attribution_std_threshold=None,
        )  # fmt: skip
        assert found.output_context_tokens == ["a", "red"]
        assert found.input_context is None
        (cues,) = found.cci_scores
        assert cues.input_context_scores is None
        assert len(cues.output_context_scores) == 2

    def test_intermediate_attributions_are_shown(self):
        shown = []
        recall(show=shown.append)
        assert [a.provenance.method for out in shown for a in out] == ["saliency"]

    def test_a_custom_function_and_options(self):
        def double(forward):
            return 2 * forward.of_target(forward.log_probs()).exp()

        (one,), (two,) = recall(), recall(attributed_fn=double, aggregator_options={"normalize": False})
        (plain,) = recall(aggregator_options={"normalize": False})
        a, b = (torch.tensor(f.cci_scores[0].input_context_scores) for f in (two, plain))
        torch.testing.assert_close(a, 2 * b, rtol=1e-3, atol=1e-7)
        assert two.info["attributed_fn"] == "double"
        assert one.info["context_sensitivity_metric"] == "kl_divergence"


class TestTranslate:
    @pytest.mark.parametrize("output", [None, "di il uomo vecchio è rossa"])
    def test_gender_from_the_context(self, output):
        (found,) = translate(
            output_current_text=output, attributed_fn="contrast_prob_diff", attribution_method="occlusion"
        )
        assert found.output_current == "di il uomo vecchio è rossa"
        assert found.output_context_tokens == ["la", "casa"]
        (cues,) = found.cci_scores
        assert cues.cti_token == "rossa"
        assert [found.input_context_tokens[i] for i in cues.input_cues] == ["house"]

    def test_the_output_context_is_generated(self):
        """The two parts of the translation are told apart by what they attend to."""
        (found,) = translate(output_context_text=None, output_template="{context} {current}")
        assert (found.output_context, found.output_current) == ("la casa", "di il uomo vecchio è rossa")
        (given,) = translate(output_current_text="di il uomo vecchio è rossa")
        torch.testing.assert_close(torch.tensor(found.cti_scores), torch.tensor(given.cti_scores), atol=1e-5, rtol=1e-4)

    def test_the_user_tells_them_apart(self):
        asked = []

        def ask(question, proposed):
            asked.append((question, proposed))
            return "la casa di il uomo"

        (found,) = translate(
            output_context_text=None, output_template="{context} {current}", ask=ask,
            handle_output_context_strategy="manual",
        )  # fmt: skip
        assert found.output_context == "la casa di il uomo"
        assert found.output_current == "vecchio è rossa"
        assert asked[0][1] == "la casa"
        with pytest.raises(InputError, match="must be the beginning"):
            translate(
                output_context_text=None, output_template="{context} {current}", ask=lambda *_: "il cane",
                handle_output_context_strategy="manual",
            )  # fmt: skip

    def test_a_generated_context_before_a_given_text(self):
        (found,) = translate(
            output_context_text=None, output_template="{context} {current}", output_current_text="è rossa"
        )
        assert found.output_context == "la casa"
        assert found.output_current_tokens == ["è", "rossa"]

    def test_special_tokens_never_count(self):
        (found,) = translate(output_current_text="è rossa", context_sensitivity_std_threshold=None)
        assert found.output_current_tokens == ["è", "rossa"]
        (kept,) = translate(
            output_current_text="è </s> rossa", special_tokens_to_keep=["</s>"], context_sensitivity_std_threshold=None
        )
        assert kept.output_current_tokens == ["è", "</s>", "rossa"]


class TestFiles:
    def test_round_trip(self, tmp_path):
        out = recall(["what color is the hat ?", "who has the hat ?"], ["anna has a red hat ."] * 2)
        path = out.save(tmp_path / "context.json")
        again = load(path)
        assert isinstance(again, ContextOutput)
        assert [a.to_dict() for a in again] == [a.to_dict() for a in out]
        with pytest.raises(InputError, match="exists"):
            out.save(path)
        out[:1].save(path, overwrite=True)
        assert len(load(path)) == 1

    def test_fields_of_inseqs_command(self, tmp_path):
        document = json.loads(recall().save(tmp_path / "c.json").read_text(encoding="utf-8"))["results"][0]
        assert {
            "input_context", "input_context_tokens", "output_context", "output_context_tokens", "output_current",
            "output_current_tokens", "cti_scores", "cci_scores", "info",
        } <= set(document)  # fmt: skip
        assert {
            "cti_idx", "cti_token", "cti_score", "contextual_output", "contrast_token", "contextless_output",
            "input_context_scores", "output_context_scores",
        } <= set(document["cci_scores"][0])  # fmt: skip

    def test_wrong_files(self, tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            load(tmp_path / "none.json")
        (tmp_path / "x.json").write_text("{")
        with pytest.raises(InputError, match="is not JSON"):
            load(tmp_path / "x.json")
        (tmp_path / "y.json").write_text('{"format": "other"}')
        with pytest.raises(InputError, match="holds no context attributions"):
            load(tmp_path / "y.json")
        (tmp_path / "z.json").write_text('{"format": "attriflow.context/1", "results": [{}]}')
        with pytest.raises(InputError, match="is damaged"):
            load(tmp_path / "z.json")

    def test_table(self):
        options = {"context_sensitivity_std_threshold": None, "context_sensitivity_topk": 2}
        frame = recall("tom has a blue car . what does anna have ?", **options).to_dataframe()
        assert list(frame.columns)[:5] == ["example", "cti_idx", "token", "cti_score", "sensitive"]
        sensitive = frame[frame.sensitive]
        assert len(sensitive) == 6 * sensitive.cti_idx.nunique()
        assert frame[~frame.sensitive].context_token.isna().all()
        assert sensitive.cue.any()


def test_names_that_do_not_exist():
    with pytest.raises(OptionError):
        recall(context_sensitivity_matric="kl_divergence")
    with pytest.raises(UnknownNameError):
        recall(attributed_fn="contrast_probability_difference")


class TestPlanted:
    """The demo data set with planted cues."""

    @pytest.fixture(scope="class")
    def recipe(self):
        sys.path.insert(0, str(RECIPES))
        try:
            import context_reliance
        finally:
            sys.path.remove(str(RECIPES))
        return context_reliance

    @pytest.mark.parametrize("metric", ["kl_divergence", "pcxmi"])
    @pytest.mark.parametrize("model", ["recall", "translate"])
    def test_sensitive_tokens_and_cues(self, recipe, model, metric):
        data = load_demo_dataset("context")
        data = data[data.model == model]
        result = recipe.compare(recipe.run(model, metric, "occlusion", data), data)
        assert result["tokens"]["f1"] > 0.9
        assert result["pairs"]["f1"] > 0.85

    def test_what_is_planted(self):
        data = load_demo_dataset("context")
        assert set(data.model) == {"recall", "translate"}
        sensitive = 0
        for row in data.itertuples():
            assert len(row.cues) == len(row.output_current.split())
            for spans in row.cues:
                sensitive += bool(spans)
                for start, end in spans:
                    assert " " not in row.input_context[start:end]
                    assert row.input_context[max(0, start - 1) : start].strip() == ""
        assert 0.1 < sensitive / sum(len(c) for c in data.cues) < 0.4
        assert not math.isnan(sensitive)

    def test_the_data_are_those_of_the_recipe(self, tmp_path):
        import subprocess

        from attriflow.demo import demo_path

        command = [sys.executable, str(RECIPES / "make_demo_data.py"), "--out", str(tmp_path)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        folder = demo_path("recall").parent
        for name in ("context.jsonl", "recall/data.jsonl", "translate/data.jsonl"):
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
