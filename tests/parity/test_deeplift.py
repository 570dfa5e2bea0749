"""DeepLIFT: complete on every toy architecture, and captum's version of it against every recorded run."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from load_golden import Golden
from models import CONFIGS, ENCODER_DECODERS, build
from torch.overrides import TorchFunctionMode

import attriflow
from attriflow.engine import products
from attriflow.errors import UnsupportedModelError
from attriflow.methods import deeplift
from attriflow.methods._deeplift import rows as row_attention
from attriflow.methods._deeplift.rows import RowLimits
from attriflow.models.attention import interface_works

PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari"]
TARGETS = {
    False: [f"{PROMPTS[0]} pari mitemi kana gemibes", f"{PROMPTS[1]} te"],
    True: ["um nomal rapel Tarsen popite", "so rapel"],
}
FOILS = {
    False: [f"{PROMPTS[0]} pari te kana gemibes", f"{PROMPTS[1]} so"],
    True: ["um nomal so Tarsen popite", "so te"],
}
FUNCTIONS = ["logits", "probability", "entropy", "perplexity", "contrast_logits_diff", "contrast_prob_diff"]
reference = functools.lru_cache(Golden)


class AllDouble(TorchFunctionMode):
    """Leaves out the casts to single precision that some norms and softmaxes make whatever the model's dtype."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor):
            if getattr(func, "__name__", "") == "float":
                return args[0].double()
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@pytest.fixture(scope="module")
def model(tokenizers):
    @functools.lru_cache
    def get(name: str):
        hf = build(name)
        for parameter in hf.parameters():
            if parameter.ndim > 1:
                parameter.data *= 5  # far from linear
        return attriflow.load_model(hf, tokenizer=tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"])

    return get


def attribute(m, fn="probability", both_sides=True, **options):
    kind = m.is_encoder_decoder
    if fn.startswith("contrast"):
        options["contrast_targets"] = FOILS[kind]
    if kind:
        options["attribute_target"] = both_sides
    options = {"method": "deeplift", "return_convergence_delta": True, "show_progress": False, **options}
    return m.attribute(PROMPTS, TARGETS[kind], attributed_fn=fn, **options)


def check_sums(out, rtol):
    changes = []
    for one in out:
        total, delta = one.scores.nansum(1), one.step_scores["deltas"]
        change = total - delta
        size = one.scores.nan_to_num().abs().sum(1)
        assert (delta.abs() <= rtol * (change.abs() + size) + 1e-14).all(), (delta, change)
        changes.append(change.abs().max())
    assert max(changes) > 1e-8, "nothing to explain"


@pytest.mark.parametrize("name", CONFIGS)
class TestComplete:
    @pytest.mark.parametrize("fn", FUNCTIONS)
    def test_exactly(self, model, name, fn):
        """Without casts to single precision, to rounding in double precision."""
        with AllDouble():
            check_sums(attribute(model(name), fn), 1e-11)

    @pytest.mark.parametrize("fn", ["logits", "probability"])
    def test_as_the_model_runs(self, model, name, fn):
        check_sums(attribute(model(name), fn), 1e-5)

    def test_the_difference_is_the_models(self, model, name):
        """Against f(x) - f(x') of two plain passes, without attriflow's engine."""
        m = model(name)
        out = m.attribute(PROMPTS[0], TARGETS[m.is_encoder_decoder][0], method="deeplift", attributed_fn="logits")[0]
        (example,) = m.encode(PROMPTS[0], TARGETS[m.is_encoder_decoder][0])
        ids = torch.tensor([example.source_ids or example.target_ids])
        side = "source" if m.is_encoder_decoder else "target"
        eos = ids == m.tokenizer.eos_token_id
        embeds = m.wrapped.embed(ids, side)
        baseline = torch.where(eos[..., None], embeds, m.wrapped.embed(torch.full_like(ids, 0), side))
        if m.tokenizer.unk_token_id is not None:
            unk = m.wrapped.embed(torch.full_like(ids, m.tokenizer.unk_token_id), side)
            baseline = torch.where(eos[..., None], embeds, unk)
        decoder = {"decoder_input_ids": torch.tensor([example.target_ids])} if m.is_encoder_decoder else {}
        with torch.no_grad():
            now, then = (m.model(inputs_embeds=e, use_cache=False, **decoder).logits[0] for e in (embeds, baseline))
        for step, position in enumerate(range(example.start, example.stop)):
            token = example.target_ids[position]
            wanted = (now - then)[position - 1, token]
            # attention is computed as Gemma-2's own file writes it, with the soft cap that fused kernels leave out
            rtol = 1e-3 if name == "gemma2" else 1e-4
            torch.testing.assert_close(out.scores[step].nansum(), wanted, atol=1e-5, rtol=rtol)


@pytest.mark.parametrize("method", ["deeplift", "layer_deeplift"])
@pytest.mark.parametrize("products", [1, 100])
@pytest.mark.parametrize("name", CONFIGS)
def test_attention_by_rows(model, name, products, method, monkeypatch):
    """What long inputs run: slopes of attention worked out again for groups of query rows."""
    options = {"fn": "logits", "method": method}
    entered = []

    def limits(engine):
        entered.append(True)
        return RowLimits(kept_bytes=0, group_bytes=4000, products=products)

    if not interface_works(model(name).model):
        pytest.skip("writes its own attention in this version of transformers: nothing to group")
    wanted = attribute(model(name), **options)
    monkeypatch.setattr(deeplift, "_limits", limits)
    split = spy_on(monkeypatch)
    found = attribute(model(name), **options)
    assert entered
    assert max(split) > 1, "one group holds all rows: nothing is tested"
    rtol = 1e-11 if name in ("gpt2", "bart", "marian", "t5") else 2e-6  # the others' softmax casts to single precision
    for a, b in zip(wanted, found, strict=True):
        atol = rtol * float(a.scores.nan_to_num().abs().max())
        torch.testing.assert_close(a.scores, b.scores, atol=atol, rtol=0, equal_nan=True)
    check_sums(found, 1e-5)


def spy_on(monkeypatch):
    """Groups of rows of each attention call."""
    groups, counted = row_attention._Job.groups, []

    def spy(self, query):
        parts = list(groups(self, query))
        counted.append(len(parts))
        return iter(parts)

    monkeypatch.setattr(row_attention._Job, "groups", spy)
    return counted


@pytest.mark.parametrize("name", ["llama-gqa", "bart"])
def test_long_inputs_go_by_rows(model, name, monkeypatch):
    """The engine's own limits, with less memory."""
    import attriflow.engine.sizes as sizes

    wanted = attribute(model(name))
    monkeypatch.setattr(sizes, "CHUNK_BYTES", 20_000)
    split = spy_on(monkeypatch)
    found = attribute(model(name))
    assert max(split) > 1
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(a.scores, b.scores, atol=1e-6, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_source_alone(model, name):
    check_sums(attribute(model(name), both_sides=False), 1e-5)


@pytest.mark.parametrize("baseline", ["zero", "mean", "pad", 7])
def test_other_baselines(model, baseline):
    check_sums(attribute(model("llama-gqa" if baseline != "pad" else "bart"), baseline=baseline), 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_foil_of_its_own_input(model, name):
    """The foil's pass belongs to neither side of the pair, wherever it is run."""
    check_sums(attribute(model(name), "contrast_prob_diff", contrast_force_inputs=True), 1e-9)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "t5"])
def test_two_passes_and_batched_products(model, name, monkeypatch):
    """All steps from one pair of passes, without a fall back to one product at a time, and without warnings."""
    calls = []
    vjp = products._vjp

    def spy(output, leaves, vectors, batched):
        calls.append((batched, len(vectors[0])))
        return vjp(output, leaves, vectors, batched)

    monkeypatch.setattr(products, "_vjp", spy)
    m = model(name)
    kind = m.is_encoder_decoder
    attribute(m)
    calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="the tokenizer begins targets")  # T5 with BART's tokenizer
        out = m.attribute(PROMPTS[0], TARGETS[kind][0], method="deeplift", step_scores=["probability"])
    assert out.info["forward_passes"] == 2
    assert calls == [(True, len(out[0].targets))]


