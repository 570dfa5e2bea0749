"""Sentences, the caller's segments, and chats: from texts to parts of the input."""

from __future__ import annotations

import copy
import random

import pytest
import torch

import attriflow
from attriflow.errors import InputError
from attriflow.texts.segments import ChatText, read_inputs, read_segments, sentences

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
# a system message becomes part of the first question, so a chat cannot be rendered turn by turn
MERGING = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.system = m['content'] + ' ' %}{% elif m['role'] == 'user' %}"
    "<{{ ns.system }}{{ m['content'] }}>{% set ns.system = '' %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)
CHAT = [
    {"role": "system", "content": "so um."},
    {"role": "user", "content": "ki nakol temo?"},
    {"role": "assistant", "content": "la gape. pari"},
    {"role": "user", "content": "ki nakol temo?"},
]


class Tokens:
    """A tokenizer with a chat template and nothing else."""

    def __init__(self, template=TEMPLATE, bos="<s>"):
        self.chat_template, self.bos_token = template, bos

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        import jinja2

        environment = jinja2.Environment()
        environment.globals["raise_exception"] = _raise
        template = environment.from_string(self.chat_template)
        return template.render(messages=messages, add_generation_prompt=add_generation_prompt, bos_token=self.bos_token)


def _raise(message):
    import jinja2

    raise jinja2.TemplateError(message)


