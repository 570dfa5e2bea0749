"""Float64 results by definition, computed without transformers, captum or Inseq: equal to 1e-8."""

from __future__ import annotations

import numpy as np
import pytest
from load_golden import Golden, oracle

from attriflow.types import Variant

FUNCTIONS = {
    "logit": {"attributed_fn": "logits"},
    "probability": {"attributed_fn": "probability"},
    "logprob": {"attributed_fn": "probability", "attributed_fn_args": {"logprob": True}},
}
CASES = [("gpt2", "single"), ("gpt2", "batch2"), ("bart", "single"), ("bart", "batch2")]


def _entries(model: str, case: str, quantity: str):
    """Arrays of a quantity: (sequence, block, array)."""
    arrays, document = oracle(model)
    for entry in document["entries"]:
        if entry["case"] == case and entry["quantity"] == quantity:
            yield int(entry["sequence"]), entry["block"], arrays[entry["key"]]


def _attribute(golden_model, model, case, method, fn, **options):
    c = Golden(model).cases[case]
    return golden_model(model).attribute(
        c["input_texts"], c["generated_texts"], method=method, **FUNCTIONS[fn], **options
    )


def _block(attribution, block):
    return getattr(attribution, f"{block}_attributions").numpy()


def _compare(mine, wanted, atol):
    assert mine.shape == wanted.shape
    np.testing.assert_array_equal(np.isnan(mine), np.isnan(wanted))
    np.testing.assert_allclose(mine, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize(("model", "case"), CASES)
@pytest.mark.parametrize("fn", FUNCTIONS)
class TestExact:
    def test_gradient(self, golden_model, model, case, fn):
        found = list(_entries(model, case, f"gradient.{fn}"))
        if not found:
            pytest.fail("no oracle for this case")
        target = {"attribute_target": True} if model == "bart" else {}
        out = _attribute(golden_model, model, case, "saliency", fn, abs=False, granular=True, **target)
        for sequence, block, wanted in found:
            _compare(_block(out[sequence], block), wanted, 1e-8)

    def test_occlusion_is_signed_leave_one_out(self, golden_model, model, case, fn):
        target = {"attribute_target": True} if model == "bart" else {}
        out = _attribute(golden_model, model, case, "occlusion", fn, **target)
        signs = set()
        for sequence, block, wanted in _entries(model, case, f"leave_one_out.baseline.{fn}"):
            mine = _block(out[sequence], block)
            _compare(mine, wanted, 1e-8)
            signs |= set(np.sign(mine[~np.isnan(mine)]).tolist())
        assert {-1.0, 1.0} <= signs

    def test_input_x_gradient(self, golden_model, model, case, fn):
        m = golden_model(model)
        target = {"attribute_target": True} if model == "bart" else {}
        out = _attribute(golden_model, model, case, "input_x_gradient", fn, granular=True, **target)
        for sequence, block, gradient in _entries(model, case, f"gradient.{fn}"):
            mine = _block(out[sequence], block)
            tokens = [t for t in out[sequence].inputs if (t.segment == "source") == (block == "source")]
            import torch

            embeddings = m.wrapped.embed(torch.tensor([t.id for t in tokens]), block).detach().numpy()
            _compare(mine, gradient * embeddings[:, None], 1e-8)


@pytest.mark.parametrize(("model", "case"), CASES)
def test_rescore_deletes_and_masks(golden_model, model, case):
    """`rescore` is what ferret's scores rest on: deletion moves later tokens up, masking keeps positions."""
    c = Golden(model).cases[case]
    m = golden_model(model)
    examples = m.encode(c["input_texts"], c["generated_texts"])
    for how in ("delete", "mask", "baseline"):
        checked = 0
        for sequence, block, wanted in _entries(model, case, f"leave_one_out.{how}.logprob"):
            example = examples[sequence]
            inputs = [*example.source, *example.target] if model == "bart" else list(example.target)
            base = m.rescore(examples, [(sequence, Variant(keep=(True,) * len(inputs)))], attribute_target=True)[0]
            offset = len(example.source) if block == "target" else 0
            for i in range(wanted.shape[0]):
                place = offset + i if model == "bart" else i
                if inputs[place].special or place >= len(inputs) - 1 or (model == "bart" and place == offset):
                    continue  # special tokens always stay
                keep = tuple(k != place for k in range(len(inputs)))
                (changed,) = m.rescore(
                    examples, [(sequence, Variant(keep=keep, how=how))], attribute_target=True, batch_size=3
                )
                effect = (base - changed).numpy()
                seen = ~np.isnan(wanted[i])
                np.testing.assert_allclose(effect[seen], wanted[i][seen], atol=1e-8, rtol=0)
                checked += int(seen.sum())
        assert checked > 5, how


@pytest.mark.parametrize(("model", "case"), CASES)
def test_rescore_one_step_equals_all_steps(golden_model, model, case):
    c = Golden(model).cases[case]
    m = golden_model(model)
    examples = m.encode(c["input_texts"], c["generated_texts"])
    width = len(examples[0].source) or examples[0].stop
    keep = tuple(i % 3 != 1 for i in range(width))
    everything = m.rescore(examples, [(0, Variant(keep=keep))])[0]
    single = m.rescore(examples, [(0, Variant(keep=keep, step=s)) for s in range(examples[0].n_steps)])
    np.testing.assert_allclose([float(s[0]) for s in single], everything.numpy(), atol=1e-12)


@pytest.mark.parametrize("fn", ["logit", "probability"])
def test_integrated_gradients(golden_model, fn):
    """On a smooth model, equal to the 2,000-point integral within the oracle's own residual, and complete."""
    for blocks, model in (("target", "gpt2"),):
        arrays, _ = oracle(model)
        prefix = f"single/seq0/integrated_gradients[{blocks}].{fn}"
        wanted = arrays[f"{prefix}/target"]
        inside, outside = arrays[f"{prefix}/f_input_and_f_baseline"].T
        out = _attribute(
            golden_model,
            model,
            "single",
            "integrated_gradients",
            fn,
            n_steps=300,
            granular=True,
            return_convergence_delta=True,
        )
        _compare(_block(out[0], "target"), wanted, 1e-5)
        total = out[0].scores.nansum((1, 2)).numpy()
        gap = np.abs(inside - outside)
        assert (np.abs(total - (inside - outside)) < 1e-3 * gap + 1e-12).all()
        np.testing.assert_allclose(out[0].step_scores["deltas"].numpy(), total - (inside - outside), atol=1e-8)


def test_attention(golden_model):
    arrays, _ = oracle("gpt2")
    wanted = arrays["single/seq0/attention/target"]  # [attended, query, layer, head]
    out = _attribute(golden_model, "gpt2", "single", "attention", "probability")[0]
    for step in range(len(out.targets)):
        query = out.start + step - 1
        np.testing.assert_allclose(out.scores[step, : query + 1].numpy(), wanted[: query + 1, query], atol=1e-8)


@pytest.mark.parametrize(("model", "case"), CASES)
def test_logits(golden_model, model, case):
    m = golden_model(model)
    c = Golden(model).cases[case]
    examples = m.encode(c["input_texts"], c["generated_texts"])
    batch = m.wrapped.collate(examples)
    from attriflow.models.base import Rows

    logits = m.wrapped.run(
        Rows(target_ids=batch.target_ids, source_ids=batch.source_ids, source_mask=batch.source_mask, query=batch.query)
    )
    for sequence, _, wanted in _entries(model, case, "logits"):
        np.testing.assert_allclose(logits[sequence, : len(wanted)].detach().numpy(), wanted, atol=1e-8)
