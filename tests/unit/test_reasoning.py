"""Credit that is passed on through the reasoning before an answer."""

import itertools

import pytest
import torch

import attriflow
from attriflow.errors import InputError, NothingToExplainError, UnknownNameError
from attriflow.reasoning.parts import reasoning_spans
from attriflow.types import Attribution, Provenance, Token

PROMPT = "anna has a red hat . tom has a blue car . what color is the car ?"
THOUGHT = f"{PROMPT} <think> tom has a blue car . the car is blue . </think> blue"


def token(text, segment="generated"):
    return Token(text=text, id=0, segment=segment)


def explained(scores, spans, n_prompt, n_source=0):
    """An attribution with spans as steps over `n_source` source tokens and all decoder tokens before the last."""
    kinds = ["source"] * n_source + ["prompt"] * n_prompt
    kinds += ["generated"] * (scores.shape[1] - len(kinds))
    return Attribution(
        scores=scores,
        inputs=tuple(token(str(i), kind) for i, kind in enumerate(kinds)),
        targets=tuple(token(f"span {i}") for i in range(len(spans))),
        start=spans[0][0],
        spans=tuple(spans),
        provenance=Provenance(method="made up"),
    )


def by_paths(rows, parts, hops):
    """Credit and what stays, path by path: answer -> part -> ... -> token, with at most so many parts between."""
    n, width = len(parts), rows.shape[1]
    part_of = {i: s for s, (first, stop) in enumerate(parts) for i in range(first, stop)}
    credit, stays = torch.zeros(width), torch.zeros(width)
    for length in range(hops + 1):
        for path in itertools.product(range(n), repeat=length):
            # weight of arriving in the last part of the path
            weight, row = torch.tensor(1.0), rows[-1]
            for part in path:
                weight = weight * row[slice(*parts[part])].sum()
                row = rows[part]
            for i in range(width):
                if i not in part_of:
                    credit[i] += weight * row[i]
                elif length == hops:
                    stays[i] += weight * row[i]
    return credit, stays


@pytest.mark.parametrize("sign", ["absolute", "positive", "signed"])
@pytest.mark.parametrize("hops", [0, 1, 2, 3, 4])
def test_every_path_by_hand(sign, hops):
    generator = torch.Generator().manual_seed(hops)
    parts = [(4, 6), (6, 7), (8, 11)]
    scores = torch.randn((4, 12), generator=generator)
    scores[:, ::3] = scores[:, ::3].abs() + 0.1  # every row has something positive
    a = explained(scores, [*parts, (11, 13)], 4).aggregate("hops", hops=hops, sign=sign)
    raw = {"absolute": scores.abs(), "positive": scores.clamp(min=0), "signed": scores}[sign].clone()
    for row, first in enumerate((4, 6, 8, 11)):
        raw[row, first:] = 0
    rows = raw / raw.abs().sum(1, keepdim=True)
    credit, stays = by_paths(rows, parts, hops)
    torch.testing.assert_close(a.scores[-1], credit + stays)
    assert [t.text for t in a.targets] == ["direct", *(f"hop {k + 1}" for k in range(hops)), "all hops"]
    torch.testing.assert_close(a.scores[0], rows[-1])
    inside = torch.tensor([i in (4, 5, 6, 8, 9, 10) for i in range(12)])
    torch.testing.assert_close(a.step_scores["in_reasoning"], a.scores[:, inside].sum(1))
    if sign != "signed":
        assert a.scores[-1].sum() == pytest.approx(1)
    if hops >= len(parts):
        assert a.step_scores["in_reasoning"][-1] == 0


def test_a_part_without_scores_keeps_what_it_gets():
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 2.0, 0.0]])
    a = explained(scores, [(2, 3), (3, 4)], 2).aggregate("hops", hops=5)
    torch.testing.assert_close(a.scores[-1], torch.tensor([0.25, 0.25, 0.5, 0.0]))
    assert a.step_scores["in_reasoning"][-1] == 0.5


def test_source_tokens_stand_before_everything():
    scores = torch.tensor([[3.0, 1.0, 9.0, 9.0], [1.0, 0.0, 0.0, 3.0]])
    a = explained(scores, [(1, 2), (2, 3)], 1, n_source=2).aggregate("hops", hops=1)
    rest = torch.tensor([3.0, 1.0, 9.0, 0.0]) / 13
    torch.testing.assert_close(a.scores[-1], torch.tensor([0.25, 0, 0, 0]) + 0.75 * rest)


