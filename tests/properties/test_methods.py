"""Promises that hold for every registered method on every architecture: parametrised over the registry."""

from __future__ import annotations

import functools
import gc
import itertools

import per_step
import psutil
import pytest
import torch
from models import CONFIGS, ENCODER_DECODERS, OUTSIDE, build

import attriflow
from attriflow.engine import Engine, Objective, gradients, plain, prefix, sizes
from attriflow.engine.gradients import Gradients
from attriflow.engine.last_block import LastBlock
from attriflow.engine.sizes import Sizes
from attriflow.errors import OutOfMemoryError
from attriflow.kernels import linear
from attriflow.models.attention import interface_works
from attriflow.models.base import Rows
from attriflow.models.blocks import BlockRecord
from attriflow.registry import methods, step_functions

METHODS = methods.names()
ARCHITECTURES = list(CONFIGS)
PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari"]
TARGETS = {
    False: [f"{PROMPTS[0]} pari mitemi kana gemibes", f"{PROMPTS[1]} te"],
    True: ["um nomal rapel Tarsen popite", "so rapel"],
}


@pytest.fixture(scope="module")
def model(tokenizers):
    @functools.lru_cache
    def get(name: str):
        tokenizer = tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"]
        return attriflow.load_model(build(name), tokenizer=tokenizer)

    return get


def attribute(m, texts, targets, method, **options):
    target = {"attribute_target": True} if m.is_encoder_decoder else {}
    return m.attribute(
        texts, targets, method=method, show_progress=False, **target, **methods.info(method).meta["trial"], **options
    )


# norms and softmaxes of some models cast to single precision, whatever the model's own is
CASTS = 1e-9


def same(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0, equal_nan=True)


def near(name: str) -> float:
    """What numbers of the same definition may differ by."""
    return CASTS if name == "gemma2" else 1e-10


def readable(name: str) -> bool:
    """Whether an architecture shows its attention (under transformers 4.57 T5 does not)."""
    return interface_works(build(name))


NEEDS_INTERFACE = [n for n in METHODS if methods.info(n).meta.get("interface")]
UNREADABLE = [n for n in ARCHITECTURES if not readable(n)]
# one architecture of each kind is tried by every run, their relatives by the sweeps
QUICK = ("llama-gqa", "bart", "t5")
PAIRS = [
    pytest.param(n, m, marks=() if n in QUICK else pytest.mark.sweep)
    for n in ARCHITECTURES
    for m in METHODS
    if not (n in UNREADABLE and m in NEEDS_INTERFACE)
]


def in_turn(*tried: str) -> list:
    """All methods: some are tried by every run, the others by the sweeps."""
    return [pytest.param(name, marks=() if name in tried else pytest.mark.sweep) for name in METHODS]


@pytest.mark.parametrize("name", [*UNREADABLE, *OUTSIDE])
@pytest.mark.parametrize("method", NEEDS_INTERFACE)
def test_models_outside_the_attention_interface(model, name, method):
    m = model(name)
    with pytest.raises(attriflow.AttriflowError, match="AttentionInterface"):
        attribute(m, PROMPTS, TARGETS[m.is_encoder_decoder], method)


