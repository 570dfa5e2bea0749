"""Step functions by definition, from the logits of the oracles and from small distributions worked out by hand."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from load_golden import Golden, oracle

from attriflow.errors import InputError
from attriflow.registry import step_functions
from attriflow.types import Forward

reference = functools.lru_cache(Golden)
P = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625], dtype=torch.float64)
Q = torch.tensor([0.1, 0.4, 0.3, 0.15, 0.05], dtype=torch.float64)


def one(name, target=0, other=None, logits=None, **options):
    """A step function of a single distribution (and of a contrastive one)."""
    foil = None
    if other is not None:
        foil = Forward(logits=other.log()[None, None], target_ids=torch.tensor([[target]]))
    given = P.log() if logits is None else logits
    forward = Forward(logits=given[None, None], target_ids=torch.tensor([[target]]), contrast=foil)
    return float(step_functions.build(name, **options)(forward))


BY_HAND = {
    "logits": math.log(0.25),
    "probability": 0.25,
    "crossentropy": math.log(4),
    "perplexity": 4.0,
    "surprisal": 2.0,
    "entropy": math.log(2) * (0.5 + 0.5 + 0.375 + 0.25 + 0.25),
    "rank": 2.0,
    "margin": math.log(0.5),
    "top_p_size": 4.0,
    "pcxmi": math.log2(0.4 / 0.25),
    "in_context_pvi": math.log(0.4 / 0.25),
    "kl_divergence": sum(p * math.log(p / q) for p, q in zip(P.tolist(), Q.tolist(), strict=True)),
    "contrast_logits": math.log(0.4),
    "contrast_prob": 0.4,
    "contrast_logits_diff": math.log(0.25 / 0.4),
    "contrast_prob_diff": -0.15,
}


@pytest.mark.parametrize("name", [n for n in step_functions.names() if not step_functions.info(n).meta.get("passes")])
def test_by_hand(name):
    """Every function that needs one pass only; a new one needs its value here."""
    assert one(name, target=1, other=Q) == pytest.approx(BY_HAND[name], abs=1e-12)


class TestNucleus:
    @pytest.mark.parametrize(
        ("top_p", "size"), [(0.4, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.9, 4), (0.95, 5), (1.0, 5)]
    )
    def test_size(self, top_p, size):
        assert one("top_p_size", top_p=top_p) == size

    def test_order_does_not_matter(self):
        assert one("top_p_size", logits=P.log().flip(0), top_p=0.51) == 2

    @pytest.mark.parametrize("top_p", [0, -0.1, 1.2])
    def test_impossible(self, top_p):
        with pytest.raises(InputError, match="top_p must be above 0"):
            one("top_p_size", top_p=top_p)


class TestDivergence:
    def kept(self, index):
        p, q = P[index] / P[index].sum(), Q[index] / Q[index].sum()
        return float((p * (p / q).log()).sum())

    def test_top_k(self):
        """The likeliest under the product of both: 0.1, 0.05, 0.0375, ..."""
        assert one("kl_divergence", other=Q, top_k=2) == pytest.approx(self.kept([0, 1]), abs=1e-12)
        assert one("kl_divergence", other=Q, top_k=1) == pytest.approx(0, abs=1e-12)

    def test_top_p(self):
        product = P * Q / (P * Q).sum()
        kept = [0, 1] if product[:1].sum() < 0.6 else [0]
        assert one("kl_divergence", other=Q, top_p=0.6) == pytest.approx(self.kept(kept), abs=1e-12)

    def test_least(self):
        assert one("kl_divergence", other=Q, top_p=0.01, min_tokens_to_keep=3) == pytest.approx(
            self.kept([0, 1, 2]), abs=1e-12
        )

    def test_both(self):
        assert one("kl_divergence", other=Q, top_p=0.99, top_k=3) == pytest.approx(self.kept([0, 1, 2]), abs=1e-12)

    def test_all_is_no_filter(self):
        assert one("kl_divergence", other=Q, top_k=5) == pytest.approx(BY_HAND["kl_divergence"], abs=1e-12)

    @pytest.mark.parametrize(
        "options", [{"top_k": 6}, {"top_k": -1}, {"top_p": 0}, {"min_tokens_to_keep": 0, "top_k": 1}]
    )
    def test_impossible(self, options):
        with pytest.raises(InputError, match="must be"):
            one("kl_divergence", other=Q, **options)

    def test_tokens_that_are_ruled_out(self):
        """Logits of minus infinity on either side: finite values and gradients where p has no mass."""
        logits = P.log().clone()
        logits[4] = float("-inf")
        logits.requires_grad_(True)
        foil = Forward(logits=Q.log()[None, None], target_ids=torch.tensor([[0]]))
        value = step_functions.build("kl_divergence")(
            Forward(logits=logits[None, None], target_ids=torch.tensor([[0]]), contrast=foil)
        )
        value.sum().backward()
        p = P[:4] / P[:4].sum()
        assert float(value.detach()) == pytest.approx(float((p * (p / Q[:4]).log()).sum()), abs=1e-12)
        assert torch.isfinite(logits.grad).all()

    def test_never_negative(self):
        torch.manual_seed(0)
        p, q = torch.randn(2, 3, 7, 50, dtype=torch.float64)
        ids = torch.zeros(3, 7, dtype=torch.long)
        forward = Forward(logits=p, target_ids=ids, contrast=Forward(logits=q, target_ids=ids))
        for options in ({}, {"top_k": 5}, {"top_p": 0.7}):
            assert (step_functions.build("kl_divergence", **options)(forward) >= -1e-12).all()


def test_signs_follow_the_side_of_the_context():
    """Positive where the contrastive input, which holds the context, makes the target likelier."""
    assert one("pcxmi", target=1, other=Q) > 0 > one("pcxmi", target=0, other=Q)
    assert one("in_context_pvi", target=1, other=Q) == pytest.approx(one("pcxmi", target=1, other=Q) * math.log(2))


def test_ranks_and_margins():
    assert [one("rank", target=t) for t in range(5)] == [1, 2, 3, 4, 4]  # the last two are equally likely
    assert one("margin", target=0) == pytest.approx(math.log(2))
    assert one("margin", target=3) == pytest.approx(math.log(0.0625 / 0.5))


def test_functions_that_run_the_model_say_so():
    for name in ("mc_dropout_prob_avg", "logit_lens_entropy"):
        with pytest.raises(InputError, match="runs the model again"):
            one(name)


@pytest.mark.parametrize("model", ["gpt2", "bart"])
def test_from_the_logits_of_the_oracles(golden_model, model):
    arrays, _ = oracle(model)
    case = reference(model).cases["single"]
    names = [
        "logits",
        "probability",
        "entropy",
        "crossentropy",
        "perplexity",
        "surprisal",
        "rank",
        "margin",
        "top_p_size",
    ]
    out = golden_model(model).attribute(case["input_texts"], case["generated_texts"], method="dummy", step_scores=names)
    logits = torch.from_numpy(arrays["single/seq0/logits/steps"])
    targets = torch.from_numpy(arrays["single/seq0/target_ids/steps"])
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    own = log_p.gather(-1, targets[:, None])[:, 0]
    ordered = log_p.exp().sort(-1, descending=True).values.cumsum(-1)
    others = log_p.scatter(-1, targets[:, None], float("-inf")).amax(-1)
    wanted = {
        "logits": logits.gather(-1, targets[:, None])[:, 0],
        "probability": own.exp(),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "crossentropy": -own,
        "perplexity": 1 / own.exp(),
        "surprisal": -own / math.log(2),
        "rank": 1 + (log_p > own[:, None]).sum(-1).double(),
        "margin": own - others,
        "top_p_size": 1 + (ordered < 0.9).sum(-1).double(),
    }
    for name in names:
        torch.testing.assert_close(out[0].step_scores[name], wanted[name], atol=1e-9, rtol=1e-9)
