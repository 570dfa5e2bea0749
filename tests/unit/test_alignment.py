"""Alignment of a target with its foil, and foils in all their forms."""

from __future__ import annotations

import pytest
import torch

from attriflow.errors import InputError, UnknownNameError
from attriflow.texts.alignment import align_tokens, filled

TABLE = torch.eye(30, dtype=torch.float64)
WORDS = "<s> the manager went home because he she was sick ill and very tired they were dogs dog".split()
IDS = {word: i for i, word in enumerate(WORDS)}


def positions(own: str, other: str, table=TABLE):
    a, b = own.split(), other.split()
    return align_tokens([IDS[w] for w in a], [IDS[w] for w in b], a, b, table)


class TestAlign:
    def test_one_word_differs(self):
        assert positions("the manager because he was sick", "the manager because she was sick") == [0, 1, 2, 3, 4, 5]

    def test_a_word_more_in_the_foil(self):
        assert positions("because he was sick", "because she was very sick") == [0, 1, 2, 4]

    def test_a_word_less_in_the_foil(self):
        assert positions("because he was very sick", "because she was sick") == [0, 1, 2, None, 3]

    def test_spelling(self):
        """ "dogs" and "dog" are alike, "tired" has no counterpart."""
        assert positions("the tired dogs", "the dog") == [0, None, 1]

    def test_meaning(self):
        """Words that share no letters, by the model's own embeddings."""
        table = TABLE.clone()
        table[IDS["ill"]] = table[IDS["sick"]]
        assert positions("very sick and", "ill and", table) == [None, 0, 1]

    def test_a_swap_is_not_followed(self):
        found = [p for p in positions("he was sick", "sick was he") if p is not None]
        assert found == sorted(found)

    def test_empty(self):
        assert align_tokens([], [1], [], ["a"], TABLE) == []
        assert align_tokens([1], [], ["a"], [], TABLE) == [None]


def test_tokens_without_a_counterpart_get_what_follows():
    assert filled([0, 1, None, None, 2], 4) == [1, 1, 2, 2, 2]
    assert filled([None, None], 2) == [1, 1]
    assert filled([0, 3, None], 4) == [1, 3, 3]


PROMPT = "ki nakol temo"
FULL = f"{PROMPT} pari mitemi kana"


class TestAuto:
    def foils(self, m, foil, alignments="auto", prompt=PROMPT, full=FULL):
        kw = {"method": "dummy", "step_scores": ["contrast_prob", "probability"], "contrast_targets": foil}
        return m.attribute(prompt, full, contrast_targets_alignments=alignments, show_progress=False, **kw)

    @pytest.mark.parametrize("name", ["gpt2", "bart"])
    def test_a_longer_foil(self, golden_model, name):
        """As with the pairs given by hand."""
        m = golden_model(name)
        prompt, full = (PROMPT, FULL) if name == "gpt2" else (PROMPT, "pari mitemi kana")
        foil = full.replace("mitemi", "te mitemi")
        (example,) = m.encode(prompt, full)
        own = [t.text for t in example.target]
        other = [t.text for t in m.wrapped.tokens(m.wrapped.target_ids(foil))]
        assert len(other) > len(own)
        at = next(i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b)
        shift = len(other) - len(own)
        pairs = [(i, i if i < at else i + shift) for i in range(1, len(own))]
        found, wanted = self.foils(m, foil, prompt=prompt, full=full), self.foils(m, foil, pairs, prompt, full)
        torch.testing.assert_close(found[0].step_scores["contrast_prob"], wanted[0].step_scores["contrast_prob"])
        right = self.foils(m, foil, None, prompt, full)
        assert (found[0].step_scores["contrast_prob"] != right[0].step_scores["contrast_prob"]).any()

    def test_per_text(self, golden_model):
        m = golden_model("gpt2")
        foils = [FULL.replace("mitemi", "te mitemi")] * 2
        both = self.foils(m, foils, ["auto", [(5, 6)]], [PROMPT] * 2, [FULL] * 2)
        torch.testing.assert_close(
            both[0].step_scores["contrast_prob"], self.foils(m, foils[0])[0].step_scores["contrast_prob"]
        )

    @pytest.mark.parametrize("wrong", ["automatic", ["labse"], [[(1, 2, 3)]], [5]])
    def test_wrong(self, golden_model, wrong):
        with pytest.raises((InputError, UnknownNameError), match="contrast_targets_alignments"):
            self.foils(golden_model("gpt2"), FULL.replace("mitemi", "te"), wrong)


