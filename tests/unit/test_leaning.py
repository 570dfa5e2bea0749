"""What attriflow leans on that its owner does not promise: every entry of docs/internals.md, touched.

When a new release of a dependency fails here, the entry says who needs the thing and what happens without it.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import re
import sys
import threading
import typing
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import typer
from private_names import private_names
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"^\| (`[^|]*) \|", re.MULTILINE)
TABLE = ENTRY.findall((ROOT / "docs/internals.md").read_text(encoding="utf-8"))
"""First cells of the table's rows."""
TOUCHED: list[str] = []


def touches(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks the test of an entry, by the first name in it."""
    TOUCHED.append(name)
    return lambda test: test


# -- the table --------------------------------------------------------------------------------------------------------


def test_every_entry_is_touched() -> None:
    assert sorted(TOUCHED) == sorted(cell.split("`")[1] for cell in TABLE)


def test_the_private_names_of_the_table_are_those_in_the_sources() -> None:
    listed = {part for cell in TABLE for name in re.findall("`(.*?)`", cell) for part in re.findall(r"\w+", name)}
    found = private_names(sorted([*(ROOT / "plugin").rglob("*.py"), *(ROOT / "metrics").rglob("*.py")]))
    assert {name: where for name, where in found.items() if name not in listed} == {}
    assert {name for name in listed if re.match("_[A-Za-z]", name)} <= found.keys()


# -- Python -----------------------------------------------------------------------------------------------------------


@touches("sys._getframe")
def test_frames() -> None:
    def asked() -> tuple[str, str]:
        frame = sys._getframe(1)
        return frame.f_code.co_name, frame.f_globals["__name__"]

    assert asked() == ("test_frames", __name__)


@touches("__annotations__")
def test_annotations_of_a_class_made_by_hand() -> None:
    alone = type("_", (), {"__annotations__": {"x": "Path | None"}, "__module__": __name__})
    assert typing.get_type_hints(alone) == {"x": Path | None}


# -- PyTorch ----------------------------------------------------------------------------------------------------------


class Seen(TorchFunctionMode):
    """Keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, tuple[object, ...]]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls.append((func, args))
        return func(*args, **(kwargs or {}))

    @property
    def functions(self) -> list[object]:
        return [func for func, _ in self.calls]


@touches("torch._C._functorch")
def test_the_tensors_behind_vmap() -> None:
    functorch = torch._C._functorch
    assert not functorch.is_batchedtensor(torch.ones(2))

    def function(x: Tensor) -> Tensor:
        assert functorch.is_batchedtensor(x)
        plain, level = functorch.get_unwrapped(x), functorch.maybe_get_level(x)
        assert level == functorch.maybe_current_level()
        assert not functorch.is_functorch_wrapped_tensor(plain)
        return functorch._add_batch_dim(plain.movedim(functorch.maybe_get_bdim(x), 0) * 2, 0, level)

    given = torch.randn(4, 3, 2)
    assert torch.equal(torch.vmap(function, in_dims=1)(given), 2 * given.movedim(1, 0))


@touches("torch.utils._pytree")
def test_arguments_flattened() -> None:
    from torch.utils._pytree import tree_flatten, tree_unflatten

    given = ((1, [torch.ones(2), None]), {"a": (2, 3)})
    leaves, spec = tree_flatten(given)
    assert [leaves[0], *leaves[2:]] == [1, None, 2, 3]
    assert tree_unflatten(leaves, spec) == given


@touches("Tensor._version")
def test_a_tensor_counts_its_changes() -> None:
    weight = nn.Parameter(torch.ones(2))
    before = weight.detach()._version
    with torch.no_grad():
        weight.mul_(2)
    assert weight.detach()._version > before


@touches("_compiled_call_impl")
def test_what_was_compiled_can_be_told() -> None:
    plain, whole, function = nn.Linear(2, 2), torch.compile(nn.Linear(2, 2)), nn.Linear(2, 2)
    in_place = nn.Linear(2, 2)
    in_place.compile()
    function.forward = torch.compile(function.forward)
    assert in_place._compiled_call_impl is not None
    assert plain._compiled_call_impl is None
    assert isinstance(whole._orig_mod, nn.Linear)
    assert hasattr(function.forward, "_torchdynamo_orig_callable")
    assert not hasattr(plain.forward, "_torchdynamo_orig_callable")


