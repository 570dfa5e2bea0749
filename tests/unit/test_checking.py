"""The model check: what a model's own forward on ids computes is the truth, for wrapped, compiled and odd models alike.

Every value is held against one forward per step on the ids of its prefix alone, with autograd by hand.
"""

import copy
import math

import pytest
import torch
from models import build
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LlamaConfig,
    LlamaForCausalLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    RobertaConfig,
    RobertaForCausalLM,
)
from words import PROMPT, SOURCE, TARGET, TEXT, WORDS, stirred, word_tokenizer

import attriflow
from attriflow.engine import gradients as engine_gradients
from attriflow.errors import UnsupportedModelError
from attriflow.models.checking import ordinary_ids
from attriflow.registry import methods

N = len(WORDS)
SMALL = {
    "vocab_size": N,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 64,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


def llama(**changes):
    config = LlamaConfig(
        vocab_size=N,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=None,
        **changes,
    )
    return stirred(LlamaForCausalLM(config)).double()


def bart():
    return stirred(build("bart")).double()


def load(hf):
    return attriflow.load_model(hf, tokenizer=word_tokenizer(), device="cpu")


def explained(m, method, **options):
    """The attribution of one text, and what it was made of."""
    pair = (SOURCE, TARGET) if m.is_encoder_decoder else (PROMPT, TEXT)
    more = {"attribute_target": True} if m.is_encoder_decoder else {}
    trial = methods.info(method).meta["trial"]
    return m.attribute(*pair, method=method, seed=3, show_progress=False, **more, **trial, **options)[0]


def sides(out):
    source = [t.id for t in out.inputs if t.segment == "source"]
    return source, [t.id for t in out.inputs][len(source) :]


def by_hand(hf, source, target):
    """The last position's distribution, from ids alone."""
    given = {"input_ids": torch.tensor([target])}
    if source:
        given = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([target])}
    with torch.no_grad():
        return hf(**given).logits[0, -1].softmax(-1)


def check_by_hand(hf, m, tolerance=1e-9):
    """Probabilities and occlusion of every token, a forward for each, alone and in a padded batch."""
    out = explained(m, "occlusion", step_scores=["probability"])
    short = ("the man", "el gato") if m.is_encoder_decoder else ("the cat", "the cat was")
    long = (SOURCE, TARGET) if m.is_encoder_decoder else (PROMPT, TEXT)
    more = {"attribute_target": True} if m.is_encoder_decoder else {}
    batch = m.attribute(
        [short[0], long[0]],
        [short[1], long[1]],
        method="occlusion",
        step_scores=["probability"],
        show_progress=False,
        **more,
    )
    for one in (out, *batch):
        source, target = sides(one)
        kept = {m.tokenizer.eos_token_id}
        for step, end in enumerate(range(one.start, one.start + len(one.targets))):
            token, prefix = one.targets[step].id, target[:end]
            whole = by_hand(hf, source, prefix)[token]
            assert abs(one.step_scores["probability"][step] - whole) < tolerance
            for i, old in enumerate([*source, *prefix]):
                if old in kept or (source and i == len(source)):
                    continue
                ids = [*source, *prefix]
                ids[i] = m.tokenizer.unk_token_id
                effect = whole - by_hand(hf, ids[: len(source)], ids[len(source) :])[token]
                assert abs(one.scores[step, i] - effect) < tolerance
    assert torch.allclose(out.scores, batch[1].scores, atol=tolerance, equal_nan=True)


def states(m):
    return {f.name: f.state for f in m.wrapped.checked.findings if f.state != "ok"}


# -- what is no language model ----------------------------------------------------------------------------------------