def test_memory_that_runs_out_once(model, monkeypatch):
    """What did not fit the first time is paired again from the start, for all steps."""
    import attriflow.engine.sizes as sizes

    m = model("gpt2")
    wanted = attribute(m)
    forward, failed = type(m.model).forward, []

    def once(self, *args, **kwargs):
        if torch.is_grad_enabled() and not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("test")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(m.model), "forward", once)
    monkeypatch.setattr(sizes, "CHUNK_BYTES", 1)
    for a, b in zip(wanted, attribute(m), strict=True):
        torch.testing.assert_close(a.scores, b.scores, atol=1e-12, rtol=0, equal_nan=True)
    assert failed


def test_no_difference_no_credit(model):
    """Input tokens that are their own baseline get exactly nothing."""
    m = model("gpt2")
    word = m.tokenizer.decode([7])
    out = m.attribute(word * 3, word * 3 + " te", method="deeplift", baseline=7)[0]
    same = [i for i, t in enumerate(out.inputs) if t.id == 7]
    assert same
    assert (out.scores[:, same].nan_to_num() == 0).all()


def test_multipliers_alone(model):
    m = model("gpt2")
    options = {"method": "deeplift", "granular": True, "show_progress": False}
    full = m.attribute(PROMPTS[0], TARGETS[False][0], **options)[0].scores
    alone = m.attribute(PROMPTS[0], TARGETS[False][0], multiply_by_inputs=False, **options)[0].scores
    (example,) = m.encode(PROMPTS[0], TARGETS[False][0])
    embeds = m.wrapped.embed(torch.tensor(example.target_ids), "target").detach()
    change = embeds - m.wrapped.embed(torch.tensor([m.tokenizer.unk_token_id]), "target").detach()
    torch.testing.assert_close(alone * change, full, atol=1e-14, rtol=0, equal_nan=True)


