"""What stands between the metrics and ferret: codec, call signatures, options, and ferret's absence."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attriflow.errors import InputError, MissingExtraError, OptionError, UnknownNameError
from attriflow.registry import metrics
from attriflow.types import Attribution, Provenance, Token
from attriflow_metrics import ferret

FAITHFULNESS = ("aopc_compr", "aopc_suff", "taucorr_loo")
PLAUSIBILITY = ("auprc_plau", "token_f1_plau", "token_iou_plau")
METRICS = {name: metrics.get(name) for name in FAITHFULNESS + PLAUSIBILITY}
NAN = float("nan")


def test_the_codec_is_exact():
    tokenizer = ferret.IndexTokenizer()
    texts = ["", "0", "3 5 120", "7 8"]
    encoded = tokenizer(texts, return_tensors="pt", truncation=True, padding="longest")
    lengths = encoded["attention_mask"].sum(-1).tolist()
    assert lengths == [0, 1, 3, 2]
    rows = [row[:n] for row, n in zip(encoded["input_ids"].tolist(), lengths, strict=True)]
    assert [tokenizer.decode(np.array(row, dtype=int)) for row in rows] == texts
    assert tokenizer.batch_decode(rows, skip_special_tokens=False) == texts
    assert tokenizer("")["input_ids"].shape == (1, 0)


@pytest.mark.parametrize("log_p", [0.0, 1e-16, -1e-300, -1e-17, -1e-9, -0.1, -1.0, -40.0, -700.0, -math.inf])
def test_the_softmax_of_the_two_logits_is_the_probability(log_p):
    p = torch.tensor([ferret.two_logits(log_p)], dtype=torch.float64).softmax(-1)
    assert p[0, 0].item() == pytest.approx(min(1.0, math.exp(log_p)), rel=1e-14, abs=0)
    assert p.sum().item() == pytest.approx(1.0, rel=1e-15)


def test_equal_scores_give_equal_probabilities_wherever_they_stand_in_a_batch():
    with ferret.one_thread():
        for log_p in (-0.3, -1.7, -5.2, -12.9):
            found = {
                value
                for size in range(1, 9)
                for value in ferret.TableModel(lambda kept, log_p=log_p: log_p)(
                    **ferret.IndexTokenizer()(["1 2"] * size)
                )
                .logits.softmax(-1)[:, 0]
                .tolist()
            }
            assert len(found) == 1


def test_the_number_of_threads_is_put_back_also_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), ferret.one_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


# Encoder-decoders ---------------------------------------------------------------------------------------------------


def seq2seq(rows, n_source, *, with_target):
    """An encoder-decoder attribution whose last source token and first decoder token are special."""
    source = [Token(text=f"s{i}", id=i, segment="source", special=i == n_source - 1) for i in range(n_source)]
    decoder = [Token(text="</s>", id=90, segment="prompt", special=True)]
    decoder += [Token(text=f"y{j}", id=91 + j, segment="generated") for j in range(len(rows))]
    inputs = tuple(source + decoder) if with_target else tuple(source)
    scores = torch.full((len(rows), len(inputs)), NAN)
    for j, row in enumerate(rows):
        scores[j, :n_source] = torch.tensor(row)
        if with_target:
            scores[j, n_source : n_source + 1 + j] = 0.5
    targets = tuple(decoder[1:])
    return Attribution(scores=scores, inputs=inputs, targets=targets, start=1, provenance=Provenance(method="test"))


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_only_the_source_of_an_encoder_decoder_is_removed(name):
    rows = [[0.3, 0.1, 0.2, 5.0], [0.1, 0.4, 0.2, 5.0]]
    narrow, wide = (seq2seq(rows, 4, with_target=t) for t in (False, True))

    def model(keep, steps=None, *, how="delete"):
        return -1 + keep[:, :3].double() @ torch.tensor([-0.5, -0.2, -0.1], dtype=torch.float64)

    for variant in METRICS[name]().plan(wide):
        assert all(variant.keep[3:])
    values = METRICS[name]()(wide, model).values
    assert None not in values
    assert values == METRICS[name]()(narrow, model).values


# Options and registration -------------------------------------------------------------------------------------------


def test_metadata():
    assert set(METRICS) <= set(metrics.names())
    assert not {"ferret", "statistics"} & set(metrics.names())
    for name in METRICS:
        info = metrics.info(name)
        assert info.meta["family"] == ("faithfulness" if name in FAITHFULNESS else "plausibility")
        assert info.meta["higher_is_better"] is (name != "aopc_suff")
        assert info.meta["needs"] == (("rescore",) if name in FAITHFULNESS else ("rationale",))
        assert len(info.meta["range"]) == 2
        assert info.meta["cost"] and info.meta["source"] and info.summary
        assert dataclasses.is_dataclass(info.obj)


def test_wrong_options():
    aopc = METRICS["aopc_compr"]
    with pytest.raises(OptionError, match="thresholds"):
        metrics.build("aopc_compr", treshold=(0.1,))
    with pytest.raises(UnknownNameError, match="perc"):
        metrics.build("aopc_compr", based_on="percent")
    with pytest.raises(UnknownNameError, match="delete"):
        metrics.build("taucorr_loo", perturbation="remove")
    with pytest.raises(InputError, match="needs thresholds"):
        aopc(based_on="k")
    for options in ({"thresholds": ()}, {"thresholds": (10,)}, {"based_on": "k", "thresholds": (0,)}):
        with pytest.raises(InputError, match=r"thresholds|whole numbers"):
            aopc(**options)
    for k in (0, 2.5):
        with pytest.raises(InputError, match="top_k"):
            METRICS["token_f1_plau"](top_k=k)
    assert aopc(based_on="k", thresholds=[1.0, 2.0]).thresholds == (1, 2)
    assert hash(aopc(thresholds=[0.1])) == hash(aopc(thresholds=(0.1,)))


def test_importing_the_package_is_light():
    code = (
        "import sys, attriflow_metrics, attriflow.registry as r\n"
        "names = r.metrics.names()\n"
        "assert 'aopc_compr' in names, names\n"
        "print([m for m in ('torch', 'ferret', 'numpy', 'pandas', 'transformers') if m in sys.modules])\n"
        "r.metrics.get('aopc_compr')\n"
        "print([m for m in ('ferret', 'sklearn', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "[]"]


# Ferret itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def unloaded():
    ferret.load.cache_clear()
    yield
    ferret.load.cache_clear()


def test_ferret_missing(monkeypatch, unloaded):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert not ferret.ferret_available()
    tokens = tuple(Token(text=str(i), id=i) for i in range(3))
    attribution = Attribution(
        scores=torch.tensor([[0.1, 0.2, NAN]]),
        inputs=tokens,
        targets=tokens[2:],
        start=2,
        provenance=Provenance(method="test"),
    )

    def rescore(keep, steps=None, *, how="delete"):
        return torch.full((len(keep),), -1.0)

    for metric in METRICS.values():
        with pytest.raises(MissingExtraError, match=r"'ferret-xai': pip install 'attriflow\[ferret\]'"):
            metric()(attribution, rescore, torch.tensor([[True, False, False]]))


def test_a_package_that_ferret_needs_is_missing(monkeypatch, unloaded):
    assert ferret.ferret_available()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("ferret", "shap")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(MissingExtraError, match="'shap'"):
        ferret.load()


def test_the_signatures_of_ferret_0_5(monkeypatch):
    """`task_name` in the constructor, the target inside the explanation, `value` instead of `score`."""

    @dataclasses.dataclass
    class Explanation:
        text: str
        tokens: str
        scores: np.ndarray
        explainer: str
        target_pos_idx: int
        helper_type: str
        target_token_pos_idx: int | None = None
        target: str | None = None

    @dataclasses.dataclass
    class ExplanationWithRationale(Explanation):
        rationale: np.ndarray | None = None

    class Evaluator:
        def __init__(self, model, tokenizer, task_name):
            assert task_name == "text-classification"
            self.model, self.tokenizer = model, tokenizer

        def compute_evaluation(self, explanation, **evaluation_args):
            assert evaluation_args["remove_first_last"] is False
            assert explanation.helper_type != "token-classification"
            item = self.tokenizer(explanation.text, return_tensors="pt", truncation=True)
            probabilities = self.model(**item, output_hidden_states=False).logits.softmax(-1)
            return SimpleNamespace(metric=self, value=probabilities[0, explanation.target_pos_idx].item())

    parts = SimpleNamespace(
        evaluators={"E": Evaluator}, Explanation=Explanation, ExplanationWithRationale=ExplanationWithRationale
    )
    monkeypatch.setattr(ferret, "load", lambda: parts)
    value = ferret.evaluate("E", (2, 5), np.ones(2), score=lambda kept: -0.5 if kept == (2, 5) else NAN)
    assert value == pytest.approx(math.exp(-0.5))