def test_encoders_are_refused():
    config = BertConfig(vocab_size=N, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    m = load(stirred(AutoModelForCausalLM.from_config(config)))
    for method in ("saliency", "occlusion", "attention", "dummy"):
        with pytest.raises(UnsupportedModelError, match="BertLMHeadModel is no causal language model"):
            explained(m, method)
    config.is_decoder = True
    hf = stirred(AutoModelForCausalLM.from_config(config)).double()
    check_by_hand(hf, load(hf))


class Wrapper(nn.Module):
    """A model around a model."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = llama() if inner is None else inner
        self.config, self.dtype = self.inner.config, self.inner.dtype

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def generate(self, **_):
        raise NotImplementedError

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, use_cache=None):
        return self.inner(input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=False)


class LastOnly(Wrapper):
    def forward(self, **given):
        out = super().forward(**given)
        out.logits = out.logits[:, -1:]
        return out


class Failing(Wrapper):
    def forward(self, **given):
        raise RuntimeError("no pixels\nand a long story")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (LastOnly, r"gives \[1, .*\] logits for 4 tokens"),
        (Failing, "forward on token ids fails: RuntimeError: no pixels"),
    ],
)
def test_models_that_cannot_be_read_are_refused(kind, says):
    for method in ("saliency", "occlusion"):
        with pytest.raises(UnsupportedModelError, match=says) as caught:
            explained(load(kind()), method)
        assert "\n" not in str(caught.value)


class Tuple(Wrapper):
    def forward(self, **given):
        return (super().forward(**given).logits,)


def test_logits_in_a_tuple():
    hf = Tuple()
    assert torch.equal(
        explained(load(hf), "saliency").scores.nan_to_num(), explained(load(hf.inner), "saliency").scores.nan_to_num()
    )


# -- batches ----------------------------------------------------------------------------------------------------------


class MixesRows(Wrapper):
    """As where experts have room for so many tokens of a batch: a row's logits depend on the other rows."""

    def forward(self, **given):
        out = super().forward(**given)
        out.logits = out.logits * (1 + 0.1 * out.logits[:, :1].mean(0, keepdim=True).tanh())
        return out


class SeesPadding(Wrapper):
    """Padding anywhere changes everything."""

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, use_cache=None):
        out = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds)
        pad = self.get_input_embeddings().weight[0]
        given = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        if (given == pad).all(-1).any():
            out.logits = out.logits * 2
        return out


@pytest.mark.parametrize(("kind", "off"), [(MixesRows, "rows"), (SeesPadding, "padding")])
def test_where_a_batch_changes_its_texts_they_run_alone(kind, off):
    hf = kind().eval()
    m = load(hf)
    check_by_hand(hf, m)
    assert states(m) == {off: "off"}
    one = explained(m, "saliency")
    both = m.attribute(["the cat", PROMPT], ["the cat was", TEXT], method="saliency", show_progress=False)
    assert torch.allclose(one.scores, both[1].scores, equal_nan=True, atol=1e-12)


# -- positions --------------------------------------------------------------------------------------------------------


def roberta(**changes):
    return RobertaConfig(
        vocab_size=N,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        is_decoder=True,
        **changes,
    )


def test_positions_that_a_model_counts_itself():
    hf = stirred(RobertaForCausalLM(roberta())).double()
    m = load(hf)
    check_by_hand(hf, m)
    assert states(m) == {"positions": "off"}


@pytest.mark.parametrize("name", ["m2m100", "roberta2roberta"])
def test_positions_counted_from_ids_that_are_no_padding(name):
    """The pad id of these is 1 by default, which an ordinary text does not hold."""
    if name == "m2m100":
        hf = M2M100ForConditionalGeneration(M2M100Config(**SMALL, **{**IDS, "pad_token_id": 0}))
    else:
        both = EncoderDecoderConfig.from_encoder_decoder_configs(roberta(), roberta(add_cross_attention=True))
        both.decoder_start_token_id, both.pad_token_id, both.eos_token_id = 2, 0, 2
        both.encoder.is_decoder = False
        hf = EncoderDecoderModel(both)
    hf = stirred(hf).double()
    m = load(hf)
    check_by_hand(hf, m)
    for method in ("attention", "saliency", "integrated_gradients", "lime", "deeplift", "value_zeroing"):
        assert explained(m, method).scores.isfinite().any()


# -- embeddings -------------------------------------------------------------------------------------------------------


