"""Linear surrogates recover what is linear, for every step from the same samples."""

from __future__ import annotations

import warnings

import numpy as np
import per_step
import pytest
import torch
from models import CONFIGS, ENCODER_DECODERS, build

import attriflow
from attriflow.errors import InputError
from attriflow.methods._coalitions import Coalitions

TEXTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so"]
TARGETS = [f"{TEXTS[0]} pari mitemi kana", f"{TEXTS[1]} te um"]


@pytest.fixture(scope="module")
def gpt2(golden_model):
    return golden_model("gpt2")


@pytest.fixture
def linear(monkeypatch):
    """In place of a model: scores that are linear in the units that are there (plus products of pairs).

    Returns the coefficients that were drawn, one `[batch, step, unit]` tensor per batch.
    """
    seen = []

    def install(density=1.0, pairs=0.0, squash=False):
        def truth(self):
            if not hasattr(self, "truth"):
                torch.manual_seed(0)
                drawn = torch.randn(self.players.shape, dtype=torch.float64)
                wanted = torch.rand(self.players.shape, dtype=torch.float64) < density
                self.truth = drawn * wanted * self.players
                seen.append(self.truth)
            return self.truth

        def score(self, there):  # [sample, batch, unit] -> [sample, batch, step]
            there = there.double().unsqueeze(2) * self.players
            total = 0.3 + (there * truth(self)).sum(-1) + pairs * (there[..., :-1] * there[..., 1:]).sum(-1)
            return total.sigmoid() if squash else total

        monkeypatch.setattr(Coalitions, "values", lambda self, n, keep: score(self, keep(0, n)))

        def ends(self):
            there = torch.tensor([False, True]).view(2, 1, 1).expand(2, *self.players.shape[::2])
            return tuple(score(self, there))

        monkeypatch.setattr(Coalitions, "ends", ends)
        monkeypatch.setattr(Coalitions, "full", lambda self: ends(self)[1])
        return seen

    return install


def compare(out, truth, atol):
    """Token scores against coefficients, where units are tokens."""
    for row, one in enumerate(out):
        n_steps, n = one.scores.shape[0], one.scores.shape[1] - 1
        found = one.scores[:, :n].nan_to_num()
        torch.testing.assert_close(found, truth[row, :n_steps, :n], atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("method", "options", "atol"),
    [
        ("lime", {"alpha": 0.0, "kernel_width": 1e6, "n_samples": 64}, 1e-9),
        ("lime", {"alpha": 0.0, "n_samples": 64}, 1e-9),
        ("lime", {"alpha": 1e-9, "n_samples": 64, "mask_prob": 0.6}, 1e-6),
        ("kernel_shap", {"n_samples": 64}, 1e-9),
        ("shapley_sampling", {"n_samples": 1}, 1e-9),
        ("context_cite", {"alpha": 1e-7, "unit": "token", "ablate_generated": True}, 1e-4),
    ],
)
def test_a_linear_function_is_recovered(gpt2, linear, method, options, atol):
    truth = linear()
    out = gpt2.attribute(TEXTS, TARGETS, method=method, **options)
    compare(out, truth[0], atol)
    assert truth[0].abs().max() > 1


def test_context_cite_recovers_a_sparse_function(gpt2, linear):
    """The logit of a probability that depends on few of the units: the others get exactly 0."""
    truth = linear(density=0.3, squash=True)
    options = {"method": "context_cite", "unit": "token", "ablate_generated": True, "n_samples": 128}
    out = gpt2.attribute(TEXTS, TARGETS, target="logit", **options)
    wanted = truth[0]
    compare(out, wanted, 0.06)  # the penalty of 0.01 shrinks coefficients by 0.01 / standard deviation of presence
    for row, one in enumerate(out):
        found = one.scores.nan_to_num()[:, : wanted.shape[2]]
        zero = wanted[row, : found.shape[0], : found.shape[1]] == 0
        assert (found[zero[:, : found.shape[1]]] == 0).float().mean() > 0.8
        large = wanted[row, : found.shape[0], : found.shape[1]].abs() > 0.3
        assert (found[large] != 0).all()


def test_a_penalty_leaves_fewer_units(gpt2):
    options = {"method": "context_cite", "unit": "token", "attributed_fn": "logits"}
    counts = [
        int((gpt2.attribute(TEXTS, TARGETS, alpha=a, **options)[0].scores.nan_to_num() != 0).sum())
        for a in (1e-4, 0.3, 1e3)
    ]
    assert counts[0] > counts[1] > counts[2] == 0


def test_kernel_shap_solves_a_game_with_interactions(gpt2, linear):
    """Additive values plus 0.5 for each pair of neighbours: each of a pair gets half of it."""
    truth = linear(pairs=0.5)
    out = gpt2.attribute(TEXTS, TARGETS, method="kernel_shap", n_samples=4096)
    for row, one in enumerate(out):
        for step in range(one.scores.shape[0]):
            n = int(one.visible[step].sum())
            wanted = truth[0][row, step, :n] + 0.5
            wanted[0] -= 0.25
            wanted[-1] -= 0.25
            torch.testing.assert_close(one.scores[step, :n], wanted, atol=0.03, rtol=0)


