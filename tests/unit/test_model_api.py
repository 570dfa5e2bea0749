"""`load_model` and `attribute`: texts, targets, keywords, errors before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import attriflow
from attriflow.errors import AttriflowError, InputError, OptionError, UnknownNameError, UnsupportedModelError
from attriflow.registry import methods

GPT2 = Path(__file__).parents[1] / "data" / "golden" / "models" / "gpt2"
PROMPT, FULL = "ki nakol temo dibema te", "ki nakol temo dibema te pari mitemi kana"


@pytest.fixture(scope="module")
def model(golden_model):
    return golden_model("gpt2")


@pytest.fixture(scope="module")
def bart(golden_model):
    return golden_model("bart")


class TestLoading:
    def test_a_model_object_stays_where_it_is(self, model):
        again = attriflow.load_model(model.model, tokenizer=model.tokenizer)
        assert again.model is model.model
        assert again.attribute(PROMPT, FULL, method="saliency")[0].scores.shape == (3, 9)

    def test_what_is_for_loading_is_refused_with_a_loaded_model(self, model):
        with pytest.raises(InputError, match=r"model_kwargs \(revision\) are for loading"):
            attriflow.load_model(model.model, tokenizer=model.tokenizer, model_kwargs={"revision": "main"})

    @pytest.mark.parametrize("branch", [None, "older"])
    def test_the_commit_of_a_model_from_the_hub_is_kept(self, tmp_path, branch):
        """A cache as huggingface_hub lays it out, with two commits."""
        folder = tmp_path / "models--somebody--small"
        for i, name in enumerate(("main", "older")):
            shutil.copytree(GPT2, folder / "snapshots" / (commit := str(i) * 40))
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs" / name).write_text(commit)
        where = {"cache_dir": str(tmp_path), **({} if branch is None else {"revision": branch})}
        found = attriflow.load_model("somebody/small", model_kwargs=where, tokenizer_kwargs=where)
        (out,) = found.attribute(PROMPT, FULL, method="dummy")
        assert out.provenance.revision == ("0" if branch is None else "1") * 40
        assert out.provenance.model == "somebody/small"
        assert attriflow.load_model(GPT2).attribute(PROMPT, FULL, method="dummy")[0].provenance.revision is None

    @pytest.mark.parametrize(
        ("arguments", "error", "fragment"),
        [
            ({"method": "salincy"}, UnknownNameError, "saliency"),
            ({"method": "integrated_gradients", "n_step": 3}, OptionError, "n_steps"),
            ({"n_steps": 3}, OptionError, "method="),
            ({"metod": "saliency"}, OptionError, "method"),
            ({"device": "cuda:99"}, InputError, "no device 'cuda:99' here; use auto, cpu"),
            ({"device": "gpu"}, InputError, "no device 'gpu' here; use auto, cpu"),
            ({"dtype": "float31"}, UnknownNameError, "float32"),
        ],
    )
    def test_wrong_arguments_before_loading(self, arguments, error, fragment, monkeypatch):
        from transformers import AutoModelForCausalLM

        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
        with pytest.raises(error, match=fragment):
            attriflow.load_model(str(GPT2), **arguments)

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(InputError, match="cannot load the model"):
            attriflow.load_model(str(tmp_path / "nothing"))
        with pytest.raises(AttriflowError, match="demo"):
            attriflow.load_model("demo/nothing")

    def test_something_that_is_no_generation_model(self, model):
        with pytest.raises(UnsupportedModelError, match="generation model"):
            attriflow.load_model(torch.nn.Linear(2, 2), tokenizer=model.tokenizer)

    def test_dtype_and_defaults(self):
        m = attriflow.load_model(str(GPT2), "integrated_gradients", dtype="float64", n_steps=3)
        assert m.dtype == torch.float64
        out = m.attribute(PROMPT, FULL)
        assert out.info["options"]["n_steps"] == 3
        assert m.attribute(PROMPT, FULL, n_steps=4).info["options"]["n_steps"] == 4
        assert m.attribute(PROMPT, FULL, method="saliency").info["method"] == "saliency"


class TestTexts:
    def test_one_text_or_a_list(self, model):
        one, many = (model.attribute(t, f, method="saliency") for t, f in ((PROMPT, FULL), ([PROMPT] * 2, [FULL] * 2)))
        assert (len(one), len(many)) == (1, 2)
        torch.testing.assert_close(one[0].scores, many[1].scores, equal_nan=True)

    def test_generated_ids_are_explained_as_they_came(self, model):
        """No round trip through text: the ids that `generate` gave are the targets."""
        ids = model.tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)  # GPT-2 would embed them
        wanted = model.model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0].tolist()
        out = model.attribute(PROMPT, method="saliency", generation_args={"max_new_tokens": 6, "do_sample": False})[0]
        new = wanted[ids["input_ids"].shape[1] :]
        new = new[: new.index(0) + 1] if 0 in new else new
        assert [t.id for t in out.targets] == new
        assert out.provenance.generated

    def test_generation_alone_and_in_a_batch(self, model):
        texts = [PROMPT, "la gape pari kana no tedu so Beluki pari kana"]
        arguments = {"generation_args": {"max_new_tokens": 4, "do_sample": False}, "method": "saliency"}
        both = model.attribute(texts, **arguments)
        for text, b in zip(texts, both, strict=True):
            a = model.attribute(text, **arguments)[0]
            assert [t.id for t in a.targets] == [t.id for t in b.targets]
            torch.testing.assert_close(a.scores, b.scores, equal_nan=True)

    def test_a_prompt_with_unknown_words_keeps_its_space(self):
        m = attriflow.load_model("demo/recall", "random")
        out = m.attribute("zzz has a red hat . what color is the hat ?")[0]
        assert out.target_text == "zzz has a red hat . what color is the hat ? red"
        assert out.target_text[out.targets[0].start : out.targets[0].end] == "red"

    @pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
    def test_half_precision_models_have_single_precision_scores(self, dtype):
        text = "anna has a red hat . tom has a blue car . what color is the car ?"
        models = [attriflow.load_model("demo/recall", dtype=d) for d in (dtype, "float32")]
        few = {"n_steps": 5, "n_samples": 20, "max_probe_steps": 10, "num_probes": 3}
        for method in sorted(set(attriflow.list_feature_attribution_methods()) - {"dummy"}):
            options = {k: v for k, v in few.items() if k in methods.info(method).options}
            half, full = (
                m.attribute(text, f"{text} blue", method=method, attributed_fn="logits", **options)[0] for m in models
            )
            assert half.scores.dtype == torch.float32
            a, b = half.token_scores()[half.visible], full.token_scores()[full.visible]
            assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.97, method

    def test_sampling_follows_the_seed_and_leaves_torch_alone(self, model):
        arguments = {"max_new_tokens": 8, "do_sample": True}
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        ids = [
            [t.id for t in model.attribute(PROMPT, method="random", generation_args=arguments, seed=s)[0].targets]
            for s in (3, 3, 4)
        ]
        assert ids[0] == ids[1] != ids[2]
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_generation_arguments_are_not_changed(self, bart):
        arguments = {"max_new_tokens": 3, "do_sample": False}
        bart.attribute("ki nakol", method="saliency", generation_args=arguments)
        assert arguments == {"max_new_tokens": 3, "do_sample": False}

    def test_sampling_and_beams(self, model):
        out = model.attribute(
            PROMPT, method="saliency", generation_args={"max_new_tokens": 3, "num_beams": 2, "num_return_sequences": 2}
        )
        assert len(out) == 2

    @pytest.mark.parametrize(
        ("texts", "targets", "fragment"),
        [
            ([], None, "empty"),
            ([PROMPT], [FULL, FULL], "1 input texts but 2"),
            (PROMPT, "something else", "must begin with its input"),
            (PROMPT, PROMPT, "adds no token"),
            ([3], None, "string"),
            (PROMPT + " pari" * 200, None, "too long"),
            (PROMPT, FULL + " pari" * 200, "too long"),
        ],
    )
    def test_wrong_texts(self, model, texts, targets, fragment, monkeypatch):
        monkeypatch.setattr(type(model.model), "forward", lambda *a, **k: pytest.fail("the model ran"))
        with pytest.raises(InputError, match=fragment):
            model.attribute(texts, targets, method="saliency")

    def test_positions(self, model, bart):
        full = model.attribute(PROMPT, FULL, method="saliency")[0]
        start = full.start
        part = model.attribute(PROMPT, FULL, method="saliency", attr_pos_start=start + 1, attr_pos_end=start + 2)[0]
        assert len(part.targets) == 1
        assert part.targets[0] == full.targets[1]
        torch.testing.assert_close(part.scores[0, : start + 1], full.scores[1, : start + 1])
        last = bart.attribute("ki nakol", "um nomal", method="saliency", attr_pos_start=-1)[0]
        assert [t.text for t in last.targets] == ["</s>"]
        with pytest.raises(InputError, match="no step left"):
            model.attribute(PROMPT, FULL, method="saliency", attr_pos_start=start + 1, attr_pos_end=start + 1)

    def test_an_eos_inside_a_forced_target_stays(self, model):
        """Padding is dropped by length, never by comparing strings, also where pad = EOS."""
        text = f"{PROMPT} pari<|endoftext|> kana"
        out = model.attribute([PROMPT, PROMPT], [text, FULL], method="saliency")
        assert [t.id for t in out[0].targets].count(0) == 1
        assert len(out[0].targets) == 3

    def test_spans_point_into_the_texts(self, model, bart):
        out = model.attribute(PROMPT, FULL, method="saliency")[0]
        for token in (*out.inputs, *out.targets):
            assert out.target_text[token.start : token.end].strip() == token.text
        generated = model.attribute(PROMPT, method="saliency", generation_args={"max_new_tokens": 5})[0]
        for token in generated.targets:
            if token.start is not None:
                assert generated.target_text[token.start : token.end].strip() == token.text.strip()
        out = bart.attribute("ki nakol temo", "um nomal", method="saliency", attribute_target=True)[0]
        for token in out.inputs:
            text = out.input_text if token.segment == "source" else out.target_text
            if not token.special:
                assert text[token.start : token.end].strip() == token.text


class TestKeywords:
    @pytest.mark.parametrize(
        ("options", "fragment"),
        [
            ({"n_step": 3}, "did you mean 'n_steps'"),
            ({"atributed_fn": "logits"}, "did you mean 'attributed_fn'"),
            ({"logprob": True, "attributed_fn": "logits"}, "logprob"),
        ],
    )
    def test_a_mistyped_keyword_is_an_error(self, model, options, fragment):
        with pytest.raises(OptionError, match=fragment):
            model.attribute(PROMPT, FULL, method="integrated_gradients", **options)

    @pytest.mark.parametrize(
        ("options", "error", "fragment"),
        [
            ({"method": "no_such"}, UnknownNameError, "unknown attribution method"),
            ({"method": "saliency", "attributed_fn": "logit_"}, UnknownNameError, "logit"),
            ({"method": "saliency", "step_scores": ["entrpy"]}, UnknownNameError, "entropy"),
            ({"method": "saliency", "attributed_fn_args": {"logprb": True}}, OptionError, "logprob"),
            ({"method": "integrated_gradients", "n_steps": 0}, InputError, "n_steps"),
            ({"method": "integrated_gradients", "quadrature": "gauss"}, UnknownNameError, "gausslegendre"),
            ({"method": "occlusion", "window": 0}, InputError, "window"),
            ({"method": "occlusion", "baseline": "unknown"}, UnknownNameError, "unk"),
            ({"method": "occlusion", "baseline": 5000}, InputError, "vocabulary"),
            ({"method": "saliency", "batch_size": 0}, InputError, "batch_size"),
            ({}, InputError, "no attribution method"),
        ],
    )
    def test_wrong_values(self, model, options, error, fragment):
        with pytest.raises(error, match=fragment):
            model.attribute(PROMPT, FULL, **options)

    def test_options_reach_the_step_functions(self, model):
        by_keyword = model.attribute(PROMPT, FULL, method="saliency", logprob=True)[0]
        by_dict = model.attribute(PROMPT, FULL, method="saliency", attributed_fn_args={"logprob": True})[0]
        torch.testing.assert_close(by_keyword.scores, by_dict.scores, equal_nan=True)
        flat, nested = (
            model.attribute(PROMPT, FULL, method="saliency", step_scores=["probability"], step_scores_args=a)[0]
            for a in ({"logprob": True}, {"probability": {"logprob": True}})
        )
        assert (flat.step_scores["probability"] < 0).all()
        torch.testing.assert_close(flat.step_scores["probability"], nested.step_scores["probability"])

    def test_a_callable_is_explained_like_a_registered_function(self, model):
        def chance(forward):
            return forward.of_target(forward.logits.softmax(-1))

        for method in ("saliency", "integrated_gradients", "occlusion"):
            a = model.attribute(PROMPT, FULL, method=method, attributed_fn=chance)[0]
            b = model.attribute(PROMPT, FULL, method=method)[0]
            torch.testing.assert_close(a.scores, b.scores, equal_nan=True)
            assert a.provenance.attributed_fn == "chance"

    def test_a_callable_that_reads_other_steps_gets_its_true_gradient(self, model):
        """Without the contract's promise nothing is shared through the LM head."""

        def summed(forward):
            chosen = forward.of_target(forward.log_probs())
            return chosen.cumsum(1)

        out = model.attribute(PROMPT, FULL, method="saliency", attributed_fn=summed, abs=False, granular=True)[0]
        own = model.attribute(PROMPT, FULL, method="saliency", logprob=True, abs=False, granular=True)[0]
        torch.testing.assert_close(out.scores[2, :7], own.scores[:, :7].nan_to_num().sum(0)[:7])

    def test_a_callable_of_the_wrong_shape(self, model):
        with pytest.raises(AttriflowError, match=r"expected \[batch, step\]"):
            model.attribute(PROMPT, FULL, method="saliency", attributed_fn=lambda forward: forward.logits.sum())

    def test_registered_at_run_time(self, model):
        from attriflow.registry import step_functions

        attriflow.register_step_function(lambda forward: -forward.of_target(forward.logits), "minus_logit")
        try:
            out = model.attribute(
                PROMPT, FULL, method="occlusion", attributed_fn="minus_logit", step_scores=["minus_logit"]
            )[0]
            plain = model.attribute(PROMPT, FULL, method="occlusion", attributed_fn="logits")[0]
            torch.testing.assert_close(out.scores, -plain.scores, equal_nan=True)
        finally:
            step_functions.unregister("minus_logit")