def test_both_sides_of_marian_are_explained_in_one_space():
    """Its encoder takes scaled embeddings, its decoder scales what it is given: two spaces."""
    hf = stirred(MarianMTModel(MarianConfig(**SMALL, **IDS, scale_embedding=True))).double()
    m = load(hf)
    check_by_hand(hf, m)
    out = explained(m, "saliency")
    source, target = sides(out)
    scale = math.sqrt(16)
    for step, end in enumerate(range(out.start, out.start + len(out.targets))):
        # what positions are added to, as a hook on the first norm or layer would see it: tables times the scale
        leaves = [
            (stack.embed_tokens(torch.tensor([ids])) * scale).detach().requires_grad_(True)
            for stack, ids in ((hf.model.encoder, source), (hf.model.decoder, target[:end]))
        ]
        encoded = {"inputs_embeds": leaves[0]}
        given = hf.model.decoder.embed_scale
        value = hf(**encoded, decoder_inputs_embeds=leaves[1] / given).logits[0, -1].softmax(-1)[out.targets[step].id]
        wanted = torch.cat([g[0].norm(dim=-1) for g in torch.autograd.grad(value, leaves)])
        found = out.scores[step][: len(source) + end]
        found = found.norm(dim=-1) if found.ndim > 1 else found
        assert torch.allclose(found, wanted, atol=1e-10)


