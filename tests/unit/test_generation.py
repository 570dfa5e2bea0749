"""Generation: the explained ids are those that `generate` chose, alone and in a batch, whatever ends and pads them."""

from __future__ import annotations

import string
import warnings

import pytest
import torch
from models import build
from tokenizer_kinds import KINDS
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)

import attriflow
from attriflow.engine.baselines import baseline_id
from attriflow.errors import InputError

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"the a red blue cat dog house man was old in on and . ? la casa".split()]
WORDS += [f"w{i}" for i in range(40 - len(WORDS))]
TEXTS = ["the red cat in the old house", "a dog", "the man was old and the cat was in on the house .", "a cat"]


def words(template: str | None = None, **special):
    """A token per word."""
    t = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        t.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", **special}
    return PreTrainedTokenizerFast(tokenizer_object=t, **names)


def causal(seed=3, tokenizer=None, **changes):
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    model = build("llama-gqa", seed, vocab_size=len(WORDS), initializer_range=0.4, **ids, **changes)
    return attriflow.load_model(model, "dummy", tokenizer=tokenizer or words(), device="cpu")


def translator(seed=0, template="$A </s>", **changes):
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "forced_eos_token_id": None}
    model = build("bart", seed, vocab_size=len(WORDS), init_std=0.4, **{**ids, "decoder_start_token_id": 2, **changes})
    return attriflow.load_model(model, "dummy", tokenizer=words(template), device="cpu")


def ids_of(model, texts, arguments, **options):
    """Generated ids, one list per sequence."""
    out = model.attribute(texts, generation_args=arguments(), show_progress=False, **options)
    return [[t.id for t in a.targets] for a in out]