@touches("_forward_hooks")
def test_hooks_and_adapters_of_a_module_can_be_seen() -> None:
    module = nn.Linear(2, 2)
    before = len(module._forward_hooks), len(module._forward_pre_hooks)
    module.register_forward_hook(lambda *_: None)
    module.register_forward_pre_hook(lambda *_: None)
    assert (len(module._forward_hooks), len(module._forward_pre_hooks)) == (before[0] + 1, before[1] + 1)
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["0"], r=1)
    model = peft.PeftModel(nn.Sequential(nn.Linear(2, 2)), config)
    with model.disable_adapter():
        assert model.base_model.model[0]._disable_adapters
    assert not model.base_model.model[0]._disable_adapters


@touches("grad_fn.variable")
def test_the_leaves_of_a_graph() -> None:
    leaf = torch.ones(2, requires_grad=True)
    ((node, _),) = leaf.exp().grad_fn.next_functions
    assert node.variable is leaf
    assert getattr(leaf.exp().grad_fn, "variable", None) is None


@touches("torch.native_layer_norm")
def test_layer_norm_with_its_statistics() -> None:
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(5), torch.randn(5)
    out, mean, scale = torch.native_layer_norm(x, (5,), weight, bias, 1e-5)
    assert torch.allclose(out, F.layer_norm(x, (5,), weight, bias))
    assert torch.allclose(mean, x.mean(-1, keepdim=True), atol=1e-6)
    assert torch.allclose(scale, (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt(), rtol=1e-4)


@touches("TorchFunctionMode")
def test_a_mode_sees_what_modules_call() -> None:
    x = torch.randn(1, 2, 4)
    modules = [nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.SiLU(), nn.ReLU(), nn.Softplus(), nn.Dropout(0.5)]
    wanted = [F.linear, F.layer_norm, F.gelu, F.silu, F.relu, F.softplus, F.dropout]
    for module, function in zip(modules, wanted, strict=True):
        with Seen() as seen:
            module(x)
        assert seen.functions == [function]  # once: what it is made of runs with the mode switched off
        assert seen.calls[0][1][0] is x
    with Seen() as seen:
        F.scaled_dot_product_attention(x, x, x, is_causal=True)
        x.tanh(), torch.tanh(x), x.sigmoid(), x.relu(), x.erf()
    methods = [Tensor.tanh, torch.tanh, Tensor.sigmoid, Tensor.relu, Tensor.erf]
    assert seen.functions == [F.scaled_dot_product_attention, *methods]


@touches("__name__")
def test_names_of_operators() -> None:
    x = torch.rand(2, 2) + 1

    def in_place() -> None:
        y = x.clone()
        y += 1
        y -= 1
        y *= 2
        y /= 2
        y[0] = 1

    expected = {
        "clone add_ sub_ mul_ div_ __setitem__": in_place,
        "add add sub": lambda: (x + x, 1 + x, x - x),
        "mul mul div __rdiv__": lambda: (x * x, 2 * x, x / x, 1 / x),
        "matmul pow __rpow__ abs": lambda: (x @ x, x**2, 2**x, abs(x)),
        "special_expit rsqrt topk softmax": lambda: (torch.special.expit(x), x.rsqrt(), x.topk(1), x.softmax(-1)),
        "to float view __getitem__ flatten": lambda: (x.to(x.dtype), x.float(), x.view(-1), x[:, 1], x.flatten()),
        "embedding dropout": lambda: (F.embedding(torch.zeros(1).long(), x), F.dropout(x)),
    }
    for names, run in expected.items():
        with Seen() as seen:
            run()
        found = [func.__name__ for func in seen.functions]
        assert [name for name in found if name in names.split()] == names.split(), found


@touches("torch.vmap")
def test_many_gradients_go_through_a_backward_together() -> None:
    shapes = []

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            shapes.append((grad.shape, ctx.saved_tensors[0].shape))
            return 2 * grad

    x = torch.randn(3, requires_grad=True)
    out = Double.apply(x)
    vectors = torch.randn(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.vmap(lambda v: torch.autograd.grad(out, x, v, retain_graph=True)[0])(vectors)
    assert torch.equal(found, 2 * vectors)
    assert shapes == [((3,), (3,))]  # called once for all four
    with pytest.warns(UserWarning, match="^There is a performance drop"):  # known by these words
        torch.vmap(lambda v: F.scaled_dot_product_attention(v, v, v))(torch.randn(4, 1, 1, 1, 3))
    with pytest.raises(RuntimeError, match="vmap"):  # the sign that products must go one by one
        torch.vmap(lambda v: v.sum().item() * v)(vectors)


@touches("id(tensor)")
def test_a_tensor_is_one_python_object() -> None:
    x = torch.randn(3, requires_grad=True)
    with Seen() as seen:
        y = x.rsqrt()
        y.attriflow_mark = True
        gone = weakref.ref(y)
        z = y * 2
    assert seen.calls[1][1][0] is y
    assert seen.calls[1][1][0].attriflow_mark
    seen.calls.clear()
    del y
    assert gone() is None
    assert z.requires_grad


# -- transformers -----------------------------------------------------------------------------------------------------

SMALL = {"vocab_size": 17, "max_position_embeddings": 32}
LLAMA = {**SMALL, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
BART = {
    **SMALL, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "scale_embedding": True,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.tensor([[3, 4, 5]])


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, "num_key_value_heads": 1})).eval()


@pytest.fixture(scope="module")
def bart():
    from transformers import BartConfig, BartForConditionalGeneration

    return BartForConditionalGeneration(BartConfig(**BART)).eval()


@touches("_can_set_attn_implementation")
def test_models_know_whether_their_attention_goes_through_the_interface(llama, bart) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    outside = BloomForCausalLM(BloomConfig(vocab_size=17, hidden_size=8, n_layer=1, n_head=2))
    assert [bool(m._can_set_attn_implementation()) for m in (llama, bart, outside)] == [True, True, False]
    assert [m._supports_attention_backend for m in (llama, outside)] == [True, False]  # asked where there is no method


@touches("_attn_implementation")
def test_the_implementation_stands_in_the_configuration(llama) -> None:
    before = llama.config._attn_implementation
    llama.set_attn_implementation("eager")
    try:
        assert llama.config._attn_implementation == "eager"
        assert any(m.config is llama.config for m in llama.modules() if m is not llama and hasattr(m, "config"))
    finally:
        llama.config._attn_implementation = before
    assert llama.config._attn_implementation == before


@touches("eager_attention_forward")
@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "gemma2", "qwen2", "mistral", "opt", "gpt_neox"])
def test_eager_attention_of_a_model_file(name: str) -> None:
    eager = resolve_name(f"transformers.models.{name}.modeling_{name}:eager_attention_forward")
    first = list(inspect.signature(eager).parameters)[:5]
    assert first == ["module", "query", "key", "value", "attention_mask"]
    module = nn.Module().eval()
    module.config = SimpleNamespace(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False)
    module.num_key_value_groups, module.scale_attn_weights, module.attention_dropout = 1, True, 0.0
    module.scale_attn_by_inverse_layer_idx = module.is_cross_attention = False
    module.register_buffer("bias", torch.ones(1, 1, 4, 4, dtype=torch.bool).tril())
    q, k, v = torch.randn(3, 1, 2, 3, 4)
    mask = torch.full((3, 3), torch.finfo(q.dtype).min).triu(1)[None, None]
    output, weights = eager(module, q, k, v, mask, scaling=0.5, dropout=0.0)
    wanted = (q @ k.mT * 0.5 + mask).softmax(-1)
    assert torch.allclose(weights, wanted, atol=1e-5)
    assert torch.allclose(output, (wanted @ v).transpose(1, 2), atol=1e-5)


