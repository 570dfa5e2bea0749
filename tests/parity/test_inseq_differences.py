"""What differs from Inseq on purpose: every row of the page names its tests; those that no other file has are here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from differences import DIFFERENCES

from attriflow.context import attribute_context
from attriflow.engine import Engine, Objective
from attriflow.errors import OptionError
from attriflow.inseq.data import FeatureAttributionOutput
from attriflow.methods._noise import Noise
from attriflow.methods._replacements import Replacements
from attriflow.methods.reagent import Reagent
from attriflow.registry import step_functions

ROOT = Path(__file__).resolve().parents[2]
PROMPT, FULL = "ki nakol temo", "ki nakol temo pari mitemi kana"
TEXTS = {"gpt2": (PROMPT, FULL), "bart": (PROMPT, "um te pari")}
QUIET = {"show_progress": False}


def test_every_difference_names_tests_that_exist():
    """Or says why it has none."""
    trees = {}
    for row in DIFFERENCES:
        assert bool(row.tests) != bool(row.untested), row.what
        for name in row.tests:
            file, *path = name.split("::")
            if file not in trees:
                trees[file] = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            tree = trees[file]
            for part in path:
                found = [n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == part]
                assert len(found) == 1, name
                (tree,) = found
            assert path[-1].startswith("test_") and isinstance(tree, ast.FunctionDef), name
    assert len({row.what for row in DIFFERENCES}) == len(DIFFERENCES) > 50


@pytest.mark.parametrize("name", TEXTS)
def test_the_end_is_exclusive(golden_model, name):
    """Also of encoder-decoders; in Inseq's layout the target ends there, too."""
    model = golden_model(name)
    given = {"method": "saliency", **QUIET, **({"attribute_target": True} if name == "bart" else {})}
    whole = model.attribute(*TEXTS[name], **given)[0]
    end = whole.start + 2
    cut = model.attribute(*TEXTS[name], attr_pos_end=end, **given)
    assert cut[0].targets == whole.targets[:2] and len(whole.targets) > 2
    torch.testing.assert_close(cut[0].scores, whole.scores[:2, : cut[0].scores.shape[1]], equal_nan=True)
    found = FeatureAttributionOutput.of(cut)[0]
    assert found.attr_pos_end == len(found.target) == end


def test_context_tokens_are_those_of_the_whole_text(golden_model):
    """Readable, and cut as there: "mitemi" is four tokens alone and one after a space, "kana" two and one."""
    model = golden_model("gpt2")
    texts = {"input_context_text": "temo kana", "input_current_text": "kana pari", "output_current_text": "mitemi"}
    (found,) = attribute_context(model, attribution_method="saliency", **texts, **QUIET)
    assert len(model.tokenizer.tokenize("mitemi")) == 4
    assert found.input_context_tokens == ["tem", "o", "kana"] and found.output_current_tokens == ["mitemi"]
    assert found.token_spans["input_context"] == [(0, 3), (3, 4), (5, 9)] and len(found.cti_scores) == 1


def test_windows_are_counted_in_units(golden_model):
    """The first window of one word is "ki", that of two is "ki nakol"."""
    model = golden_model("gpt2")
    one, two = (model.attribute(*TEXTS["gpt2"], method="occlusion", unit="word", window=n, **QUIET)[0] for n in (1, 2))
    unk = model.tokenizer.unk_token_id
    (example,) = model.encode(*TEXTS["gpt2"])
    ids, place = torch.tensor([example.target_ids]), example.start
    assert [t.text for t in one.inputs[:2]] == ["ki", "nakol"]

    def probability(n):
        with torch.no_grad():
            changed = torch.cat([torch.full((1, n), unk), ids[:, n:]], 1)
            return model.model(changed).logits[0, place - 1].softmax(-1)[ids[0, place]]

    torch.testing.assert_close(one.scores[0, 0], probability(0) - probability(1), atol=1e-10, rtol=0)
    torch.testing.assert_close(two.scores[0, 0], probability(0) - probability(2), atol=1e-10, rtol=0)


def test_a_forced_foil_is_a_constant(golden_model):
    """The gradient of a difference is that of its first part, whatever the foil's input shares with the text's."""
    model = golden_model("bart")
    given = {"method": "saliency", "abs": False, "granular": True, "attribute_target": True, **QUIET}
    foil = {"contrast_sources": "la gape", "contrast_force_inputs": True, "attributed_fn": "contrast_prob_diff"}
    own, forced = (model.attribute(*TEXTS["bart"], **given, **more)[0].scores for more in ({}, foil))
    torch.testing.assert_close(own, forced, atol=1e-12, rtol=0, equal_nan=True)
    assert own.nan_to_num().abs().max() > 1e-6