@pytest.mark.parametrize(("name", "method"), PAIRS)
class TestEveryMethod:
    def test_batch_is_alone_in_any_order(self, model, name, method):
        m = model(name)
        targets = TARGETS[m.is_encoder_decoder]
        both = attribute(m, PROMPTS, targets, method, step_scores=["probability"])
        back = attribute(m, PROMPTS[::-1], targets[::-1], method, batch_size=1)
        for i in range(2):
            alone = attribute(m, PROMPTS[i], targets[i], method, step_scores=["probability"])[0]
            same(both[i].scores, alone.scores, near(name))
            same(both[i].scores, back[1 - i].scores, near(name))
            same(both[i].step_scores["probability"], alone.step_scores["probability"])
            assert both[i].inputs == alone.inputs
            assert both[i].targets == alone.targets

    def test_padding_side_of_the_tokenizer_does_not_matter(self, model, name, method):
        m = model(name)
        targets = TARGETS[m.is_encoder_decoder]
        right = attribute(m, PROMPTS, targets, method)
        before = m.tokenizer.padding_side
        m.tokenizer.padding_side = "left" if before == "right" else "right"
        try:
            left = attribute(m, PROMPTS, targets, method)
        finally:
            m.tokenizer.padding_side = before
        for a, b in zip(left, right, strict=True):
            same(a.scores, b.scores, 0)

    def test_nan_exactly_where_a_step_cannot_see(self, model, name, method):
        m = model(name)
        for out in attribute(m, PROMPTS, TARGETS[m.is_encoder_decoder], method):
            wanted = methods.info(method).meta["axes"].replace(" (embedding)", "").split(", ")
            assert list(out.axes) == wanted
            n_source = sum(t.segment == "source" for t in out.inputs)
            for step in range(len(out.targets)):
                seen = n_source + out.start + step
                assert not torch.isnan(out.scores[step, :seen]).any()
                assert torch.isnan(out.scores[step, seen:]).all()

    def test_causality(self, model, name, method):
        """Later target tokens change nothing about earlier steps."""
        m = model(name)
        target = TARGETS[m.is_encoder_decoder][0]
        words = target.split()
        other = " ".join([*words[:-1], "so" if words[-1] != "so" else "um"])
        a = attribute(m, PROMPTS[0], target, method)[0]
        b = attribute(m, PROMPTS[0], other, method)[0]
        if method.startswith("random"):
            return  # drawn from the example's ids, so another target is another draw
        n = 0
        while n < min(len(a.targets), len(b.targets)) and a.targets[n].id == b.targets[n].id:
            n += 1
        assert 0 < n < len(a.targets)
        seen = [i for i, (s, t) in enumerate(zip(a.inputs, b.inputs, strict=False)) if s.id == t.id]
        keep = [i for i in seen if not torch.isnan(a.scores[:n, i]).flatten().all()]
        same(a.scores[:n, keep], b.scores[:n, keep])

    def test_same_seed_same_numbers(self, model, name, method):
        m = model(name)
        targets = TARGETS[m.is_encoder_decoder]
        a = attribute(m, PROMPTS, targets, method, seed=7)
        torch.manual_seed(12345)
        b = attribute(m, PROMPTS, targets, method, seed=7, batch_size=1)
        for x, y in zip(a, b, strict=True):
            same(x.scores, y.scores, near(name))
        if not methods.info(method).meta["deterministic"]:
            c = attribute(m, PROMPTS, targets, method, seed=8)
            assert not torch.equal(a[0].scores.nan_to_num(), c[0].scores.nan_to_num())

    def test_model_and_tokenizer_leave_as_they_came(self, model, name, method):
        m = model(name)
        hf, tokenizer = m.model, m.tokenizer
        hf.train()
        first = next(hf.parameters())
        first.requires_grad_(False)
        wanted = [p.requires_grad for p in hf.parameters()]
        state = {k: v.clone() for k, v in hf.state_dict().items()}
        config, special, n_tokens = hf.config.to_dict(), dict(tokenizer.special_tokens_map), len(tokenizer)
        implementation = hf.config._attn_implementation
        try:
            attribute(m, PROMPTS[0], TARGETS[m.is_encoder_decoder][0], method)
            assert all(mod.training for mod in hf.modules())
            assert [p.requires_grad for p in hf.parameters()] == wanted
            assert all(p.grad is None for p in hf.parameters())
            assert hf.config._attn_implementation == implementation
            assert hf.config.to_dict() == config
            assert not any(mod._forward_hooks or mod._forward_pre_hooks for mod in hf.modules())
            assert all(torch.equal(v, state[k]) for k, v in hf.state_dict().items())
            assert dict(tokenizer.special_tokens_map) == special
            assert len(tokenizer) == n_tokens
        finally:
            first.requires_grad_(True)
            hf.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
