"""Soft changes of an input: elements of embeddings that stay by chance, against plain calls of the model."""

from __future__ import annotations

import pytest
import torch

from attriflow.engine.variants import _uniform
from attriflow.errors import InputError
from attriflow.types import Variant


@pytest.fixture(scope="module", params=["gpt2", "bart"])
def case(request, golden_model):
    from load_golden import Golden

    model = golden_model(request.param)
    texts = Golden(request.param).cases["batch2"]
    return model, model.encode(texts["input_texts"], texts["generated_texts"])


def soft(values, example, step=None, draw=0):
    return Variant(keep=tuple(float(v) for v in values[: len(example.inputs())]), step=step, how="soft", draw=draw)


def by_hand(model, example, stay, draw):
    """Log-probabilities of all steps from one plain call of the Hugging Face model."""
    wrapped = model.wrapped
    n_source = len(example.source)

    def embeds(tokens, chances, block):
        found = wrapped.embed(torch.tensor([[t.id for t in tokens]]), block)
        uniform = _uniform(block, draw, tuple(found.shape[1:]))
        chances = torch.tensor([1.0 if t.special else c for t, c in zip(tokens, chances, strict=True)])
        return torch.where(uniform < chances.unsqueeze(-1), found, 0.0)

    target = example.target[: example.stop - 1]
    with torch.no_grad(), wrapped.frozen():
        if n_source:
            chances = [1.0] * len(target)
            logits = wrapped.hf(
                inputs_embeds=embeds(example.source, stay[:n_source], "source"),
                decoder_inputs_embeds=embeds(target, chances, "target"),
            ).logits
        else:
            logits = wrapped.hf(inputs_embeds=embeds(target, stay[: len(target)], "target")).logits
    log_p = logits[0].log_softmax(-1)
    return [float(log_p[p - 1, example.target[p].id]) for p in range(example.start, example.stop)]


def test_soft_changes_are_what_the_model_says_of_thinned_embeddings(case):
    model, examples = case
    asked, expected = [], []
    for index, example in enumerate(examples):
        n = len(example.inputs())
        stay = torch.rand(n, generator=torch.Generator().manual_seed(index)).tolist()
        for draw in (0, 3):
            asked.append((index, soft(stay, example, draw=draw)))
            expected.append(by_hand(model, example, stay, draw))
    for found, wanted in zip(model.rescore(examples, asked), expected, strict=True):
        assert found.tolist() == pytest.approx(wanted, abs=1e-9)


def test_the_ends_are_the_unchanged_input_and_zeros(case):
    model, examples = case
    example = examples[0]
    n = len(example.inputs())
    plain = model.rescore(examples, [(0, Variant(keep=(True,) * n))])[0]
    whole, nothing, again = model.rescore(
        examples, [(0, soft([1.0] * n, example)), (0, soft([0.0] * n, example)), (0, soft([0.0] * n, example, draw=9))]
    )
    torch.testing.assert_close(whole, plain, atol=1e-10, rtol=0)
    torch.testing.assert_close(nothing, again, atol=1e-12, rtol=0)  # nothing is left to chance
    assert not torch.allclose(nothing, plain, atol=1e-3)


def test_one_step_equals_all_steps_alone_and_in_a_batch(case):
    model, examples = case
    example = examples[1]
    stay = torch.rand(len(example.inputs()), generator=torch.Generator().manual_seed(0)).tolist()
    everything = model.rescore(examples, [(1, soft(stay, example))])[0]
    single = model.rescore(examples, [(1, soft(stay, example, step=s)) for s in range(example.n_steps)])
    torch.testing.assert_close(torch.cat(single), everything, atol=1e-10, rtol=0)
    mixed = model.rescore(
        examples,
        [(0, soft([0.5] * 99, examples[0])), (1, Variant(keep=(True,) * len(stay))), (1, soft(stay, example))],
        batch_size=2,
    )
    torch.testing.assert_close(mixed[2], everything, atol=1e-10, rtol=0)


def test_chances_are_chances(case):
    model, examples = case
    with pytest.raises(InputError, match="between 0 and 1"):
        model.rescore(examples, [(0, soft([1.5] * 99, examples[0]))])
    uniform = _uniform("target", 0, (50, 400))
    assert float((uniform < 0.3).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(_uniform("target", 0, (7, 400)), uniform[:7])
    assert not torch.equal(_uniform("source", 0, (50, 400)), uniform)


def test_a_text_of_baseline_tokens_is_no_empty_one(case):
    """Every token replaced: as many baseline tokens as there were tokens, after which each step is read."""
    model, examples = case
    example, hf = examples[0], model.wrapped.hf
    unk = model.tokenizer.unk_token_id
    nothing = Variant(keep=(False,) * len(example.inputs()), how="baseline")

    def replaced(tokens):
        return torch.tensor([[t.id if t.special else unk for t in tokens]])

    wanted = []
    with torch.no_grad():
        for place in range(example.start, example.stop):
            if example.source:
                given = torch.tensor([example.target_ids[:place]])
                logits = hf(input_ids=replaced(example.source), decoder_input_ids=given).logits
            else:
                logits = hf(input_ids=replaced(example.target[:place])).logits
            wanted.append(float(logits[0, -1].log_softmax(-1)[example.target[place].id]))
    assert model.rescore(examples, [(0, nothing)])[0].tolist() == pytest.approx(wanted, abs=1e-9)
    single = [(0, Variant(keep=nothing.keep, step=s, how="baseline")) for s in range(example.n_steps)]
    assert torch.cat(model.rescore(examples, single)).tolist() == pytest.approx(wanted, abs=1e-9)
