"""Attributions as pages: what they hold, escape and leave out."""

from __future__ import annotations

import base64
import hashlib
import html as html_module
import io
import re
import sys
import types

import numpy as np
import pytest
import torch
from rich.console import Console
from view_data import ANSWER, HOSTILE, PROMPT, Page, causal

import attriflow
from attriflow.errors import AttriflowError
from attriflow.output import AttributionOutput
from attriflow.views.comparisons import Comparison
from attriflow.views.encoding import encode
from attriflow.views.html import to_html, to_iframe
from attriflow.views.page import in_tabs
from attriflow.views.payload import payload

AXES = ("step", "input", "layer", "head")


def decoded(encoded, width):
    """What the page's script makes of encoded scores."""
    raw = base64.b64decode(encoded["data"])
    if encoded["kind"] == "f4":
        return np.frombuffer(raw, "<f4").reshape(-1, width)
    if encoded["kind"] == "f2":
        return np.frombuffer(raw, "<f2").reshape(-1, width).astype(float) * encoded["scale"]
    limits = np.frombuffer(base64.b64decode(encoded["limits"]), "<f4")
    numbers = np.frombuffer(raw, np.int8).reshape(-1, width).astype(float)
    return np.where(numbers == -128, np.nan, numbers / 127 * limits[:, None])


@pytest.mark.parametrize(("kind", "error"), [("f4", 1e-7), ("f2", 1e-3), ("i1", 5e-3)])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_scores_survive_their_encoding(kind, error, scale):
    values = causal(PROMPT, ANSWER).scores * scale
    values[0, 0] = 0
    back = decoded(encode(values, kind), values.shape[1])
    expected = values.double().numpy()
    assert (np.isnan(back) == np.isnan(expected)).all() and back[0, 0] == 0
    limits = np.nanmax(np.abs(expected), axis=1, keepdims=True) if kind == "i1" else np.nanmax(np.abs(expected))
    assert (np.nan_to_num(np.abs(back - expected)) <= error * limits).all()
    assert encode(values.new_zeros(2, 0), kind)["data"] == ""


def test_a_page_holds_tokens_scores_and_step_scores():
    item = causal(PROMPT, ANSWER, foil=("red", "paint", "."))
    (example,) = Page(to_html(item)).data()["examples"]
    assert example["steps"] == ANSWER and example["foils"] == ["red", "", ""] and example["foil"] == "red paint ."
    assert example["input"] == " ".join(PROMPT) and example["output"] == " ".join(ANSWER)
    (listed,) = example["tokens"]
    assert listed["texts"] == [*PROMPT, "blue", "paint"] and listed["special"] == [0]
    assert listed["segments"] == [["prompt", 0], ["generated", len(PROMPT)]]
    (view,) = example["views"]
    shown = item.scores[:, :-1]  # no step sees the last token
    np.testing.assert_array_equal(decoded(view["matrix"], shown.shape[1]), shown.numpy())
    assert view["label"] == "saliency" and view["function"] == "logit" and view["slices"] is None
    assert example["scores"] == [{"name": "probability", "unit": "", "values": [0.25, 0.5, 0.75]}]


def test_methods_of_one_text_stand_side_by_side_and_share_its_tokens():
    items = [causal(PROMPT, ANSWER, m, seed=i) for i, m in enumerate(("saliency", "lime", "occlusion"))]
    examples = Page(to_html([*items, causal(PROMPT[:4], ["no"])])).data()["examples"]
    assert [[v["label"] for v in e["views"]] for e in examples] == [["saliency", "lime", "occlusion"], ["saliency"]]
    assert len(examples[0]["tokens"]) == 1 and {v["tokens"] for v in examples[0]["views"]} == {0}


