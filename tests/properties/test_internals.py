"""Methods that read the model's internals, by definition: rollout, value-weighted attention, information flow."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers
from models import CONFIGS, ENCODER_DECODERS, SMALL, build
from packaging.version import Version

import attriflow
from attriflow.engine import Engine
from attriflow.engine.job import make_objective
from attriflow.methods.information_flow_routes import trace
from attriflow.models import attention
from attriflow.models.attention import AttentionCall, interface_works

PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari"]
TARGETS = {
    False: [f"{PROMPTS[0]} pari mitemi kana gemibes", f"{PROMPTS[1]} te"],
    True: ["um nomal rapel Tarsen popite", "so rapel"],
}
# Other ways to build a block: norms after the sublayers only, attention beside the MLP, scaled updates, no RMS.
MORE = {
    "olmo2": ("olmo2", SMALL),
    "gpt_neox": ("gpt_neox", SMALL),
    "cohere": ("cohere", SMALL),
    "granite": ("granite", {**SMALL, "residual_multiplier": 0.3, "embedding_multiplier": 2.0}),
}
if Version(transformers.__version__) >= Version("5.24"):
    MORE["gptj"] = (
        "gptj",
        {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128},
    )
# T5 shows its attention with transformers 5, GPT-J since 5.24; before, they get an error (test_methods.py).
READABLE = [n for n in CONFIGS if interface_works(build(n))]
# Norms that compute in float32 whatever the dtype leave rounding errors of that size.
TOLERANCE = {"gpt2": 1e-12, "opt": 1e-12, "bart": 1e-12, "marian": 1e-12, "t5": 1e-7, "gpt_neox": 1e-12}


@pytest.fixture(scope="module")
def model(tokenizers):
    @functools.lru_cache
    def get(name: str, **changes):
        tokenizer = tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"]
        with pytest.MonkeyPatch.context() as patch:
            if name in MORE:
                patch.setitem(CONFIGS, name, MORE[name])
            return attriflow.load_model(build(name, **changes), tokenizer=tokenizer)

    return get


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0, equal_nan=True)


def attribute(m, method, **options):
    if m.is_encoder_decoder:
        options = {"attribute_target": True, **options}
    return m.attribute(PROMPTS, TARGETS[m.is_encoder_decoder], method=method, **options)


def engine(m, fn="logits", args=None, which=None):
    texts, targets = PROMPTS, TARGETS[m.is_encoder_decoder]
    examples = m.encode(texts, targets)[slice(None) if which is None else slice(which, which + 1)]
    blocks = ("source", "target") if m.is_encoder_decoder else ("target",)
    return Engine(m.wrapped, examples, make_objective(fn, args or {})[0], blocks)


def plain_pass(m, example, **arguments):
    """The model's own eager pass over one example."""
    target = torch.tensor([example.target_ids[:-1]])
    ids = {"input_ids": target}
    if m.is_encoder_decoder:
        ids = {"input_ids": torch.tensor([example.source_ids]), "decoder_input_ids": target}
    before = m.model.config._attn_implementation
    m.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return m.model(**ids, use_cache=False, output_attentions=True, **arguments)
    finally:
        m.model.set_attn_implementation(before)