class TestPrompts:
    """`contrast_sources` of decoder-only models: another prompt, the same continuation."""

    def test_the_same_ids_after_another_prompt(self, golden_model):
        m = golden_model("gpt2")
        other = "la gape pari kana no tedu"
        out = m.attribute(
            PROMPT, FULL, method="dummy", step_scores=["contrast_prob", "pcxmi"], contrast_sources=other,
            show_progress=False,
        )[0]  # fmt: skip
        (example,) = m.encode(PROMPT, FULL)
        new = example.target_ids[example.start :]
        ids = [*m.wrapped.source_ids(other), *new]
        with torch.no_grad():
            p = m.model(torch.tensor([ids])).logits[0].softmax(-1)
        n = len(ids) - len(new)
        wanted = torch.stack([p[n + i - 1, token] for i, token in enumerate(new)])
        torch.testing.assert_close(out.step_scores["contrast_prob"], wanted, atol=1e-12, rtol=0)

    def test_generated(self, golden_model):
        """Without a forced target too, where no text of the foil could be given."""
        m = golden_model("gpt2")
        out = m.attribute(
            PROMPT, method="saliency", attributed_fn="kl_divergence", contrast_sources="la gape", show_progress=False,
            generation_args={"max_new_tokens": 3},
        )[0]  # fmt: skip
        assert len(out.targets) <= 3
        assert out.scores.nan_to_num().abs().max() > 0

    def test_a_later_start(self, golden_model):
        m = golden_model("gpt2")
        options = {"method": "dummy", "step_scores": ["pcxmi"], "contrast_sources": "la gape", "show_progress": False}
        (example,) = m.encode(PROMPT, FULL)
        whole = m.attribute(PROMPT, FULL, **options)[0]
        part = m.attribute(PROMPT, FULL, attr_pos_start=example.start + 1, **options)[0]
        torch.testing.assert_close(part.step_scores["pcxmi"], whole.step_scores["pcxmi"][1:])

    def test_not_with_targets(self, golden_model):
        with pytest.raises(InputError, match="either contrast_targets"):
            golden_model("gpt2").attribute(
                PROMPT, FULL, method="dummy", contrast_sources="la", contrast_targets=f"la {FULL}"
            )


class TestSome:
    """Examples with and without foils in one job."""

    @pytest.mark.parametrize("name", ["gpt2", "bart"])
    def test_scored_together(self, golden_model, name):
        from attriflow.models.contrast import add_contrasts

        m = golden_model(name)
        prompts = [PROMPT, "la gape", "so rapel te"]
        targets = [f"{p} te so" for p in prompts] if name == "gpt2" else ["te so", "pari", "te te so"]
        examples = m.encode(prompts, targets)
        foil = targets[1].replace("te", "pari") if name == "gpt2" else "so"
        examples[1] = add_contrasts(m.wrapped, prompts[1:2], [examples[1]], None, [foil])[0]
        found = m.score_steps(examples, {"probability": {}, "pcxmi": {}})
        assert [set(f) for f in found] == [{"probability"}, {"probability", "pcxmi"}, {"probability"}]
        for i, example in enumerate(examples):
            alone = m.score_steps([example], {"probability": {}, **({"pcxmi": {}} if i == 1 else {})})[0]
            for key, value in alone.items():
                torch.testing.assert_close(found[i][key], value, atol=1e-12, rtol=0)
        explained = m.attribute_examples(examples, "saliency", step_scores=["pcxmi", "entropy"])
        assert [set(a.step_scores) for a in explained] == [{"entropy"}, {"entropy", "pcxmi"}, {"entropy"}]

    def test_none_at_all(self, golden_model):
        m = golden_model("gpt2")
        with pytest.raises(InputError, match="compares with a foil"):
            m.score_steps(m.encode(PROMPT, FULL), {"pcxmi": {}})


class TestNothingToCompare:
    def test_the_same_tokens(self, golden_model):
        m = golden_model("bart")
        call = {"method": "saliency", "attributed_fn": "contrast_prob_diff", "show_progress": False}
        with pytest.warns(UserWarning, match="is 0 everywhere: give contrast_targets"):
            out = m.attribute(PROMPT, "te so", contrast_sources="la gape", **call)
        assert out[0].scores.nan_to_num().abs().max() == 0
        out = m.attribute(PROMPT, "te so", contrast_sources="la gape", contrast_force_inputs=True, **call)
        assert out[0].scores.nan_to_num().abs().max() > 0

    def test_functions_of_two_inputs_need_no_flag(self, golden_model):
        m = golden_model("bart")
        options = {"method": "saliency", "contrast_sources": "la gape", "show_progress": False}
        for fn in ("kl_divergence", "pcxmi", "in_context_pvi"):
            plain = m.attribute(PROMPT, "te so", attributed_fn=fn, **options)[0].scores
            forced = m.attribute(PROMPT, "te so", attributed_fn=fn, contrast_force_inputs=True, **options)[0].scores
            torch.testing.assert_close(plain, forced, equal_nan=True)
            assert plain.nan_to_num().abs().max() > 0