class TestAgainstTheLoop:
    """Shared passes against one pass per step, in float64 (some norms compute in float32 whatever the dtype)."""

    def test_gradients(self, model, name):
        m = model(name)
        for text, target in zip(PROMPTS, TARGETS[m.is_encoder_decoder], strict=True):
            (example,) = m.encode(text, target)
            out = attribute(m, text, target, "saliency", abs=False, granular=True)[0]
            for step, (source, seen) in enumerate(per_step.gradients(m, example)):
                wanted = seen if source is None else torch.cat([source, seen])
                same(out.scores[step, : len(wanted)], wanted, 1e-8)

    def test_occlusion(self, model, name):
        m = model(name)
        baseline = m.tokenizer.unk_token_id
        for text, target in zip(PROMPTS, TARGETS[m.is_encoder_decoder], strict=True):
            (example,) = m.encode(text, target)
            out = attribute(m, text, target, "occlusion")[0]
            loop = per_step.occlusion(m, example, baseline, keep={m.tokenizer.eos_token_id})
            for step, (source, seen) in enumerate(loop):
                wanted = seen if source is None else torch.cat([source, seen])
                same(out.scores[step, : len(wanted)], wanted, 1e-8)

    def test_pass_counts(self, model, name):
        """One forward for saliency and attention, inputs + 1 for occlusion, points for integrated gradients."""
        m = model(name)
        text, target = PROMPTS[1], TARGETS[m.is_encoder_decoder][0 if m.is_encoder_decoder else 1]
        (example,) = m.encode(text, target)
        n_inputs = len(example.source) + len(example.target) - 1
        for method in ("saliency", "attention"):  # what is found out once per model costs a pass of its own
            attribute(m, text, target, method)
        for method, bound in (
            ("saliency", 1),
            ("attention", 1),
            ("occlusion", n_inputs + 2),
            ("integrated_gradients", 6),
        ):
            out = attribute(m, text, target, method)
            assert out.info["forward_passes"] <= bound, method
        # step scores come from the same pass
        assert attribute(m, text, target, "saliency", step_scores=["entropy"]).info["forward_passes"] == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("method", [n for n in METHODS if methods.info(n).meta.get("complete")])
def test_completeness(model, name, method):
    """Methods that claim it: scores sum up to the difference between the input and its baseline."""
    m = model(name)
    # kinks of ReLU cut the order of the quadrature
    quadrature = {"n_steps": 512 if name == "opt" else 128} if "n_steps" in methods.info(method).options else {}
    target = {"attribute_target": True} if m.is_encoder_decoder else {}
    out = m.attribute(
        PROMPTS, TARGETS[m.is_encoder_decoder], method=method, attributed_fn="logits", **quadrature, **target
    )
    for i, attribution in enumerate(out):
        (example,) = m.encode(PROMPTS[i], TARGETS[m.is_encoder_decoder][i])
        bound = Engine(
            m.wrapped,
            [example],
            Objective(step_functions.info("logits").build()),
            ("source", "target") if m.is_encoder_decoder else ("target",),
        )
        embeds = {f"{b}_embeds": bound.baseline_embeddings(b) for b in bound.blocks}
        difference = (bound.values() - bound.rescore(1, lambda _a, _b, e=embeds: e)[0])[0]
        delta = attribution.scores.nansum(1) - difference
        assert (delta.abs() <= 1e-3 * difference.abs().clamp(min=0.05)).all(), (delta, difference)


@pytest.mark.slow
@pytest.mark.parametrize("method", in_turn("attention", "lime", "reagent", "smooth_grad"))
def test_memory_does_not_grow_over_200_calls(tokenizers, method):
    """Neither tensors that stay alive nor memory of the process, as hooks or caches that pile up would show."""
    m = attriflow.load_model(build("llama-gqa", num_hidden_layers=1), tokenizer=tokenizers["gpt2"])
    prompt, target = "ki nakol temo", "ki nakol temo te pari"
    process = psutil.Process()

    def state() -> tuple[int, int]:
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()), process.memory_info().rss

    for _ in range(20):
        attribute(m, prompt, target, method)
    for last in (False, False, True):  # what other threads of the process took is not taken again; a leak is
        tensors, resident = state()
        for _ in range(200):
            attribute(m, prompt, target, method)
        after = state()
        assert after[0] <= tensors
        if after[1] - resident < 16 * 2**20:
            break
        assert not last, after[1] - resident


@pytest.mark.parametrize("method", METHODS)
def test_chunking_changes_nothing(model, method, monkeypatch):
    """Tiny chunks, as under memory pressure, give the numbers of large ones."""
    m = model("llama-gqa")
    wanted = attribute(m, PROMPTS, TARGETS[False], method)
    monkeypatch.setattr(sizes, "CHUNK_BYTES", 1)
    for a, b in zip(wanted, attribute(m, PROMPTS, TARGETS[False], method), strict=True):
        same(a.scores, b.scores, CASTS)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize("method", [n for n in METHODS if methods.info(n).meta["family"] in ("gradient", "path")])
