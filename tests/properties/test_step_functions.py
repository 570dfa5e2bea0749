"""Promises that hold for every registered step function on every architecture: parametrised over the registry."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
import transformers
from models import CONFIGS, ENCODER_DECODERS, OUTSIDE, build

import attriflow
from attriflow.errors import InputError, UnsupportedModelError
from attriflow.models.attention import interface_works
from attriflow.registry import methods, step_functions

FUNCTIONS = step_functions.names()
CONTRASTIVE = [n for n in FUNCTIONS if step_functions.info(n).meta.get("contrast")]
DIFFERENTIABLE = [n for n in FUNCTIONS if step_functions.info(n).meta.get("differentiable", True)]
PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari", "so"]
TARGETS = {
    False: [f"{PROMPTS[0]} pari mitemi kana gemibes", f"{PROMPTS[1]} te", f"{PROMPTS[2]} rapel so"],
    True: ["um nomal rapel Tarsen popite", "so rapel", "te te te"],
}
FOILS = {
    False: [f"{PROMPTS[0]} pari te kana gemibes", "la gape te so", "kana te so"],
    True: ["um nomal so Tarsen popite", "so te", "te pari te"],
}
OPTIONS = {"mc_dropout_prob_avg": {"n_mcd_steps": 3}}


@pytest.fixture(scope="module")
def model(tokenizers):
    @functools.lru_cache
    def get(name: str, **changes):
        hf = build(name, **changes)
        for parameter in hf.parameters():
            if parameter.ndim > 1:
                parameter.data *= 3  # clear preferences
        return attriflow.load_model(hf, tokenizer=tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"])

    return get


def scores(m, index, names=FUNCTIONS, batch_size=None, **options):
    kind = m.is_encoder_decoder
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no dropout")
        out = m.attribute(
            [PROMPTS[i] for i in index],
            [TARGETS[kind][i] for i in index],
            method="dummy",
            step_scores=names,
            step_scores_args={k: v for k, v in OPTIONS.items() if k in names},
            contrast_targets=[FOILS[kind][i] for i in index],
            batch_size=batch_size,
            show_progress=False,
            **options,
        )
    return [a.step_scores for a in out]


# Models that cast to single precision inside, Bloom in its softmax, T5 before transformers 5.
CASTING = ("gemma2", "bloom", *(("t5",) if transformers.__version__.startswith("4.") else ()))


def same(a, b, model, n=None):
    """Equal to rounding."""
    atol, rtol = (1e-5, 1e-5) if model in CASTING else (1e-9, 1e-8)
    for name in FUNCTIONS:
        torch.testing.assert_close(a[name], b[name][:n], atol=atol, rtol=rtol, msg=lambda m, f=name: f"{f}: {m}")


@pytest.mark.parametrize("name", [*CONFIGS, *OUTSIDE])
def test_alone_batch_and_order(model, name):
    """The same numbers alone, in a padded batch, in any order and in batches of any size."""
    m = model(name)
    together = scores(m, [0, 1, 2])
    assert set(together[0]) == set(FUNCTIONS)
    for i in range(3):
        same(scores(m, [i])[0], together[i], name)
    for i, found in zip([2, 0, 1], scores(m, [2, 0, 1], batch_size=2), strict=True):
        same(found, together[i], name)


@pytest.mark.parametrize("name", CONFIGS)
def test_later_tokens_do_not_matter(model, name):
    """A step's value depends on its own prefix only, dropout masks included."""
    m = model(name)
    kind = m.is_encoder_decoder
    whole = scores(m, [0])[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no dropout")
        start = m.attribute(
            PROMPTS[0], TARGETS[kind][0], method="dummy", step_scores=FUNCTIONS, step_scores_args=OPTIONS,
            contrast_targets=FOILS[kind][0], attr_pos_end=-2, show_progress=False,
        )[0]  # fmt: skip
    n = len(start.targets)
    assert 0 < n < len(whole["probability"])
    same(start.step_scores, whole, name, n)


DROPOUT = {
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3},
    "llama-gqa": {"attention_dropout": 0.4},
    "opt": {"dropout": 0.3, "attention_dropout": 0.3},
    "bart": {"dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3},
    "t5": {"dropout_rate": 0.3},
}


class TestDropout:
    def average(self, m, index=(0, 1, 2), n=4, seed=0, **options):
        kind = m.is_encoder_decoder
        found = m.attribute(
            [PROMPTS[i] for i in index],
            [TARGETS[kind][i] for i in index],
            method="dummy",
            step_scores=["mc_dropout_prob_avg", "probability"],
            step_scores_args={"mc_dropout_prob_avg": {"n_mcd_steps": n, **options}},
            seed=seed,
            show_progress=False,
        )
        return [a.step_scores["mc_dropout_prob_avg"] for a in found], [a.step_scores["probability"] for a in found]

    @pytest.mark.parametrize("name", DROPOUT)
    @pytest.mark.parametrize("kind", ["sdpa", "eager"])
    def test_alone_is_batch(self, model, name, kind):
        if name in CASTING and kind == "sdpa":
            pytest.skip("has no fused attention in this version of transformers")
        m = model(name, attn_implementation=kind, **DROPOUT[name])
        together, plain = self.average(m)
        for i in range(3):
            atol = 1e-6 if name in CASTING else 1e-9
            torch.testing.assert_close(self.average(m, [i])[0][0], together[i], atol=atol, rtol=0)
            assert (together[i] - plain[i]).abs().max() > 1e-6, "dropout did nothing"
            assert ((together[i] >= 0) & (together[i] <= 1)).all()

    def test_seeds(self, model):
        m = model("gpt2", **DROPOUT["gpt2"])
        (a, _), (b, _), (c, _) = (self.average(m, seed=s) for s in (1, 1, 2))
        torch.testing.assert_close(a, b)
        assert (a[0] - c[0]).abs().max() > 1e-6

    def test_the_average_of_single_passes(self, model):
        """Pass by pass with torch's own dropout, by definition: means agree within standard errors."""
        m = model("gpt2", **DROPOUT["gpt2"])
        mine, _ = self.average(m, [0], n=400)
        (example,) = m.encode(PROMPTS[0], TARGETS[False][0])
        ids = torch.tensor([example.target_ids])
        torch.manual_seed(0)
        m.model.train()
        draws = []
        with torch.no_grad():
            for _ in range(400):
                p = m.model(ids).logits[0].softmax(-1)
                draws.append(torch.stack([p[t - 1, example.target_ids[t]] for t in range(example.start, example.stop)]))
        m.model.eval()
        draws = torch.stack(draws)
        error = draws.std(0) / 20
        assert ((mine[0] - draws.mean(0)).abs() < 6 * error).all(), (mine[0], draws.mean(0), error)

    def test_logarithm(self, model):
        m = model("gpt2", **DROPOUT["gpt2"])
        (a, _), (b, _) = self.average(m), self.average(m, logprob=True)
        torch.testing.assert_close(a[0].log(), b[0], atol=1e-12, rtol=0)

    @pytest.mark.parametrize("name", ["gpt2", "bart"])
    def test_modes_stay(self, model, name):
        m = model(name, **DROPOUT[name])
        m.model.get_output_embeddings().train()  # a mode of its own
        before = [module.training for module in m.model.modules()]
        state = torch.random.get_rng_state()
        self.average(m)
        assert [module.training for module in m.model.modules()] == before
        assert torch.equal(torch.random.get_rng_state(), state)
        m.model.eval()

    def test_a_warning_without_dropout(self, model):
        m = model("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        with pytest.warns(UserWarning, match="has no dropout"):
            average, plain = self.average(m)
        torch.testing.assert_close(average[0], plain[0], atol=1e-12, rtol=0)

    @pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "occlusion"])
    @pytest.mark.parametrize("name", ["gpt2", "bart"])
    def test_as_a_target(self, model, name, method):
        """Explained like any other function, in batches and alone; occlusion equals differences of averages."""
        m = model(name, **DROPOUT[name])
        kind = m.is_encoder_decoder
        options = {
            "method": method, "attributed_fn": "mc_dropout_prob_avg", "n_mcd_steps": 2, "show_progress": False,
            **({"n_steps": 3} if method == "integrated_gradients" else {}),
        }  # fmt: skip
        both = m.attribute(PROMPTS[:2], TARGETS[kind][:2], **options)
        for i in range(2):
            alone = m.attribute(PROMPTS[i], TARGETS[kind][i], **options)[0]
            torch.testing.assert_close(alone.scores, both[i].scores, atol=1e-9, rtol=0, equal_nan=True)
            assert both[i].scores.nan_to_num().abs().max() > 1e-8


