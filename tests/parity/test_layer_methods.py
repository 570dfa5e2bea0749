"""Layer methods: recorded numbers, oracles, completeness, and the plain methods they equal at the embeddings."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from load_golden import Golden, oracle
from models import ENCODER_DECODERS, build

import attriflow
from attriflow.errors import AttriflowError, InputError, UnsupportedModelError

PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari"]
TARGETS = {
    False: [f"{PROMPTS[0]} pari mitemi kana gemibes", f"{PROMPTS[1]} te"],
    True: ["um nomal rapel Tarsen popite", "so rapel"],
}
LAYERS = {
    "gpt2": ["transformer.h.0.mlp", "transformer.h.1.attn", "transformer.ln_f", "transformer.h.0.mlp.act"],
    "llama-gqa": ["model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_proj", "model.layers.1"],
    "bart": [["model.encoder.layers.0.fc2", "model.decoder.layers.1.self_attn"]],
    "marian": [["model.encoder.embed_tokens", "model.decoder.layers.0"]],
    "t5": [["encoder.block.0", "decoder.block.1.layer.2"]],
}
CASES = [(name, layer) for name, layers in LAYERS.items() for layer in layers]
METHODS = ["layer_deeplift", "layer_integrated_gradients", "layer_gradient_x_activation"]
OPTIONS = {"layer_integrated_gradients": {"n_steps": 4}}
reference = functools.lru_cache(Golden)


@pytest.fixture(scope="module")
def model(tokenizers):
    @functools.lru_cache
    def get(name: str):
        hf = build(name)
        if name == "marian":  # some versions share one table module
            hf.model.encoder.embed_tokens = copy.deepcopy(hf.model.encoder.embed_tokens)
        return attriflow.load_model(hf, tokenizer=tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"])

    return get


def attribute(m, method, texts=PROMPTS, targets=None, **options):
    kind = m.is_encoder_decoder
    if kind:
        options = {"attribute_target": True, **options}
    return m.attribute(texts, targets or TARGETS[kind], method=method, show_progress=False, **options)


def same(a, b, atol=1e-9):  # norms and softmaxes of some models cast to single precision
    torch.testing.assert_close(a, b, atol=atol, rtol=0, equal_nan=True)


def logits_with(m, example, layers, replaced=None, baseline=False):
    """One plain pass, with the layers' outputs caught or replaced: logits of the targets, outputs."""
    ids = {"decoder_input_ids" if m.is_encoder_decoder else "input_ids": torch.tensor([example.target_ids])}
    if m.is_encoder_decoder:
        ids["input_ids"] = torch.tensor([example.source_ids])
    if baseline:  # all tokens unknown, but EOS and the first one of the decoder
        unk, eos = m.tokenizer.unk_token_id, m.tokenizer.eos_token_id
        for name, given in ids.items():
            changed = torch.where(given == eos, given, unk)
            if name == "decoder_input_ids":
                changed[:, 0] = given[:, 0]
            ids[name] = changed
    caught, hooks = {}, []

    def hook(name, _module, _args, output):
        first = output[0] if isinstance(output, tuple) else output
        caught[name] = first.detach()
        if replaced is None:
            return None
        return (replaced[name], *output[1:]) if isinstance(output, tuple) else replaced[name]

    for name in layers:
        hooks.append(m.model.get_submodule(name).register_forward_hook(functools.partial(hook, name)))
    try:
        with torch.no_grad():
            logits = m.model(**ids, use_cache=False).logits[0]
    finally:
        for handle in hooks:
            handle.remove()
    steps = range(example.start, example.stop)
    return torch.stack([logits[i - 1, example.target_ids[i]] for i in steps]), caught


class TestComplete:
    @pytest.mark.parametrize(("name", "layer"), CASES)
    @pytest.mark.parametrize("method", METHODS[:2])
    def test_sums(self, model, name, layer, method):
        """Sums are f(a) - f(a'), computed here with plain hooks, one example at a time."""
        m = model(name)
        layers = [layer] if isinstance(layer, str) else layer
        options = {"n_steps": 60} if method == "layer_integrated_gradients" else {}
        out = attribute(m, method, target_layer=layer, attributed_fn="logits", return_convergence_delta=True, **options)
        gaps = []
        for one, text, target in zip(out, PROMPTS, TARGETS[m.is_encoder_decoder], strict=True):
            (example,) = m.encode(text, target)
            inside, _ = logits_with(m, example, layers)
            _, outputs = logits_with(m, example, layers, baseline=True)
            outside, _ = logits_with(m, example, layers, replaced=outputs)
            change = inside - outside
            gaps.append(float(change.abs().max()))
            # quadrature; kinks of ReLU; norms in single precision
            atol = 2e-3 if method == "layer_integrated_gradients" else 1e-5
            same(one.scores.nansum(1), change, atol * max(1.0, gaps[-1]))
            same(one.scores.nansum(1) - one.step_scores["deltas"], change, 1e-6)
        assert max(gaps) > 1e-2

    def test_deeplift_is_exact(self, model):
        m = model("gpt2")
        for layer in LAYERS["gpt2"]:
            out = attribute(m, "layer_deeplift", target_layer=layer, return_convergence_delta=True)
            for one in out:
                assert one.step_scores["deltas"].abs().max() < 1e-14