def per_layer():
    modeling = pytest.importorskip("transformers.models.gemma4")
    config = modeling.Gemma4TextConfig(
        vocab_size=N,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=8,
        intermediate_size=32,
        max_position_embeddings=64,
        vocab_size_per_layer_input=N,
        hidden_size_per_layer_input=8,
        layer_types=["sliding_attention", "full_attention"],
        num_kv_shared_layers=0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return stirred(modeling.Gemma4ForCausalLM(config))


def test_tokens_that_are_looked_up_again_in_every_layer():
    """Embeddings alone say too little: those of tokens are given as ids, others and gradients are refused."""
    hf = per_layer()
    m = load(hf)
    check_by_hand(hf, m, 2e-6)
    assert states(m) == {"embeddings": "off", "gradient": "refused"}
    for method in ("saliency", "integrated_gradients", "deeplift"):
        with pytest.raises(UnsupportedModelError, match="takes no embeddings in place of ids"):
            explained(m, method)
    with pytest.raises(UnsupportedModelError, match="takes no embeddings in place of ids"):
        explained(m, "occlusion", baseline="mean")
    assert explained(m, "attention").scores.isfinite().any()


# -- gradients --------------------------------------------------------------------------------------------------------


class Cut(torch.autograd.Function):
    """A fused operation whose author needed no gradient of one of its inputs."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, grad):
        return None


class Detaches(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(Cut.apply(x))


class NoGrad(Wrapper):
    @torch.no_grad()
    def forward(self, **given):
        return super().forward(**given)


def test_missing_gradients_are_refused_not_zero():
    cut = llama()
    cut.model.layers[0].mlp = Detaches(cut.model.layers[0].mlp)
    nothing = llama()
    nothing.model.norm = Detaches(nothing.model.norm)
    for hf, says in (
        (cut, "is not that of its logits"),
        (nothing, "makes no gradient"),
        (NoGrad().eval(), "makes no gradient"),
    ):
        m = load(hf)
        for method in ("saliency", "integrated_gradients", "deeplift", "smooth_grad"):
            with pytest.raises(UnsupportedModelError, match=says):
                explained(m, method)
        check_by_hand(hf, m)
    with pytest.raises(UnsupportedModelError, match="makes no gradient"):
        explained(load(NoGrad().eval()), "layer_gradient_x_activation")


def test_under_no_grad_and_inference_mode():
    hf = llama()
    m, wanted = load(hf), explained(load(hf), "saliency").scores
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(explained(m, "saliency").scores.nan_to_num(), wanted.nan_to_num())
    with torch.inference_mode():
        made = load(llama())
    with pytest.raises(UnsupportedModelError, match="makes no gradient at its embeddings: RuntimeError: Inference"):
        explained(made, "saliency")


def compiled_whole(hf):
    return torch.compile(hf, backend="aot_eager")


def compiled_in_place(hf):
    hf.compile(backend="aot_eager")
    return hf


def compiled_layer(hf):
    hf.model.layers[0] = torch.compile(hf.model.layers[0], backend="aot_eager")
    return hf


def compiled_forward(hf):
    hf.forward = torch.compile(hf.forward, backend="aot_eager")
    return hf


@pytest.mark.parametrize("how", [compiled_whole, compiled_in_place, compiled_layer, compiled_forward])
def test_compiled_models_have_the_numbers_of_the_model(how):
    plain, hf = llama(), how(llama())
    m = load(hf)
    for method in ("input_x_gradient", "integrated_gradients", "deeplift", "attention", "occlusion", "value_zeroing"):
        found, wanted = explained(m, method).scores, explained(load(plain), method).scores
        assert torch.allclose(found, wanted, atol=1e-12, equal_nan=True), method
    assert "compile" in m.wrapped.checked["compiled"].detail
    with torch.no_grad():  # and still compiled afterwards
        ids = torch.tensor([[5, 6, 7]])
        assert torch.allclose(hf(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_shared_work_that_goes_wrong_is_left_out(monkeypatch):
    hf, m = llama(), load(llama())
    wanted = explained(load(hf), "saliency").scores
    monkeypatch.setattr(engine_gradients, "linearised", lambda hf, *_: _Twice(hf.model.layers[0].mlp))
    found = explained(m, "saliency").scores
    assert m.wrapped.shares_gradients is False
    monkeypatch.undo()
    assert torch.allclose(found, wanted, atol=1e-12, equal_nan=True)


class _Twice:
    """A context in which a module's gradient counts twice."""

    def __init__(self, module):
        self.module = module

    def __enter__(self):
        self.hook = self.module.register_forward_hook(lambda _m, _a, out: 2 * out - out.detach())

    def __exit__(self, *error):
        self.hook.remove()


# -- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_adapters_count_in_every_method(name):
    """LoRA around projections, embeddings and the head is the model with its weights merged."""
    peft = pytest.importorskip("peft")
    base, task, layers = {
        "llama": (llama, "CAUSAL_LM", ["q_proj", "v_proj", "o_proj", "gate_proj", "embed_tokens", "lm_head"]),
        "bart": (bart, "SEQ_2_SEQ_LM", ["q_proj", "v_proj", "out_proj", "fc1"]),
    }[name]
    hf = peft.get_peft_model(base(), peft.LoraConfig(task_type=task, r=2, target_modules=layers)).double()
    stirred(hf)
    merged = copy.deepcopy(hf).merge_and_unload().double().eval()
    m, other = load(hf), load(merged)
    assert states(m) == {}
    for method in methods.names():
        found, wanted = explained(m, method).scores, explained(other, method).scores
        assert torch.allclose(found, wanted, atol=1e-8 * float(wanted.nan_to_num().abs().max()), equal_nan=True), method


@pytest.mark.parametrize("name", ["llama", "bart"])
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig", "PrefixTuningConfig"])
def test_virtual_tokens_before_a_text(name, kind):
    peft = pytest.importorskip("peft")
    base, task = {"llama": (llama, "CAUSAL_LM"), "bart": (bart, "SEQ_2_SEQ_LM")}[name]
    more = {"encoder_hidden_size": 8} if kind == "PromptEncoderConfig" else {}
    hf = peft.get_peft_model(base(), getattr(peft, kind)(task_type=task, num_virtual_tokens=3, **more)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in hf.prompt_encoder.parameters():
            p.copy_(torch.randn_like(p))
    m = load(hf.eval())
    check_by_hand(hf, m)
    out = explained(m, "saliency")
    source, target = sides(out)
    stack, end = hf.get_input_embeddings(), out.start
    leaves = [stack(torch.tensor([ids])).detach().requires_grad_(True) for ids in (source, target[:end]) if ids]
    if source:
        logits = hf(inputs_embeds=leaves[0], decoder_inputs_embeds=leaves[1]).logits
    else:
        logits = hf(inputs_embeds=leaves[0]).logits
    grads = torch.autograd.grad(logits[0, -1].softmax(-1)[out.targets[0].id], leaves)
    wanted = torch.cat([g[0].norm(dim=-1) for g in grads])
    assert torch.allclose(out.scores[0, : len(wanted)], wanted, atol=1e-9)
    hf.base_model.set_attn_implementation("eager")
    given = {"input_ids": torch.tensor([target[:end]])}
    if source:
        given = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([target[:end]])}
        given["attention_mask"] = torch.ones(1, len(source), dtype=torch.long)
    with torch.no_grad():
        maps = hf(**given, output_attentions=True)
    maps = maps.cross_attentions if source else maps.attentions
    width = len(source) if source else end
    found = explained(m, "attention").scores[0]
    assert torch.allclose(found[:width, 0, 0], maps[0][0, 0, -1, -width:], atol=1e-9)
    for method in ("attention_rollout", "value_norm", "value_zeroing", "information_flow_routes"):
        with pytest.raises(UnsupportedModelError, match="before every text"):
            explained(m, method)
    assert m.generate(SOURCE if source else PROMPT, max_new_tokens=2)


def test_adapters_that_look_for_tokens_in_the_ids():
    """Embeddings do not tell them: perturbations go in as ids, gradients and replays are refused."""
    peft = pytest.importorskip("peft")
    if "alora_invocation_tokens" not in peft.LoraConfig.__dataclass_fields__:
        pytest.skip("this peft has no aLoRA")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], alora_invocation_tokens=[WORDS.index("in")]
    )
    hf = stirred(peft.get_peft_model(llama(), config)).double()
    m = load(hf)
    check_by_hand(hf, m)
    for method, says in (("saliency", "tokens in the ids"), ("value_zeroing", "aLoRA"), ("value_norm", "aLoRA")):
        with pytest.raises(UnsupportedModelError, match=says):
            explained(m, method)


