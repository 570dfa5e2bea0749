"""Half precision keeps what docs/half-precision.csv says of every method."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

import attriflow
from attriflow.registry import methods

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import half_precision  # noqa: E402

KNOWN = half_precision.read(ROOT / "docs" / "half-precision.csv")
FAMILIES = ("gradient", "path", "perturbation", "internals")
QUICK = ("value_zeroing", "saliency", "input_x_gradient", "sequential_integrated_gradients", "occlusion")


def check(name, dtype, which=None):
    floor = {r["method"]: r["spearman"] - 0.05 for r in KNOWN if (r["model"], r["dtype"]) == (name, dtype)}
    found = {r["method"]: r["spearman"] for r in half_precision.compare(name, dtype, which)}
    assert found and not {m: (v, floor[m]) for m, v in found.items() if v < floor[m]}


def test_every_method_is_in_the_table():
    wanted = {n for n in methods.names() if methods.info(n).meta["family"] in FAMILIES}
    for model in half_precision.MODELS:
        for dtype in half_precision.DTYPES:
            assert {r["method"] for r in KNOWN if (r["model"], r["dtype"]) == (model, dtype)} == wanted


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.sweep)])
def test_what_used_to_lose_most(dtype):
    check("demo/recall", dtype, QUICK)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", half_precision.DTYPES)
@pytest.mark.parametrize("name", half_precision.MODELS)
def test_every_method_agrees_with_float32_as_it_did(name, dtype):
    check(name, dtype, [r["method"] for r in KNOWN if (r["model"], r["dtype"]) == (name, dtype)])


def test_derivatives_of_a_sure_step_do_not_underflow_in_float16():
    """A probability near 1 has derivatives below what float16 holds; by hand in float32."""
    model = attriflow.load_model("demo/recall")
    hf = copy.deepcopy(model.model).half()
    half = attriflow.load_model(hf, tokenizer=model.tokenizer)
    full = copy.deepcopy(hf).float()
    text = "anna has a red hat . what color is the hat ?"
    ids = torch.tensor([model.tokenizer(f"{text} red")["input_ids"]])
    embeds = full.get_input_embeddings()(ids[:, :-1]).detach().requires_grad_(True)
    p = full(inputs_embeds=embeds).logits[0, -1].softmax(-1)[ids[0, -1]]
    assert p > 0.99
    wanted = (torch.autograd.grad(p, embeds)[0] * embeds).sum(-1)[0].detach()
    found = half.attribute(text, f"{text} red", method="input_x_gradient", show_progress=False)[0].scores[0]
    torch.testing.assert_close(found[: len(wanted)], wanted, rtol=0, atol=0.02 * float(wanted.abs().max()))