class TestOutput:
    def test_views_and_info(self, model, bart):
        out = model.attribute(PROMPT, FULL, method="attention")
        assert out[0].source_attributions is None
        assert out[0].target_attributions.shape == (9, 3, 3, 4)
        assert out.info["method"] == "attention"
        assert {"torch", "transformers", "attriflow"} <= set(out.info["versions"])
        out = bart.attribute("ki nakol", "um nomal", method="input_x_gradient", granular=True, attribute_target=True)
        assert out[0].source_attributions.shape[2:] == (32,)
        assert out[0].axes == ("step", "input", "embedding")
        assert bart.attribute("ki nakol", "um nomal", method="saliency")[0].target_attributions is None

    def test_save_load_and_add(self, model, tmp_path):
        a = model.attribute(PROMPT, FULL, method="integrated_gradients", n_steps=3, step_scores=["entropy"])
        b = model.attribute(PROMPT, FULL, method="attention", step_scores=["entropy"])
        path = (a + b).save(tmp_path / "both.safetensors")
        back = attriflow.load(path)
        assert len(back) == 2
        for x, y in zip(back, a + b, strict=True):
            torch.testing.assert_close(x.scores, y.scores, equal_nan=True)
            assert (x.inputs, x.targets, x.axes, x.start) == (y.inputs, y.targets, y.axes, y.start)
            assert x.provenance.method == y.provenance.method
            assert x.provenance.options == dict(y.provenance.options)
            torch.testing.assert_close(x.step_scores["entropy"], y.step_scores["entropy"])
        with pytest.raises(InputError, match="overwrite"):
            a.save(path)
        a.save(path, overwrite=True)
        assert list(tmp_path.iterdir()) == [path]

    def test_broken_files(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            attriflow.load(tmp_path / "missing.safetensors")
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(b"not a file")
        with pytest.raises(InputError, match="not a readable"):
            attriflow.load(broken)
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, broken)
        with pytest.raises(InputError, match="not one that attriflow wrote"):
            attriflow.load(broken)

    def test_data_frame(self, bart):
        out = bart.attribute(["ki nakol", "la gape pari"], ["um nomal", "so"], method="saliency")
        table = out.to_dataframe()
        assert {"example", "method", "attributed_token", "generated_token", "score"} <= set(table.columns)
        assert len(table) == sum(int(a.visible.sum()) for a in out)
        assert not table["score"].isna().any()

    def test_show_prints_every_token(self, model, capsys):
        model.attribute(PROMPT, FULL, method="saliency", step_scores=["probability"]).show()
        printed = capsys.readouterr().out
        for word in ("nakol", "dibema", "mitemi", "saliency", "probability"):
            assert word in printed

    def test_progress_is_silent_outside_terminals(self, model, capsys):
        model.attribute([PROMPT] * 3, [FULL] * 3, method="integrated_gradients", batch_size=1)
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""


class TestOcclusionUnits:
    def test_words_are_occluded_whole(self, model):
        text = f"{PROMPT} mitemi kana"
        by_token = model.attribute(PROMPT, text, method="occlusion")[0]
        by_word = model.attribute(PROMPT, text, method="occlusion", unit="word")[0]
        pieces = {t.text: i for i, t in enumerate(by_word.inputs)}
        a, b = pieces["t"], pieces["emo"]  # "temo" is two tokens
        torch.testing.assert_close(by_word.scores[:, a], by_word.scores[:, b])
        assert not torch.allclose(by_token.scores[:, a], by_token.scores[:, b])
        single = pieces["nakol"]
        torch.testing.assert_close(by_word.scores[:, single], by_token.scores[:, single])

    def test_signed_and_zero_for_eos(self, bart):
        out = bart.attribute("ki nakol temo", "um nomal", method="occlusion")[0]
        scores = out.source_attributions
        assert (scores[-1] == 0).all()  # EOS is its own baseline
        assert (scores > 0).any()
        assert (scores < 0).any()
        with_eos = bart.attribute("ki nakol temo", "um nomal", method="occlusion", include_eos_baseline=True)[0]
        assert (with_eos.source_attributions[-1] != 0).any()
