"""Occlusion from coarse to fine, and behind a proxy: what is looked at has its exact effect."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import attriflow
from attriflow.errors import InputError, OptionValueError
from attriflow.texts.segments import paragraphs

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import planted_evidence

INPUTS = ["ki nakol. temo\n\ndibema te. so\nla gape.\n\npari kana no", "tedu so. Beluki\n\npari te. um pari"]
TARGETS = ["mitemi kana. gemibes te\n\nla so", "um nomal. rapel"]


def explained(m, row=slice(None), **options):
    texts = [a if m.is_encoder_decoder else f"{i} {a}" for i, a in zip(INPUTS, TARGETS, strict=True)]
    options = {"attribute_target": m.is_encoder_decoder, "show_progress": False, **options}
    return m.attribute(INPUTS[row], texts[row], method="occlusion", **options)


def best(scores, units, seen, keep):
    """By hand: which inputs stand in the `keep` units of largest absolute score that have a seen input."""
    strongest = {}
    for score, unit, there in zip(scores, units, seen, strict=True):
        if there:
            strongest[unit] = abs(float(score))
    kept = sorted(strongest, key=lambda unit: (-strongest[unit], unit))[:keep]
    return [there and unit in kept for unit, there in zip(units, seen, strict=True)]


def test_paragraphs_end_at_blank_lines():
    text = "one\ntwo.\n \n\n three\n\n\n"
    assert [text[a:b] for a, b in paragraphs(text)] == ["one\ntwo.\n \n\n ", "three\n\n\n"]
    assert paragraphs("") == [] and paragraphs("\n\n") == [(0, 2)]


@pytest.mark.parametrize("name", ["gpt2", "bart"])
class TestLevels:
    @pytest.fixture
    def m(self, golden_model, name):
        return golden_model(name)

    def test_nothing_pruned_is_nothing_lost(self, m):
        for found, wanted in zip(explained(m, levels=["paragraph", "sentence"], keep=99), explained(m), strict=True):
            torch.testing.assert_close(found.scores, wanted.scores, equal_nan=True)

    @pytest.mark.parametrize("keep", [1, 2])
    def test_every_level_by_hand(self, m, keep):
        found = explained(m, levels=["paragraph", "sentence"], keep=keep)
        coarse = {unit: explained(m, unit=unit) for unit in ("paragraph", "sentence", "token")}
        pruned = 0
        for row, a in enumerate(found):
            for step, scores in enumerate(a.scores):
                sides = [[t.segment == "source" for t in a.inputs], [t.segment != "source" for t in a.inputs]]
                wanted = torch.zeros(len(a.inputs), dtype=scores.dtype)
                for side in sides:
                    seen = [there and on for there, on in zip(a.visible[step].tolist(), side, strict=True)]
                    for unit in ("paragraph", "sentence"):
                        seen = best(coarse[unit][row].scores[step], a.units(unit), seen, keep)
                    wanted += torch.where(torch.tensor(seen), coarse["token"][row].scores[step].nan_to_num(), 0.0)
                torch.testing.assert_close(scores.nan_to_num(), wanted)
                pruned += int((wanted == 0).sum() - (~a.visible[step]).sum())
        assert pruned > 50
        alone = explained(m, slice(1, 2), levels=["paragraph", "sentence"], keep=keep)[0]
        torch.testing.assert_close(found[1].scores, alone.scores, equal_nan=True)

    def test_a_proxy_says_what_is_looked_at(self, m, golden_model, name):
        """Of a model that is its own proxy: the units of the largest effects, and nothing else."""
        attriflow.use_proxy(m, m)
        found, words = explained(m, proxy=True, keep=2, unit="word"), explained(m, unit="word")
        for a, wanted in zip(found, words, strict=True):
            for step, scores in enumerate(a.scores):
                kept = torch.zeros(len(a.inputs), dtype=torch.bool)
                for source in (True, False):
                    side = torch.tensor([(t.segment == "source") is source for t in a.inputs])
                    seen = (a.visible[step] & side).tolist()
                    kept |= torch.tensor(best(wanted.scores[step], a.units("word"), seen, 2))
                torch.testing.assert_close(
                    scores.nan_to_num(), torch.where(kept, wanted.scores[step].nan_to_num(), 0.0)
                )


class TestPlanted:
    """A colour among five paragraphs of two lines, which the wired model of `recall` reads and nothing else."""

    PROMPT = (
        "\n\n".join(f"rain fell on every\n{'roof green of town' if i == 3 else 'roof and of town'}" for i in range(5))
        + "\n\nwhat colour was it ?"
    )

    @pytest.fixture
    def m(self):
        return planted_evidence.explained("recall")

    def test_a_planted_outlier_is_found_with_few_forwards(self, m):
        def run(**options):
            (a,) = m.attribute(self.PROMPT, f"{self.PROMPT} green", method="occlusion", **options)
            return a

        (exact, few) = run(), run(levels=["paragraph", "sentence"], keep=1)
        green = [t.text for t in exact.inputs].index("green")
        assert int(exact.scores[0].nan_to_num().argmax()) == int(few.scores[0].nan_to_num().argmax()) == green
        torch.testing.assert_close(few.scores[0, green], exact.scores[0, green])
        assert exact.provenance.forward_rows == 46
        assert few.provenance.forward_rows <= 1 + 6 + 2 + 4

    def test_a_proxy_finds_it_with_fewer(self, m):
        attriflow.use_proxy(m, planted_evidence.explained("recall"))
        options = {"method": "occlusion", "proxy": True, "keep": 2}
        (a,) = m.attribute(self.PROMPT, f"{self.PROMPT} green", **options)
        assert a.inputs[int(a.scores[0].nan_to_num().argmax())].text == "green"
        assert a.provenance.forward_rows == 3  # the proxy's are its own


def test_mistakes_are_named(golden_model):
    m, other = attriflow.load_model("demo/recall"), golden_model("bart")
    for options, said in (
        ({"levels": ["sentence"], "window": 2}, "need window=1"),
        ({"levels": ["sentence"], "keep": 0}, "keep must be an integer of at least 1"),
        ({"proxy": True}, r"needs a smaller model: attriflow\.use_proxy"),
    ):
        with pytest.raises(InputError, match=said):
            explained(m, **options)
    with pytest.raises(OptionValueError, match="paragraph"):
        explained(m, levels=["chapter"])
    with pytest.raises(InputError, match="one has an encoder"):
        attriflow.use_proxy(m, other)
    with pytest.raises(InputError, match=r"the token '.*' is .* in one and"):
        attriflow.use_proxy(m, golden_model("gpt2"))
    with pytest.raises(InputError, match=r"come from attriflow\.load_model"):
        attriflow.use_proxy(m, "demo/recall")