def test_layers_and_heads_travel_one_by_one():
    item = causal(PROMPT, ANSWER, "attention", AXES, sizes=(3, 4))
    (view,) = Page(to_html(item)).data()["examples"][0]["views"]
    assert [(a["name"], a["start"], a["size"]) for a in view["axes"]] == [("layer", 0, 3), ("head", 0, 4)]
    slices = decoded(view["slices"], 15).reshape(3, 4, 3, 15)
    np.testing.assert_array_equal(slices, item.scores[:, :15].permute(2, 3, 0, 1).numpy())
    np.testing.assert_allclose(decoded(view["matrix"], 15), item.scores[:, :15].mean((2, 3)).numpy(), rtol=1e-6)
    (part,) = Page(to_html(item, slice_dims={"layer": (1, 3), "head": 0})).data()["examples"][0]["views"]
    assert [(a["name"], a["start"], a["size"]) for a in part["axes"]] == [("layer", 1, 2)]
    assert part["reduced"] == ["head 0"]
    np.testing.assert_allclose(decoded(part["matrix"], 15), item.scores[:, :15, 1:, 0].mean(2).numpy(), rtol=1e-6)


def test_embedding_dimensions_are_summed():
    item = causal(PROMPT, ANSWER, axes=("step", "input", "embedding"), sizes=(8,))
    (view,) = Page(to_html(item)).data()["examples"][0]["views"]
    assert view["axes"] == [] and view["reduced"] == ["sum over the embedding"]
    np.testing.assert_allclose(decoded(view["matrix"], 15), item.scores[:, :15].sum(-1).numpy(), rtol=1e-5)