def test_graphs_of_their_own_for_ranges_of_steps_change_nothing(model, name, method, monkeypatch):
    """One graph for all steps, or one per step that is no longer than the step's prefix; step scores come along."""
    m = model(name)
    targets = TARGETS[m.is_encoder_decoder]
    monkeypatch.setattr(Gradients, "_groups", lambda self: [slice(0, self.bound.batch.n_steps)])
    wanted = attribute(m, PROMPTS, targets, method, step_scores=["entropy"])
    monkeypatch.setattr(Gradients, "_groups", lambda self: [slice(i, i + 1) for i in range(self.bound.batch.n_steps)])
    if "layer" not in method and method != "deeplift":
        for a, b in zip(wanted, attribute(m, PROMPTS, targets, method, step_scores=["entropy"]), strict=True):
            same(a.scores, b.scores)
            same(a.step_scores["entropy"], b.step_scores["entropy"])


@pytest.mark.parametrize(("name", "method"), [p for p in PAIRS if methods.info(p.values[1]).meta["runs_model"]])
def test_shortcuts_change_nothing(model, name, method, monkeypatch):
    """Every shortcut, also those that would not be worth it in a model this small, against none at all."""
    m = model(name)
    monkeypatch.setattr(sizes, "WORTHWHILE", 0)
    monkeypatch.setattr(linear, "SMALLEST", 1)
    found = attribute(m, PROMPTS, TARGETS[m.is_encoder_decoder], method, step_scores=["entropy"])
    with plain():
        wanted = attribute(m, PROMPTS, TARGETS[m.is_encoder_decoder], method, step_scores=["entropy"])
    for a, b in zip(wanted, found, strict=True):
        same(a.scores, b.scores, 1e-5 * float(a.scores.nan_to_num().abs().max()))
        same(a.step_scores["entropy"], b.step_scores["entropy"], 1e-5)


def test_plain_takes_no_shortcut(model, monkeypatch):
    """Each of them is taken by one of these methods, and none inside of `plain`."""
    taken = set()
    for owner, name in (
        (prefix.Prefix, "rerun"),
        (LastBlock, "cut"),
        (gradients, "AtHead"),
        (gradients, "linearised"),
        (linear, "_without_zeros"),
        (BlockRecord, "at"),
        (Engine, "encoder_states"),
        (Sizes, "fitting"),
    ):
        known = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, n=name, f=known, **k: taken.add(n) or f(*a, **k))
    monkeypatch.setattr(sizes, "WORTHWHILE", 0)
    monkeypatch.setattr(linear, "SMALLEST", 1)

    def run(**options):
        for name in ("gpt2", "bart"):
            for method in ("saliency", "occlusion", "value_zeroing"):
                attribute(model(name), PROMPTS, TARGETS[name == "bart"], method, **options)

    run()
    monkeypatch.setattr(model("gpt2").wrapped, "last_block_separable", False)  # then the head is the place to cut
    run()
    assert len(taken) == 8, taken
    taken.clear()
    with plain():
        run()
    assert not taken


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in ENCODER_DECODERS])
@pytest.mark.parametrize("method", ["occlusion", "feature_ablation"])
@pytest.mark.parametrize("fn", ["probability", "mixed", "contrast_prob_diff", "kl_divergence"])
def test_reused_prefixes_change_nothing(model, name, method, fn, monkeypatch):
    """Keys and values of what stands before the change are taken from the unchanged pass, on every architecture."""
    m = model(name)

    def mixed(forward):  # looks at all steps, so it must be given all
        own = forward.of_target(forward.log_probs()).masked_fill(~forward.mask, 0)
        return own + own.cumsum(1) + forward.logits[:, :1, 0]

    lengths = []
    again = prefix.Prefix.rerun
    monkeypatch.setattr(prefix.Prefix, "rerun", lambda p, n, x: lengths.append(n) or again(p, n, x))
    monkeypatch.setattr(sizes, "WORTHWHILE", 0)
    monkeypatch.setattr(m.wrapped, "reuses_prefix", None)
    options = {"attributed_fn": mixed if fn == "mixed" else fn}
    if fn not in ("mixed", "probability"):  # the foil's tokens, or what its own input gives
        options["contrast_targets"] = [f"{PROMPTS[0]} te mitemi kana popite", f"{PROMPTS[1]} so"]
    found = attribute(m, PROMPTS, TARGETS[False], method, **options)
    assert m.wrapped.reuses_prefix
    assert max(lengths[1:]) >= 8
    monkeypatch.setattr(m.wrapped, "reuses_prefix", False)
    for a, b in zip(attribute(m, PROMPTS, TARGETS[False], method, **options), found, strict=True):
        same(a.scores, b.scores, 1e-6 if name in ("llama-gqa", "qwen3", "gemma2") else 1e-10)