@touches("eager_mask")
def test_the_interface_calls_with_a_mask_as_eager_attention_wants_it(llama) -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    heard = []

    def attention(module, query, key, value, attention_mask, **options):
        heard.append((module, query, key, value, attention_mask, options))
        return query.transpose(1, 2).contiguous(), None

    AttentionInterface.register("leaning", attention)
    AttentionMaskInterface.register("leaning", eager_mask)
    before = llama.config._attn_implementation
    llama.set_attn_implementation("leaning")
    try:
        llama(IDS)
    finally:
        llama.config._attn_implementation = before
    assert len(heard) == 2  # one per layer
    module, query, key, value, mask, options = heard[0]
    assert isinstance(module, nn.Module)
    assert (query.shape, key.shape, value.shape) == ((1, 2, 3, 4), (1, 1, 3, 4), (1, 1, 3, 4))
    assert mask.shape == (1, 1, 3, 3)
    assert torch.equal(mask, torch.full((3, 3), torch.finfo(mask.dtype).min).triu(1)[None, None])
    assert options["scaling"] == 0.5


@touches("DynamicCache.layers")
def test_keys_and_values_of_a_cache(llama) -> None:
    from transformers import DynamicCache

    cache = DynamicCache()
    whole = llama(IDS, past_key_values=cache, use_cache=True).logits
    assert [layer.keys.shape for layer in cache.layers] == [(1, 1, 3, 4)] * 2
    again = copy.copy(cache)
    again.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in again.layers:
        layer.keys, layer.values = layer.keys[:, :, :2], layer.values[:, :, :2]
    rest = llama(IDS[:, 2:], past_key_values=again, use_cache=True, position_ids=torch.tensor([[2]])).logits
    assert torch.allclose(rest[:, 0], whole[:, 2], atol=1e-5)


