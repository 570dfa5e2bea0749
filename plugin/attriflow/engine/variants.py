"""The third primitive for metrics: target log-probabilities under deleted, replaced, masked or thinned inputs, packed.

Variants of many examples, steps and methods become rows of ids; equal rows are run once, rows are sorted by length and
packed into full calls, and every row answers all the steps that were asked of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from attriflow.engine.baselines import baseline_id
from attriflow.engine.bound import Counter
from attriflow.engine.infill import DRAWS, INFILLS, Fill, Fills, averaged
from attriflow.engine.memory import Halving
from attriflow.engine.sizes import Sizes
from attriflow.errors import InputError, check_choice
from attriflow.kernels.plain import shortcuts
from attriflow.kernels.seeds import hashed
from attriflow.kernels.transfer import sent
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.batch import pad
from attriflow.types import Example, Perturbation, Token, Variant

TOKENS = {"baseline": "unk", "unk": "unk", "pad": "pad", "eos": "eos", "bos": "bos", "mask_token": "mask"}
"""How a token is replaced -> the name of the token that replaces it."""
HOW = ("delete", "mask", *INFILLS, *TOKENS, "soft")

_Wanted = tuple[int, int, int]  # explained token, variant, place in the variant's answer


@dataclass
class _Row:
    """One sequence to run, and the (step, target id, query position) triples to read from it.

    The chances of embedding elements to stay (`source_stay`, `target_stay`) are empty where all of them do.
    """

    source: tuple[int, ...]
    source_mask: tuple[int, ...]
    target: tuple[int, ...]
    target_mask: tuple[int, ...]
    query: tuple[int, ...]
    target_ids: tuple[int, ...]
    source_stay: tuple[float, ...] = ()
    target_stay: tuple[float, ...] = ()
    draw: int = 0
    readers: list[tuple[int, int, int]] = field(default_factory=list)  # (variant, place in its answer, column)


@torch.no_grad()
def score_variants(
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
            (decoder-only, or with `attribute_target`) all decoder tokens. For "soft" they are chances: each element of
            a token's embedding stays with that chance or is 0 (Zhao and Aletras 2023, arXiv:2305.10496). The random
            numbers behind it depend on the draw, the position and the element only, so that all variants share them.
        attribute_target: Whether an encoder-decoder's inputs include the decoder tokens.
        batch_size: Rows per model call; by memory when None.
        counter: Counts passes.

    Returns:
        One float64 tensor per variant, in nats: `[1]` for a variant with a step, `[step]` otherwise. A span has the sum
        (or mean) over its tokens, each read after its own changed prefix.

    Complexity: one forward per distinct changed sequence, whatever the number of steps and thresholds that ask for it.
    """
    rows, answers = _planned(model, examples, variants, attribute_target, Fills(model, examples, counter))
    for soft in (False, True):
        some = [r for r in rows if bool(r.source_stay or r.target_stay) is soft]
        _run(model, sorted(some, key=lambda r: (len(r.source), len(r.target))), answers, batch_size, counter)
    out = []
    for (index, variant), answer in zip(variants, answers, strict=True):
        values = _of_steps(examples[index], variant, answer)
        out.append(averaged(values) if variant.how in INFILLS else values)
    return out


def count_rows(
    model: LanguageModel,
    examples: Sequence[Example],
    variants: Sequence[tuple[int, Variant]],
    *,
    attribute_target: bool = False,
) -> int:
    """How many sequences `score_variants` would send through the model; nothing is run."""
    drawn = Fills(model, examples)
    return len(_planned(model, examples, variants, attribute_target, lambda index, _how: drawn(index, INFILLS[0]))[0])