def test_discretized_paths_end_where_the_model_reads(golden_model):
    """With two points the scores are (x - x') times the gradient at x', of embeddings as the model scales them."""
    model = golden_model("bart")
    given = {"method": "discretized_integrated_gradients", "attributed_fn": "logits", "granular": True, **QUIET}
    (found,) = model.attribute(*TEXTS["bart"], n_steps=2, return_convergence_delta=True, **given)
    (example,) = model.encode(*TEXTS["bart"])
    ids, target = torch.tensor([example.source_ids]), torch.tensor([example.target_ids])
    absent = torch.where(ids == model.tokenizer.eos_token_id, ids, model.tokenizer.unk_token_id)
    rows = model.model.get_input_embeddings().weight[ids]
    x, base = (model.wrapped.embed(i, "source").detach() for i in (ids, absent))
    torch.testing.assert_close(x, rows.detach() * model.model.config.d_model**0.5)  # scaled
    leaf = base.clone().requires_grad_(True)
    total = found.scores.nansum((1, 2)) - found.step_scores["deltas"]
    for step, place in enumerate(range(example.start, example.stop)):
        token = example.target_ids[place]
        value = model.model(inputs_embeds=leaf, decoder_input_ids=target).logits[0, place - 1, token]
        (gradient,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(found.source_attributions[:, step], ((x - base) * gradient)[0], atol=1e-9, rtol=0)
        with torch.no_grad():
            inside = model.model(input_ids=ids, decoder_input_ids=target).logits[0, place - 1, token]
        torch.testing.assert_close(total[step], inside - value.detach(), atol=1e-9, rtol=0)


def engine_of(model):
    examples = model.encode([PROMPT], [FULL])
    return Engine(model.wrapped, examples, Objective(step_functions.info("probability").build()), ("target",))


def test_noise_is_in_units_of_the_table(golden_model):
    model = golden_model("gpt2")
    noise = Noise(engine_of(model), 2.0, 200)
    drawn = torch.stack([noise("target", i) for i in range(200)])
    spread = model.model.get_input_embeddings().weight.detach().std()
    assert float(drawn.std() / spread) == pytest.approx(2, rel=0.02)


def test_reagent_stops_at_powers_of_two(golden_model, monkeypatch):
    """Where chains go on, the condition is looked at after 1, 2, 4, ... probes and the last."""
    asked, call = [], Replacements.__call__

    def watched(self, purpose, n):
        asked.extend([int(purpose.split("/")[1])] if str(purpose).startswith("check/") else [])
        return call(self, purpose, n)

    monkeypatch.setattr(Replacements, "__call__", watched)
    monkeypatch.setattr(Reagent, "_suffices", lambda self, engine, replaced, running, ids: torch.zeros_like(running))
    Reagent(max_probe_steps=11, num_probes=2)(engine_of(golden_model("gpt2")))
    assert asked == [1, 2, 4, 8, 11]


def test_scores_reduce_every_axis_a_name_the_last(golden_model):
    """There are no checks to switch off: what keeps an axis is as good as any other."""
    out = golden_model("gpt2").attribute(*TEXTS["gpt2"], method="attention", **QUIET)[0]
    assert out.axes == ("step", "input", "layer", "head")
    plain = {"normalize": False}
    torch.testing.assert_close(out.aggregate("scores", **plain).scores, out.scores.mean((2, 3)), equal_nan=True)
    for name in ("mean", [("scores", "mean")]):
        kept = out.aggregate(name, **plain)
        assert kept.axes == ("step", "input", "layer")
        torch.testing.assert_close(kept.scores, out.scores.mean(3), equal_nan=True)
    for name in ("do_pre_aggregation_checks", "do_post_aggregation_checks"):
        with pytest.raises(OptionError, match=name):
            out.aggregate("scores", **{name: False})


def test_means_over_a_span(golden_model):
    names = ["entropy", "crossentropy", "perplexity", "contrast_prob_diff"]
    given = {"method": "dummy", "step_scores": names, "contrast_targets": FULL.replace("mitemi", "te mitemi"), **QUIET}
    out = golden_model("gpt2").attribute(*TEXTS["gpt2"], **given)[0]
    merged = out.aggregate("spans", target_spans=(out.start, out.start + 2))
    for name in names:
        assert merged.step_scores[name][0] == pytest.approx(float(out.step_scores[name][:2].mean()))


def test_own_functions_get_all_steps(golden_model):
    model = golden_model("gpt2")
    seen = []

    def chance(forward):
        seen.append((tuple(forward.logits.shape), forward.target_ids.tolist()))
        return forward.of_target(forward.log_probs())

    out = model.attribute(*TEXTS["gpt2"], method="saliency", attributed_fn=chance, **QUIET)[0]
    ids = [t.id for t in out.targets]
    assert seen and all(one == ((1, len(ids), model.wrapped.vocab_size), [ids]) for one in seen)
