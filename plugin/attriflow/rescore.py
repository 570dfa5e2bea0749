"""The third primitive for metrics: target log-probabilities under deleted, replaced or masked inputs, packed.

Variants of many examples, steps and methods become rows of ids; equal rows are run once, rows are sorted by length and
packed into full calls, and every row answers all the steps that were asked of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attriflow.engine import CHUNK_BYTES, Counter
from attriflow.errors import InputError, OutOfMemoryError, check_choice
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.batch import pad
from attriflow.types import Example, Token, Variant

HOW = ("delete", "baseline", "mask")


@dataclass
class _Row:
    """One sequence to run, and the (step, target id, query position) triples to read from it."""

    source: tuple[int, ...]
    source_mask: tuple[int, ...]
    target: tuple[int, ...]
    target_mask: tuple[int, ...]
    query: tuple[int, ...]
    target_ids: tuple[int, ...]
    readers: list[tuple[int, int, int]] = field(default_factory=list)  # (variant, place in its answer, column)


@torch.no_grad()
def rescore(
    model: LanguageModel,
    examples: Sequence[Example],
    variants: Sequence[tuple[int, Variant]],
    *,
    attribute_target: bool = False,
    batch_size: int | None = None,
    counter: Counter | None = None,
) -> list[Tensor]:
    """Log-probability of the target tokens under changed inputs.

    Special tokens always stay, as does the decoder start token. When a step's whole prefix is deleted, it is predicted
    from a single BOS (else EOS, else pad) token.

    Args:
        model: The wrapped model.
        examples: Encoded examples.
        variants: (index into `examples`, variant) pairs; `keep` runs over the attribution's inputs: source tokens, then
            (decoder-only, or with `attribute_target`) all decoder tokens.
        attribute_target: Whether an encoder-decoder's inputs include the decoder tokens.
        batch_size: Rows per model call; by memory when None.
        counter: Counts passes.

    Returns:
        One float64 tensor per variant, in nats: `[1]` for a variant with a step, `[step]` otherwise.

    Complexity: one forward per distinct changed sequence, whatever the number of steps and thresholds that ask for it.
    """
    answers: list[Tensor] = []
    rows: dict[tuple[object, ...], _Row] = {}
    grouped: dict[tuple[int, str, tuple[bool, ...]], list[tuple[int, int, int]]] = {}
    for number, (index, variant) in enumerate(variants):
        example = examples[index]
        check_choice("perturbation", variant.how, HOW)
        steps = range(example.n_steps) if variant.step is None else [variant.step]
        answers.append(torch.zeros(len(steps), dtype=torch.float64))
        keep = _with_specials(example, variant.keep, attribute_target)
        group = grouped.setdefault((index, variant.how, keep), [])
        for place, step in enumerate(steps):
            if not 0 <= step < example.n_steps:
                raise InputError(f"step {step} is outside the example's {example.n_steps} steps")
            group.append((step, number, place))
    for (index, how, keep), wanted in grouped.items():
        for row in _rows(model, examples[index], how, keep, wanted):
            key = (row.source, row.source_mask, row.target, row.target_mask, row.query, row.target_ids)
            same = rows.setdefault(key, row)
            if same is not row:
                same.readers.extend(row.readers)
    _run(model, sorted(rows.values(), key=lambda r: (len(r.source), len(r.target))), answers, batch_size, counter)
    return answers


def _with_specials(example: Example, keep: tuple[bool, ...], attribute_target: bool) -> tuple[bool, ...]:
    tokens = example.inputs(attribute_target)
    if len(keep) != len(tokens):
        raise InputError(f"keep has {len(keep)} entries, the attribution has {len(tokens)} inputs")
    return tuple(bool(k) or t.special for k, t in zip(keep, tokens, strict=True))


def _rows(
    model: LanguageModel, example: Example, how: str, keep: tuple[bool, ...], wanted: list[tuple[int, int, int]]
) -> list[_Row]:
    n_source = len(example.source)
    keep_source = keep[:n_source]
    keep_target = list(keep[n_source:]) or [True] * example.stop
    if model.is_encoder_decoder:
        keep_target[0] = True  # the decoder start token is no evidence
    source, source_mask = _changed(model, example.source, keep_source, how)
    if model.is_encoder_decoder and not any(source_mask):
        source, source_mask = (_substitute(model),), (1,)
    by_length: dict[bool, list[tuple[int, int, int]]] = {}
    for step, number, place in wanted:
        by_length.setdefault(any(keep_target[: example.start + step]), []).append((step, number, place))
    out = []
    for nonempty, asked in by_length.items():
        steps = sorted({step for step, _, _ in asked})
        ids: tuple[int, ...] = (_substitute(model),)
        mask: tuple[int, ...] = (1,)
        query: list[int] = [0] * len(steps)
        if nonempty:
            end = example.start + steps[-1]
            ids, mask = _changed(model, example.target[:end], keep_target[:end], how)
            ends = [example.start + s for s in steps]
            query = [(sum(keep_target[:e]) if how == "delete" else e) - 1 for e in ends]
        row = _Row(
            source=source,
            source_mask=source_mask,
            target=ids,
            target_mask=mask,
            query=tuple(query),
            target_ids=tuple(example.target[example.start + s].id for s in steps),
        )
        column = {step: i for i, step in enumerate(steps)}
        row.readers = [(number, place, column[step]) for step, number, place in asked]
        out.append(row)
    return out


def _changed(
    model: LanguageModel, tokens: Sequence[Token], keep: Sequence[bool], how: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids and attention mask of a token sequence with some tokens deleted, replaced or masked."""
    if how == "delete":
        ids = tuple(t.id for t, k in zip(tokens, keep, strict=True) if k)
        return ids, (1,) * len(ids)
    if how == "baseline":
        tokenizer = model.tokenizer
        found = [i for i in (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None]
        if not found:
            raise InputError(f"the tokenizer of {model.name} has no unk, pad or EOS token to use as baseline")
        return tuple(t.id if k else int(found[0]) for t, k in zip(tokens, keep, strict=True)), (1,) * len(tokens)
    return tuple(t.id for t in tokens), tuple(int(k) for k in keep)


def _substitute(model: LanguageModel) -> int:
    tokenizer = model.tokenizer
    found = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None]
    return int(found[0]) if found else 0