class TestRollout:
    @pytest.mark.parametrize("name", [*READABLE, *MORE])
    @pytest.mark.parametrize("options", [{}, {"residual": 0.2, "head": "max"}, {"head": "min"}])
    def test_rows_sum_to_one(self, model, name, options):
        for out in attribute(model(name), "attention_rollout", **options):
            assert not (out.scores < 0).any()
            close(out.scores.nansum(1), torch.ones(len(out.targets), dtype=torch.float64), 1e-6)  # float32 softmax
            assert out.provenance.forward_rows == 1

    @pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
    @pytest.mark.parametrize(("residual", "head"), [(0.5, "mean"), (0.3, "max"), (0.5, "min")])
    def test_decoder_only_by_definition(self, model, name, residual, head):
        m = model(name)
        examples = m.encode(PROMPTS, TARGETS[False])
        outs = attribute(m, "attention_rollout", residual=residual, head=head)
        for example, out in zip(examples, outs, strict=True):
            total = None
            for layer in plain_pass(m, example).attentions:
                mixed = self.mixed(self.fused(layer[0], head), residual)
                total = mixed if total is None else mixed @ total
            for step in range(example.n_steps):
                n = example.start + step
                close(out.scores[step, :n], total[n - 1, :n])

    @pytest.mark.parametrize("name", [n for n in ("bart", "t5") if n in READABLE])
    def test_encoder_decoder_by_definition(self, model, name):
        """One big matrix over source tokens, encoder states, decoder inputs and decoder states."""
        m = model(name)
        examples = m.encode(PROMPTS, TARGETS[True])
        outs = attribute(m, "attention_rollout")
        alone = attribute(m, "attention_rollout", attribute_target=False)
        for example, out, source_only in zip(examples, outs, alone, strict=True):
            passed = plain_pass(m, example)
            encoder = torch.eye(len(example.source), dtype=torch.float64)
            for layer in passed.encoder_attentions:
                encoder = self.mixed(layer[0].mean(0), 0.5) @ encoder
            n_source, n = encoder.shape[0], passed.decoder_attentions[0].shape[-1]
            state = torch.cat([torch.zeros(n, n_source), torch.eye(n)], 1).double()
            for own, cross in zip(passed.decoder_attentions, passed.cross_attentions, strict=True):
                state = self.mixed(own[0].mean(0), 0.5) @ state
                read = torch.cat([encoder, torch.zeros(n_source, n, dtype=torch.float64)], 1)
                state = 0.5 * state + 0.5 * cross[0].mean(0) @ read
            for step in range(example.n_steps):
                width = n_source + example.start + step
                close(out.scores[step, :width], state[example.start + step - 1, :width])
            close(source_only.scores, out.scores[:, :n_source])
            assert (source_only.scores.sum(1) < 1).all()

    @staticmethod
    def fused(weights, head):
        if head == "mean":
            return weights.mean(0)
        fused = weights.max(0).values if head == "max" else weights.min(0).values
        return fused / fused.sum(-1, keepdim=True)

    @staticmethod
    def mixed(weights, residual):
        return residual * torch.eye(len(weights), dtype=weights.dtype) + (1 - residual) * weights


