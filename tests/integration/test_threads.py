"""Threads that share a model take turns: what they get is what calls one after the other give, and the model stays."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch

import attriflow
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation

TEXTS = ["anna has a red hat . what color is the hat ?", "ben has a blue cup . what color is the cup ?"]
TARGETS = [f"{TEXTS[0]} red hat", f"{TEXTS[1]} blue"]
THREADS, CALLS = 8, 12


def explain(method, **options):
    def call(model):
        out = model.attribute(TEXTS, TARGETS, method=method, step_scores="entropy", show_progress=False, **options)
        return [t for a in out for t in (a.scores, a.step_scores["entropy"])]

    return call


def sampled(model):
    examples = model.encode(TEXTS, generation_args={"max_new_tokens": 6, "do_sample": True}, seed=3)
    return [torch.tensor(e.target_ids) for e in examples]


def rescored(model):
    examples = model.encode(TEXTS, TARGETS)
    keep = tuple(i % 2 == 0 for i in range(len(examples[0].inputs())))
    return model.rescore(examples, [(0, attriflow.types.Variant(keep=keep))])


def evaluated(model):
    """With metrics that put noise on embeddings and draw weights anew for a while."""
    data = pd.DataFrame({"input": TEXTS, "target": TARGETS})
    names = ["aopc_compr", "max_sensitivity", "parameter_randomisation"]
    given = {"methods": ["saliency"], "metrics": names, "throughput": False}
    config = EvaluationConfig.from_dict(given, columns=["input", "target"], targets="target")
    evaluation = Evaluation(model, EvaluationData.from_frame(data, config, TARGETS), config)
    list(evaluation.run())
    (result,) = evaluation.results
    assert result.ok and not result.problems
    return [torch.tensor([result.metrics[name] for name in names])]


WORK = [
    explain("saliency"),
    explain("deeplift"),
    explain("occlusion"),
    explain("attention"),
    explain("value_zeroing"),
    explain("integrated_gradients", n_steps=4),
    explain("lime", n_samples=12, seed=5),
    explain("information_flow_routes"),
    explain("random", attributed_fn="mc_dropout_prob_avg", seed=7),
    sampled,
    rescored,
    evaluated,
]


def state(model):
    """All of a model that methods change for a while."""
    hf = model.model
    return {
        "mode": [m.training for m in hf.modules()],
        "gradients": [p.requires_grad for p in hf.parameters()],
        "weights": [p.detach().clone() for p in hf.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in hf.modules()],
        "attention": hf.config._attn_implementation,
        "filters": list(warnings.filters),
        "random": torch.get_rng_state(),
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.slow
@pytest.mark.parametrize("wrappers", ["one", "each its own"])
def test_eight_threads_give_what_calls_one_after_the_other_give(wrappers):
    model = attriflow.load_model("demo/recall")
    model.model.train()
    wanted = [work(model) for work in WORK]
    before = state(model)
    models = [
        model if wrappers == "one" else attriflow.load_model(model.model, tokenizer=model.tokenizer)
        for _ in range(THREADS)
    ]
    start = threading.Barrier(THREADS)

    def calls(thread):
        start.wait()
        order = [(thread + k) % len(WORK) for k in range(CALLS)]  # at any time, different methods
        return [(k, WORK[k](models[thread])) for k in order]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [pair for pairs in pool.map(calls, range(THREADS), timeout=300) for pair in pairs]
    assert len(found) == THREADS * CALLS
    assert not [k for k, values in found if not same(values, wanted[k])]
    after = state(model)
    assert not [what for what in before if not same(before[what], after[what])]


def test_other_models_are_not_waited_for():
    one, other = (attriflow.load_model("demo/recall") for _ in range(2))
    again = attriflow.load_model(one.model, tokenizer=one.tokenizer)
    assert one.lock is again.lock and one.lock is not other.lock
    with one.lock, ThreadPoolExecutor(1) as pool:  # held by this thread
        assert pool.submit(other.generate, TEXTS[0], max_new_tokens=1).result(60)
        assert not pool.submit(again.lock.acquire, blocking=False).result(60)
        one.generate(TEXTS[0], max_new_tokens=1)  # the thread that has it may go on


def test_copies_and_pickles_of_a_model_have_locks_of_their_own():
    one = attriflow.load_model("demo/recall")
    one.generate(TEXTS[0], max_new_tokens=1)
    for hf in (copy.deepcopy(one.model), pickle.loads(pickle.dumps(one.model))):
        other = attriflow.load_model(hf, tokenizer=one.tokenizer)
        assert other.lock is not one.lock
        assert other.generate(TEXTS[0], max_new_tokens=1) == one.generate(TEXTS[0], max_new_tokens=1)