class TestAtTheEmbeddings:
    PLAIN = (
        ("layer_deeplift", "deeplift", {}),
        ("layer_integrated_gradients", "integrated_gradients", {"n_steps": 7}),
        ("layer_gradient_x_activation", "input_x_gradient", {}),
    )

    @pytest.mark.parametrize(("layer_method", "method", "options"), PLAIN)
    @pytest.mark.parametrize("name", LAYERS)
    def test_default(self, model, name, layer_method, method, options):
        m = model(name)
        for a, b in zip(attribute(m, layer_method, **options), attribute(m, method, **options), strict=True):
            same(a.scores, b.scores, 1e-14)

    @pytest.mark.parametrize(("layer_method", "method", "options"), PLAIN)
    def test_named(self, model, layer_method, method, options):
        for name, layer in (("gpt2", "transformer.wte"), ("t5", ["encoder.embed_tokens", "decoder.embed_tokens"])):
            m = model(name)
            a, b = (attribute(m, layer_method, target_layer=layer, **options), attribute(m, method, **options))
            same(a[0].scores, b[0].scores, 1e-14)

    @pytest.mark.parametrize(("layer_method", "method", "options"), PLAIN[:2])
    def test_through_hooks(self, model, layer_method, method, options):
        """After the position embeddings, which are the same on both ends, nothing has changed."""
        m = model("gpt2")
        a = attribute(m, layer_method, target_layer="transformer.drop", granular=True, **options)
        b = attribute(m, method, granular=True, **options)
        for x, y in zip(a, b, strict=True):
            same(x.scores, y.scores, 1e-12)

    @pytest.mark.parametrize("name", ["bart", "marian"])
    def test_an_embedding_beside_a_layer(self, model, name):
        """The encoder's table through a hook, scaled inside or outside the module: not beside it."""
        m = model(name)
        decoder = "model.decoder.layernorm_embedding" if name == "bart" else "model.decoder.layers.0.self_attn"
        mixed = attribute(
            m, "layer_gradient_x_activation", target_layer=["model.encoder.embed_tokens", decoder], granular=True
        )
        plain = attribute(m, "input_x_gradient", granular=True)
        for a, b in zip(mixed, plain, strict=True):
            same(a.source_attributions, b.source_attributions, 1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "layer"), [CASES[0], CASES[4], CASES[7], CASES[9]])