@pytest.mark.parametrize("reuse", [False, True])
def test_versions_that_do_not_fit_into_memory_run_in_smaller_calls(model, reuse, monkeypatch):
    m = model("gpt2")
    run, calls = type(m.wrapped).run, []

    def short(self, rows):
        if (n := len(rows.query)) > 2 * len(PROMPTS):
            raise torch.OutOfMemoryError("test")
        calls.append(n)
        return run(self, rows)

    monkeypatch.setattr(sizes, "WORTHWHILE", 0 if reuse else float("inf"))
    wanted = attribute(m, PROMPTS, TARGETS[False], "occlusion")
    monkeypatch.setattr(type(m.wrapped), "run", short)
    for a, b in zip(wanted, attribute(m, PROMPTS, TARGETS[False], "occlusion"), strict=True):
        same(a.scores, b.scores)
    assert max(calls) == 2 * len(PROMPTS)
    bound = Engine(m.wrapped, m.encode(PROMPTS, TARGETS[False]), Objective(step_functions.get("logits")), ("target",))

    def none(*_):
        raise torch.OutOfMemoryError("test")

    monkeypatch.setattr(type(m.wrapped), "run", none)
    with pytest.raises(OutOfMemoryError, match="a single changed version"):
        bound.rescore(3, lambda start, stop: {"target_embeds": bound.embeddings("target").repeat(stop - start, 1, 1)})


def test_late_changes_run_together(model, monkeypatch):
    """What they leave out of the sequences makes room for more of them in a call."""
    m = model("gpt2")
    examples = m.encode(PROMPTS[0], " ".join([PROMPTS[0], *["te pari"] * 30]))
    monkeypatch.setattr(sizes, "WORTHWHILE", 0)
    monkeypatch.setattr(sizes, "LOGIT_BYTES", examples[0].n_steps * m.wrapped.vocab_size * 8 * 4)  # four whole ones
    bound = Engine(m.wrapped, examples, Objective(step_functions.get("logits")), ("target",))
    rows, rerun = [], prefix.Prefix.rerun
    monkeypatch.setattr(prefix.Prefix, "rerun", lambda p, n, x: rows.append(len(x)) or rerun(p, n, x))
    methods.build("occlusion")(bound)
    rows = rows[1:]  # the first one finds out whether prefixes can be reused
    assert rows[0] == 4
    assert max(rows) >= 6
    assert rows[:-1] == sorted(rows[:-1])


def test_tokens_that_are_their_own_baseline_do_not_hide_what_comes_after_them(model, monkeypatch):
    """A version that changes nothing does not mean that those run together with it change nothing."""
    m = model("gpt2")
    first = m.encode(PROMPTS[0], TARGETS[False][0])[0]
    own = first.target_ids[4]
    monkeypatch.setattr(sizes, "WORTHWHILE", float("inf"))
    (wanted,) = attribute(m, PROMPTS[:1], TARGETS[False][:1], "occlusion", baseline=own)
    monkeypatch.setattr(sizes, "WORTHWHILE", 0)
    monkeypatch.setattr(
        sizes, "LOGIT_BYTES", first.n_steps * m.wrapped.vocab_size * 8 * 4
    )  # a call begins with that token
    (found,) = attribute(m, PROMPTS[:1], TARGETS[False][:1], "occlusion", baseline=own)
    assert (wanted.scores[:, 4].nan_to_num() == 0).all()
    assert (wanted.scores[-1, 5:8].nan_to_num() != 0).any()
    same(found.scores, wanted.scores)


def test_prefixes_are_not_reused_where_a_cache_gives_other_logits(model, monkeypatch):
    m = model("gpt2")
    wanted = attribute(m, PROMPTS, TARGETS[False], "occlusion")
    right = prefix.Prefix.cache

    def wrong(self, length, repeat):
        cache = right(self, length, repeat)
        for layer in cache.layers:
            layer.keys = layer.keys * 2
        return cache

    monkeypatch.setattr(prefix.Prefix, "cache", wrong)
    monkeypatch.setattr(m.wrapped, "reuses_prefix", None)
    monkeypatch.setattr(sizes, "WORTHWHILE", 0)
    for a, b in zip(wanted, attribute(m, PROMPTS, TARGETS[False], "occlusion"), strict=True):
        same(a.scores, b.scores)
    assert m.wrapped.reuses_prefix is False


