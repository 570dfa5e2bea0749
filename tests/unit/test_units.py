"""Which tokens are perturbed together, and that they are: against one model call per step and unit."""

from __future__ import annotations

import copy

import per_step
import pytest
import torch
from test_segments import CHAT, TEMPLATE

import attriflow
from attriflow.engine import Engine, Objective
from attriflow.errors import InputError, UnknownNameError
from attriflow.methods._units import joint_index, unit_index

SAMPLED = ("lime", "kernel_shap", "shapley_sampling", "context_cite")
PERTURBATION = ("occlusion", "feature_ablation", *SAMPLED)
PROMPT = "ki nakol. temo dibema te. so"
FULL = f"{PROMPT}um pari. mitemi kana"


def engine(m, texts, targets, blocks=("target",), **options):
    objective = Objective(lambda forward: forward.of_target(forward.logits.softmax(-1)))
    return Engine(m.wrapped, m.encode(texts, targets, **options), objective, blocks)


def grouped(e, index, row=0, block="target"):
    """Texts of the tokens of each unit, in order."""
    tokens = e.examples[row].source if block == "source" else e.examples[row].target
    units: dict[int, list[str]] = {}
    for token, unit in zip(tokens, index[row].tolist(), strict=False):
        units.setdefault(unit, []).append(token.text)
    assert list(units) == sorted(units)
    return list(units.values())


@pytest.fixture(scope="module")
def gpt2(golden_model):
    return golden_model("gpt2")


@pytest.fixture(scope="module")
def bart(golden_model):
    return golden_model("bart")


class TestIndex:
    def test_tokens_words_and_sentences(self, gpt2):
        e = engine(gpt2, PROMPT, FULL)
        assert [t.text for t in e.examples[0].target] == (
            "ki nakol . t emo dibema te . so um pari . mitemi kana".split()
        )
        assert unit_index(e, "target", "token").tolist() == [list(range(13))]
        words = grouped(e, unit_index(e, "target", "word"))
        # "so" ends the prompt and "um" begins the reply: one word in the text, two units
        assert words == [
            ["ki"],
            ["nakol", "."],
            ["t", "emo"],
            ["dibema"],
            ["te", "."],
            ["so"],
            ["um"],
            ["pari", "."],
            ["mitemi"],
        ]
        sentences = grouped(e, unit_index(e, "target", "sentence"))
        assert sentences == [
            ["ki", "nakol", "."],
            ["t", "emo", "dibema", "te", "."],
            ["so"],
            ["um", "pari", "."],
            ["mitemi"],
        ]

    def test_lines_end_words_too(self, gpt2):
        e = engine(gpt2, "ki\tnakol", "ki\tnakol\npari te so")
        words = grouped(e, unit_index(e, "target", "word"))
        assert all(len({t.isspace() for t in word}) == 1 for word in words)
        assert ["ki"] in words

    def test_special_tokens_are_their_own_units(self, bart):
        e = engine(bart, "ki temo. te", "um nomal. so", ("source", "target"))
        assert grouped(e, unit_index(e, "source", "sentence"), block="source") == [
            ["<s>"],
            ["ki", "t", "emo", "."],
            ["te"],
            ["</s>"],
        ]
        assert grouped(e, unit_index(e, "target", "sentence")) == [["</s>"], ["<s>"], ["um", "nomal", "."], ["so"]]
        joint, counts = joint_index(e, "sentence")
        assert joint["source"].tolist() == [[0, 1, 1, 1, 1, 2, 3]]
        assert joint["target"].tolist() == [[4, 5, 6, 6, 6, 7]]
        assert counts == [8]

    def test_padding_has_no_unit(self, bart):
        e = engine(bart, ["ki nakol te so", "ki"], ["um", "um nomal rapel"], ("source", "target"))
        joint, counts = joint_index(e, "word")
        for block, index in joint.items():
            assert ((index >= 0) == e.present(block)).all()
        assert counts == [int(max(joint[b][row].max() for b in joint)) + 1 for row in range(2)]

    def test_segments_hold_their_first_characters(self, gpt2):
        e = engine(gpt2, PROMPT, FULL, segments=["ki nak", "temo dibema"])
        assert grouped(e, unit_index(e, "target", "segment"))[:5] == [
            ["ki", "nakol"],
            ["."],
            ["t", "emo", "dibema"],
            ["te"],
            ["."],
        ]
        assert all(len(u) == 1 for u in grouped(e, unit_index(e, "target", "segment"))[3:])
        e = engine(gpt2, PROMPT, FULL, segments=[(0, 2), (4, 9)])  # begins inside a token
        assert grouped(e, unit_index(e, "target", "segment"))[:3] == [["ki"], ["nakol"], ["."]]

    def test_turns(self, gpt2):
        e = engine(chat_model(gpt2), CHAT, "pari mitemi")
        example = e.examples[0]
        units = grouped(e, unit_index(e, "target", "turn"))
        assert units[0] == [gpt2.tokenizer.bos_token]
        index = unit_index(e, "target", "turn")[0].tolist()
        for number, (start, end) in enumerate(example.turns, 1):
            inside = [
                u for t, u in zip(example.target, index, strict=False) if t.start is not None and start <= t.start < end
            ]
            assert set(inside) == {number}
        assert all(len(u) == 1 for u in units[5:])

    def test_a_space_inside_a_turn_belongs_to_it(self, gpt2):
        chat = [{"role": "user", "content": "ki    nakol"}]
        e = engine(chat_model(gpt2), chat, "pari")
        assert any(t.start is None and not t.special for t in e.examples[0].target[: e.examples[0].start])
        assert len([u for u in grouped(e, unit_index(e, "target", "turn")) if len(u) > 1]) == 1
        assert unit_index(e, "target", "turn")[0].tolist().count(1) > 5

    def test_groups(self, bart):
        e = engine(bart, "ki nakol te", "um so", ("source", "target"))
        joint, counts = joint_index(e, "token", [[1, 3, 6], [2]])
        assert joint["source"].tolist() == [[0, 1, 2, 1, 3]]
        assert joint["target"].tolist() == [[4, 1, 5, 6]]
        assert counts == [7]


