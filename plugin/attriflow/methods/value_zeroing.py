"""Value zeroing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

import attriflow.engine.sizes
from attriflow.engine import Engine, Scores
from attriflow.engine.memory import Halving, fits
from attriflow.errors import InputError, UnsupportedModelError, out_of_memory
from attriflow.kernels.plain import shortcuts
from attriflow.kernels.positions import at
from attriflow.kernels.transfer import home, sent
from attriflow.models.attention import interface_works
from attriflow.models.blocks import BlockRecord, record_blocks
from attriflow.registry import methods

Metric = Literal["cosine", "euclidean"]
Heads = int | list[int] | dict[int, int | list[int] | None] | None

LEAST = 1e-5
"""Changes below this are taken for rounding and set to zero."""


@methods.register(
    "value_zeroing",
    family="internals",
    blind="What changes in a layer, also where later layers ignore it; the explained function plays no part.",
    cost="L layer replays of the T query positions",
    axes="step, input, layer",
    deterministic=True,
    signed=False,
    interface=True,
    paper="Mohebbi et al. 2023, arXiv:2301.12971",
    floor=lambda problem, **_: problem.values_zeroed(),
    memory=lambda sizes, **_: sizes.replayed(),
)
@dataclass(frozen=True)
class ValueZeroing:
    r"""How much a layer's output at a position changes when the value vector of one token is zeroed in its attention.

    $1 - \cos(\tilde{x}_i^{l}, \tilde{x}_i^{l \setminus j})$ (section 3 of the paper) for receiving position i, the one
    that predicts the step, and zeroed token j. Each layer is on its own: its input is the unchanged hidden state. A
    stack that ends in a norm has its last layer compared after that norm. Values below 1e-5 are set to 0, and a
    layer's scores of a step sum to one over the tokens. Decoder-only models: self attention. Encoder-decoders: cross
    attention for source tokens, decoder self attention for target tokens. Layers stay as an axis;
    `Attribution.token_scores()` averages them. The explained function plays no part.

    One forward records the layers; then each layer is run again at the receiving positions only, one version per token
    that they attend to.

    Attributes:
        similarity_metric: "cosine" (one minus the cosine) or "euclidean" (L2 distance of the outputs).
        encoder_zeroed_units_indices: Heads whose values are zeroed in the encoder: a head, a list of heads,
            `{layer: heads}` (other layers score 0), or None for all.
        decoder_zeroed_units_indices: The same for decoder self attention.
        cross_zeroed_units_indices: The same for cross attention.
        output_encoder_self_scores: Add the sequence scores `encoder_self`: `[zeroed, receiving, layer]` for the
            encoder.
        output_decoder_self_scores: Add `decoder_self`, the same for all positions of the decoder, NaN where the zeroed
            token comes after the receiving one.
    """

    similarity_metric: Metric = "cosine"
    encoder_zeroed_units_indices: Heads = None
    decoder_zeroed_units_indices: Heads = None
    cross_zeroed_units_indices: Heads = None
    output_encoder_self_scores: bool = False
    output_decoder_self_scores: bool = False

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        for name in ("encoder", "decoder", "cross"):
            option = f"{name}_zeroed_units_indices"
            _check_heads(option, getattr(self, option))

    @torch.no_grad()
    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        model, query = engine.model, engine.batch.query
        if not model.is_encoder_decoder:
            self._check_decoder_only(model.name)
        model.check_attention()
        if not interface_works(model.hf):
            raise UnsupportedModelError(
                f"value zeroing needs transformers.AttentionInterface, which {type(model.hf).__name__} does not use"
            )
        receiving = {"decoder": query}
        if self.output_decoder_self_scores:
            receiving["decoder"] = _everything(engine.batch.target_ids)
        if self.output_encoder_self_scores and engine.batch.source_ids is not None:
            receiving["encoder"] = _everything(engine.batch.source_ids)
        layers = _Layers(self, engine)
        engine.watched()
        with fits("in the pass that records the layers"):
            engine.run_foil()
            with record_blocks(model.hf, receiving, layers.add, model.is_encoder_decoder):
                forward = engine.run(engine.rows())
        engine.offer_base(forward)
        engine.counter.forward_rows += layers.replayed()
        return self._scores(engine, layers)

    def _check_decoder_only(self, name: str) -> None:
        for option in ("encoder_zeroed_units_indices", "cross_zeroed_units_indices", "output_encoder_self_scores"):
            value = getattr(self, option)
            if value is not None and value is not False:
                raise InputError(f"{option} is for encoder-decoders; {name} has a decoder only")

    def _scores(self, engine: Engine, layers: _Layers) -> Scores:
        query, blocks, sequence = engine.batch.query, {}, {}
        for block in engine.blocks:
            found = layers.stacked(block)  # [batch, row, token, layer]
            if self.output_decoder_self_scores:  # rows are all positions
                found = found[torch.arange(len(query), device=found.device).unsqueeze(1), query.to(found.device)]
            blocks[block] = found
        if self.output_decoder_self_scores:
            found = layers.stacked("target").transpose(1, 2)
            position = torch.arange(found.shape[1], device=found.device)
            later = (position.unsqueeze(1) > position).unsqueeze(-1)
            sequence["decoder_self"] = found.masked_fill(later, torch.nan)
        if self.output_encoder_self_scores:
            sequence["encoder_self"] = layers.stacked("encoder").transpose(1, 2)
        return Scores(blocks, ("layer",), sequence_scores=sequence)


class _Layers:
    """Scores of the layers as they are recorded: "target", "source" (cross attention) and "encoder"."""

    def __init__(self, method: ValueZeroing, engine: Engine) -> None:
        self.method, self.engine = method, engine
        # kind -> (stack, number of the attention layer in its block, heads)
        self.kinds: dict[str, tuple[str, int, Heads]] = {}
        if "target" in engine.blocks or method.output_decoder_self_scores:
            self.kinds["target"] = ("decoder", 0, method.decoder_zeroed_units_indices)
        if "source" in engine.blocks:
            self.kinds["source"] = ("decoder", 1, method.cross_zeroed_units_indices)
        if method.output_encoder_self_scores:
            self.kinds["encoder"] = ("encoder", 0, method.encoder_zeroed_units_indices)
        self.found: dict[str, list[Tensor]] = {kind: [] for kind in self.kinds}
        self.sequences = dict.fromkeys(self.kinds, 0.0)
        self._each = Halving("a single changed version of one layer").each

    def stacked(self, kind: str) -> Tensor:
        """`[batch, row, token, layer]`."""
        if not self.found[kind]:
            raise UnsupportedModelError(f"no layer of {self.engine.model.name} showed its attention")
        return torch.stack([t.to(self.found[kind][0].device) for t in self.found[kind]], -1)

    def replayed(self) -> int:
        """Sequences sent through the layers again, in whole passes through a stack."""
        return math.ceil(sum(n / max(1, len(self.found[kind])) for kind, n in self.sequences.items()))

    def add(self, block: BlockRecord) -> None:
        """Score one layer."""
        for kind, (stack, number, heads) in self.kinds.items():
            if stack == block.stack:
                self.found[kind].append(self._layer(block, kind, number, heads))

    def _layer(self, block: BlockRecord, kind: str, number: int, heads: Heads) -> Tensor:
        """Normalised scores, `[batch, row, token]`."""
        present = self.engine.present("target" if kind == "target" else "source").to(block.output.device)
        if number >= len(block.attention) or block.attention[number].weights.shape[-1] != present.shape[1]:
            raise UnsupportedModelError(
                f"{type(block.module).__name__} has no {'cross' if number else 'self'} attention of its own"
            )
        weights = block.attention[number].weights
        chosen = _head_mask(heads, len(self.found[kind]), weights.shape[1])
        chosen = None if chosen is None else chosen.to(weights.device)
        # a token without attention weight changes nothing: tokens to come, padding, tokens outside a window
        needed = (weights if chosen is None else weights[:, chosen]).ne(0).any(1) & present.unsqueeze(1)
        if kind == "source" and self.method.output_decoder_self_scores:
            wanted = torch.zeros_like(needed[..., 0]).scatter_(1, self.engine.batch.query.to(needed.device), True)
            needed &= wanted.unsqueeze(-1)
        raw = self._at_rows(block, kind, number, chosen, needed)
        if raw is None:
            raw = self._whole(block, kind, number, chosen)
        raw = torch.where(needed & (raw >= LEAST), raw, 0.0)
        total = raw.sum(-1, keepdim=True)
        return torch.where(total > 0, raw / total, 0.0)

    def _at_rows(
        self, block: BlockRecord, kind: str, number: int, heads: Tensor | None, needed: Tensor
    ) -> Tensor | None:
        """Change of the output for the needed pairs, `[batch, row, token]`; None if the block mixes positions."""
        n_rows, n_tokens = needed.shape[1:]
        if not (shortcuts() and block.separable(number)):
            return None
        size, found = self._positions_per_call(block, number), [needed, block.attention[number].is_linear()]
        block = block.in_single()
        rows = block.attention[number]

        # every other row, backwards: whatever mixes positions, even by their mean, gives something else for these
        order = torch.arange(n_rows, device=needed.device).flip(0)
        order = torch.cat([order[::2], order[1::2]]).expand(needed.shape[0], -1)

        def check(start: int, stop: int) -> None:
            row = order[:, start:stop]
            found.append(block.reproduces(row, number))
            self.sequences[kind] += row.numel() / block.width

        self._each(n_rows, min(size, (n_rows + 1) // 2), check)
        planned, *safe = home(found)
        if not all(safe):
            return None
        pairs = [example.flatten().nonzero()[:, 0] for example in planned]
        index = pad_sequence(pairs, batch_first=True)  # [batch, pair]
        real = torch.arange(index.shape[1]) < torch.tensor([len(p) for p in pairs]).unsqueeze(1)
        index, places = sent([index, torch.where(real, index, n_rows * n_tokens)], needed.device)
        raw = torch.zeros((len(pairs), n_rows * n_tokens + 1), dtype=self.engine.dtype, device=needed.device)
        clean = block.final(self._clean(block, number, size)).to(self.engine.dtype)

        def score(start: int, stop: int) -> None:
            pair, row = index[:, start:stop], index[:, start:stop] // n_tokens
            changed = rows.without(row, pair % n_tokens, heads)
            output = block.final(block.at(row, {number: changed})).to(clean.dtype)
            batch = torch.arange(len(row), device=row.device).unsqueeze(1).expand_as(row)
            raw.scatter_(1, places[:, start:stop], self._distance(clean[batch, row], output))
            self.sequences[kind] += row.numel() / block.width

        self._each(index.shape[1], size, score)
        return raw[:, :-1].view(needed.shape)

    def _clean(self, block: BlockRecord, number: int, size: int) -> Tensor:
        """Output at all rows, in the precision of those that it is compared with, `[batch, row, hidden]`."""
        if not block.single:
            return block.output
        batch, n_rows = block.positions.shape
        every, parts = torch.arange(n_rows, device=block.output.device).expand(batch, -1), list[Tensor]()

        def run(start: int, stop: int) -> None:
            row = every[:, start:stop]
            parts.append(block.at(row, {number: at(block.attention[number].output, row)}))

        self._each(n_rows, size, run)
        return torch.cat(parts, 1)

    def _whole(self, block: BlockRecord, kind: str, number: int, heads: Tensor | None) -> Tensor:
        """The same by running the block on whole sequences, once per token."""
        weights, single = block.attention[number].weights, block.in_single()
        clean = block.output
        if single.single and (plain := self._run_whole(single, number)) is not None:
            block, clean = single, plain
        clean = block.final(clean).to(self.engine.dtype)
        batch, n_rows = clean.shape[:2]
        n_tokens = weights.shape[-1]
        raw = torch.zeros((batch, n_rows, n_tokens), dtype=clean.dtype, device=clean.device)
        item = torch.finfo(self.engine.model.dtype).bits / 8
        keys = max(rows.weights.shape[-1] for rows in block.attention)
        one = batch * block.width * item * (clean.shape[-1] * 32 + weights.shape[1] * keys * 4)

        def score(start: int, stop: int) -> None:
            tokens = torch.arange(start, stop, device=clean.device)
            output = block.final(block.whole(number, tokens, heads).flatten(0, 1)).to(clean.dtype)
            raw[:, :, start:stop] = self._distance(clean, output.unflatten(0, (-1, batch))).permute(1, 2, 0)
            self.sequences[kind] += batch * len(tokens)

        self._each(n_tokens, max(1, int(attriflow.engine.sizes.CHUNK_BYTES / one)), score)
        return raw

    def _run_whole(self, block: BlockRecord, number: int) -> Tensor | None:
        """A block in single precision with nothing zeroed, `[batch, row, hidden]`; None where it cannot run so."""
        heads = block.attention[number].weights.shape[1]
        none = torch.zeros(heads, dtype=torch.bool, device=block.output.device)
        try:
            return block.whole(number, none.new_zeros(1, dtype=torch.long), none)[0]
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            return None

    def _distance(self, clean: Tensor, changed: Tensor) -> Tensor:
        """`[..., hidden]` twice to `[...]`."""
        if self.method.similarity_metric == "euclidean":
            return (clean - changed).norm(dim=-1)
        # half the squared distance of unit vectors is one minus their cosine, without its cancellation
        return (normalize(clean, dim=-1) - normalize(changed, dim=-1)).square().sum(-1) / 2

    def _positions_per_call(self, block: BlockRecord, number: int) -> int:
        """Positions of each example that one call may hold."""
        item, budget = torch.finfo(self.engine.model.dtype).bits / 8, attriflow.engine.sizes.CHUNK_BYTES / 2
        batch, heads = block.attention[number].weights.shape[:2]
        attended = sum(rows.weights.shape[-1] for rows in block.attention[number + 1 :])
        linear = batch * item * (block.output.shape[-1] * 32 + heads * attended * 4)
        # a block may compute something for all pairs of its positions, as the first of T5 does
        square = item * heads * 2 + 48
        return max(1, int(min(budget / linear, math.sqrt(budget / square))))


def _everything(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)


def _check_heads(option: str, heads: Heads) -> None:
    layers = heads if isinstance(heads, dict) else {0: heads}
    many = [head for chosen in layers.values() if chosen is not None for head in _listed(chosen)]
    if any(number < 0 for number in (*layers, *many)):
        raise InputError(f"{option}: layers and heads are numbers from 0, not {heads!r}")


def _listed(heads: int | list[int]) -> list[int]:
    return [heads] if isinstance(heads, int) else list(heads)


def _head_mask(heads: Heads, layer: int, n_heads: int) -> Tensor | None:
    """Bool `[head]`, or None for all."""
    if isinstance(heads, dict):
        heads = heads.get(layer, [])
    if heads is None:
        return None
    chosen = _listed(heads)
    if any(head >= n_heads for head in chosen):
        raise InputError(f"head {max(chosen)} does not exist in layer {layer} (heads 0 to {n_heads - 1})")
    mask = torch.zeros(n_heads, dtype=torch.bool)
    mask[chosen] = True
    return mask