def _run(
    model: LanguageModel, rows: list[_Row], answers: list[Tensor], batch_size: int | None, counter: Counter | None
) -> None:
    at, limit = 0, batch_size
    while at < len(rows):
        if limit is None:
            longest = len(rows[min(len(rows) - 1, at + 63)].target) + len(rows[at].source)
            most = max(len(r.query) for r in rows[at : at + 64])
            size = max(
                1, min(512, int(CHUNK_BYTES // (4 * (longest * model.hidden_size * 16 + most * model.vocab_size * 3))))
            )
        else:
            size = limit
        chunk = rows[at : at + size]
        try:
            values = _call(model, chunk)
        except torch.OutOfMemoryError:
            if size == 1:
                raise OutOfMemoryError("out of memory with a single changed input") from None
            limit = max(1, size // 2)
            continue
        if counter is not None:
            counter.forward_rows += len(chunk)
            counter.forward_calls += 1
        for row, row_values in zip(chunk, values, strict=True):
            for number, place, column in row.readers:
                answers[number][place] = row_values[column]
        at += size


def _call(model: LanguageModel, chunk: list[_Row]) -> Tensor:
    """Log-probabilities `[row, column]` on the CPU."""
    device = model.device
    target_ids, present = pad([r.target for r in chunk], model.pad_id, device)
    target_mask, _ = pad([r.target_mask for r in chunk], 1, device)
    query, _ = pad([r.query for r in chunk], chunk[0].query[0], device)
    wanted, _ = pad([r.target_ids for r in chunk], 0, device)
    fields: dict[str, Tensor] = {}
    if model.is_encoder_decoder:
        source_ids, source_present = pad([r.source for r in chunk], model.pad_id, device)
        source_mask, _ = pad([r.source_mask for r in chunk], 0, device)
        fields = {"source_ids": source_ids, "source_mask": source_mask * source_present}
    if not bool(target_mask.all()):
        fields["target_mask"] = target_mask
    query = torch.minimum(query, present.sum(1, keepdim=True) - 1)
    logits = model.run(Rows(target_ids=target_ids, query=query, **fields))
    picked = logits.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    return picked.double().cpu()
