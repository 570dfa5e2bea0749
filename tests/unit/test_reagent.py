"""ReAGent: where replacements come from, and that evidence wins."""

from __future__ import annotations

import pytest
import torch
from models import build

import attriflow
from attriflow.engine import Engine, Objective
from attriflow.errors import AttriflowError, InputError
from attriflow.methods._neighbours import neighbours
from attriflow.methods._replacements import Replacements
from attriflow.registry import methods, step_functions

PROMPT, FULL = "ki nakol temo dibema", "ki nakol temo dibema te pari"


@pytest.fixture(scope="module")
def engine(golden_model):
    m = golden_model("gpt2")
    examples = m.encode([PROMPT, "la gape"], [FULL, "la gape te"])
    return Engine(m.wrapped, examples, Objective(step_functions.info("probability").build()), ("target",))


def test_neighbours_are_the_nearest(engine):
    table = engine.model.embedding("target").weight.detach()
    ids = torch.tensor([3, 17, 3, 199])
    found = neighbours(engine.model, "target", ids, 5)
    for i, row in zip(ids.tolist(), found, strict=True):
        distance = (table - table[i]).norm(dim=1)
        distance[i] = torch.inf
        assert row.tolist() == distance.argsort()[:5].tolist()


def test_neighbours_follow_changed_weights(tokenizers):
    m = attriflow.load_model(build("gpt2"), tokenizer=tokenizers["gpt2"])
    before = neighbours(m.wrapped, "target", torch.tensor([5]), 3)
    with torch.no_grad():
        weight = m.wrapped.embedding("target").weight
        weight[77] = weight[5] + 1e-4
    after = neighbours(m.wrapped, "target", torch.tensor([5]), 3)
    assert after[0, 0] == 77
    assert before[0, 0] != 77


@pytest.mark.parametrize("sampler", ["neighbours", "unconditional", "uniform"])
def test_samplers_draw_from_their_distribution(engine, sampler):
    ids = Replacements(engine, sampler)("probe", 2000)
    assert ids.shape == (2000, 2, engine.ids("target").shape[1])
    vocabulary = engine.model.vocab_size
    assert 0 <= int(ids.min()) <= int(ids.max()) < vocabulary
    place = ids[:, 0, 2]
    counts = torch.bincount(place, minlength=vocabulary) / len(place)
    if sampler == "neighbours":
        near = neighbours(engine.model, "target", engine.ids("target")[0, 2:3], 20)[0]
        assert set(place.tolist()) == set(near.tolist())
        return
    wanted = torch.full((vocabulary,), 1 / vocabulary)
    if sampler == "unconditional":
        first = torch.tensor([[engine.model.tokenizer.bos_token_id]])
        wanted = engine.model.hf(input_ids=first).logits[0, 0].softmax(-1).detach().float()
    assert (counts - wanted).abs().max() < 0.03
    assert (counts - wanted).abs().sum() < 0.5


def test_a_replacement_model_is_asked(engine, golden_model):
    """A causal model with the same vocabulary: its own prediction at the place, never the token itself."""
    other = golden_model("gpt2").model
    ids = Replacements(engine, "neighbours", other)("probe", 3000)
    wanted = other(input_ids=engine.ids("target")[:1]).logits[0, 1].detach().clone()
    wanted[engine.ids("target")[0, 2]] = -torch.inf
    counts = torch.bincount(ids[:, 0, 2], minlength=200) / 3000
    assert counts[engine.ids("target")[0, 2]] == 0
    assert (counts - wanted.softmax(-1)).abs().max() < 0.03


def test_a_masked_replacement_model_from_a_folder(engine, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    ids = Replacements(engine, "neighbours", str(tmp_path / "bert"))("probe", 50)
    assert (ids != engine.ids("target")).all()


def test_evidence_wins(golden_model):
    """With an objective that reads one input only, that input gets the highest score at every step that sees it."""
    m = golden_model("gpt2")
    (example,) = m.encode(PROMPT, FULL)

    class OneToken:
        """Probability 1 while the third input is in place, 0 after its replacement."""

        def __init__(self):
            self.ids = None

        def __call__(self, forward):
            return forward.log_probs().exp()[..., 0] * 0 + self.present

    probe = OneToken()
    engine = Engine(m.wrapped, [example], Objective(probe), ("target",), seed=3)
    run = engine.run

    def watched(rows):
        ids = rows.target_ids
        probe.present = (ids[:, 2] == example.target_ids[2]).double().unsqueeze(1)
        return run(rows)

    engine.run = watched
    scores = methods.info("reagent").build(max_probe_steps=32, sampler="uniform")(engine).blocks["target"][0]
    assert (scores[:, : example.start].argmax(-1) == 2).all()
    torch.testing.assert_close(scores.sum(-1), torch.ones_like(scores[:, 0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "roberta"}, "sampler"),
        ({"num_probes": 0}, "num_probes"),
        ({"replacing_ratio": 1.5}, "replacing_ratio"),
        ({"keep_ratio": 0.0}, "keep_ratio"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(AttriflowError, match=message):
        methods.info("reagent").build(**options)


def test_wrong_replacement_models(golden_model):
    m = golden_model("gpt2")
    with pytest.raises(InputError, match="not a local folder"):
        m.attribute(PROMPT, FULL, method="reagent", replacement_model="roberta-base", show_progress=False)
    with pytest.raises(InputError, match=r"replacement_model.* must be"):
        m.attribute(PROMPT, FULL, method="reagent", replacement_model=3, show_progress=False)
    small = build("gpt2", vocab_size=3)
    with pytest.raises(InputError, match="vocabulary"):
        m.attribute(PROMPT, FULL, method="reagent", replacement_model=small, show_progress=False)
