"""Chats in the forms that people have them in, up to an evaluation, held against the texts they are rendered as."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import AddedToken

import attriflow
from attriflow.errors import InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, text_columns
from attriflow.evaluation.rationale import in_template, parse_rationale
from attriflow.evaluation.runner import Evaluation
from attriflow.streaming.fields import Fields
from attriflow.texts.chats import chat_of, contents_in, of_cell, text_of_chat
from attriflow.texts.segments import read_inputs
from attriflow.tracking.data import checked, read_data

TEMPLATE = (
    "{% if tools %}tools {% for t in tools %}{{ t['function']['name'] }} {% endfor %}. {% endif %}"
    "{% for m in messages %}{{ m['content'] }} "
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] }} {{ c['function']['arguments']['who'] }} . "
    "{% endfor %}{% endfor %}"
)
QUESTION = "tom has a blue car . nina has a red cup . what color is the car ?"
CHAT = [
    {"role": "system", "content": "tom has a blue car ."},
    {"role": "user", "content": "nina has a red cup . what color is the car ?"},
]


@pytest.fixture(scope="module")
def model():
    loaded = attriflow.load_model("demo/recall")
    loaded.wrapped.tokenizer = copy.deepcopy(loaded.tokenizer)
    loaded.tokenizer.chat_template = TEMPLATE
    return loaded


PARTS = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in CHAT]
FORMS = {
    "list": CHAT,
    "tuple": tuple(CHAT),
    "array": np.array(CHAT, dtype=object),
    "request": {"messages": CHAT, "temperature": 0.2},
    "request of arrays": {"messages": np.array(CHAT, dtype=object), "tools": None},
    "parts": PARTS,
    "parts in arrays": [{**m, "content": np.array(m["content"], dtype=object)} for m in PARTS],
    "parts that are strings": [{**m, "content": [m["content"]]} for m in CHAT],
    "holes": [{**m, "name": None, "tool_calls": None} for m in CHAT],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_chat(model, form):
    assert chat_of(FORMS[form]) == CHAT
    (text,) = read_inputs(model.tokenizer, [FORMS[form]])
    assert text == f"{QUESTION} " and [text[a:b] for a, b in text.turns] == [f"{m['content']} " for m in CHAT]


@pytest.mark.parametrize("text", [json.dumps(CHAT), f" {json.dumps({'messages': CHAT})}"])
def test_json_in_cells_is_a_chat_and_other_texts_are_texts(text):
    assert of_cell("it", text) == CHAT
    for other in ("[1, 2]", "{not JSON", "[]", '{"a": 1}', '[{"a": 1}]', "plain"):
        assert of_cell("it", other) == other


def test_calls_of_tools_and_their_descriptions(model):
    calls = [{"id": "1", "type": "function", "function": {"name": "red", "arguments": '{"who": "tom"}'}}]
    chat = [CHAT[1], {"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "content": "blue"}]
    tools = [{"type": "function", "function": {"name": "red", "parameters": None}}]
    (text,) = read_inputs(model.tokenizer, {"messages": chat, "tools": tools})
    assert text == f"tools red . {CHAT[1]['content']}  red tom . blue "
    assert [text[a:b] for a, b in text.turns][1:] == [" red tom . ", "blue "]
    other = copy.deepcopy(model.tokenizer)
    other.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(InputError, match="no place for tools"):
        read_inputs(other, {"messages": chat, "tools": tools})
    # where turns are not found by growing chats, those that say something are found by what they say
    other.chat_template = "{{ messages|length }}: {% for m in messages %}{{ m['content'] }}/{% endfor %}"
    (text,) = read_inputs(other, chat)
    assert [text[a:b] for a, b in text.turns] == [CHAT[1]["content"], "blue"]


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "no text .'image_url'"),
        ([{"role": "user", "content": [3]}], "no text"),
        ([{"content": "a"}], "needs a role and a content"),
        ([{"role": "assistant", "content": None}], "needs a role and a content"),
        ({"messages": []}, "'messages' must be a list of messages"),
        ({"messages": "hello"}, "'messages' must be a list of messages"),
        ({"messages": CHAT, "tools": "red"}, "'tools' must be a list of objects"),
        ([{"role": "user", "content": "a \ud800"}], "not valid Unicode"),
    ],
)
def test_what_is_no_chat_of_texts_is_told_in_one_line(chat, message):
    with pytest.raises(InputError, match=message) as error:
        of_cell("the input", chat)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_evidence_in_a_chat_is_evidence_in_what_the_template_wrote():
    chat = [{"role": "user", "content": " the red one"}, {"role": "user", "content": "which one ?"}]
    whole = text_of_chat(chat)
    assert whole == " the red one\nwhich one ?"
    text = "<s>[the red one]\n[which one ?]"
    assert [text[a:b] for a, b in contents_in(chat, text)] == ["the red one", "which one ?"]
    at = whole.index("red"), whole.index("one ?") + 3
    found = in_template(parse_rationale([list(at)], whole), chat, text)
    assert [text[a:b] for a, b in found.spans[0]] == ["red one", "which one"]
    with pytest.raises(InputError, match="does not show 'which one"):
        in_template(parse_rationale([list(at)], whole), chat, "<s>[the red one]")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_files_with_a_column_of_chats(model, tmp_path, suffix):
    """An evaluation of chats gives the numbers of one of the texts that they are rendered as."""
    path, spans = tmp_path / f"data.{suffix}", [[11, 15]]
    frame = pd.DataFrame({"messages": [CHAT], "target": ["blue"], "rationale": [json.dumps(spans)]})
    if suffix == "csv":
        frame.assign(messages=[json.dumps(CHAT)]).to_csv(path, index=False)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    settings = {
        "methods": ["saliency"],
        "metrics": ["deletion_auc", "pointing_game"],
        "step_functions": ["probability"],
    }
    settings |= {"rationale": "rationale", "throughput": False, "gates": False}
    features, config = checked(read_data(str(path)), settings, "target")
    assert config.inputs == "messages" and text_columns(features)[0] == "messages"
    data = EvaluationData.from_frame(features, config, ["blue"])
    texts = EvaluationData(inputs=(f"{QUESTION} ",), targets=("blue",), rationales=(parse_rationale(spans, QUESTION),))
    found = []
    for rows in (data, texts):
        evaluation = Evaluation(model, rows, config)
        for _ in evaluation.run():
            pass
        found.append(evaluation.results[0])
    assert data.inputs == (CHAT,) and len(data.digest) == 16
    assert found[0].metrics == found[1].metrics and set(found[0].metrics) == {"deletion_auc", "pointing_game"}
    assert torch.equal(found[0].attributions[0].scores.nan_to_num(), found[1].attributions[0].scores.nan_to_num())
    assert Fields(inputs="messages").texts({"messages": features["messages"][0]}) == {"input_texts": CHAT}


def test_rows_fail_alone():
    frame = pd.DataFrame({"messages": [CHAT, [{"role": "user", "content": 3}], "plain"]})
    data = EvaluationData.from_frame(frame, EvaluationConfig.from_dict({}, columns=["messages"]))
    assert data.inputs == (CHAT, "plain") and "a role and a content" in data.failed[1]


def test_markers_of_a_template_are_special_whether_or_not_the_tokenizer_names_them(model):
    """Decoding leaves out all tokens that were added as special ones, and so do explanations."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<|turn|>{{ m['content'] }} {% endfor %}"
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    marker = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert marker not in tokenizer.all_special_ids  # Llama 3's headers are such tokens
    hf = copy.deepcopy(model.model)
    hf.resize_token_embeddings(len(tokenizer))
    marked = attriflow.load_model(hf, tokenizer=tokenizer)
    (out,) = marked.attribute([CHAT], "blue", method="occlusion", show_progress=False)
    special = [i for i, token in enumerate(out.inputs) if token.special]
    assert [out.inputs[i].text for i in special] == ["<|turn|>", "<|turn|>"]
    assert f'"special": {special}'.replace(" ", "") in out.to_html().replace(" ", "")