def by_hand(model, text, arguments, seed=0):
    """Rows of `generate` on the text's own ids, without what precedes the new ones."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    options = arguments()
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        rows = model.model.generate(ids, attention_mask=torch.ones_like(ids), **{"pad_token_id": 0, **options})
    return [row[1 if model.is_encoder_decoder else ids.shape[1] :].tolist() for row in rows]


class Stop(StoppingCriteria):
    """Ends rows at a token, and counts how often it is asked."""

    def __init__(self, *ids):
        self.ids, self.calls = ids, 0

    def __call__(self, input_ids, scores, **_):
        self.calls += 1
        return (input_ids[:, -1:] == torch.tensor(self.ids)).any(1)


class Place(LogitsProcessor):
    """A processor that counts positions from the beginning of the row."""

    def __call__(self, input_ids, scores):
        scores[:, input_ids.shape[1] % len(WORDS)] += 3
        return scores


EVERY_THIRD = list(range(4, len(WORDS), 3))
ARGUMENTS = {
    "plain": lambda: {"max_new_tokens": 8},
    "nothing": dict,
    "several EOS": lambda: {"max_new_tokens": 8, "eos_token_id": EVERY_THIRD},
    "pad is EOS": lambda: {"max_new_tokens": 8, "eos_token_id": EVERY_THIRD, "pad_token_id": EVERY_THIRD[0]},
    "no EOS": lambda: {"max_new_tokens": 8, "eos_token_id": None},
    "at least": lambda: {"max_new_tokens": 8, "min_new_tokens": 5, "eos_token_id": EVERY_THIRD},
    "max_length": lambda: {"max_length": 16},
    "min_length": lambda: {"max_new_tokens": 8, "min_length": 9, "eos_token_id": EVERY_THIRD},
    "repetitions": lambda: {"max_new_tokens": 8, "repetition_penalty": 3.0, "no_repeat_ngram_size": 2},
    "criterion": lambda: {"max_new_tokens": 8, "stopping_criteria": StoppingCriteriaList([Stop(*EVERY_THIRD)])},
    "processor": lambda: {"max_new_tokens": 8, "logits_processor": LogitsProcessorList([Place()])},
    "allowed tokens": lambda: {"max_new_tokens": 8, "prefix_allowed_tokens_fn": lambda _, ids: [len(ids) % 30, 2]},
    "config": lambda: {"generation_config": GenerationConfig(max_new_tokens=7, eos_token_id=EVERY_THIRD)},
    "looked up": lambda: {"max_new_tokens": 8, "prompt_lookup_num_tokens": 2},
    "beams": lambda: {"max_new_tokens": 8, "num_beams": 3, "eos_token_id": EVERY_THIRD},
    "early beams": lambda: {"max_new_tokens": 8, "num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
    "sampling": lambda: {"max_new_tokens": 8, "do_sample": True},
    "sampled beams": lambda: {"max_new_tokens": 6, "do_sample": True, "num_beams": 2},
}
SEVERAL = {
    "beams": lambda: {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 3, "eos_token_id": EVERY_THIRD},
    "samples": lambda: {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 3, "eos_token_id": EVERY_THIRD},
    "criterion": lambda: {
        "max_new_tokens": 8, "do_sample": True, "num_return_sequences": 3, "eos_token_id": None,
        "stopping_criteria": [Stop(*EVERY_THIRD)],
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=[causal, translator], ids=["causal", "translator"])
def model(request):
    return request.param()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_as_generate_alone(model, name):
    arguments = ARGUMENTS[name]
    together = ids_of(model, TEXTS, arguments)
    for text, found in zip(TEXTS, together, strict=True):
        if name not in ("nothing",):  # there the length is ours
            assert [found] == by_hand(model, text, arguments)
        assert [found] == ids_of(model, text, arguments)
    assert ids_of(model, TEXTS, arguments, batch_size=1) == together


@pytest.mark.parametrize("name", SEVERAL)
def test_several_sequences(model, name):
    """Every row ends where its criteria end it: at the first of these tokens, and nothing is told from the padding."""
    arguments = SEVERAL[name]
    together = ids_of(model, TEXTS, arguments)
    assert [row for text in TEXTS for row in ids_of(model, text, arguments)] == together
    for text, found in zip(TEXTS, (together[i : i + 3] for i in range(0, len(together), 3)), strict=True):
        for row, full in zip(found, by_hand(model, text, arguments), strict=True):
            end = next((i + 1 for i, t in enumerate(full) if t in EVERY_THIRD), len(full))
            assert row == full[:end]
    assert len({len(row) for row in together}) > 1
    if name != "criterion":  # which has rows go on, without pads
        for pad in (0, 3, 2):
            assert ids_of(model, TEXTS, lambda pad=pad: {**arguments(), "pad_token_id": pad}) == together


@pytest.mark.parametrize("several", [{}, {"do_sample": True, "num_return_sequences": 4}])
def test_stop_strings(several):
    """The tokenizer, which they need, is given; rows that go on after theirs are cut."""
    tokenizer = KINDS["byte-level BPE"]()
    model = attriflow.load_model(build("gpt2", 1, vocab_size=len(tokenizer)), "dummy", tokenizer=tokenizer)
    stops = list("abcdefghijklmnopqrstuvwxyz" if several else string.ascii_letters + string.punctuation)
    arguments = {
        "max_new_tokens": 12,
        "repetition_penalty": 5.0,
        "eos_token_id": None,
        "stop_strings": stops,
        **several,
    }
    out = model.attribute(["the cat", "so"], generation_args=arguments, show_progress=False)
    by_stops = [i for i in range(len(tokenizer)) if set(tokenizer.decode([i])) & set(stops)]
    assert any(len(a.targets) < 12 for a in out)
    for a in out:
        hits = [t.id in by_stops for t in a.targets]
        assert hits.index(True) == len(hits) - 1 if True in hits else len(hits) == 12


def test_a_criterion_is_asked_once_a_step():
    model, stop = causal(), Stop()
    model.attribute(TEXTS[0], generation_args={"max_new_tokens": 5, "eos_token_id": None, "stopping_criteria": [stop]})
    assert stop.calls == 5


def test_a_criterion_of_the_librarys_takes_the_place_of_generates_own(model):
    from transformers.generation.stopping_criteria import EosTokenCriteria

    arguments = lambda: {  # noqa: E731
        "max_new_tokens": 8, "do_sample": True, "num_return_sequences": 4, "eos_token_id": 2,
        "stopping_criteria": StoppingCriteriaList([EosTokenCriteria(EVERY_THIRD)]),
    }  # fmt: skip
    for row, full in zip(ids_of(model, TEXTS[0], arguments), by_hand(model, TEXTS[0], arguments), strict=True):
        assert row == full[: next((i + 1 for i, t in enumerate(full) if t in EVERY_THIRD), len(full))]


def test_settings_of_the_models_own(model):
    """Terminators, samples and lengths that the model's generation config asks for."""
    config = model.model.generation_config
    try:
        model.model.generation_config = GenerationConfig(
            eos_token_id=EVERY_THIRD, max_length=18, do_sample=True, decoder_start_token_id=2
        )
        together = ids_of(model, TEXTS, dict)
        assert [together[i : i + 1] for i in range(4)] == [by_hand(model, t, dict) for t in TEXTS]
    finally:
        model.model.generation_config = config