def _planned(
    model: LanguageModel,
    examples: Sequence[Example],
    variants: Sequence[tuple[int, Variant]],
    attribute_target: bool,
    fills: Callable[[int, str], list[Fill]],
) -> tuple[list[_Row], list[Tensor]]:
    """Distinct rows with who reads them, and the answers they will fill; infilled ones one draw after the other."""
    answers: list[Tensor] = []
    rows: dict[tuple[object, ...], _Row] = {}
    grouped: dict[tuple[int, Perturbation, int, tuple[float, ...]], list[_Wanted]] = {}
    for number, (index, variant) in enumerate(variants):
        example = examples[index]
        if not isinstance(variant.how, int):
            check_choice("perturbation", variant.how, HOW)
        steps = [token for part in _tokens(example, variant) for token in part]
        draws = DRAWS if variant.how in INFILLS else 1
        answers.append(torch.zeros(draws * len(steps), dtype=torch.float64))
        keep = _with_specials(example, variant, attribute_target)
        group = grouped.setdefault((index, variant.how, variant.draw, keep), [])
        for place, step in enumerate(steps):
            group.append((step, number, place))
    for (index, how, draw, keep), wanted in grouped.items():
        if how == "soft":
            made = _soft_row(model, examples[index], draw, keep, wanted)
        elif isinstance(how, str) and how in INFILLS:
            widths = {number: len(answers[number]) // DRAWS for _, number, _ in wanted}
            made = [
                row
                for draw, fill in enumerate(fills(index, how))
                for row in _rows(
                    model, examples[index], how, keep, [(s, n, p + draw * widths[n]) for s, n, p in wanted], fill
                )
            ]
        else:
            made = _rows(model, examples[index], how, keep, wanted)
        for row in made:
            key = (row.source, row.source_mask, row.target, row.target_mask, row.query, row.target_ids)
            same = rows.setdefault((*key, row.source_stay, row.target_stay, row.draw), row)
            if same is not row:
                same.readers.extend(row.readers)
    return list(rows.values()), answers


def _tokens(example: Example, variant: Variant) -> list[range]:
    """The explained tokens of each wanted step, counted from the first explained one."""
    if variant.step is not None and not 0 <= variant.step < example.n_steps:
        raise InputError(f"step {variant.step} is outside the example's {example.n_steps} steps")
    steps = range(example.n_steps) if variant.step is None else [variant.step]
    return [range(a - example.start, b - example.start) for a, b in map(example.positions, steps)]


def _of_steps(example: Example, variant: Variant, answer: Tensor) -> Tensor:
    """Log-probabilities of steps, of those of their tokens, one draw after the other."""
    if example.spans is None:
        return answer
    lengths = [len(part) for part in _tokens(example, variant)]
    parts = answer.view(-1, sum(lengths)).split(lengths, -1)
    return torch.stack([p.mean(-1) if example.span_value == "mean" else p.sum(-1) for p in parts], -1).flatten()


def _with_specials(example: Example, variant: Variant, attribute_target: bool) -> tuple[float, ...]:
    tokens = example.inputs(attribute_target)
    if len(variant.keep) != len(tokens):
        raise InputError(f"keep has {len(variant.keep)} entries, the attribution has {len(tokens)} inputs")
    if variant.how != "soft":
        return tuple(bool(k) or t.special for k, t in zip(variant.keep, tokens, strict=True))
    if not all(0 <= k <= 1 for k in variant.keep):
        raise InputError("chances to stay must lie between 0 and 1")
    return tuple(1.0 if t.special else float(k) for k, t in zip(variant.keep, tokens, strict=True))


def _soft_row(
    model: LanguageModel, example: Example, draw: int, stay: tuple[float, ...], wanted: list[_Wanted]
) -> list[_Row]:
    """One row for all steps: nothing moves, only elements of embeddings are zeroed."""
    n_source, steps = len(example.source), sorted({step for step, _, _ in wanted})
    end = example.start + steps[-1]
    target_stay = list(stay[n_source:])[:end] or [1.0] * end
    if model.is_encoder_decoder:
        target_stay[0] = 1.0  # the decoder start token is no evidence
    column = {step: i for i, step in enumerate(steps)}
    row = _Row(
        source=tuple(example.source_ids),
        source_mask=(1,) * n_source,
        target=tuple(t.id for t in example.target[:end]),
        target_mask=(1,) * end,
        query=tuple(example.start + s - 1 for s in steps),
        target_ids=tuple(example.target[example.start + s].id for s in steps),
        source_stay=stay[:n_source],
        target_stay=tuple(target_stay),
        draw=draw,
        readers=[(number, place, column[step]) for step, number, place in wanted],
    )
    return [row]


def _rows(
    model: LanguageModel,
    example: Example,
    how: Perturbation,
    keep: tuple[float, ...],
    wanted: list[_Wanted],
    fill: Fill | None = None,
) -> list[_Row]:
    n_source = len(example.source)
    keep_source = [bool(k) for k in keep[:n_source]]
    keep_target = [bool(k) for k in keep[n_source:]] or [True] * example.stop
    if model.is_encoder_decoder:
        keep_target[0] = True  # the decoder start token is no evidence
    fill_source, fill_target = fill or (None, None)
    source, source_mask = _changed(model, example.source, keep_source, how, fill_source)
    if model.is_encoder_decoder and not any(source_mask):
        source, source_mask = (_substitute(model),), (1,)
    by_length: dict[bool, list[_Wanted]] = {}
    for step, number, place in wanted:
        # a text of nothing but other tokens is no empty one
        readable = how not in ("delete", "mask") or any(keep_target[: example.start + step])
        by_length.setdefault(readable, []).append((step, number, place))
    out = []
    for nonempty, asked in by_length.items():
        steps = sorted({step for step, _, _ in asked})
        ids: tuple[int, ...] = (_substitute(model),)
        mask: tuple[int, ...] = (1,)
        query: list[int] = [0] * len(steps)
        if nonempty:
            end = example.start + steps[-1]
            ids, mask = _changed(model, example.target[:end], keep_target[:end], how, fill_target)
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
    model: LanguageModel, tokens: Sequence[Token], keep: Sequence[bool], how: Perturbation, fill: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids and attention mask of a token sequence with some tokens deleted, replaced or masked."""
    if how == "delete":
        ids = tuple(t.id for t, k in zip(tokens, keep, strict=True) if k)
        return ids, (1,) * len(ids)
    if how == "mask":
        return tuple(t.id for t in tokens), tuple(int(k) for k in keep)
    if fill is None:
        fill = [baseline_id(model, how if isinstance(how, int) else TOKENS[how])] * len(tokens)
    return tuple(t.id if k else f for t, k, f in zip(tokens, keep, fill, strict=False)), (1,) * len(tokens)


def _substitute(model: LanguageModel) -> int:
    tokenizer = model.tokenizer
    found = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None]
    return int(found[0]) if found else 0


def _run(
    model: LanguageModel, rows: list[_Row], answers: list[Tensor], batch_size: int | None, counter: Counter | None
) -> None:
    def size(at: int) -> int:
        if not shortcuts() or not model.checked.works("rows"):
            return 1
        alike = len(rows)
        if not model.checked.works("padding"):
            alike = next((i for i in range(at, len(rows)) if lengths(rows[i]) != lengths(rows[at])), alike) - at
        return min(alike, batch_size or fitting(at))

    def lengths(row: _Row) -> tuple[int, int]:
        return len(row.source), len(row.target)

    def fitting(at: int) -> int:
        target, source = len(rows[min(len(rows) - 1, at + 63)].target), len(rows[at].source)
        most = max(len(r.query) for r in rows[at : at + 64])
        return min(512, Sizes(model, 1, target, source, most).fitting())

    def score(start: int, stop: int) -> None:
        chunk = rows[start:stop]
        values = _call(model, chunk)
        if counter is not None:
            counter.forward_rows += len(chunk)
            counter.forward_calls += 1
        for row, row_values in zip(chunk, values, strict=True):
            for number, place, column in row.readers:
                answers[number][place] = row_values[column]

    Halving("a single changed input").each(len(rows), size, score)


def _call(model: LanguageModel, chunk: list[_Row]) -> Tensor:
    """Log-probabilities `[row, column]` on the CPU."""
    target_ids, present = pad([r.target for r in chunk], model.pad_id)
    target_mask, _ = pad([r.target_mask for r in chunk], 1)
    query, _ = pad([r.query for r in chunk], chunk[0].query[0])
    query = torch.minimum(query, present.sum(1, keepdim=True) - 1)
    made = {"wanted": pad([r.target_ids for r in chunk], 0)[0], "query": query, "target_ids": target_ids}
    if model.is_encoder_decoder:
        source_ids, source_present = pad([r.source for r in chunk], model.pad_id)
        source_mask, _ = pad([r.source_mask for r in chunk], 0)
        made |= {"source_ids": source_ids, "source_mask": source_mask * source_present}
    if not bool(target_mask.all()):
        made["target_mask"] = target_mask
    fields = dict(zip(made, sent(list(made.values()), model.device), strict=True))
    wanted = fields.pop("wanted")
    if chunk[0].source_stay or chunk[0].target_stay:
        for block in model.sides:
            stay = [r.source_stay if block == "source" else r.target_stay for r in chunk]
            fields[f"{block}_embeds"] = _thinned(model, block, fields[f"{block}_ids"], stay, [r.draw for r in chunk])
    logits = model.run(Rows(**fields, places=query))
    picked = logits.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    return picked.double().cpu()


def _thinned(
    model: LanguageModel, block: str, ids: Tensor, stay: Sequence[Sequence[float]], draws: Sequence[int]
) -> Tensor:
    """Embeddings `[row, position, hidden]` of which each element stays with its token's chance."""
    embeds = model.embed(ids, block)
    chances = torch.ones(ids.shape)
    for row, values in zip(chances, stay, strict=True):
        row[: len(values)] = torch.tensor(values)
    shape = (embeds.shape[1], embeds.shape[2])
    drawn = {draw: _uniform(block, draw, shape) for draw in set(draws)}
    kept = torch.stack([drawn[draw] for draw in draws]) < chances.unsqueeze(-1)
    return embeds * kept.to(embeds.device, embeds.dtype)


def _uniform(block: str, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1), `[position, hidden]`; those of a position are the same in longer sequences."""
    rng = np.random.default_rng(hashed(f"{block}/{draw}", size=4))
    return torch.from_numpy(rng.random(shape, dtype=np.float32))