def test_only_spans_have_hops():
    model = attriflow.load_model("demo/recall")
    with pytest.raises(InputError, match="hops need spans as steps"):
        model.attribute(PROMPT, f"{PROMPT} blue", method="saliency").aggregate("hops")
    with pytest.raises(InputError, match="hops must be at least 0"):
        model.attribute(PROMPT, f"{PROMPT} blue", method="saliency", target_spans="all").aggregate("hops", hops=-1)


class TestAttributeReasoning:
    @pytest.fixture(scope="class")
    def model(self):
        return attriflow.load_model("demo/recall")

    @pytest.mark.parametrize("method", ["input_x_gradient", "attention", "occlusion", "information_flow_routes"])
    def test_methods_with_and_without_further_axes(self, model, method):
        out = attriflow.attribute_reasoning(model, [PROMPT] * 2, [THOUGHT, THOUGHT], method=method, hops=2)
        assert len(out) == 2
        (a, _) = out
        assert a.axes == ("step", "input") and a.scores[-1].nansum() == pytest.approx(1, abs=1e-5)
        assert a.step_scores["in_reasoning"][0] > a.step_scores["in_reasoning"][-1] == 0
        spans = model.attribute(PROMPT, THOUGHT, method=method, target_spans=list(self.spans(model, THOUGHT)))
        same = spans.aggregate("hops", hops=2)[0]
        torch.testing.assert_close(a.scores, same.scores, equal_nan=True)

    @staticmethod
    def spans(model, text, reasoning="think", unit="sentence"):
        return reasoning_spans(model.encode(PROMPT, text)[0], reasoning, unit)

    def shown(self, model, text, *how):
        (example,) = model.encode(PROMPT, text)
        return [" ".join(t.text for t in example.target[a:b]) for a, b in self.spans(model, text, *how)]

    def test_where_the_reasoning_is(self, model):
        parts = ["tom has a blue car .", "the car is blue .", "blue"]
        assert self.shown(model, THOUGHT) == parts
        plain = f"{PROMPT} {' '.join(parts)}"
        assert self.shown(model, plain, "sentence") == parts
        first = len(model.encode(PROMPT, plain)[0].target) - 1
        assert self.shown(model, plain, (first - 5, first)) == parts[1:]
        assert self.shown(model, plain, (first - 5, first), "token") == [*"the car is blue .".split(), "blue"]

    @pytest.mark.parametrize(
        ("how", "text", "error", "said"),
        [
            ({}, f"{PROMPT} blue", NothingToExplainError, "has no match"),
            ({"reasoning": "sentence"}, f"{PROMPT} blue", NothingToExplainError, "no sentence before its last"),
            ({"reasoning": (18, 19)}, f"{PROMPT} blue", NothingToExplainError, "nothing stands behind"),
            ({"reasoning": "thought"}, THOUGHT, UnknownNameError, "sentence, think"),
            ({"unit": "word"}, THOUGHT, UnknownNameError, "sentence, token"),
            ({"method": None}, THOUGHT, InputError, "no attribution method"),
        ],
    )
    def test_what_cannot_be_explained(self, model, how, text, error, said):
        with pytest.raises(error, match=said):
            attriflow.attribute_reasoning(model, PROMPT, text, **{"method": "saliency", **how})

    def test_files_and_views(self, model, tmp_path, capsys):
        out = attriflow.attribute_reasoning(model, PROMPT, THOUGHT, method="saliency")
        (back,) = attriflow.load(out.save(tmp_path / "a.json"))
        assert back.targets == out[0].targets and back.spans == out[0].spans
        torch.testing.assert_close(back.scores, out[0].scores)
        back.show(view="console")
        assert "all hops" in capsys.readouterr().out
        assert "all hops" in out.to_html()


def test_pages_say_that_the_logarithm_of_a_span_is_explained():
    model = attriflow.load_model("demo/recall", "saliency")
    spans, tokens = (model.attribute(PROMPT, f"{PROMPT} blue", target_spans=s) for s in ("all", None))
    assert "explains log probability" in spans.to_html()
    assert "explains probability" in tokens.to_html()