def test_the_same_text_again_draws_anew_and_another_one_alike():
    model, arguments = causal(), ARGUMENTS["sampling"]
    rows = ids_of(model, [TEXTS[0], TEXTS[1], TEXTS[0]], arguments)
    assert rows[0] != rows[2]
    assert rows == [*ids_of(model, TEXTS[:2], arguments), *ids_of(model, TEXTS[0], arguments, seed=1)]


@pytest.mark.parametrize("kind", [causal, translator])
def test_a_model_that_padding_changes(kind, monkeypatch):
    """Its texts share a call only where they are as long as each other."""
    model, sizes = kind(), []
    generate = model.model.generate

    def unmasked(input_ids, attention_mask=None, **arguments):
        sizes.append(len(input_ids))
        return generate(input_ids, attention_mask=torch.ones_like(input_ids), **arguments)

    monkeypatch.setattr(model.model, "generate", unmasked)
    texts = [*TEXTS, "a man"]
    together = ids_of(model, texts, ARGUMENTS["plain"])
    assert together == [ids_of(model, t, ARGUMENTS["plain"])[0] for t in texts]
    assert sizes == [2, 1, 1, 3, 1, *[1] * 5]  # the check, then by length
    sizes.clear()
    monkeypatch.setattr(model.model, "generate", lambda **k: (sizes.append(len(k["input_ids"])), generate(**k))[1])
    model.wrapped.generates_padded = None
    ids_of(model, texts, ARGUMENTS["plain"])
    ids_of(model, texts, ARGUMENTS["plain"])
    assert sizes == [2, 1, 5, 5]


def test_a_target_that_is_begun(model):
    """Its end is not an EOS among the ids that were given."""
    if not model.is_encoder_decoder:
        pytest.skip("decoder-only models have prompts")
    begun = torch.tensor([[2, 5, 2, 6]])
    arguments = lambda: {"max_new_tokens": 4, "decoder_input_ids": begun, "eos_token_id": 2}  # noqa: E731
    rows = ids_of(model, TEXTS, arguments)
    assert rows == [by_hand(model, t, arguments)[0] for t in TEXTS]
    assert all(row[:3] == [5, 2, 6] and len(row) > 3 for row in rows)
    each = lambda: {"max_new_tokens": 4, "decoder_input_ids": torch.tensor([[2, i] for i in range(5, 9)])}  # noqa: E731
    assert [row[0] for row in ids_of(model, TEXTS, each)] == [5, 6, 7, 8]


def test_a_language_code_comes_first():
    model = translator()
    arguments = lambda: {"max_new_tokens": 5, "forced_bos_token_id": 9, "forced_eos_token_id": 2}  # noqa: E731
    rows = ids_of(model, TEXTS, arguments)
    assert rows == [by_hand(model, t, arguments)[0] for t in TEXTS]
    assert {row[0] for row in rows} == {9}


def test_room_for_new_tokens():
    """Twenty by default, or as many as the length that the model was trained on leaves."""
    model = causal(max_position_embeddings=15)
    model.model.generation_config.eos_token_id = None
    assert [len(row) for row in ids_of(model, ["a cat", TEXTS[2]], dict)] == [13, 2]
    with pytest.warns(UserWarning, match="longer than what LlamaForCausalLM was trained on"):
        assert [len(row) for row in ids_of(model, [f"{TEXTS[2]} {TEXTS[2]}"], dict)] == [20]