class TestLens:
    @pytest.mark.parametrize("name", [*CONFIGS, *OUTSIDE])
    def test_the_last_layer_is_the_models_own_entropy(self, model, name):
        m = model(name)
        kind = m.is_encoder_decoder
        out = m.attribute(
            PROMPTS, TARGETS[kind], method="dummy", step_scores=["entropy", "logit_lens_entropy"],
            step_scores_args={"layer": -1}, show_progress=False,
        )  # fmt: skip
        for a in out:
            torch.testing.assert_close(a.step_scores["logit_lens_entropy"], a.step_scores["entropy"], atol=1e-5, rtol=0)

    def test_an_earlier_layer_by_hand(self, model):
        m = model("llama-gqa")
        found = scores(m, [0], ["logit_lens_entropy"])[0]["logit_lens_entropy"]
        (example,) = m.encode(PROMPTS[0], TARGETS[False][0])
        with torch.no_grad():
            states = m.model(torch.tensor([example.target_ids]), output_hidden_states=True).hidden_states
            p = m.model.lm_head(m.model.model.norm(states[1]))[0].softmax(-1)
        wanted = -(p * p.log()).sum(-1)[example.start - 1 : example.stop - 1]
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)

    def test_no_such_layer(self, model):
        with pytest.raises(InputError, match="layer must be from 1 to 2"):
            model("gpt2").attribute(
                PROMPTS[0], TARGETS[False][0], method="dummy", step_scores="logit_lens_entropy", layer=3
            )