def test_routing_is_refused(tokenizers):
    """A mixture of experts sends baseline and input through different experts."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=200, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=128,
    )  # fmt: skip
    m = attriflow.load_model(MixtralForCausalLM(config).eval(), tokenizer=tokenizers["gpt2"])
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        m.attribute(PROMPTS[0], TARGETS[False][0], method="deeplift")
    assert not any(mod._forward_hooks or mod._forward_pre_hooks for mod in m.model.modules())


def test_a_missing_rule_does_not_go_unnoticed(model, monkeypatch):
    from attriflow.methods._deeplift import tape

    m = model("gpt2")
    monkeypatch.delitem(tape.RULES, "layer_norm")
    with pytest.warns(UserWarning, match="operation without a rule"):
        m.attribute(PROMPTS[0], TARGETS[False][0], method="deeplift", attributed_fn="logits")


def _runs(model: str) -> list:
    return [
        pytest.param(model, run["id"], id=f"{model}-{run['id']}")
        for run in reference(model).runs(method="deeplift")
        if ":generate" not in run["id"]  # Inseq decodes and re-tokenises what was generated
    ]


def test_the_runs_are_there():
    assert len(_runs("gpt2")) >= 14
    assert len(_runs("bart")) >= 28


@pytest.mark.parametrize(("model_name", "run_id"), [*_runs("gpt2"), *_runs("bart")])
def test_captum(golden_model, model_name, run_id):
    golden = reference(model_name)
    run = golden.run(run_id)
    case = golden.cases[run["case"]]
    options = {k: v for k, v in run["attribute_kwargs"].items() if k not in ("input_texts", "generated_texts")}
    options |= {**run["load_kwargs"], "granular": True, "captum_compatible": True}
    out = golden_model(model_name, "float64" if run["dtype"] == "f64" else "float32").attribute(
        case["input_texts"], case["generated_texts"], method="deeplift", **options
    )
    compared = 0
    for i in range(len(run["sequences"])):
        for field in golden.fields(run, i):
            if field.startswith("step_scores."):
                mine = out[i].step_scores[field.removeprefix("step_scores.")]
            elif field in ("source_attributions", "target_attributions"):
                mine = getattr(out[i], field)
            else:
                continue
            golden.compare(run, field, mine.float().numpy(), sequence=i)
            compared += 1
    assert compared >= len(run["sequences"])