def test_pages_are_well_formed_and_need_no_network():
    for page in (
        to_html(causal([*PROMPT, *HOSTILE], HOSTILE), title="<b>&"),
        in_tabs("t", {"a": to_html(causal(["a"], ["b"]))}),
    ):
        parsed = Page(page)
        ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
        assert len(ids) == len(set(ids)) and parsed.all("html")[0]["lang"] == "en"
        for _, attrs in parsed.elements:
            assert not any(re.match(r"(https?:)?//", attrs.get(name) or "") for name in ("src", "href"))
        assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|eval\(|innerHTML|document\.write", page)
        policy = next(attrs["content"] for attrs in parsed.all("meta") if attrs.get("http-equiv"))
        assert "default-src 'none'" in policy and "unsafe-eval" not in policy
        (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_hostile_texts_stay_texts():
    page = to_html(causal([*PROMPT, *HOSTILE], HOSTILE, foil=tuple(HOSTILE[::-1])), title=HOSTILE[0])
    parsed = Page(page)
    assert [attrs.get("type") for attrs in parsed.all("script")] == ["application/json", None]
    assert not parsed.all("img") and not set(page) & {"\x00", "\u202e"}
    assert parsed.texts["title"] == HOSTILE[0]
    texts = parsed.data()["examples"][0]["tokens"][0]["texts"]
    for text in (HOSTILE[0], HOSTILE[1], "<U+0000>", "<U+202E>evil", "⏎", "⇥", "␣", "∅", "שלום", "{{ 7*7 }}"):
        assert text in texts, text
    page.encode("utf-8")


def test_tabs_hold_whole_pages_escaped():
    inner = {"a<b": to_html(causal(PROMPT, ANSWER)), "second": "<p>2</p>"}
    page = in_tabs("Both", inner)
    parsed = Page(page)
    frames = parsed.all("iframe")
    assert [frame["title"] for frame in frames] == list(inner) and "hidden" in frames[1]
    assert html_module.unescape(frames[0]["srcdoc"]) == frames[0]["srcdoc"] == inner["a<b"]
    # a frame obeys the policy of the page around it: the script inside must be allowed there
    inside = re.search(r"script-src ('sha256-[^']+')", inner["a<b"])[1]
    assert inside in next(attrs["content"] for attrs in parsed.all("meta") if attrs.get("http-equiv"))


def test_a_contrast_is_recorded_and_kept_in_files(golden_model, tmp_path):
    model = golden_model("gpt2", "float32")
    options = {"method": "saliency", "attributed_fn": "contrast_logits_diff", "show_progress": False}
    (item,) = model.attribute("hello my", "hello my world", contrast_targets="hello my dear", **options)
    texts = [token.text for token in model.encode("hello my", "hello my dear")[0].target]
    assert list(item.provenance.foil) == texts[-len(item.targets) :] and item.provenance.foil_input == ""
    out = model.attribute("hello my", "hello my world", contrast_targets="bye my world", **options)
    prompt = model.tokenizer("bye my")["input_ids"]
    assert out[0].provenance.foil_input == model.tokenizer.decode(prompt, skip_special_tokens=True) != ""
    assert list(out[0].provenance.foil) == [token.text for token in out[0].targets]
    out.save(tmp_path / "foils.safetensors")
    (back,) = attriflow.load(tmp_path / "foils.safetensors")
    assert back.provenance.foil == out[0].provenance.foil and isinstance(back.provenance.foil, tuple)
    (example,) = Page(to_html(back)).data()["examples"]
    assert example["foil"].startswith(out[0].provenance.foil_input) and "→" in example["foil"]


# --- size ------------------------------------------------------------------------------------------------------------


def test_a_page_adds_little():
    assert len(to_html(causal(PROMPT, ANSWER)).encode()) < 100_000


def test_large_tensors_are_reduced_until_they_fit():
    """12 layers, 12 heads, 40 tokens in, 40 out."""
    item = causal([f"token{i}" for i in range(40)], ["x"] * 40, "attention", AXES, sizes=(12, 12))
    kinds = []
    for budget in (6_000_000, 700_000, 300_000, 60_000):
        page = to_html(item, max_bytes=budget)
        data = Page(page).data()["examples"]
        (view,) = data[0]["views"]
        kinds.append(
            (view["matrix"]["kind"], view["slices"] and view["slices"]["kind"], [a["name"] for a in view["axes"]])
        )
        assert len(page) < budget + 100_000
        assert ("heads averaged" in page) == (kinds[-1][2] == ["layer"])
    assert kinds == [("f2", "f2", ["layer", "head"]), ("f2", "i1", ["layer", "head"]), ("f2", "i1", ["layer"]),
                     ("f2", None, [])]  # fmt: skip
    (part,) = Page(to_html(item, slice_dims={"layer": (4, 6)}, max_bytes=300_000)).data()["examples"][0]["views"]
    assert part["slices"]["kind"] == "f2" and [a["size"] for a in part["axes"]] == [2, 12]  # of less, all fits


def test_long_texts_are_embedded_as_numbers_not_as_elements():
    words = [f"token{i}" for i in range(4000)]
    item = causal(words, words[:100])
    page = to_html(item)
    assert len(page) < 1_500_000 and len(Page(page).elements) < 60
    cut = to_html(item, max_bytes=300_000)
    (example,) = Page(cut).data()["examples"]
    assert len(cut) < 400_000 and 0 < len(example["steps"]) < 100 and example["hidden"] == 100 - len(example["steps"])
    assert example["views"][0]["matrix"]["kind"] == "i1" and "two digits" in cut
    values = decoded(example["views"][0]["matrix"], len(example["tokens"][0]["texts"]))
    assert np.nanmax(np.abs(values[0, :4000] - item.scores[0, :4000].numpy())) < 0.02


def test_too_many_examples_are_counted():
    items = [causal([*PROMPT, str(i)] * 20, ANSWER, seed=i) for i in range(40)]
    page = to_html(items, max_bytes=60_000)
    shown = len(Page(page).data()["examples"])
    assert 1 <= shown < 40 and f"{shown} of 40 examples are shown" in page


def test_evidence_and_metrics_travel_with_the_scores():
    item = causal(PROMPT, ANSWER)
    rationale = torch.zeros(3, 16, dtype=torch.bool)
    rationale[0, [4, 5]] = rationale[2, 14] = True
    given = Comparison(name="x", attributions={"a": item}, rationale=rationale, metrics={"a": [("f1", "0.5")]},
                       missing={"b": "why <not>"}, step_scores=[("p", "bits", [1.0, float("nan"), 2.0])])  # fmt: skip
    (example,), _ = payload([given], 10**6)
    assert example["views"][0]["evidence"] == [[4, 5], [], [14]] and example["views"][0]["metrics"] == [["f1", "0.5"]]
    assert example["missing"] == [["b", "why <not>"]]
    assert example["scores"] == [{"name": "p", "unit": "bits", "values": [1.0, None, 2.0]}]


# --- the public functions --------------------------------------------------------------------------------------------


def test_pages_are_written_where_they_are_asked_for(tmp_path):
    item = causal(PROMPT, ["però", "."])
    path = tmp_path / "new" / "page.html"
    page = item.to_html(path)
    with pytest.raises(AttriflowError, match="overwrite=True"):
        AttributionOutput([causal(PROMPT, ["sì"])]).to_html(path)
    assert path.read_text(encoding="utf-8") == page == AttributionOutput([item]).to_html(path, overwrite=True)
    assert to_html(item) == to_html(item)
    with pytest.raises(AttriflowError, match="is a folder"):
        item.to_html(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "txt"}, "did you mean 'text'"), ({"step_score": "prob"}, "step score 'prob'"),
        ({"slice_dims": {"layer": 0}}, "axis 'layer'"), ({"min_val": 2, "max_val": 1}, "below"),
        ({"wrap_after": 0}, "wrap_after"),
    ],
)  # fmt: skip
def test_wrong_options_are_named_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(AttriflowError, match=message):
        causal(PROMPT, ANSWER).to_html(tmp_path / "page.html", **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(AttriflowError, match="no attributions"):
        to_html([])


def test_limits_of_colours_hold_for_all():
    items = [causal(PROMPT, ANSWER, m, scale=s) for m, s in (("a", 1.0), ("b", 5.0))]
    assert Page(to_html(items, max_val=2)).data()["options"]["scale"] == {"low": -2.0, "high": 2.0}
    assert Page(to_html(items)).data()["options"]["scale"] is None


def test_notebooks_get_a_frame_that_nothing_leaks_from():
    item = causal(PROMPT, ANSWER)
    frame = item._repr_html_()
    (attributes,) = Page(frame).all("iframe")
    assert attributes["sandbox"] == "allow-scripts" and re.search(r"height: \d+px", attributes["style"])
    assert attributes["srcdoc"] == to_html(item, max_bytes=2_000_000)
    assert AttributionOutput([item])._repr_html_() == frame
    assert "height: 333px" in to_iframe(item, height=333)


def test_show_asks_who_is_listening(monkeypatch, capsys):
    item = causal(PROMPT, ANSWER)
    shown = []
    notebook = types.ModuleType("IPython")
    notebook.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    notebook.display = types.ModuleType("IPython.display")
    notebook.display.display = lambda data, raw: shown.append(data["text/html"])
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook.display)
    assert item.show() is None
    assert len(shown) == 1 and shown[0].startswith("<iframe") and capsys.readouterr().out == ""
    item.show(view="console")
    assert "── prompt" in capsys.readouterr().out and len(shown) == 1
    console = Console(file=io.StringIO())
    item.show(console=console)
    assert "── prompt" in console.file.getvalue() and len(shown) == 1
    notebook.get_ipython = lambda: types.SimpleNamespace()  # IPython in a terminal
    item.show()
    assert "── prompt" in capsys.readouterr().out and len(shown) == 1
    with pytest.raises(AttriflowError, match="did you mean 'console'"):
        item.show(view="konsole")