class TestPromises:
    def test_batch_is_alone(self, model, name, layer, method):
        m = model(name)
        options = {"target_layer": layer, **OPTIONS.get(method, {})}
        both = attribute(m, method, **options)
        for i in range(2):
            alone = attribute(m, method, PROMPTS[i], TARGETS[m.is_encoder_decoder][i], **options)[0]
            same(both[i].scores, alone.scores)

    def test_causality(self, model, name, layer, method):
        m = model(name)
        target = TARGETS[m.is_encoder_decoder][0]
        options = {"target_layer": layer, **OPTIONS.get(method, {})}
        a = attribute(m, method, PROMPTS[0], target, **options)[0]
        b = attribute(m, method, PROMPTS[0], " ".join([*target.split()[:-1], "so"]), **options)[0]
        n = 0
        while a.targets[n].id == b.targets[n].id:
            n += 1
        shared = min(len(a.inputs), len(b.inputs))
        keep = [i for i in range(shared) if a.inputs[i].id == b.inputs[i].id and not a.scores[:n, i].isnan().all()]
        assert n
        same(a.scores[:n, keep], b.scores[:n, keep])

    def test_chunks_and_memory(self, model, name, layer, method, monkeypatch):
        import attriflow.engine.sizes as sizes

        m = model(name)
        options = {"target_layer": layer, **OPTIONS.get(method, {})}
        wanted = attribute(m, method, **options)
        forward, limit = type(m.model).forward, 2

        def small(self, *args, **kwargs):
            given = next(v for k, v in kwargs.items() if k in ("input_ids", "inputs_embeds") and v is not None)
            if given.shape[0] > limit:
                raise torch.OutOfMemoryError("test")
            return forward(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(sizes, "CHUNK_BYTES", 1)
            patch.setattr(type(m.model), "forward", small)
            for a, b in zip(wanted, attribute(m, method, **options), strict=True):
                same(a.scores, b.scores)
            limit = 0
            with pytest.raises(AttriflowError, match="memory"):
                attribute(m, method, **options)
        assert not any(mod._forward_hooks or mod._forward_pre_hooks for mod in m.model.modules())


def test_granular_width_is_the_layers(model):
    m = model("llama-gqa")
    out = attribute(m, "layer_deeplift", target_layer="model.layers.0.mlp.gate_proj", granular=True)[0]
    assert out.scores.shape[-1] == 64
    assert out.axes == ("step", "input", "embedding")


def test_a_module_is_as_good_as_its_name(model):
    m = model("gpt2")
    module = m.model.transformer.h[0].mlp
    a = attribute(m, "layer_gradient_x_activation", target_layer="transformer.h.0.mlp")[0]
    same(a.scores, attribute(m, "layer_gradient_x_activation", target_layer=module)[0].scores, 0)


def test_the_source_alone_needs_one_layer(model):
    m = model("bart")
    layer = "model.encoder.layers.0.fc2"
    out = attribute(m, "layer_deeplift", target_layer=layer, attribute_target=False, return_convergence_delta=True)[0]
    assert out.step_scores["deltas"].abs().max() < 1e-14
    assert all(t.segment == "source" for t in out.inputs)


@pytest.mark.parametrize("method", METHODS)
def test_without_the_factor(model, method):
    m = model("gpt2")
    layer = "transformer.h.0.mlp"
    options = {"target_layer": layer, "granular": True}
    full, alone = (
        attribute(m, method, PROMPTS[0], TARGETS[False][0], multiply_by_inputs=flag, **options)[0].scores
        for flag in (True, False)
    )
    (example,) = m.encode(PROMPTS[0], TARGETS[False][0])
    factor = logits_with(m, example, [layer])[1][layer][0]
    if method != "layer_gradient_x_activation":
        factor = factor - logits_with(m, example, [layer], baseline=True)[1][layer][0]
    same(alone * factor, full, 1e-12)


class TestErrors:
    def test_an_unknown_name(self, model):
        with pytest.raises(InputError, match=r"no module 'transformer.h.0.mpl'.*transformer.h.0.mlp"):
            attribute(model("gpt2"), "layer_deeplift", target_layer="transformer.h.0.mpl")
        with pytest.raises(InputError, match="named_modules"):
            attribute(model("gpt2"), "layer_deeplift", target_layer="zzz")

    def test_a_strange_module(self, model):
        with pytest.raises(InputError, match="not a module of the model"):
            attribute(model("gpt2"), "layer_deeplift", target_layer=torch.nn.Linear(2, 2))

    @pytest.mark.parametrize("layer", [3, "", [], ["a", "b", "c"], [None], ["lm_head", ""]])
    @pytest.mark.parametrize("method", METHODS)
    def test_no_layers(self, model, method, layer):
        with pytest.raises(InputError, match=r"target_layer.* must be"):
            attribute(model("gpt2"), method, target_layer=layer)

    def test_a_side_that_is_not_attributed(self, model):
        with pytest.raises(InputError, match=r"is in the decoder.*attribute_target=True"):
            attribute(model("bart"), METHODS[0], target_layer="model.decoder.layers.0", attribute_target=False)

    def test_a_side_without_a_layer(self, model):
        with pytest.raises(InputError, match="no layer of the decoder"):
            attribute(model("bart"), METHODS[0], target_layer="model.encoder.layers.0")

    def test_two_of_one_side(self, model):
        with pytest.raises(InputError, match="two layers of the encoder"):
            layers = ["model.encoder.layers.0", "model.encoder.layers.1"]
            attribute(model("bart"), METHODS[0], target_layer=layers)

    def test_no_positions(self, model):
        with pytest.raises(InputError, match="must put out"):
            attribute(model("llama-gqa"), METHODS[2], target_layer="lm_head")

    def test_a_module_that_does_not_run(self, model):
        with pytest.raises(UnsupportedModelError, match="did not run"):
            attribute(model("bart"), METHODS[2], target_layer=["model.encoder.layers.0", "model.decoder.layers"])

    def test_a_module_that_runs_on_both_sides(self, tokenizers):
        hf = build("marian")
        hf.model.decoder.embed_tokens = hf.model.encoder.embed_tokens
        m = attriflow.load_model(hf, tokenizer=tokenizers["bart"])
        both = ["model.encoder.embed_tokens", "model.decoder.embed_tokens"]
        same(attribute(m, METHODS[0], target_layer=both)[0].scores, attribute(m, "deeplift")[0].scores, 1e-14)
        with pytest.raises(InputError, match="both sides run"):
            attribute(m, METHODS[0], target_layer=[both[0], "model.decoder.layers.0"])

    @pytest.mark.parametrize("options", [{"n_steps": 0}, {"internal_batch_size": 0}, {"quadrature": "simpson"}])
    def test_bad_options(self, model, options):
        with pytest.raises(AttriflowError):
            attribute(model("gpt2"), "layer_integrated_gradients", **options)


def _runs(model: str) -> list:
    return [
        pytest.param(model, run["id"], id=f"{model}-{run['id']}")
        for run in reference(model).runs(method="layer_gradient_x_activation")
    ]


def test_the_runs_are_there():
    assert len(_runs("gpt2")) >= 12
    assert len(_runs("bart")) >= 12


@pytest.mark.parametrize(("model_name", "run_id"), [*_runs("gpt2"), *_runs("bart")])
def test_recorded(golden_model, model_name, run_id):
    golden = reference(model_name)
    run = golden.run(run_id)
    case = golden.cases[run["case"]]
    options = {k: v for k, v in run["attribute_kwargs"].items() if k not in ("input_texts", "generated_texts")}
    out = golden_model(model_name, "float64" if run["dtype"] == "f64" else "float32").attribute(
        case["input_texts"],
        case["generated_texts"],
        method=run["method"],
        granular=True,
        **options,
        **run["load_kwargs"],
    )
    compared = 0
    for i in range(len(run["sequences"])):
        for field in golden.fields(run, i):
            if field in ("source_attributions", "target_attributions"):
                golden.compare(run, field, getattr(out[i], field).float().numpy(), sequence=i)
                compared += 1
    assert compared == len(run["sequences"])


@pytest.mark.parametrize(("fn", "attributed_fn"), [("probability", "probability"), ("logit", "logits")])
def test_oracle_of_layer_integrated_gradients(golden_model, fn, attributed_fn):
    """ReLU kinks leave first-order convergence: the tolerance is that of the quadrature on both sides."""
    arrays, document = oracle("bart")
    prefix = f"single/seq0/layer_integrated_gradients.{fn}"
    (layer,) = {e["layer"] for e in document["entries"] if e["quantity"] == f"layer_integrated_gradients.{fn}"}
    case = reference("bart").cases["single"]
    wanted = arrays[f"{prefix}/source"]
    inside, outside = arrays[f"{prefix}/f_input_and_f_baseline"].T
    out = golden_model("bart").attribute(
        case["input_texts"],
        case["generated_texts"],
        method="layer_integrated_gradients",
        attributed_fn=attributed_fn,
        target_layer=layer,
        n_steps=400,
        quadrature="riemann_middle",
        granular=True,
        return_convergence_delta=True,
    )[0]
    mine = out.source_attributions.numpy()
    np.testing.assert_allclose(mine, wanted, atol=2e-3 * np.abs(wanted).max(), rtol=0)
    delta = out.step_scores["deltas"].numpy()
    np.testing.assert_allclose(out.scores.nansum((1, 2)).numpy() - delta, inside - outside, atol=1e-8)


@pytest.mark.parametrize("fn", ["probability", "logit"])
def test_oracle_ends_of_layer_deeplift(golden_model, fn):
    """The same two ends as layer integrated gradients, joined without an error."""
    arrays, _ = oracle("bart")
    inside, outside = arrays[f"single/seq0/layer_integrated_gradients.{fn}/f_input_and_f_baseline"].T
    case = reference("bart").cases["single"]
    out = golden_model("bart").attribute(
        case["input_texts"],
        case["generated_texts"],
        method="layer_deeplift",
        attributed_fn={"logit": "logits"}.get(fn, fn),
        target_layer="model.encoder.layers.0.fc2",
    )[0]
    np.testing.assert_allclose(out.scores.nansum(1).numpy(), inside - outside, atol=1e-8)