class TestValueNorm:
    @pytest.mark.parametrize("name", [n for n in ("gpt2", "llama-gqa", "gemma2", "bart", "t5") if n in READABLE])
    def test_by_definition(self, model, name):
        """Values from hooks on the projections that each architecture names in its own way, norms in full width."""
        m = model(name)
        for example, out in zip(
            m.encode(PROMPTS, TARGETS[m.is_encoder_decoder]), attribute(m, "value_norm"), strict=True
        ):
            values, projections, kept = self.parts(m.model, name)
            passed = plain_pass(m, example)
            for _, hook in kept:
                hook.remove()
            maps = [
                getattr(passed, n)
                for n in (("decoder_attentions", "cross_attentions") if m.is_encoder_decoder else ("attentions",))
            ]
            n_source = len(example.source)
            for layer in range(2):
                for kind, weights in enumerate(maps):
                    value = values[kind][layer][0][0]
                    value = value.view(len(value), -1, 8).repeat_interleave(4 // (value.shape[-1] // 8), 1)
                    weight = projections[kind][layer].view(4, 8, 32)
                    moved = torch.einsum("htj,jhd,hdo->htjo", weights[layer][0], value, weight).norm(dim=-1)
                    for step in range(example.n_steps):
                        query = example.start + step - 1
                        span = slice(0, n_source) if kind == 1 else slice(n_source, n_source + query + 1)
                        width = n_source if kind == 1 else query + 1
                        close(out.scores[step, span, layer], moved[:, query, :width].T)

    @staticmethod
    def parts(hf, name):
        """Per kind (self, cross) and layer: captured values, output projection [in, out]; and the hooks."""
        kept = []

        def catch(module, cut=None):
            caught = []
            hook = module.register_forward_hook(
                lambda _m, _a, output: caught.append(output if cut is None else output[..., cut:])
            )
            kept.append((caught, hook))
            return caught

        if name == "gpt2":
            blocks = hf.transformer.h
            return [[catch(b.attn.c_attn, 64) for b in blocks]], [[b.attn.c_proj.weight.data for b in blocks]], kept
        if name == "bart":
            blocks = hf.model.decoder.layers
            pairs = [[b.self_attn for b in blocks], [b.encoder_attn for b in blocks]]
            names = ("v_proj", "out_proj")
        elif name == "t5":
            blocks = hf.decoder.block
            pairs = [[b.layer[0].SelfAttention for b in blocks], [b.layer[1].EncDecAttention for b in blocks]]
            names = ("v", "o")
        else:
            pairs, names = [[b.self_attn for b in hf.model.layers]], ("v_proj", "o_proj")
        values = [[catch(getattr(a, names[0])) for a in kind] for kind in pairs]
        return values, [[getattr(a, names[1]).weight.data.mT.contiguous() for a in kind] for kind in pairs], kept


@pytest.mark.parametrize("name", [*READABLE, *MORE])
def test_by_blocks_of_queries(model, name, monkeypatch):
    """What long texts run: no weights of a whole layer, the same numbers but for single precision in some softmaxes."""
    methods = ("attention", "attention_rollout", "value_norm", "value_zeroing", "information_flow_routes")
    wanted = [attribute(model(name), method) for method in methods]
    read, blocks = set(), AttentionCall.blocks

    def spy(self, *args, **options):
        assert self.whole is None, "attention was computed at once"
        parts = list(blocks(self, *args, **options))
        read.update(block.rows.start for block, _ in parts)
        return iter(parts)

    monkeypatch.setattr(attention, "WHOLE_BYTES", 0)
    monkeypatch.setattr(attention, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(AttentionCall, "blocks", spy)
    for method, before in zip(methods, wanted, strict=True):
        for a, b in zip(before, attribute(model(name), method), strict=True):
            close(a.scores, b.scores, 1e-5 * float(a.scores.nan_to_num().abs().max()))
    assert len(read) > 2


@pytest.mark.parametrize("name", [*READABLE, *MORE])
class TestFlow:
    def test_parts_make_up_the_readout(self, model, name):
        """Routed contributions and biases sum to readout times state: nothing is lost or counted twice."""
        m = model(name)
        with m.wrapped.frozen():
            e = engine(m)
            flow = trace(e)
        total = sum(s.sum(-1) for s in flow.routed().values()) + flow.constant
        mask = e.batch.step_mask
        close(total[mask], flow.linear[mask], TOLERANCE.get(name, 1e-7))
        assert e.counter.forward_calls == 1
        layers = 4 if m.is_encoder_decoder else 2
        assert sorted(flow.attended) == list(range(layers))
        for unit in flow.stream.decoder + flow.stream.encoder:
            batch, width = unit.edges.own.shape
            own, shares = unit.edges.back(torch.eye(width, dtype=torch.float64).expand(batch, -1, -1))
            assert (own >= 0).all()
            assert (shares >= 0).all()
            close(own.sum(-1) + shares.sum(-1), torch.ones_like(unit.edges.own))
        # each layer moves something, and so do embeddings and MLPs
        assert all(float(a.abs().max()) > 0 for a in flow.attended.values())
        assert float(flow.rests[0].abs().max()) > 0
        assert float(flow.rests[layers].abs().max()) > 0

    @pytest.mark.parametrize("fn", ["logits", "probability"])
    def test_scores_and_remainder_are_the_value(self, model, name, fn):
        m = model(name)
        for target in (True, False) if m.is_encoder_decoder else (False,):
            out = m.attribute(
                PROMPTS,
                TARGETS[m.is_encoder_decoder],
                method="information_flow_routes",
                attributed_fn=fn,
                step_scores=[fn],
                return_remainder=True,
                attribute_target=target,
            )
            for one in out:
                close(one.scores.nansum(1) + one.step_scores["remainder"], one.step_scores[fn], 1e-12)
        assert "remainder" not in attribute(m, "information_flow_routes")[0].step_scores

    def test_a_custom_function_is_read_like_a_registered_one(self, model, name):
        m = model(name)
        registered = attribute(m, "information_flow_routes", attributed_fn="logits")
        custom = attribute(m, "information_flow_routes", attributed_fn=lambda f: f.of_target(f.logits))
        constant = attribute(m, "information_flow_routes", attributed_fn=lambda f: torch.ones_like(f.logits[..., 0]))
        for a, b, c in zip(registered, custom, constant, strict=True):
            close(a.scores, b.scores)
            assert not c.scores.nan_to_num().any()

    def test_a_contrast_is_a_difference(self, model, name):
        """The readout is linear: target minus foil, both as logits."""
        m = model(name)
        if name in ("gemma2",):
            m = model(name, final_logit_softcapping=None)
        target = TARGETS[m.is_encoder_decoder][0]
        other = " ".join([*target.split()[:-1], "um"])
        options = {"attribute_target": True} if m.is_encoder_decoder else {}
        run = functools.partial(
            m.attribute, PROMPTS[0], target, method="information_flow_routes", contrast_targets=other, **options
        )
        one, foil, difference = (
            run(attributed_fn=fn)[0].scores for fn in ("logits", "contrast_logits", "contrast_logits_diff")
        )
        close(difference, one - foil)
        assert float(difference.nan_to_num().abs().max()) > 0


def test_flow_in_half_precision(tokenizers):
    """The parts still make up the readout, to the precision of the model."""
    m = attriflow.load_model(build("llama-gqa").to(torch.bfloat16), tokenizer=tokenizers["gpt2"])
    with m.wrapped.frozen():
        e = engine(m)
        flow = trace(e)
    total = (flow.routed()["target"].sum(-1) + flow.constant)[e.batch.step_mask]
    assert total.dtype == torch.float32
    close(total, flow.linear[e.batch.step_mask], 0.02 * float(flow.linear.abs().max()))


class TestFlowByDefinition:
    """The formula of the docstring with plain loops, mixing matrices multiplied upwards."""

    def test_decoder_only(self, model):
        m = model("gpt2")
        hf, gpt = m.model, m.model.transformer
        outs = attribute(m, "information_flow_routes", attributed_fn="logits")
        for example, out in zip(m.encode(PROMPTS, TARGETS[False]), outs, strict=True):
            passed = plain_pass(m, example)
            ids = torch.tensor(example.target_ids[:-1])
            n = len(ids)
            with torch.no_grad():
                x = embedded = gpt.wte(ids) + gpt.wpe(torch.arange(n))
                mixed = [torch.eye(n, dtype=torch.float64)]
                moves, mlps = [], []
                for layer, block in enumerate(gpt.h):
                    value = block.attn.c_attn(block.ln_1(x))[:, 64:].view(n, 4, 8)
                    weight = block.attn.c_proj.weight.view(4, 8, 32)
                    moved = torch.einsum("htj,jhd,hdo->tjo", passed.attentions[layer][0], value, weight)
                    after = x + moved.sum(1) + block.attn.c_proj.bias
                    mixed.append(shares(x, moved, after) @ mixed[-1])
                    moves.append(moved)
                    mlps.append(block.mlp(block.ln_2(after)))
                    x = after + mlps[-1]
                deviation = x.var(-1, correction=0, keepdim=True).add(gpt.ln_f.eps).sqrt()
                for step, token in enumerate(example.target_ids[example.start :]):
                    t = example.start + step - 1
                    row = hf.lm_head.weight[token] * gpt.ln_f.weight
                    readout = (row - row.mean()) / deviation[t]
                    wanted = torch.zeros(n, dtype=torch.float64)
                    wanted[t] = embedded[t] @ readout
                    for layer in range(2):
                        wanted += (moves[layer][t] @ readout) @ mixed[layer]
                        wanted += (mlps[layer][t] @ readout) * mixed[layer + 1][t]
                    close(out.scores[step, : t + 1], wanted[: t + 1])

    def test_encoder_decoder(self, model):
        """One post-norm layer each: embedding norm, three norms on the decoder's path, cross attention."""
        m = model("bart", encoder_layers=1, decoder_layers=1)
        base, block = m.model.model, m.model.model.decoder.layers[0]
        outs = attribute(m, "information_flow_routes", attributed_fn="logits")
        for example, out in zip(m.encode(PROMPTS, TARGETS[True]), outs, strict=True):
            seen: dict[str, torch.Tensor] = {}
            names = {
                "x": base.encoder.layernorm_embedding,
                "encoder": base.encoder.layers[0].self_attn.v_proj,
                "embedded": base.decoder.layernorm_embedding,
                "own": block.self_attn.v_proj,
                "first": block.self_attn_layer_norm,
                "cross": block.encoder_attn.v_proj,
                "second": block.encoder_attn_layer_norm,
                "mlp": block.fc2,
                "last": block.final_layer_norm,
            }
            hooks = [
                module.register_forward_hook(
                    lambda _m, args, output, key=key, seen=seen: seen.update({key: output[0], f"{key}.in": args[0][0]})
                )
                for key, module in names.items()
            ]
            passed = plain_pass(m, example)
            for hook in hooks:
                hook.remove()
            with torch.no_grad():
                layer = base.encoder.layers[0].self_attn
                n_source, n = len(example.source), len(example.target) - 1
                moved = parts(passed.encoder_attentions[0][0], seen["encoder"], layer.out_proj)
                encoder = shares(seen["x"], moved, seen["x"] + moved.sum(1) + layer.out_proj.bias)
                own = parts(passed.decoder_attentions[0][0], seen["own"], block.self_attn.out_proj)
                mixed = shares(seen["embedded"], own, seen["first.in"])
                cross = parts(passed.cross_attentions[0][0], seen["cross"], block.encoder_attn.out_proj)
                kept, read = split_shares(seen["first"], cross, seen["second.in"])
                for step, token in enumerate(example.target_ids[1:]):
                    t = step
                    c = back(m.model.lm_head.weight[token], block.final_layer_norm, seen["last.in"][t])
                    target, source = torch.zeros(n).double(), torch.zeros(n_source).double()
                    mlp = seen["mlp"][t] @ c
                    target += mlp * kept[t] * mixed[t]
                    source += mlp * read[t] @ encoder
                    c = back(c, block.encoder_attn_layer_norm, seen["second.in"][t])
                    source += (cross[t] @ c) @ encoder
                    c = back(c, block.self_attn_layer_norm, seen["first.in"][t])
                    target += own[t] @ c
                    c = back(c, base.decoder.layernorm_embedding, seen["embedded.in"][t])
                    target[t] += seen["embedded.in"][t] @ c
                    close(out.scores[step, : n_source + t + 1], torch.cat([source, target[: t + 1]]))


def parts(weights, value, projection):
    """What each position gets from each attended token, `[position, token, hidden]`."""
    weight = projection.weight.mT.reshape(4, 8, 32)
    return torch.einsum("htj,jhd,hdo->tjo", weights, value.view(len(value), 4, 8), weight)


def back(c, norm, given):
    """The readout in front of a layer norm with frozen statistics."""
    scaled = c * norm.weight / (given.var(correction=0) + norm.eps).sqrt()
    return scaled - scaled.mean()


def split_shares(state, moved, after):
    """Proximities of the old state and of each moved part to the new state, over their sum."""

    def near(part):
        return (after.abs().sum(-1) - (after - part).abs().sum(-1)).clamp(min=0)

    own = near(state)
    shares_ = torch.stack([near(moved[:, j]) for j in range(moved.shape[1])], 1)
    total = own + shares_.sum(1)
    return own / total, shares_ / total[:, None]


def shares(state, moved, after):
    """The same as one matrix."""
    own, rest = split_shares(state, moved, after)
    return rest + torch.diag(own)