def test_show_returns_the_page_when_asked(capsys):
    item = causal(PROMPT, ANSWER)
    assert attriflow.show_attributions(item, display=False, return_html=True) == to_html(item)
    assert capsys.readouterr().out == ""
    out = AttributionOutput([item])
    assert Page(out.show_granular(display=False, return_html=True)).data()["options"]["mode"] == "heatmap"
    page = out.show_tokens(display=False, return_html=True, step_score_highlight="probability", wrap_after=4,
                           replace_char={"blue": "rot"})  # fmt: skip
    data = Page(page).data()
    assert data["options"]["score"] == "probability" and data["examples"][0]["steps"][0] == "rot"
    assert data["examples"][0]["tokens"][0]["breaks"] == [3, 7, 11]


def test_show_aggregates_first(capsys):
    item = causal(PROMPT, ANSWER)
    attriflow.show_attributions(item, aggregator=[lambda a: a.replace(scores=a.scores * 0 + 7), lambda a: a])
    assert "7.000" in capsys.readouterr().out
    attriflow.show_attributions(item, aggregator=lambda a: a.replace(scores=a.scores * 0 + 7), do_aggregation=False)
    assert "7.000" not in capsys.readouterr().out
    attriflow.show_attributions(item, aggregator="scores")
    with pytest.raises(AttriflowError, match="did you mean 'scores'"):
        attriflow.show_attributions(item, aggregator="score")
    with pytest.raises(AttriflowError, match="aggregator is a name"):
        attriflow.show_attributions(item, aggregator=[3])
