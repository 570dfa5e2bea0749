"""The slow, obvious way: one model call per target step (and per changed token), on the truncated prefix.

Judges the shared-pass engine; written with plain transformers calls and nothing of attriflow.
"""

from __future__ import annotations

import torch


def _logits(hf, decoder_only, embeds):
    if decoder_only:
        return hf(inputs_embeds=embeds, use_cache=False).logits[0, -1]
    source, target = embeds
    return hf(inputs_embeds=source, decoder_inputs_embeds=target, use_cache=False).logits[0, -1]


def _embed(hf, ids, block, model):
    return model.wrapped.embed(torch.tensor([ids]), block).detach()


def steps(example):
    return range(example.start, example.stop)


def probability(logits, token):
    return logits.softmax(-1)[token]


def prefix_embeddings(model, example, end):
    """Source (or None) and decoder-prefix embeddings."""
    hf = model.model
    source = _embed(hf, example.source_ids, "source", model) if example.source else None
    return source, _embed(hf, example.target_ids[:end], "target", model)


def score(model, example, end, source, target, function=probability):
    hf = model.model
    # as the forward takes them: some decoders scale what they are given, which lies behind that scale here
    feeds = model.wrapped.feeds
    source, target = source if source is None else source / feeds["source"].inner, target / feeds["target"].inner
    embeds = target if source is None else (source, target)
    return function(_logits(hf, source is None, embeds), example.target_ids[end])


def gradients(model, example, function=probability):
    """Per step: (source gradient or None, prefix gradient), each [position, hidden]."""
    out = []
    for end in steps(example):
        source, target = prefix_embeddings(model, example, end)
        leaves = [t.requires_grad_(True) for t in (source, target) if t is not None]
        grads = torch.autograd.grad(score(model, example, end, source, target, function), leaves)
        out.append((grads[0][0] if source is not None else None, grads[-1][0]))
    return out


@torch.no_grad()
def occlusion(model, example, baseline_id, keep=(), function=probability):
    """Per step: (source effects or None, prefix effects); ids in `keep` and the decoder start stay."""
    out = []
    for end in steps(example):
        source, target = prefix_embeddings(model, example, end)
        base = score(model, example, end, source, target, function)
        effects = []
        for block, part in (("source", source), ("target", target)):
            if part is None:
                effects.append(None)
                continue
            ids = example.source_ids if block == "source" else example.target_ids
            row = []
            for i in range(part.shape[1]):
                changed = part.clone()
                if ids[i] not in keep and not (block == "target" and i == 0 and example.source):
                    changed[0, i] = _embed(model.model, [baseline_id], block, model)[0, 0]
                pair = (changed, target) if block == "source" else (source, changed)
                row.append(base - score(model, example, end, *pair, function))
            effects.append(torch.stack(row))
        out.append(tuple(effects))
    return out