def chat_model(m):
    tokenizer = copy.deepcopy(m.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return attriflow.load_model(m.model, tokenizer=tokenizer)


@torch.no_grad()
def brute_force(m, example, units):
    """Per step: effect of putting all visible tokens of a unit (pairs of block and position) at their baseline."""
    keep, unk = {m.tokenizer.eos_token_id}, m.tokenizer.unk_token_id
    out = []
    for end in per_step.steps(example):
        source, target = per_step.prefix_embeddings(m, example, end)
        base = per_step.score(m, example, end, source, target)
        row = []
        for unit in units:
            parts = {"source": source, "target": target}
            changed = {b: None if p is None else p.clone() for b, p in parts.items()}
            for block, i in unit:
                ids = example.source_ids if block == "source" else example.target_ids
                start = block == "target" and i == 0 and example.source
                if i < changed[block].shape[1] and ids[i] not in keep and not start:
                    changed[block][0, i] = per_step._embed(m.model, [unk], block, m)[0, 0]
            row.append(base - per_step.score(m, example, end, changed["source"], changed["target"]))
        out.append(torch.stack(row))
    return torch.stack(out)  # [step, unit]


def check_against_brute_force(m, out, example, joint, n_source):
    flat = [("source", i) for i in range(n_source)] + [
        ("target", i) for i in range(example.stop - 1 if joint[n_source:] else 0)
    ]
    units = [[place for place, u in zip(flat, joint, strict=True) if u == number] for number in range(max(joint) + 1)]
    effects = brute_force(m, example, units)
    for step in range(example.n_steps):
        for i, unit in enumerate(joint):
            if not torch.isnan(out.scores[step, i]):
                torch.testing.assert_close(out.scores[step, i], effects[step, unit], atol=1e-10, rtol=0)
    assert effects.abs().max() > 1e-6


@pytest.mark.parametrize("method", ["occlusion", "feature_ablation"])
@pytest.mark.parametrize("unit", ["token", "word", "sentence", "segment"])
class TestPerturbedTogether:
    def test_causal(self, gpt2, method, unit):
        segments = ["nakol. temo", "te. so"]
        e = engine(gpt2, PROMPT, FULL, segments=segments)
        out = gpt2.attribute(PROMPT, FULL, method=method, unit=unit, segments=segments)[0]
        joint = joint_index(e, unit)[0]["target"][0].tolist()
        check_against_brute_force(gpt2, out, e.examples[0], joint, 0)

    def test_encoder_decoder(self, bart, method, unit):
        text, target, segments = "ki temo. te so", "um nomal. rapel so", ["temo. te"]
        e = engine(bart, text, target, ("source", "target"), segments=segments)
        out = bart.attribute(text, target, method=method, unit=unit, segments=segments, attribute_target=True)[0]
        joint = joint_index(e, unit)[0]
        flat = [*joint["source"][0].tolist(), *joint["target"][0].tolist()]
        check_against_brute_force(bart, out, e.examples[0], flat, len(e.examples[0].source))


class TestFeatureAblation:
    def test_groups_across_source_and_target(self, bart):
        text, target = "ki temo te so", "um nomal rapel so"
        e = engine(bart, text, target, ("source", "target"))
        n = len(e.examples[0].source)
        groups = [[1, 3, n + 2], [2, n + 4]]
        out = bart.attribute(text, target, method="feature_ablation", groups=groups, attribute_target=True)[0]
        joint = joint_index(e, "token", groups)[0]
        flat = [*joint["source"][0].tolist(), *joint["target"][0].tolist()]
        check_against_brute_force(bart, out, e.examples[0], flat, n)

    def test_a_share_of_the_effect(self, gpt2):
        options = {"method": "feature_ablation", "unit": "sentence"}
        whole = gpt2.attribute(PROMPT, FULL, **options)[0].scores
        shared = gpt2.attribute(PROMPT, FULL, share=True, **options)[0].scores
        index = unit_index(engine(gpt2, PROMPT, FULL), "target", "sentence")[0]
        for step in range(len(whole)):
            for unit in index.unique():
                inside = [i for i in (index == unit).nonzero().flatten().tolist() if not torch.isnan(whole[step, i])]
                if inside:
                    torch.testing.assert_close(shared[step, inside].sum(), whole[step, inside[0]], atol=1e-12, rtol=0)

    def test_default_is_words(self, gpt2):
        by_word = gpt2.attribute(PROMPT, FULL, method="occlusion", unit="word")[0].scores
        torch.testing.assert_close(
            gpt2.attribute(PROMPT, FULL, method="feature_ablation")[0].scores, by_word, equal_nan=True
        )


@pytest.mark.parametrize("method", PERTURBATION)
class TestEveryMethod:
    def test_every_unit_alone_and_in_a_batch(self, gpt2, method):
        m = chat_model(gpt2)
        chats, replies = [CHAT[1:3], CHAT], ["pari mitemi. kana", "te"]
        options = {"method": method, "segments": [["ki nakol"], ["so um", "pari"]], "attributed_fn": "logits"}
        options |= {"n_samples": 2} if method in SAMPLED else {}
        for unit in ("word", "sentence", "segment", "turn"):
            both = m.attribute(chats, replies, unit=unit, **options)
            e = engine(m, chats, replies, segments=options["segments"])
            index = joint_index(e, unit)[0]["target"]
            for i in range(2):
                alone = m.attribute(chats[i], replies[i], unit=unit, **{**options, "segments": options["segments"][i]})[
                    0
                ]
                torch.testing.assert_close(both[i].scores, alone.scores, equal_nan=True, atol=1e-9, rtol=0)
                scores = both[i].scores[-1]  # the last step sees everything: one score per unit
                for number in index[i][index[i] >= 0].unique():
                    own = scores[: index.shape[1]][index[i][: len(scores)] == number]
                    effective = [s for s in own.tolist() if s == s]
                    assert max(effective) == min(effective)

    def test_tokens_that_are_their_own_baseline_get_exactly_nothing(self, bart, method):
        options = {"n_samples": 8} if method in SAMPLED else {}
        out = bart.attribute(
            "ki nakol te",
            "um nomal",
            method=method,
            unit="token",
            attribute_target=True,
            attributed_fn="logits",
            **options,
        )[0]
        n = len(out.inputs) - len(out.targets) - 1
        for i in (n - 1, n):  # the end of the source, the decoder start token
            assert (out.scores[:, i] == 0).all()
        assert (out.scores.nan_to_num() != 0).any()

    def test_errors_before_the_model_runs(self, gpt2, method, monkeypatch):
        assert gpt2.wrapped.checked  # looked at before
        monkeypatch.setattr(type(gpt2.model), "forward", lambda *a, **k: pytest.fail("the model ran"))
        with pytest.raises(UnknownNameError, match="sentence"):
            gpt2.attribute(PROMPT, FULL, method=method, unit="sentense")
        with pytest.raises(InputError, match="needs segments="):
            gpt2.attribute(PROMPT, FULL, method=method, unit="segment")
        with pytest.raises(InputError, match="needs a chat"):
            gpt2.attribute(PROMPT, FULL, method=method, unit="turn")


@pytest.mark.parametrize(
    ("method", "options", "fragment"),
    [
        ("feature_ablation", {"groups": [[0, 1], [1]]}, "input 1 is in more than one"),
        ("feature_ablation", {"groups": [[0, 99]]}, "input 99"),
        ("feature_ablation", {"groups": [[-1]]}, "lists of positions"),
        ("feature_ablation", {"groups": 3}, r"'groups' of attribution method 'feature_ablation' must be list"),
        ("lime", {"n_samples": 0}, "n_samples"),
        ("lime", {"mask_prob": 1.0}, "mask_prob"),
        ("lime", {"alpha": -1.0}, "alpha"),
        ("lime", {"kernel_width": 0.0}, "kernel_width"),
        ("kernel_shap", {"n_samples": 1}, "n_samples"),
        ("shapley_sampling", {"n_samples": 2.5}, "n_samples"),
        ("context_cite", {"alpha": 0.0}, "alpha"),
        ("context_cite", {"keep_prob": 0.0}, "keep_prob"),
        ("context_cite", {"target": "logits"}, "logit"),
    ],
)
def test_wrong_options(gpt2, method, options, fragment, monkeypatch):
    assert gpt2.wrapped.checked  # looked at before
    monkeypatch.setattr(type(gpt2.model), "forward", lambda *a, **k: pytest.fail("the model ran"))
    with pytest.raises((InputError, UnknownNameError), match=fragment):
        gpt2.attribute(PROMPT, FULL, method=method, **options)
