"""What the views share: readable tokens, numbers, colours, selections."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from view_data import ANSWER, PROMPT, causal

from attriflow.errors import AttriflowError
from attriflow.views.colors import Scale, color, ink
from attriflow.views.common import breaks, compact, foil_text, foils, number, printable, token_text
from attriflow.views.comparisons import compare, labels
from attriflow.views.evaluations.leaderboard import best, goodness
from attriflow.views.slices import panels, ranges, slice_dims


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("car", "car"), (" car", "car"), ("", "∅"), (" ", "␣"), ("  ", "␣␣"), ("\n", "⏎"), ("\t", "⇥"), ("a\nb", "a⏎b"),
        ("\x00", "<U+0000>"), ("\u202eab", "<U+202E>ab"), ("\u200b", "<U+200B>"), ("\ud800", "\ufffd"),
        ("שלום", "שלום"),
        ("new york", "new york"), ("\u00a0", "⍽"), ("\u2028", "<U+2028>"),
    ],
)  # fmt: skip
def test_tokens_are_visible(raw, shown):
    assert token_text(raw) == shown


def test_printable_keeps_line_breaks_and_normal_text():
    assert printable("a\n\tb é 🙂") == "a\n\tb é 🙂"
    assert printable("\x1b[31m\u2066x") == "<U+001B>[31m<U+2066>x"


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_colors_are_ordered_and_readable(dark):
    shades = np.linspace(0, 1, 41)
    for sign, strong, weak in ((1, 0, 2), (-1, 2, 0)):
        assert color(sign, dark=dark)[strong] > color(sign, dark=dark)[weak]  # orange above 0, blue below
        lights = [luminance(color(sign * share, dark=dark)) for share in shades]
        assert lights == sorted(lights, reverse=not dark)  # ordered without colour as well
    for value in np.linspace(-1, 1, 81):
        background = color(value, dark=dark)
        pair = sorted([luminance(background), luminance(ink(background))])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, value


@pytest.mark.parametrize("dark", [False, True])
def test_signs_differ_without_red_or_green_cones(dark):
    """Simulated protanopia and deuteranopia (Vienot et al. 1999, in linear RGB): both ends stay far apart."""
    for matrix in ([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]],
                   [[0.2927, 0.7073, 0], [0.2927, 0.7073, 0], [-0.0223, 0.0223, 1]]):  # fmt: skip
        ends = [np.array(matrix) @ (np.array(color(sign, dark=dark)) / 255) ** 2.2 for sign in (-1, 1)]
        assert np.abs(ends[0] - ends[1]).max() > 0.25


def test_scale_knows_its_limits():
    signed, positive = torch.tensor([[-2.0, 1.0, float("nan")]]), torch.tensor([[0.5, 4.0]])
    assert Scale.of(signed) == Scale(-2, 2) and Scale.of(positive) == Scale(0, 4)
    assert Scale.of(signed, max_val=1) == Scale(-1, 1) and Scale.of(signed, min_val=-4) == Scale(-4, 4)
    assert Scale.of(positive, max_val=2) == Scale(0, 2) and Scale.of(positive, 1, 3) == Scale(1, 3)
    assert Scale.of(torch.full((2, 2), float("nan"))) == Scale(0, 0)
    asymmetric = Scale(-1, 4)
    assert [asymmetric.share(v) for v in (-2, -0.5, 0, 2, 8)] == [-1, -0.5, 0, 0.5, 1]
    floor = Scale(1, 3)
    assert [floor.share(v) for v in (-5, 0.5, 1, 2, 3)] == [0, 0, 0, 0.5, 1]
    for scale in (asymmetric, floor, Scale(0, 0), Scale(-2, 2), Scale(-3, -1)):
        values = torch.tensor([-8.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 8.0, float("nan")], dtype=torch.float64)
        shares = scale.shares(values)
        assert shares[-1].isnan() and shares[:-1].tolist() == pytest.approx(
            [scale.share(v) for v in values[:-1].tolist()]
        )
    for limits in ((2, 1), (1, 1), (float("nan"), None), (None, "high")):
        with pytest.raises(AttriflowError, match=r"m(in|ax)_val"):
            Scale.of(signed, *limits)


def test_goodness_and_best_know_the_direction():
    assert goodness([1, None, 3, 2], True) == [0, None, 1, 0.5]
    assert goodness([1, float("nan"), 3], False) == [1, None, 0]
    assert goodness([2, 2], True) == [0.5, 0.5]
    assert best([1, 3, None], True) == 3 and best([1, 3], False) == 1
    assert best([1], True) is None and best([None], True) is None


def test_numbers():
    assert [number(v) for v in (0.5, None, float("nan"), 0, 12345.6, 1e-7)] == [
        "0.500",
        "–",
        "–",
        "0.000",
        "12,346",
        "1.0e-07",
    ]
    assert [compact(v) for v in (1.0, 2.333333, 45600, None)] == ["1", "2.33", "45,600", "–"]


# --- selections ------------------------------------------------------------------------------------------------------


def deep(**options):
    return causal(PROMPT, ANSWER, "attention", ("step", "input", "layer", "head"), sizes=(3, 4), **options)


def test_slices_keep_the_scores_of_their_range():
    item = deep()
    part = slice_dims(item, {"layer": 1, 3: (1, 3)})
    assert part.scores.shape[2:] == (1, 2)
    torch.testing.assert_close(part.scores, item.scores[:, :, 1:2, 1:3], equal_nan=True)
    assert ranges(item, {"head": -1, "layer": slice(0, 2)}) == {"layer": (0, 2), "head": (3, 4)}
    assert slice_dims(item, None) is item


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"hed": 0}, "did you mean 'head'"), ({"step": 0}, "Allowed: head, layer"), ({1: 0}, "2 .layer., 3 .head."),
        ({"layer": 3}, "indices 0 to 2"), ({"layer": (2, 2)}, "indices 0 to 2"), ({"layer": "all"}, "pair .start"),
        ({"layer": slice(0, 3, 2)}, "pair"), ({"layer": True}, "pair"),
    ],
)  # fmt: skip
def test_wrong_slices_are_named(dims, message):
    with pytest.raises(AttriflowError, match=message):
        slice_dims(deep(), dims)


def test_panels_are_labelled_with_the_indices_of_the_model():
    item = deep()
    found = panels(item, "head", dims={"head": (2, 4), "layer": 1})
    assert [label for label, _ in found] == ["head 2", "head 3"]
    torch.testing.assert_close(found[1][1].token_scores(), item.scores[:, :, 1, 3], equal_nan=True)
    assert [label for label, _ in panels(item)] == ["layer 0", "layer 1", "layer 2"]
    assert panels(causal(PROMPT, ANSWER))[0][0] == ""
    with pytest.raises(AttriflowError, match="max_show_size=2"):
        panels(item, max_show_size=2)


def test_line_breaks():
    words = ["tom", "has", ".", "what", "?", "tom"]
    assert breaks(words, None) == set() and breaks(words, 2) == {1, 3, 5}
    assert breaks(words, "tom") == {0, 5} and breaks(words, ".?") == {2, 4} and breaks(words, ["has", "?"]) == {1, 4}
    for wrong in (0, True, 1.5, [1]):
        with pytest.raises(AttriflowError, match="wrap_after"):
            breaks(words, wrong)


# --- side by side ----------------------------------------------------------------------------------------------------


def test_attributions_of_one_text_come_together():
    a, b, c = causal(PROMPT, ANSWER, "saliency"), causal(PROMPT, ANSWER, "lime"), causal(PROMPT[:5], ANSWER, "saliency")
    foil = causal(PROMPT, ANSWER, "saliency", foil=("red", "paint", "."))
    groups = compare([a, c, b, foil])
    assert [list(g.attributions) for g in groups] == [["saliency", "lime"], ["saliency"], ["saliency"]]
    assert groups[0].attributions["lime"] is b


def test_labels_tell_attributions_of_one_method_apart():
    def made(**changes):
        item = causal(PROMPT, ANSWER, "lime")
        return item.replace(provenance=type(item.provenance)(method="lime", **changes))

    options = [{"n_samples": 10, "unit": "word"}, {"n_samples": 20, "unit": "word"}]
    assert labels([made(options=o) for o in options]) == ["lime (n_samples=10)", "lime (n_samples=20)"]
    assert labels([made(attributed_fn="logits"), made()]) == ["lime (logits)", "lime (probability)"]
    assert labels([made(), made()]) == ["lime #1", "lime #2"]
    assert len(set(labels([made(), made(seed=1), made(seed=1)]))) == 3


def test_foils_stand_beside_the_tokens_they_differ_from():
    item = causal(PROMPT, ANSWER, foil=("red", "paint", "."))
    assert foils(item) == ["red", "", ""] and foil_text(item) == "red paint ."
    assert foils(causal(PROMPT, ANSWER)) == [] and foil_text(causal(PROMPT, ANSWER)) == ""
    assert foils(causal(PROMPT, ANSWER, foil=("red",))) == []  # of another length: cut or merged


def test_the_package_is_light():
    code = (
        "import sys, attriflow.views; print([m for m in ('torch', 'matplotlib', 'rich', 'jinja2') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