def test_long_targets_get_several_graphs(model, monkeypatch):
    """The number of graphs follows from what they cost: one for short targets, several for long ones."""
    m = model("gpt2")
    monkeypatch.setattr(gradients, "_FIXED_WIDTH", 0.0)  # as in a model so wide that only arithmetic counts
    few, many = m.encode(PROMPTS[0], f"{PROMPTS[0]} te"), m.encode("ki", " ".join(["ki"] + ["te pari"] * 30))
    for examples, groups in ((few, 1), (many, 3)):
        bound = Engine(m.wrapped, examples, Objective(step_functions.info("logits").build()), ("target",))
        found = Gradients(bound, bound.reusable_prefix, None, (1.0,), (1.0,), None, None, None, None, None)._groups()
        assert len(found) >= groups
        assert (found[0].start, found[-1].stop) == (0, examples[0].n_steps)
        assert all(a.stop == b.start for a, b in itertools.pairwise(found))


def test_calls_are_as_large_as_gains_anything(model, monkeypatch):
    """Few rows where logits are large, many where sequences are short."""
    m = model("gpt2")
    examples = m.encode(PROMPTS[0], TARGETS[False][0])
    bound = Engine(m.wrapped, examples, Objective(step_functions.info("logits").build()), ("target",))
    wanted = attribute(m, PROMPTS, TARGETS[False], "occlusion")
    plain, products = bound.sizes.rows_at_once(), bound.sizes.rows_at_once(products=True)
    assert bound.sizes.rows_at_once(products=True, left_out=bound.batch.target_ids.shape[1] // 2) > products
    size = bound.values().element_size() * bound.batch.n_steps * m.wrapped.vocab_size
    monkeypatch.setattr(sizes, "LOGIT_BYTES", 3 * size)
    assert bound.sizes.rows_at_once() == 3 < plain
    assert bound.sizes.rows_at_once(products=True) == products
    for a, b in zip(wanted, attribute(m, PROMPTS, TARGETS[False], "occlusion"), strict=True):
        same(a.scores, b.scores)


def test_logits_are_copied_only_where_positions_are_picked(model):
    """Steps at every kept position get the model's own logits, others theirs, in any order."""
    m = model("gpt2")
    caught = []
    hook = m.model.register_forward_hook(lambda _module, _args, output: caught.append(output.logits))
    try:
        ids = torch.arange(10, 20).unsqueeze(0)
        found = [m.wrapped.run(Rows(target_ids=ids, query=torch.tensor([q]))) for q in ([4, 5, 6, 7], [7, 4, 5, 5])]
    finally:
        hook.remove()
    assert found[0].data_ptr() == caught[0].data_ptr() and found[1].data_ptr() != caught[1].data_ptr()
    assert torch.equal(found[1], found[0][:, [3, 0, 1, 1]])


NO_MEMORY = (
    torch.OutOfMemoryError("test"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
)


@pytest.mark.parametrize("error", NO_MEMORY, ids=["gpu", "cpu"])
@pytest.mark.parametrize("method", METHODS)
def test_out_of_memory_is_retried_smaller(model, method, error, monkeypatch):
    """A device that only fits two rows at once: the numbers are the same; one that fits none gives one clear error."""
    m = model("llama-gqa")
    wanted = attribute(m, PROMPTS, TARGETS[False], method)
    forward = type(m.model).forward
    limit = 2

    def small(self, *args, **kwargs):
        given = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
        if given.shape[0] > limit:
            raise error
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(m.model), "forward", small)
    for a, b in zip(wanted, attribute(m, PROMPTS, TARGETS[False], method), strict=True):
        same(a.scores, b.scores)
    limit = 0
    if methods.info(method).meta["runs_model"]:
        with pytest.raises(attriflow.AttriflowError, match="memory"):
            attribute(m, PROMPTS, TARGETS[False], method)


def test_a_model_that_ignores_logits_to_keep(model, monkeypatch):
    """Some models take the argument and return the logits of every position: the right ones are still read."""
    m = model("llama-gqa")
    forward = type(m.model).forward

    def deaf(self, *args, logits_to_keep=0, **kwargs):
        return forward(self, *args, **kwargs)

    for method in METHODS:
        wanted = attribute(m, PROMPTS, TARGETS[False], method, step_scores=["probability"])
        with monkeypatch.context() as patch:
            patch.setattr(type(m.model), "forward", deaf)
            found = attribute(m, PROMPTS, TARGETS[False], method, step_scores=["probability"])
        for a, b in zip(wanted, found, strict=True):
            same(a.scores, b.scores)
            same(a.step_scores["probability"], b.step_scores["probability"])