@pytest.fixture(scope="module")
def chatty(golden_model):
    """The reference models with a chat template of their own."""

    def get(name, template=TEMPLATE):
        plain = golden_model(name)
        tokenizer = copy.deepcopy(plain.tokenizer)
        tokenizer.chat_template = template
        return attriflow.load_model(plain.model, tokenizer=tokenizer)

    return get


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One two. Three? Four!", ["One two. ", "Three? ", "Four!"]),
        ("He met Mr. Smith and Dr. Who. They left.", ["He met Mr. Smith and Dr. Who. ", "They left."]),
        ("Use tools, e.g. a saw, i.e. a blade. Done", ["Use tools, e.g. a saw, i.e. a blade. ", "Done"]),
        ("The U.S. and J. Smith agree. Yes.", ["The U.S. and J. Smith agree. ", "Yes."]),
        ("It costs 3.50 at example.org now. Good.", ["It costs 3.50 at example.org now. ", "Good."]),
        ("1. Wash it.\n2. Dry it.", ["1. Wash it.\n", "2. Dry it."]),
        ('He said "Stop." Then (quietly.) "No!" End', ['He said "Stop." ', "Then (quietly.) ", '"No!" ', "End"]),
        ("A title\n\nFirst line\nSecond line\n", ["A title\n\n", "First line\n", "Second line\n"]),
        ("你好。再见!走吧？好", ["你好。", "再见!走吧？", "好"]),
        ("Wait... what?! Right", ["Wait... ", "what?! ", "Right"]),
        ("the hat . the car .", ["the hat . ", "the car ."]),
        ("signed by Dr.\nNext line", ["signed by Dr.\n", "Next line"]),
        ("  \n one", ["  \n one"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences(text, wanted):
    assert [text[a:b] for a, b in sentences(text)] == wanted


def test_later_text_never_moves_a_sentence():
    """Which sentence a character is in is known once it is written: steps must not feel what comes later."""
    draw = random.Random(0)
    for _ in range(60):
        text = "".join(
            draw.choice(["a", "b", "Mr", "e.g", "1", ".", ".", "!", " ", " ", "\n", '"', "。"]) for _ in range(25)
        )
        number = {i: n for n, (a, b) in enumerate(sentences(text)) for i in range(a, b)}
        assert sorted(number) == list(range(len(text)))
        for i, character in enumerate(text):
            if not character.isspace():
                assert len(sentences(text[: i + 1])) - 1 == number[i], (text, i)


class TestCallersSegments:
    def test_substrings_and_spans(self):
        text = "ab cd ab ef"
        assert read_segments([text], ["ab", "ab"]) == [((0, 2), (6, 8))]
        assert read_segments([text], [(3, 5), (9, 11)]) == [((3, 5), (9, 11))]
        assert read_segments([text], [["ab", (3, 8)]]) == [((0, 2), (3, 8))]
        assert read_segments([text, "x y"], [["cd"], []]) == [((3, 5),), ()]
        assert read_segments([text, "x y"], None) == [(), ()]
        assert read_segments([text], []) == [()]

    @pytest.mark.parametrize(
        ("texts", "segments", "fragment"),
        [
            (["ab cd"], ["zz"], "'zz' is not found in"),
            (["ab cd"], ["cd", "ab"], "'ab' is not found after the segment before it"),
            (["ab cd"], [""], "not found"),
            (["ab cd"], [(0, 9)], "not within the input of 5 characters"),
            (["ab cd"], [(2, 2)], "not within"),
            (["ab cd"], [(-2, 2)], "not within"),
            (["ab cd"], [(0, 3), (2, 5)], "before the one before it ends"),
            (["ab cd"], [(3, 5), (0, 2)], "before the one before it ends"),
            (["ab", "cd"], ["ab"], "one list per text"),
            (["ab", "cd"], [["ab"], ["cd"], []], "2 texts but segments for 3"),
            (["ab"], "ab", "lists of substrings"),
            (["ab"], [[1.5]], "substrings or"),
            (["ab"], {"a": 1}, "lists of substrings"),
        ],
    )
    def test_wrong_ones(self, texts, segments, fragment):
        with pytest.raises(InputError, match=fragment):
            read_segments(texts, segments)

    def test_they_travel_with_the_examples(self, golden_model, monkeypatch):
        m = golden_model("gpt2")
        (one,) = m.encode("ki nakol temo", "ki nakol temo te", segments=["nakol"])
        assert one.segments == ((3, 8),)
        arguments = {"max_new_tokens": 2, "num_beams": 2, "num_return_sequences": 2}
        both = m.encode(["ki nakol", "temo te"], segments=[["ki"], [(0, 4)]], generation_args=arguments)
        assert [e.segments for e in both] == [((0, 2),)] * 2 + [((0, 4),)] * 2
        monkeypatch.setattr(type(m.model), "forward", lambda *a, **k: pytest.fail("the model ran"))
        with pytest.raises(InputError, match="not found"):
            m.attribute("ki nakol", method="occlusion", unit="segment", segments=["zz"])


class TestChats:
    def test_turns_are_the_renderings_of_the_messages(self):
        (text,) = read_inputs(Tokens(), CHAT)
        assert isinstance(text, ChatText)
        assert [text[a:b] for a, b in text.turns] == [f"[{m['role']}] {m['content']}\n" for m in CHAT]
        assert text.startswith("<s>[system]")
        assert text.endswith("[assistant] ")

    def test_turns_are_the_contents_where_prefixes_do_not_render(self):
        (text,) = read_inputs(Tokens(MERGING), CHAT)
        assert [text[a:b] for a, b in text.turns] == [m["content"] for m in CHAT]

    def test_turns_that_cannot_be_found_are_not_guessed(self):
        (text,) = read_inputs(Tokens("<{{ messages[-1]['content'] }}>"), CHAT)
        assert text == "<ki nakol temo?>"
        assert text.turns == ()

    def test_one_chat_several_chats_and_texts(self):
        one, two = read_inputs(Tokens(), [CHAT, CHAT[1:2]])
        assert len(one.turns) == 4
        assert len(two.turns) == 1
        mixed = read_inputs(Tokens(), ["ki nakol", CHAT])
        assert type(mixed[0]) is str
        assert mixed[1] == one
        assert read_inputs(Tokens(), mixed) == mixed

    @pytest.mark.parametrize(
        ("inputs", "fragment"),
        [
            ([{"role": "user"}], "a role and a content"),
            ([{"role": "user", "content": 3}], "a role and a content"),
            ([[{"role": "user", "content": "a"}], []], "input_texts must be"),
            ([CHAT, [3]], "input_texts must be"),
            (3, "input_texts must be"),
            ([], "empty"),
        ],
    )
    def test_wrong_chats(self, inputs, fragment):
        with pytest.raises(InputError, match=fragment):
            read_inputs(Tokens(), inputs)

    def test_no_template_or_one_that_refuses(self, golden_model):
        for name in ("gpt2", "bart"):
            with pytest.raises(InputError, match="no chat template"):
                golden_model(name).attribute(CHAT, method="saliency")
        with pytest.raises(InputError, match=r"does not take this chat: roles"):
            read_inputs(Tokens("{{ raise_exception('roles must alternate') }}"), CHAT)

    @pytest.mark.parametrize("name", ["gpt2", "bart"])
    def test_ids_are_those_of_the_template(self, chatty, name, monkeypatch):
        """The template writes the special tokens: the tokenizer adds none, for forced and for generated replies."""
        m = chatty(name)
        wanted = m.tokenizer.apply_chat_template(CHAT, tokenize=True, add_generation_prompt=True, return_dict=False)
        given = []
        generate = m.model.generate
        monkeypatch.setattr(m.model, "generate", lambda **k: given.append(k["input_ids"].tolist()) or generate(**k))
        (generated,) = m.encode(CHAT, generation_args={"max_new_tokens": 2})
        (forced,) = m.encode(CHAT, "pari mitemi")
        assert given == [[wanted]]
        for example in (generated, forced):
            ids = example.source_ids if name == "bart" else example.target_ids[: example.start]
            assert ids == wanted
            assert len(example.turns) == 4
            assert example.input_text == m.tokenizer.apply_chat_template(
                CHAT, tokenize=False, add_generation_prompt=True
            )
            assert type(example.input_text) is str
        if name == "bart":  # the target keeps its own special tokens
            assert forced.target_ids == golden_ids(m, "pari mitemi")

    def test_a_reply_may_be_given_alone_or_after_the_prompt(self, chatty):
        m = chatty("gpt2")
        (alone,) = m.encode(CHAT, "pari mitemi")
        (after,) = m.encode(CHAT, alone.input_text + "pari mitemi")
        assert alone == after
        assert alone.target_text.endswith("[assistant] pari mitemi")
        assert m.tokenizer.decode(alone.target_ids[alone.start :]) == "pari mitemi"
        for token in alone.target[alone.start :]:
            assert alone.target_text[token.start : token.end] == token.text
        with pytest.raises(InputError, match="adds no token"):
            m.encode(CHAT, "")

    def test_a_bos_token_is_not_doubled(self, chatty):
        m = chatty("bart")  # its tokenizer adds a BOS of its own
        (example,) = m.encode(CHAT, "pari")
        assert example.source_ids[:2].count(m.tokenizer.bos_token_id) == 1

    def test_contrastive_replies(self, chatty):
        m = chatty("gpt2")
        options = {"method": "saliency", "attributed_fn": "contrast_prob_diff"}
        (alone,) = m.attribute(CHAT, "pari mitemi", contrast_targets="pari kana", **options)
        (whole,) = m.attribute(CHAT, "pari mitemi", contrast_targets=f"{alone.input_text}pari kana", **options)
        torch.testing.assert_close(alone.scores, whole.scores, equal_nan=True, atol=0, rtol=0)


def golden_ids(m, text):
    return [m.wrapped.start_id, *m.tokenizer(text_target=text)["input_ids"]]