@pytest.mark.parametrize("function", DIFFERENTIABLE)
@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_gradients_are_those_of_the_function(model, name, function):
    """Along a direction: the gradient against a central difference of the function's own values."""
    m = model(name)
    kind = m.is_encoder_decoder
    options = {
        "attributed_fn": function,
        "attributed_fn_args": OPTIONS.get(function, {}),
        "contrast_targets": FOILS[kind][0] if function in CONTRASTIVE else None,
        "show_progress": False,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no dropout")
        grad = m.attribute(
            PROMPTS[0], TARGETS[kind][0], method="saliency", abs=False, granular=True, reduction="sum", **options
        )[0].scores.nan_to_num()
        job = functools.partial(values_at, m, function, OPTIONS.get(function, {}), FOILS[kind][0])
        torch.manual_seed(1)
        direction = torch.randn(grad.shape[1:], dtype=torch.float64)
        h = 1e-6
        slope = (job(h * direction) - job(-h * direction)) / (2 * h)
    torch.testing.assert_close((grad * direction).sum((1, 2)), slope, atol=1e-6, rtol=2e-4)
    assert slope.abs().max() > 1e-6


def values_at(m, function, args, foil, change):
    """Values with changed input embeddings, through the engine's rescoring."""
    from attriflow.engine import Engine
    from attriflow.engine.job import contrast_kind, make_objective
    from attriflow.models.contrast import add_contrasts

    kind = m.is_encoder_decoder
    examples = m.encode(PROMPTS[0], TARGETS[kind][0])
    if function in CONTRASTIVE:
        examples = add_contrasts(m.wrapped, PROMPTS[:1], examples, None, [foil])
    objective, _ = make_objective(function, args)
    block = "source" if kind else "target"
    with m.wrapped.frozen():
        engine = Engine(m.wrapped, examples, objective, (block,), force_contrast=contrast_kind(function) == "inputs")
        embeds = engine.embeddings(block)
        n = min(change.shape[0], embeds.shape[1])
        moved = embeds.clone()
        moved[0, :n] += change[:n]
        return engine.values_at({block: moved})[0]


@pytest.mark.parametrize("function", ["rank", "top_p_size"])
def test_counts_have_no_gradient(model, function):
    m = model("gpt2")
    for method in ("saliency", "integrated_gradients", "deeplift"):
        with pytest.raises(InputError, match="is a count and has no gradient"):
            m.attribute(PROMPTS[0], TARGETS[False][0], method=method, attributed_fn=function)
    found = m.attribute(PROMPTS[0], TARGETS[False][0], method="occlusion", attributed_fn=function, show_progress=False)
    assert found[0].scores.nan_to_num().abs().max() >= 1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_kind_of_method_explains_it(model, function):
    """One method per family; where nothing can be explained, a clear error."""
    m = model("gpt2")
    families = {}
    for name in methods.names():
        families.setdefault(methods.info(name).meta["family"], name)
    families |= {"paired": "deeplift", "path": "integrated_gradients", "internals": "information_flow_routes"}
    if not interface_works(m.model):
        families.pop("internals")
    for family, method in families.items():
        options = {k: 2 for k in ("n_steps", "n_samples") if k in methods.info(method).options}
        call = functools.partial(
            m.attribute, PROMPTS[0], TARGETS[False][0], method=method, attributed_fn=function,
            attributed_fn_args=OPTIONS.get(function, {}), show_progress=False,
            contrast_targets=FOILS[False][0] if function in CONTRASTIVE else None, **options,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*has no dropout")
            if function not in DIFFERENTIABLE and family in ("gradient", "path", "paired"):
                with pytest.raises(InputError, match="no gradient"):
                    call()
                continue
            if step_functions.info(function).meta.get("passes") and family == "internals":
                with pytest.raises(UnsupportedModelError, match="takes one pass apart"):
                    call()
                continue
            assert call()[0].scores.nan_to_num().isfinite().all()
