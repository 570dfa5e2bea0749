"""The parts of the residual decomposition: frozen norms, mixing shares, output projections, refusals."""

from __future__ import annotations

import types

import pytest
import torch
from models import build
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import attriflow
import attriflow.engine.sizes as settings
from attriflow.engine import Engine, Objective
from attriflow.errors import InputError, OutOfMemoryError, UnknownNameError, UnsupportedModelError
from attriflow.kernels.positions import at
from attriflow.methods._internals import mixing as mixed
from attriflow.methods._internals.mixing import Affine, Edges
from attriflow.methods._internals.recording import Layer, record, record_layers
from attriflow.methods.information_flow_routes import trace
from attriflow.models.attention import AttentionCall
from attriflow.registry import methods, step_functions

PROMPT, FULL = "ki nakol temo dibema", "ki nakol temo dibema te pari"


def engine(model, blocks=("target",), fn="logits", text=(PROMPT, FULL)):
    (example,) = model.encode(*text)
    return Engine(model.wrapped, [example], Objective(step_functions.info(fn).build()), blocks)


@pytest.fixture
def load(tokenizers):
    def get(name, **changes):
        return attriflow.load_model(build(name, **changes), tokenizer=tokenizers["bart" if name == "bart" else "gpt2"])

    return get


class TestNorms:
    @pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, T5LayerNorm, Gemma2RMSNorm])
    @pytest.mark.parametrize("width", [16, 17])
    def test_a_frozen_norm_is_the_norm(self, kind, width):
        torch.manual_seed(0)
        norm = kind(width).double()
        for p in norm.parameters():
            p.data += 0.3 * torch.randn_like(p)
        x = torch.randn(2, 5, width, dtype=torch.float64)
        with torch.no_grad():
            affine, wanted = Affine.of(norm, width, x, torch.float64), norm(x)
            assert affine.centred == (kind is nn.LayerNorm)
            scale, explained = affine.frozen(x, wanted)
            assert explained
            found = affine.linear(x) * scale + affine.bias
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
        parts = torch.randn(3, 2, 5, width, dtype=torch.float64)
        parts[2] = x - parts[:2].sum(0)
        torch.testing.assert_close((affine.linear(parts) * scale).sum(0) + affine.bias, found)

    def test_something_else_is_no_norm(self):
        class NormLike(nn.Module):
            def forward(self, x):
                return torch.tanh(3 * x)

        x = torch.randn(2, 5, 16, dtype=torch.float64)
        affine = Affine.of(NormLike(), 16, x, torch.float64)
        assert not affine.frozen(x, NormLike()(x))[1]


def mixing(layer, maps, state):
    """Shares of the state before and of attended tokens, `[batch, position]` and `[batch, position, attended]`."""
    edges = Edges.of(layer, maps, state)
    own, shares = edges.back(torch.eye(state.shape[1], dtype=state.dtype).expand(len(state), -1, -1))
    assert not own.tril(-1).any()
    assert not own.triu(1).any()
    return own.diagonal(dim1=1, dim2=2), shares