@touches("ACT2CLS")
def test_activation_classes() -> None:
    from transformers.activations import ACT2CLS

    classes = [c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()]
    assert all(issubclass(c, nn.Module) for c in classes)
    assert {"gelu", "gelu_new", "silu", "relu"} <= set(ACT2CLS)


@touches("_name_or_path")
def test_where_a_model_came_from(llama, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    llama.save_pretrained(tmp_path)
    config = AutoModelForCausalLM.from_pretrained(tmp_path).config
    assert config._name_or_path == str(tmp_path)


@touches("ModuleList")
def test_layers_stand_in_a_list_and_take_hidden_states_first(llama, bart) -> None:
    calls = []

    def note(_module, args, kwargs, out):
        calls.append(([*args, *kwargs.values()], out[0] if isinstance(out, tuple) else out))

    for model, layers in (
        (llama, [llama.model.layers]),
        (bart, [bart.model.encoder.layers, bart.model.decoder.layers]),
    ):
        assert [m for m in model.modules() if isinstance(m, nn.ModuleList)] == layers
        blocks = [block for found in layers for block in found]
        hooks = [block.register_forward_hook(note, with_kwargs=True) for block in blocks]
        with torch.no_grad():
            model(IDS)
        for hook in hooks:
            hook.remove()
        assert len(calls) == len(blocks)
        for given, out in calls:
            first = next(t for t in given if isinstance(t, Tensor) and t.ndim == 3 and t.is_floating_point())
            assert first.shape == out.shape == (1, 3, 8)
        calls.clear()


@touches("cross")
def test_self_attention_comes_before_cross_attention(bart) -> None:
    ran = []
    layer = bart.model.decoder.layers[0]
    hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in (layer.encoder_attn, layer.self_attn)]
    with torch.no_grad():
        bart(IDS)
    for hook in hooks:
        hook.remove()
    assert ran == [layer.self_attn, layer.encoder_attn]


@touches("logits_to_keep")
def test_logits_of_chosen_positions(llama) -> None:
    with torch.no_grad():
        whole, some = llama(IDS).logits, llama(IDS, logits_to_keep=torch.tensor([0, 2])).logits
    assert torch.allclose(some, whole[:, [0, 2]], atol=1e-6)


@touches("embed_scale")
def test_names_within_models(llama, bart) -> None:
    from transformers import Gemma2Config
    from transformers.pytorch_utils import Conv1D

    scales = {float(m.embed_scale) for m in bart.modules() if hasattr(m, "embed_scale")}
    assert scales == {8**0.5}
    assert bart.final_logits_bias.shape == (1, 17)
    assert Gemma2Config().get_text_config().final_logit_softcapping > 0
    assert (Conv1D.__name__, Conv1D(5, 3).weight.shape) == ("Conv1D", (3, 5))  # [in, out]
    norms = [m for m in llama.modules() if "norm" in type(m).__name__.lower()]
    assert len(norms) == 5
    assert all(m.weight.ndim == 1 for m in norms)
    assert llama.config.get_text_config().num_hidden_layers == 2


@touches("hf_device_map")
def test_who_placed_a_model(bart) -> None:
    from accelerate import dispatch_model
    from transformers.quantizers.base import HfQuantizer

    placed = dispatch_model(nn.Sequential(nn.Linear(2, 2)), {"": "cpu"}, force_hooks=True)
    assert placed.hf_device_map == {"": "cpu"}
    assert 'setattr(model, "is_quantized", True)' in inspect.getsource(HfQuantizer)
    assert not getattr(bart, "hf_device_map", None)
    assert not getattr(bart, "is_quantized", False)


@touches("rope_type")
def test_rotary_frequencies_go_by_length() -> None:
    from models import build

    from attriflow.models.positions import Rope

    hf = build("llama-gqa", max_position_embeddings=6, rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    rope = Rope.of(hf)
    assert rope is not None and (rope.length, rope.each) == (6, True)
    ids = torch.arange(10, 19).unsqueeze(0)
    fresh, _, stale = hf(ids[:, :7]).logits, hf(ids), hf(ids[:, :7]).logits
    assert not torch.equal(fresh, stale)
    rope.forget()
    assert torch.equal(fresh, hf(ids[:, :7]).logits)


@touches("offset")
def test_tables_of_positions(bart) -> None:
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    from attriflow.models.positions import trained_lengths

    table = bart.get_decoder().embed_positions
    assert table.num_embeddings - table.offset == bart.config.max_position_embeddings
    assert trained_lengths(bart.config)[0] == bart.config.max_position_embeddings
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20, "max_position_embeddings": 6}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    grows = M2M100ForConditionalGeneration(M2M100Config(**sizes, **heads)).get_decoder().embed_positions
    assert callable(grows.make_weights)