def test_fewer_samples_than_units(gpt2, linear):
    """The smaller (dual) system gives what the larger one gives, and Shapley values still sum to the whole."""
    truth = linear()
    out = gpt2.attribute(TEXTS, TARGETS, method="kernel_shap", n_samples=4)
    for row, one in enumerate(out):
        torch.testing.assert_close(
            one.scores.nansum(1), truth[0][row, : one.scores.shape[0]].sum(-1), atol=1e-9, rtol=0
        )
    from attriflow.methods._coalitions import least_squares

    torch.manual_seed(1)
    design, values = torch.randn(3, 5, 9, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    weights = torch.rand(3, 5, dtype=torch.float64)
    padded = torch.nn.functional.pad(design, (0, 0, 0, 9))  # more samples of weight 0: the primal system
    wide = torch.nn.functional.pad(values, (0, 9)), torch.nn.functional.pad(weights, (0, 9))
    for ridge in (0.0, 0.1):
        torch.testing.assert_close(
            least_squares(design, values, weights, ridge), least_squares(padded, *wide, ridge), atol=1e-9, rtol=0
        )
        root = weights.sqrt().numpy()
        for i in range(3):
            a, y = design[i].numpy() * root[i][:, None], values[i].numpy() * root[i]
            wanted = np.linalg.lstsq(np.vstack([a, np.sqrt(ridge) * np.eye(9)]), np.append(y, np.zeros(9)), rcond=None)[
                0
            ]
            np.testing.assert_allclose(least_squares(design, values, weights, ridge)[i].numpy(), wanted, atol=1e-9)


def test_lime_is_weighted_ridge_regression(gpt2, linear):
    """Against scikit-learn, with the weights of the definition, on a function that is not linear."""
    from sklearn.linear_model import Ridge

    linear(pairs=0.7)
    caught = []
    values = Coalitions.values

    def spy(self, n, keep):
        caught.append((self, keep(0, n)))
        return values(self, n, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coalitions, "values", spy)
        out = gpt2.attribute(TEXTS, TARGETS, method="lime", n_samples=40, alpha=0.5, return_fit=True)
    coalitions, keep = caught[0]
    assert keep[-1].all()  # the whole input
    y = values(coalitions, len(keep), lambda a, b: keep[a:b])
    for row, one in enumerate(out):
        for step in range(one.scores.shape[0]):
            who = coalitions.players[row, step]
            z = keep[:, row][:, who].double()
            weights = torch.exp(-(((1 - z.mean(-1).sqrt()) / 0.25) ** 2)).numpy()
            model = Ridge(alpha=0.5).fit(z.numpy(), y[:, row, step].numpy(), weights)
            n = int(one.visible[step].sum())
            np.testing.assert_allclose(one.scores[step, :n].numpy(), model.coef_, atol=1e-9)
            wanted = model.score(z.numpy(), y[:, row, step].numpy(), weights)
            assert float(one.step_scores["fit_r2"][step]) == pytest.approx(wanted, abs=1e-9)
            assert 0 < wanted < 1


@pytest.mark.parametrize("name", CONFIGS)
def test_shapley_values_are_complete(name, tokenizers):
    """Scores sum to f(x) - f(everything at its baseline), computed step by step, on every architecture."""
    m = attriflow.load_model(build(name), tokenizer=tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"])
    text, target = TEXTS[0], "um nomal" if m.is_encoder_decoder else TARGETS[0]
    (example,) = m.encode(text, target)
    blocks = {"attribute_target": True} if m.is_encoder_decoder else {}
    wanted = []
    with torch.no_grad():
        for end in per_step.steps(example):
            source, prefix = per_step.prefix_embeddings(m, example, end)
            full = per_step.score(m, example, end, source, prefix)
            for part, ids in ((source, example.source_ids), (prefix, example.target_ids)):
                for i in range(0 if part is None else part.shape[1]):
                    start = part is prefix and source is not None and i == 0
                    if ids[i] != m.tokenizer.eos_token_id and not start:
                        block = "source" if part is source else "target"
                        part[0, i] = per_step._embed(m.model, [m.tokenizer.unk_token_id], block, m)[0, 0]
            wanted.append(full - per_step.score(m, example, end, source, prefix))
    for method, n in (("kernel_shap", 12), ("shapley_sampling", 3)):
        out = m.attribute(text, target, method=method, n_samples=n, **blocks)[0]
        torch.testing.assert_close(out.scores.nansum(1), torch.stack(wanted), atol=1e-8, rtol=0)


class TestContextCite:
    def test_generated_tokens_stay(self, gpt2, golden_model):
        options = {"method": "context_cite", "unit": "token", "alpha": 1e-6, "attributed_fn": "logits"}
        (out,) = gpt2.attribute(TEXTS[0], TARGETS[0], **options)
        generated = [t.segment == "generated" for t in out.inputs]
        later = out.scores[-1, :-1][torch.tensor(generated[:-1])]
        assert len(later) >= 2
        assert (later == 0).all()
        assert (out.scores[-1, :5] != 0).all()
        (out,) = gpt2.attribute(TEXTS[0], TARGETS[0], ablate_generated=True, **options)
        assert (out.scores[-1, :-1] != 0).all()
        (out,) = golden_model("bart").attribute(TEXTS[0], "um nomal", attribute_target=True, **options)
        assert (out.target_attributions.nan_to_num() == 0).all()
        assert (out.source_attributions[1:5] != 0).any()

    def test_logit_needs_probabilities(self, gpt2):
        with pytest.raises(InputError, match="probabilities"):
            gpt2.attribute(TEXTS[0], TARGETS[0], method="context_cite", target="logit", attributed_fn="logits")

    def test_one_sentence_and_tiny_penalties_warn_of_nothing(self, gpt2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for unit in ("sentence", "token"):
                gpt2.attribute(TEXTS[0], TARGETS[0], method="context_cite", unit=unit, alpha=1e-5, target="logit")