class TestMixing:
    def layer(self, causal):
        torch.manual_seed(1)
        batch, heads, groups, length, dim, width = 2, 4, 2, 7, 3, 12
        scores = torch.randn(batch, heads, length, length, dtype=torch.float64)
        if causal:
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        weights = scores.softmax(-1)
        value = torch.randn(batch, groups, length, dim, dtype=torch.float64)
        weight = torch.randn(heads, dim, width, dtype=torch.float64)
        output = torch.einsum("bhtj,bhjd->bthd", weights, value.repeat_interleave(heads // groups, 1))
        query = value.repeat_interleave(heads // groups, 1)
        call = AttentionCall(
            module=nn.Identity(),
            query=query,
            key=value,
            value=value,
            mask=None,
            options={},
            output=output,
            whole=weights,
        )
        given = output.flatten(2)
        moved = given @ weight.flatten(0, 1)
        role = "decoder_self" if causal else "encoder_self"
        return Layer(role=role, call=call, weight=weight, bias=None, given=given, output=moved)

    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("chunk", [1, 3000, settings.CHUNK_BYTES])
    def test_by_definition(self, causal, chunk, monkeypatch):
        monkeypatch.setattr(settings, "CHUNK_BYTES", chunk)
        monkeypatch.setattr(mixed, "TILE_BYTES", chunk)
        layer = self.layer(causal)
        state = torch.randn(2, 7, 12, dtype=torch.float64)
        gain = 1 + 0.2 * torch.randn(12, dtype=torch.float64)
        affine = Affine(gain, 0.1 * torch.randn(12, dtype=torch.float64), centred=torch.ones(()))
        scale = torch.rand(2, 7, 1, dtype=torch.float64) + 0.5
        own, shares = mixing(layer, [(affine, scale)], state)
        assert (own >= 0).all()
        assert (shares >= 0).all()
        torch.testing.assert_close(own + shares.sum(-1), torch.ones_like(own))
        for b in range(2):
            for t in range(7):
                parts = []
                for j in range(7):
                    part = sum(
                        layer.call.weights[b, h, t, j] * layer.call.value[b, h // 2, j] @ layer.weight[h]
                        for h in range(4)
                    )
                    parts.append((part - part.mean()) * gain * scale[b, t])
                whole = state[b, t] + sum(parts) + affine.bias
                near = [max(0.0, float(whole.abs().sum() - (whole - p).abs().sum())) for p in [state[b, t], *parts]]
                wanted = torch.tensor(near, dtype=torch.float64) / sum(near)
                torch.testing.assert_close(torch.cat([own[b, t, None], shares[b, t]]), wanted)

    def test_only_where_there_is_flow(self):
        """Of a flow, what is below the threshold stays; nothing is lost or made."""
        layer = self.layer(causal=True)
        edges = Edges.of(layer, [], torch.randn(2, 7, 12, dtype=torch.float64))
        flow = torch.tensor([0.0, 0.01, 0, 0.5, 0, -0.49, 0], dtype=torch.float64).expand(2, 1, 7)
        own, moved = edges.back(flow, 0.1)
        torch.testing.assert_close(own.sum(-1) + moved.sum(-1), flow.sum(-1))
        assert own[..., 1].eq(0.01).all()
        every, there = edges.back(flow)
        assert not torch.equal(every, own)
        rows = [edges.back(torch.where(torch.arange(7) == i, flow, 0)) for i in range(7)]
        torch.testing.assert_close(sum(r[0] for r in rows), every)
        torch.testing.assert_close(sum(r[1] for r in rows), there)

    def test_nothing_near_the_whole(self):
        """Parts that cancel: the state stays its own."""
        layer = self.layer(causal=False)
        own, shares = mixing(layer, [], -layer.output)
        torch.testing.assert_close(own, torch.ones_like(own))
        assert not shares.any()


class TestProjection:
    @pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "bart"])
    def test_parts_sum_to_its_output(self, load, name):
        m = load(name)
        text = ("ki nakol temo", "um nomal") if name == "bart" else (PROMPT, FULL)
        seen = []

        def check(layer):
            parts = torch.einsum(
                "bhtj,bhjd,hdo->btjo", layer.call.weights, layer.values(torch.float64), layer.weight
            ).sum(2)
            bias = 0 if layer.bias is None else layer.bias
            torch.testing.assert_close(parts, layer.moved(torch.float64) - bias)
            seen.append(layer.role)

        with m.wrapped.frozen():
            record_layers(engine(m, text=text), check)
        wanted = ["encoder_self"] * 2 + ["decoder_self", "cross"] * 2 if name == "bart" else ["decoder_self"] * 2
        assert seen == wanted

    def test_a_quantised_projection_is_read_by_unit_vectors(self, load):
        class Integers(nn.Linear):
            def forward(self, x):
                return x @ (self.weight.double() / 100).mT + self.offset

        m = load("llama-gqa")
        for layer in m.model.model.layers:
            new = Integers(32, 32, bias=False)
            new.weight = nn.Parameter((layer.self_attn.o_proj.weight * 1000).round().to(torch.int32), False)
            new.offset = nn.Parameter(torch.linspace(-1, 1, 32, dtype=torch.float64))
            layer.self_attn.o_proj = new
        found = []
        with m.wrapped.frozen():
            record_layers(engine(m), found.append)
        for layer, module in zip(found, m.model.model.layers, strict=True):
            wanted = module.self_attn.o_proj.weight.double().mT / 100
            torch.testing.assert_close(layer.weight.flatten(0, 1), wanted)
            torch.testing.assert_close(layer.bias, module.self_attn.o_proj.offset.data)

    @pytest.mark.parametrize("method", ["value_norm", "information_flow_routes"])
    def test_none_is_an_error(self, load, method):
        m = load("llama-gqa")
        for layer in m.model.model.layers:
            layer.self_attn.o_proj = nn.Identity()
        with pytest.raises(UnsupportedModelError, match="no output projection"):
            m.attribute(PROMPT, FULL, method=method)
        assert not any(mod._forward_hooks or mod._forward_pre_hooks for mod in m.model.modules())


class TestStream:
    def test_attention_without_mlp_is_exact(self, load):
        """One layer, no MLP: every part of the state belongs to one token, whatever the mixing."""
        m = load("gpt2", n_layer=1)
        block = m.model.transformer.h[0]
        block.mlp.c_proj.weight.data.zero_()
        block.mlp.c_proj.bias.data.zero_()
        out = m.attribute(PROMPT, FULL, method="information_flow_routes", attributed_fn="logits", return_remainder=True)
        out = out[0]
        (example,) = m.encode(PROMPT, FULL)
        ids = torch.tensor([example.target_ids[:-1]])
        n = ids.shape[1]
        with torch.no_grad():
            gpt, hf = m.model.transformer, m.model
            x = gpt.wte(ids) + gpt.wpe(torch.arange(n))
            hf.set_attn_implementation("eager")
            weights = hf(ids, output_attentions=True).attentions[0][0]
            value = block.attn.c_attn(block.ln_1(x))[0, :, 64:].view(n, 4, 8)
            moved = torch.einsum("htj,jhd,hdo->tjo", weights, value, block.attn.c_proj.weight.view(4, 8, 32))
            state = x[0] + moved.sum(1) + block.attn.c_proj.bias
            deviation = state.var(-1, correction=0, keepdim=True).add(gpt.ln_f.eps).sqrt()
            for step, token in enumerate(example.target_ids[example.start :]):
                t = example.start + step - 1
                unembedding = hf.lm_head.weight[token] * gpt.ln_f.weight
                readout = (unembedding - unembedding.mean()) / deviation[t]
                wanted = moved[t] @ readout
                wanted[t] += x[0, t] @ readout
                torch.testing.assert_close(out.scores[step, : t + 1], wanted[: t + 1], atol=1e-12, rtol=0)
                bias = block.attn.c_proj.bias @ readout + hf.lm_head.weight[token] @ gpt.ln_f.bias
                assert float(out.step_scores["remainder"][step]) == pytest.approx(float(bias), abs=1e-12)

    def test_operations_in_place_and_gates(self, load):
        """States changed in place, and a gate on the heads' outputs, which goes to the layer's own position."""
        m = load("llama-gqa")

        def forward(self, hidden_states, **kwargs):
            residual = hidden_states.clone()
            residual += self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
            return residual.add_(self.mlp(self.post_attention_layernorm(residual)))

        with m.wrapped.frozen():
            plain = trace(engine(m))
        for layer in m.model.model.layers:
            layer.forward = types.MethodType(forward, layer)
        with m.wrapped.frozen():
            inplace = trace(engine(m))
        torch.testing.assert_close(inplace.routed()["target"], plain.routed()["target"], atol=1e-12, rtol=0)

        for layer in m.model.model.layers:
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: (args[0] * 0.5,))
        with m.wrapped.frozen():
            gated = trace(engine(m))
        total = gated.routed()["target"].sum(-1) + gated.constant
        torch.testing.assert_close(total, gated.values, atol=1e-7, rtol=0)
        assert float(gated.rests[1].abs().max()) > 0

    def test_a_stream_that_cannot_be_followed(self, load):
        m = load("llama-gqa")
        m.model.model.norm.register_forward_hook(lambda _m, _a, output: output.tanh())
        out = m.attribute(PROMPT, FULL, method="attention_rollout")[0]
        torch.testing.assert_close(out.scores.nansum(1), torch.ones(2, dtype=torch.float64))
        with pytest.raises(UnsupportedModelError, match="residual stream"):
            m.attribute(PROMPT, FULL, method="information_flow_routes")

    def test_no_head(self, load, monkeypatch):
        m = load("llama-gqa")
        monkeypatch.setattr(type(m.model), "get_output_embeddings", lambda self: None)
        with pytest.raises(UnsupportedModelError, match="LM head"):
            m.attribute(PROMPT, FULL, method="information_flow_routes")


class TestRefusals:
    @pytest.mark.parametrize("method", ["attention_rollout", "value_norm", "information_flow_routes"])
    def test_outside_the_attention_interface(self, load, method, monkeypatch):
        m = load("llama-gqa")
        monkeypatch.setattr(type(m.model), "_can_set_attn_implementation", classmethod(lambda cls: False))
        with pytest.raises(UnsupportedModelError, match="AttentionInterface"):
            m.attribute(PROMPT, FULL, method=method)

    def test_out_of_memory(self, load):
        m = load("llama-gqa")

        def full(*_):
            raise torch.OutOfMemoryError("test")

        with pytest.raises(OutOfMemoryError, match="records the attention"):
            record(engine(m), full)

    def test_options(self):
        with pytest.raises(InputError, match="from 0 to 1"):
            methods.build("attention_rollout", residual=1.5)
        with pytest.raises(UnknownNameError, match="option 'head' of"):
            methods.build("attention_rollout", head="median")


def test_rows():
    x = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    positions = torch.tensor([[3, 1], [0, 0]])
    found = at(x, positions, 2)
    assert found.shape == (2, 3, 2, 5)
    for b in range(2):
        for s in range(2):
            assert torch.equal(found[b, :, s], x[b, :, positions[b, s]])