@pytest.mark.parametrize("arguments", [{"max_new_token": 3}, {"num_return_sequences": 2}, {"max_length": 2}])
def test_what_generate_refuses_is_one_line(model, arguments):
    if model.is_encoder_decoder and "max_length" in arguments:
        pytest.skip("there it is the target's length")
    with pytest.raises(InputError, match="generate fails") as caught:
        model.attribute(TEXTS[0], generation_args=arguments, show_progress=False)
    assert "\n" not in str(caught.value)


class TestStartTokens:
    """Tokenizers that add to targets what generation has not."""

    def test_the_start_token_is_not_doubled(self):
        model = translator(template="<s> $A </s>", decoder_start_token_id=1)
        model.wrapped._starts_twice = False
        with pytest.warns(UserWarning, match="begins targets with the decoder start token '<s>', which is kept once"):
            out = model.attribute("the cat", "la casa", attribute_target=True, show_progress=False)[0]
        assert [t.text for t in out.inputs if t.segment == "generated"] == ["<s>", "la", "casa", "</s>"]
        assert model.wrapped.target_ids("la casa") == [1, 19, 20, 2]

    def test_unless_the_model_was_trained_so(self):
        model = translator(template="<s> $A </s>", decoder_start_token_id=1)
        with torch.no_grad():
            model.model.final_logits_bias[0, 1] = 1e4  # it writes <s> first
        with pytest.warns(UserWarning, match="which the model writes itself"):
            assert model.wrapped.target_ids("la casa") == [1, 1, 19, 20, 2]

    def test_a_start_token_of_another_kind_stays(self, recwarn):
        model = translator(template="<s> $A </s>")
        assert model.wrapped.target_ids("la casa") == [2, 1, 19, 20, 2]
        assert not recwarn

    def test_the_language_after_the_end_is_no_step(self):
        """As mBART's tokenizer writes targets for training, where they are rolled: text, EOS, language."""
        model = translator(template="$A </s> <s>", decoder_start_token_id=1)
        assert model.wrapped.target_ids("la casa") == [1, 19, 20, 2]

    def test_an_eos_within_the_text_stays(self):
        assert translator().wrapped.target_ids("la </s> casa") == [2, 19, 2, 20, 2]


class TestIds:
    def test_ids_that_the_embeddings_do_not_have(self):
        tokenizer = words()
        tokenizer.add_tokens(["new"])
        model = causal(tokenizer=tokenizer)
        for texts in (("the new cat", "the new cat was"), ("the cat", "the cat new"), ("new", None)):
            with pytest.raises(InputError, match=f"'new' the id {len(WORDS)}, but the embeddings .* have {len(WORDS)}"):
                model.attribute(*texts, show_progress=False)
        with pytest.raises(InputError, match="'new' the id"):
            model.attribute("the cat", "the cat was", contrast_targets="the cat new", show_progress=False)
        assert len(model.attribute("the cat", "the cat was", show_progress=False)) == 1

    def test_a_pad_token_that_was_added_is_not_embedded(self):
        tokenizer = words(pad_token="[PAD]")
        model = causal(tokenizer=tokenizer)
        assert tokenizer.pad_token_id == len(WORDS)
        assert (model.wrapped.pad_id, model.wrapped.special_id("pad"), model.wrapped.special_id("unk")) == (2, None, 3)
        assert ids_of(model, TEXTS, ARGUMENTS["plain"]) == ids_of(causal(), TEXTS, ARGUMENTS["plain"])
        tokenizer.unk_token = None  # the default baseline: not the added pad token, EOS
        assert baseline_id(model.wrapped, "unk") == tokenizer.eos_token_id
        with pytest.raises(InputError, match="no pad token"):
            baseline_id(model.wrapped, "pad")
        model.model.generation_config.pad_token_id = len(WORDS)
        assert ids_of(model, TEXTS, SEVERAL["samples"]) == ids_of(causal(), TEXTS, SEVERAL["samples"])