# -- models that change between calls ---------------------------------------------------------------------------------


def test_what_was_found_out_is_found_out_again_when_a_model_has_changed():
    peft = pytest.importorskip("peft")
    hf = peft.get_peft_model(llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    hf.add_adapter("longer", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    hf = hf.double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in hf.prompt_encoder.parameters():
            p.copy_(torch.randn_like(p))
    m = load(hf)
    check_by_hand(hf, m)
    assert m.wrapped.virtual_tokens == 3
    hf.set_adapter("longer")
    check_by_hand(hf, m)
    assert m.wrapped.virtual_tokens == 5
    with hf.disable_adapter():
        check_by_hand(hf, m)
        assert m.wrapped.virtual_tokens == 0
    check_by_hand(hf, m)


def test_hooks_of_the_user_are_part_of_the_model():
    hf = llama()
    m = load(hf)
    before = explained(m, "occlusion").scores
    check = m.wrapped.checked
    assert explained(m, "saliency") and m.wrapped.checked is check  # our own hooks change nothing

    def steer(_module, _args, output):
        states = output[0] if isinstance(output, tuple) else output
        return (states + 0.5, *output[1:]) if isinstance(output, tuple) else states + 0.5

    hook = hf.model.layers[0].register_forward_hook(steer)
    check_by_hand(hf, m)
    assert m.wrapped.checked is not check
    hook.remove()
    assert torch.equal(explained(m, "occlusion").scores.nan_to_num(), before.nan_to_num())

    def steer_the_last(_module, _args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, -1] += 1
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hf.model.layers[0].register_forward_hook(steer_the_last)
    with pytest.raises(UnsupportedModelError, match="from a prefix otherwise than within a longer text"):
        explained(m, "occlusion")


# -- the check itself -------------------------------------------------------------------------------------------------


def test_it_is_made_once_and_costs_little():
    calls = []
    hf = llama()

    def count(_module, _args, given):
        calls.append(next(t for t in given.values() if isinstance(t, torch.Tensor)).shape)

    hf.register_forward_pre_hook(count, with_kwargs=True)
    m = load(hf)
    check = m.wrapped.checked
    assert sum(shape[0] for shape in calls) == check.rows <= 16
    assert max(shape[1] for shape in calls) <= 4
    calls.clear()
    explained(m, "occlusion")
    assert m.wrapped.checked is check


def test_it_reads_ordinary_tokens_only():
    m = load(llama())
    ids = ordinary_ids(m.wrapped, 6)
    assert len(set(ids)) == 6
    assert not {*ids} & {0, 1, 2, 3}
    m.model.config.some_token_id = ids[0]
    assert ids[0] not in ordinary_ids(m.wrapped, 6)


def test_numbers_that_are_not_finite_tell_nothing():
    hf = llama()
    with torch.no_grad():
        hf.lm_head.weight[5] = math.nan
    assert states(load(hf)) == {}