@touches("_hf_hook")
def test_offloaded_modules_have_a_hook() -> None:
    from accelerate import cpu_offload

    module = cpu_offload(nn.Linear(2, 3), torch.device("cpu"))
    hook = module._hf_hook
    assert module.weight.is_meta
    assert [h.execution_device for h in hook.hooks if h.execution_device is not None] == [torch.device("cpu")]
    hook.pre_forward(module)
    kept = module.weight
    hook.post_forward(module, None)
    assert not kept.is_meta and module.weight.is_meta
    (keeping,) = (h for h in hook.hooks if getattr(h, "weights_map", None) is not None)
    keeping.weights_map = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    assert torch.equal(module(torch.ones(1, 2)), torch.full((1, 3), 2.0))


@touches("tied_params_map")
def test_hooks_know_shared_weights_by_their_address(tmp_path) -> None:
    from accelerate import dispatch_model

    both = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    both[1].weight = both[0].weight
    places = {"0": "cpu", "1": "disk", "2": "disk"}
    laid = dispatch_model(both, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    hooks = (
        [h for h in laid[1]._hf_hook.hooks if getattr(h, "weights_map", None) is not None]
        if hasattr(laid[1]._hf_hook, "hooks")
        else [laid[1]._hf_hook]
    )
    assert all(isinstance(h.tied_params_map, dict) and h.tied_params_names == {"weight"} for h in hooks)
    before = laid(torch.ones(1, 2))
    for hook in hooks:
        hook.tied_params_map, hook.tied_params_names = None, set()
    assert torch.equal(laid(torch.ones(1, 2)), before)


@touches("get_src_vocab")
def test_tokenizers_of_two_vocabularies() -> None:
    from transformers import FSMTTokenizer

    source = inspect.getsource(FSMTTokenizer)
    assert callable(FSMTTokenizer.get_src_vocab)
    assert callable(FSMTTokenizer.get_tgt_vocab)
    assert "self.encoder.get(token" in source
    assert "self.decoder.get(index" in source
    assert "lang = self.src_lang" in source
    assert "self.moses_detokenize(tokens, self.tgt_lang)" in source


@touches("is_progress_bar_enabled")
def test_progress_bars_of_transformers() -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        assert not logging.is_progress_bar_enabled()
    finally:
        if before:
            logging.enable_progress_bar()
    assert logging.is_progress_bar_enabled() == before


# -- MLflow -----------------------------------------------------------------------------------------------------------


@touches("_evaluate")
def test_evaluators_that_were_named_are_asked_by_evaluate_itself(monkeypatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.models.evaluation import base

    asked = []

    class Evaluator(base.ModelEvaluator):
        @classmethod
        def can_evaluate(cls, *, model_type, evaluator_config, **kwargs):
            frame = sys._getframe(1)
            asked.append((frame.f_code.co_name, frame.f_globals["__name__"]))
            return False

        def evaluate(self, **kwargs):
            raise AssertionError

    monkeypatch.setattr(base, "MlflowClient", lambda: None)  # would look for a store
    chosen = SimpleNamespace(name="leaning", evaluator=Evaluator(), config={})
    given = dict.fromkeys(inspect.signature(base._evaluate).parameters) | {"evaluators": [chosen]}
    with pytest.raises(MlflowException, match="could not be evaluated"):
        base._evaluate(**given)
    assert asked == [("_evaluate", base.ModelEvaluator.__module__)]


@touches("EvaluationArtifact._save")
def test_artifacts_are_saved_and_loaded_by_private_methods(tmp_path) -> None:
    from mlflow.models.evaluation.base import EvaluationArtifact, EvaluationResult

    class Text(EvaluationArtifact):
        def _save(self, output_artifact_path):
            Path(output_artifact_path).write_text(self.content)

        def _load_content_from_file(self, local_artifact_path):
            return Path(local_artifact_path).read_text()

    artifact = Text(uri="runs:/1/text.txt", content="words")
    EvaluationResult(metrics={}, artifacts={"text": artifact}).save(str(tmp_path))
    assert (tmp_path / "artifacts/text.txt").read_text() == "words"
    loaded = Text(uri="runs:/1/text.txt")
    loaded._load(str(tmp_path / "artifacts/text.txt"))
    assert loaded.content == "words"


@touches("features_data")
def test_the_evaluation_data_set() -> None:
    import pandas as pd
    from mlflow.models.evaluation.base import EvaluationDataset

    frame = pd.DataFrame({"input": ["a", "b"], "wanted": ["c", "d"]})
    data = EvaluationDataset(frame, targets="wanted", name="letters")
    assert list(data.features_data.columns) == ["input"]
    assert list(data.labels_data) == ["c", "d"]
    assert (data.targets_name, data.name) == ("wanted", "letters")
    assert EvaluationDataset(frame, targets="wanted").name in (None, "dataset", data.hash)


@touches("resolve_tags")
def test_tags_of_a_run() -> None:
    from mlflow.tracking.context.registry import resolve_tags

    found = resolve_tags({"mine": "1"})
    assert found["mine"] == "1"
    assert "mlflow.source.name" in found


@touches("mlflow.utils.mlflow_tags")
def test_names_of_tags() -> None:
    from mlflow.tracking import client
    from mlflow.utils import mlflow_tags

    assert mlflow_tags.MLFLOW_PARENT_RUN_ID == "mlflow.parentRunId"
    assert mlflow_tags.MLFLOW_RUN_NAME == "mlflow.runName"
    assert mlflow_tags.MLFLOW_LOGGED_ARTIFACTS == "mlflow.loggedArtifacts"
    assert mlflow_tags.MLFLOW_MODEL_VERSIONS == "mlflow.modelVersions"
    assert 'tag_value = {"path": artifact_file, "type": "table"}' in inspect.getsource(client)


@touches("EvaluationResult.tables")
def test_results_try_every_artifact_as_a_table(monkeypatch, caplog) -> None:
    import mlflow
    from mlflow.models.evaluation.base import EvaluationArtifact, EvaluationResult

    from attriflow.tracking.artifacts import FileArtifact

    class Foreign(EvaluationArtifact):
        def _save(self, output_artifact_path): ...
        def _load_content_from_file(self, local_artifact_path): ...

    class Own(FileArtifact, Foreign): ...

    def load_table(name, run_ids):
        logging.getLogger("mlflow.tracking.client").warning("no table: %s", name)
        raise ValueError

    monkeypatch.setattr(mlflow, "load_table", load_table)
    found = {"a": Own("runs:/1/own.html"), "b": Foreign("runs:/1/foreign.html")}
    assert EvaluationResult({}, found, run_id="1").tables == {}
    assert caplog.messages == ["no table: foreign.html"]
    logging.getLogger("mlflow.tracking.client").warning("anything else")
    assert caplog.messages[1:] == ["anything else"]


@touches("mlflow.protos.databricks_pb2")
def test_error_codes() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    assert MlflowException("no", error_code=INVALID_PARAMETER_VALUE).error_code == "INVALID_PARAMETER_VALUE"


@touches("get_active_model_id")
def test_the_active_model_belongs_to_a_thread() -> None:
    import mlflow
    from mlflow.tracking import fluent
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    found = []
    before = fluent._ACTIVE_MODEL_CONTEXT.get()
    fluent._ACTIVE_MODEL_CONTEXT.set(fluent.ActiveModelContext(model_id="m-1"))
    try:
        assert mlflow.get_active_model_id() == "m-1"
        thread = threading.Thread(target=lambda: found.append(mlflow.get_active_model_id()))
        thread.start()
        thread.join()
    finally:
        fluent._ACTIVE_MODEL_CONTEXT.set(before)
    assert found == [None]
    assert "metric.model_id or get_active_model_id()" in inspect.getsource(TrackingServiceClient.log_batch)


@touches("get_raw_model")
def test_the_pipeline_of_a_transformers_model() -> None:
    import mlflow.pyfunc
    import mlflow.transformers

    wrapper = mlflow.transformers._TransformersWrapper
    made = wrapper.__new__(wrapper)
    made.pipeline = SimpleNamespace(model="model", tokenizer="tokenizer")
    assert made.get_raw_model() is made.pipeline
    assert mlflow.pyfunc.PyFuncModel.get_raw_model(SimpleNamespace(_model_impl=made)) is made.pipeline


@touches("experiments")
def test_a_database_of_mlflow_has_a_table_of_experiments() -> None:
    from mlflow.store.tracking.dbmodels.models import SqlExperiment

    assert SqlExperiment.__tablename__ == "experiments"


@touches("input example was not provided")
def test_advice_is_known_by_its_words() -> None:
    import mlflow.pyfunc

    assert "An input example was not provided" in inspect.getsource(mlflow.pyfunc)


# -- ferret, captum, datasets -----------------------------------------------------------------------------------------


@touches("_check_and_define_get_id_discrete_rationale_function")
def test_how_ferret_selects_tokens() -> None:
    discrete = resolve_name("ferret.evaluators.utils_from_soft_to_discrete")
    removal = discrete.parse_evaluator_args({"removal_args": {"based_on": "k"}})[2]
    assert (removal["based_on"], len(removal["thresholds"])) == ("k", 10)
    select = discrete._check_and_define_get_id_discrete_rationale_function("k")
    assert list(select(torch.tensor([0.1, 0.5, 0.3]).numpy(), 2, True)) == [1, 2]


@touches("ferret.evaluators")
def test_evaluators_of_ferret_read_probabilities_only() -> None:
    """What is shown to them is a table of probabilities with a codec of indices in place of model and tokenizer."""
    from attriflow_metrics.ferret import evaluate

    scores, removal = torch.tensor([3.0, 2.0, 1.0]).numpy(), {"removal_args": {"based_on": "k", "thresholds": [1, 2]}}

    def score(kept: tuple[int, ...]) -> float:
        return math.log(0.2 + 0.1 * len(kept))

    found = evaluate("AOPC_Comprehensiveness_Evaluation", [4, 5, 7], scores, score=score, **removal)
    assert found == pytest.approx((0.1 + 0.2) / 2)
    found = evaluate("AUPRC_PlausibilityEvaluation", [4, 5, 7], scores, rationale=torch.tensor([1, 0, 0]).numpy())
    assert found == pytest.approx(1)


@touches("ferret.Benchmark")
def test_tables_of_ferret_need_no_benchmark() -> None:
    benchmark = resolve_name("ferret.benchmark:Benchmark")
    kind = resolve_name("ferret.explainers.explanation:Explanation")
    one = kind(
        text="a b c", tokens=["a", "b", "c"], scores=torch.tensor([1.0, 2.0, 3.0]).numpy(), explainer="x", target=0
    )
    bare = benchmark.__new__(benchmark)
    assert list(benchmark.get_dataframe(bare, [one]).loc["x"]) == [1, 2, 3]
    assert list(benchmark.show_table(bare, [one], False, True).columns) == ["b"]


@touches("ferret.explainers")
def test_how_explainers_of_ferret_are_called() -> None:
    from attriflow.interop.ferret import EXPLAINERS

    for module, name, options, _ in EXPLAINERS.values():
        kind = resolve_name(f"ferret.explainers.{module}:{name}")
        assert list(inspect.signature(kind).parameters)[:2] == ["model", "tokenizer"]
        kind(SimpleNamespace(device="cpu", config=None), None, **options)
        asked = inspect.signature(kind.compute_feature_importance).parameters
        assert list(asked)[:2] == ["self", "text"]
        assert {"target", "init_args", "call_args"} & set(asked)


@touches("captum.metrics")
def test_the_questions_of_captums_metrics() -> None:
    from captum.metrics import infidelity, sensitivity_max

    asked = []
    gone = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    infidelity(
        lambda x: asked.append(x.tolist()) or x.sum(1), lambda x: (gone, x - gone), torch.ones(1, 2), torch.ones(1, 2),
        n_perturb_samples=3, normalize=True,
    )  # fmt: skip
    assert sorted(asked, key=len) == [[[1.0, 1.0]], (1 - gone).tolist()]
    asked.clear()
    sensitivity_max(
        lambda x: (asked.append(x) or 2 * (x[0] if isinstance(x, tuple) else x),), torch.zeros(1, 1),
        perturb_func=lambda _inputs, _radius: torch.arange(1.0, 4)[:, None], n_perturb_samples=3,
    )  # fmt: skip
    assert isinstance(asked[0], tuple)
    assert asked[1].flatten().tolist() == [1.0, 2.0, 3.0]


@touches("Dataset._fingerprint")
def test_contents_of_a_data_set_have_a_fingerprint() -> None:
    from datasets import Dataset

    one, other = (Dataset.from_dict({"text": ["a", word]}) for word in "bc")
    assert one._fingerprint
    assert one.select(range(1))._fingerprint != one._fingerprint
    assert one._fingerprint != other._fingerprint


# -- the command line, the app, notebooks, the documentation ----------------------------------------------------------


@touches("typer.core.TyperCommand")
def test_commands_rewrite_their_arguments() -> None:
    from typing import Annotated

    from typer.core import TyperCommand

    seen: dict[str, tuple[object, ...]] = {}
    told = []

    class Command(TyperCommand):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **{**settings, "rich_markup_mode": "rich"})

        def parse_args(self, ctx, args):
            for p in self.get_params(ctx):
                if p.param_type_name == "option":
                    seen[p.name] = (p.opts, p.secondary_opts, p.is_flag, p.multiple)
            return super().parse_args(ctx, [a.replace("_", "-") for a in args])

    def defaults(ctx: typer.Context, path: str | None) -> str | None:
        if path is not None and not ctx.resilient_parsing:
            assert {p.name for p in ctx.command.params} >= {"top_k", "text", "config"}
            ctx.default_map = {"top_k": path}
        return path

    def call(**given):
        told.append(given)

    hints = {
        "config": Annotated[str | None, typer.Option("--config", is_eager=True, callback=defaults)],
        "top_k": Annotated[int, typer.Option("--top-k")],
        "text": Annotated[list[str] | None, typer.Option("--text", "-i")],
        "flag": Annotated[bool, typer.Option("--flag")],
    }
    call.__annotations__ = hints
    kind = inspect.Parameter.KEYWORD_ONLY
    values = {"config": None, "top_k": 1, "text": None, "flag": False}
    call.__signature__ = inspect.Signature(
        [inspect.Parameter(name, kind, annotation=hint, default=values[name]) for name, hint in hints.items()]
    )
    app = typer.Typer()
    app.command("one", cls=Command)(call)
    app.command("other")(lambda: None)
    app(["one", "--top_k", "3", "-i", "a", "-i", "b"], standalone_mode=False)
    app(["one", "--config", "7"], standalone_mode=False)
    assert told[0] == {"config": None, "top_k": 3, "text": ["a", "b"], "flag": False}
    assert told[1]["top_k"] == 7
    assert seen["text"] == (["--text", "-i"], [], False, True)
    assert seen["flag"] == (["--flag"], [], True, False)


@touches("standalone_mode")
def test_errors_of_typer() -> None:

    app = typer.Typer()

    @app.command()
    def main(n: int) -> None:
        if n < 2:
            raise (KeyboardInterrupt, EOFError)[n]
        raise typer.Exit(n)

    assert app(["3"], standalone_mode=False) == 3
    with pytest.raises(Exception) as wrong:
        app(["x"], standalone_mode=False)
    assert wrong.value.exit_code == 2
    assert "n" in wrong.value.format_message()
    assert wrong.value.ctx.command_path
    assert app(["0"], standalone_mode=False) == 130
    with pytest.raises(Exception) as ended:
        app(["1"], standalone_mode=False)
    assert type(ended.value).__name__ == "Abort"


@touches("gr.Progress")
def test_gradio_finds_progress_before_any_number_of_values() -> None:
    gradio = pytest.importorskip("gradio")
    from gradio.helpers import special_args

    from attriflow.app.jobs import Jobs
    from attriflow.app.widgets import Fields, told

    handler = told(Fields(a=1, b=2).call(Jobs(), lambda values, progress: values))
    asked = gradio.Request(session_hash="s")
    inputs, place, *_ = special_args(handler, [1, 2], request=asked)
    assert place == 1
    assert inputs[0] is asked
    assert isinstance(inputs[1], gradio.Progress)
    assert inputs[2:] == [1, 2]
    assert handler(*inputs) == {"a": 1, "b": 2}


@touches("/queue/data?session_hash=")
def test_streams_that_gradios_pages_keep_open() -> None:
    routes = inspect.getsource(pytest.importorskip("gradio.routes"))
    for path in ("/heartbeat/{session_hash}", "/queue/data"):
        assert f'router.get("{path}"' in routes


@touches(".gallery-container")
def test_names_in_gradios_page() -> None:
    gradio = pytest.importorskip("gradio")
    css = "".join(p.read_text(encoding="utf-8") for p in (Path(gradio.__file__).parent / "templates").rglob("*.css"))
    cell = next(cell for cell in TABLE if ".gallery-container" in cell)
    names = re.findall("`(.*?)`", cell)
    assert len(names) > 5
    assert [name for name in names if name not in css] == []


@touches("get_ipython().kernel")
def test_notebooks_have_a_kernel() -> None:
    zmqshell = pytest.importorskip("ipykernel.zmqshell")
    assert "kernel" in zmqshell.ZMQInteractiveShell.class_trait_names()


@touches("pymdownx.arithmatex")
def test_formulas_in_pages() -> None:
    markdown = pytest.importorskip("markdown")
    page = markdown.markdown("so $x$:\n\n$$y$$\n", extensions=["pymdownx.arithmatex"], extension_configs={
        "pymdownx.arithmatex": {"generic": True}
    })  # fmt: skip
    assert r'<span class="arithmatex">\(x\)</span>' in page
    assert r'<div class="arithmatex">\[' in page