class TestNothingToExplain:
    """One such text does not fail the others; it has an attribution without steps."""

    def test_positions_beyond_a_text(self, model):
        full = ["the cat was old and red .", "the cat ."]
        prompts = ["the cat", "the cat"]
        place = {"attr_pos_start": 5, "attr_pos_end": 7, "show_progress": False, "attribute_target": True}
        with pytest.warns(UserWarning, match="no steps for 1 of 2 texts.*text 1: no step left to explain"):
            out = model.attribute(prompts, full, method="saliency", step_scores=["probability"], **place)
        assert [len(a.targets) for a in out] == [2, 0]
        assert out[1].scores.shape == (0, len(out[1].inputs))
        assert out[1].step_scores["probability"].shape == (0,)
        alone = model.attribute(prompts[0], full[0], method="saliency", **place)[0]
        torch.testing.assert_close(out[0].scores, alone.scores, equal_nan=True)
        assert (out[1].minimum, out[1].maximum, out[1].provenance.method) == (0, 0, "saliency")
        assert "saliency" in out.to_html()
        assert [len(a.targets) for a in out.aggregate("subwords").aggregate()] == [2, 0]
        with pytest.raises(InputError, match="no step left"):
            model.attribute(prompts[1], full[1], method="saliency", **place)

    def test_a_forced_text_that_adds_nothing(self):
        model = causal()
        with pytest.warns(UserWarning, match="text 0: nothing to explain"):
            out = model.attribute(["the cat", "a dog"], ["the cat", "a dog was"], show_progress=False)
        assert [[t.text for t in a.inputs] for a in out] == [["the", "cat"], ["a", "dog", "was"]]
        with pytest.raises(InputError, match="text 0: nothing to explain"):
            model.attribute(["the cat", "a dog"], ["the cat", "a dog"], show_progress=False)

    def test_empty_sources_and_targets(self):
        model = translator(template="$A")
        with pytest.warns(UserWarning, match="text 0: an input text has no tokens; text 2: nothing to explain"):
            out = model.attribute(
                ["", "the cat", "a"], ["la", "la casa", ""], method="value_zeroing", show_progress=False
            )
        assert [tuple(a.scores.shape[:2]) for a in out] == [(0, 0), (2, 2), (0, 1)]
        assert {a.axes for a in out} == {out[1].axes}

    def test_a_generation_without_tokens(self, monkeypatch):
        model = causal()
        twice = lambda input_ids, **_: input_ids.repeat(1, 2 if input_ids.shape[1] > 1 else 1)  # noqa: E731
        monkeypatch.setattr(model.model, "generate", twice)
        with pytest.warns(UserWarning, match="text 1: the model generated nothing for 'a'"):
            out = model.attribute(["the cat", "a"], generation_args={"max_length": 9}, show_progress=False)
        assert [len(a.targets) for a in out] == [2, 0]
        with pytest.raises(InputError, match="text 1: the model generated nothing"):
            model.encode(["the cat", "a"], generation_args={"max_length": 9})

    def test_other_errors_name_the_text(self):
        table = build("gpt2", vocab_size=len(WORDS), n_positions=8, bos_token_id=1, eos_token_id=2)
        model = attriflow.load_model(table, "dummy", tokenizer=words(), device="cpu")
        with pytest.raises(InputError, match="text 1: input and target together of 13 tokens is too long"):
            model.attribute(TEXTS[1:3], [f"{TEXTS[1]} was", TEXTS[2]], show_progress=False)
        with pytest.raises(InputError, match=r"^for decoder-only models a forced generation must begin"):
            model.attribute("the cat", "a dog", show_progress=False)

    def test_an_empty_prompt_begins_with_bos(self):
        out = causal().attribute("", "the cat", show_progress=False)[0]
        assert [t.text for t in out.inputs] == ["<s>", "the", "cat"]
        assert [(t.text, t.start, t.end) for t in out.targets] == [("the", 0, 3), ("cat", 4, 7)]
