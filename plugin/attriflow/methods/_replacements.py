"""Plausible replacements for tokens, without downloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from attriflow.engine import Engine
from attriflow.errors import InputError
from attriflow.methods._draws import generator
from attriflow.methods._neighbours import neighbours
from attriflow.models.base import Rows
from attriflow.models.offload import device_of

Sampler = Literal["neighbours", "unconditional", "uniform"]
N_NEIGHBOURS = 20


class Replacements:
    """Draws replacement ids for every token of a batch (blocks side by side)."""

    def __init__(self, engine: Engine, sampler: str, model: Any = None) -> None:
        """Prepare the candidates: at most one pass of the model or of the replacement model."""
        self.engine = engine
        self._tables: dict[str, tuple[Tensor | None, Tensor]] = {}
        other = None if model is None else _load(model)
        for block in engine.blocks:
            self._tables[block] = (
                self._conditional(other, block) if other is not None else getattr(self, f"_{sampler}")(block)
            )

    def __call__(self, purpose: str | Sequence[str], n: int) -> Tensor:
        """Ids `[n, batch, input]`, those of several purposes one after the other.

        The draws of a position do not depend on later ones.
        """
        out = []
        for block in self.engine.blocks:
            candidates, cumulative = self._tables[block]
            draws = drawn(self.engine, purpose, f"replace/{{}}/{block}", block, n).to(cumulative.device)
            last = cumulative.shape[-1] - 1
            if cumulative.ndim == 1:
                index = torch.searchsorted(cumulative, draws.contiguous(), right=True).clamp(max=last)
            else:
                index = torch.searchsorted(cumulative, draws, right=True).clamp(max=last)
            index = index.to(self.engine.model.device)
            ids = index if candidates is None else candidates.gather(-1, index)
            out.append(ids.permute(2, 0, 1))
        return torch.cat(out, -1) if len(out) > 1 else out[0]

    def _neighbours(self, block: str) -> tuple[Tensor, Tensor]:
        ids = self.engine.planned_ids(block)
        near = neighbours(self.engine.model, block, ids.flatten(), N_NEIGHBOURS).unflatten(0, ids.shape)
        return near, _even(near.shape[-1])

    def _uniform(self, block: str) -> tuple[None, Tensor]:
        return None, _even(self.engine.model.embedding(block).weight.shape[0])

    @torch.no_grad()
    def _unconditional(self, _block: str) -> tuple[None, Tensor]:
        """The model's own distribution of a first token: after BOS (or EOS), with nothing but EOS as the source."""
        engine, tokenizer = self.engine, self.engine.model.tokenizer
        known = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None]
        first = torch.tensor([[int(known[0]) if known else 0]], device=engine.model.device)
        fields = {"target_ids": first, "query": torch.zeros_like(first)}
        if engine.model.is_encoder_decoder:
            start = engine.ids("target")[:1, :1]
            end = torch.full_like(start, int(tokenizer.eos_token_id or 0))
            fields |= {"target_ids": start, "source_ids": end, "source_mask": torch.ones_like(end)}
        logits = engine.model.run(Rows(**fields))[0, 0].double()
        engine.counter.forward_rows += 1
        engine.counter.forward_calls += 1
        return None, logits.softmax(-1).cumsum(-1)

    @torch.no_grad()
    def _conditional(self, other: Any, block: str) -> tuple[None, Tensor]:
        """What the replacement model predicts at each place, without the token itself, `[batch, position, vocab]`."""
        ids, present = self.engine.ids(block), self.engine.present(block)
        known, largest = int(other.get_input_embeddings().weight.shape[0]), int(self.engine.planned_ids(block).max())
        if known < largest + 1:
            raise InputError(
                f"the replacement model has a vocabulary of {known} tokens, "
                f"but the input has the id {largest}: it must share the model's vocabulary"
            )
        device = device_of(other.get_input_embeddings())
        training = other.training
        other.eval()
        try:
            logits = other(input_ids=ids.to(device), attention_mask=present.long().to(device)).logits
        finally:
            other.train(training)
        logits = logits.to(ids.device).double()
        if not getattr(other.config, "is_decoder", False) and _is_masked(other):
            places = logits
        else:
            # a causal model's prediction of a token stands one place earlier; the first one has none
            places = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], 1)
        places = places.scatter(-1, ids.unsqueeze(-1), -torch.inf)
        return None, places.softmax(-1).cumsum(-1)


def drawn(engine: Engine, purpose: str | Sequence[str], name: str, block: str, n: int) -> Tensor:
    """Uniform numbers of each example `[batch, position, n]`, those of several purposes one after the other.

    `name` is that of the draw, with {} for the purpose.
    """
    width, purposes = engine.ids(block).shape[1], [purpose] if isinstance(purpose, str) else purpose
    rows = [
        np.concatenate([generator(engine.seed, e, name.format(p)).random((width, n)) for p in purposes], 1)
        for e in engine.examples
    ]
    return torch.from_numpy(np.stack(rows))


def _even(n: int) -> Tensor:
    return torch.arange(1, n + 1, dtype=torch.float64) / n


def _is_masked(model: Any) -> bool:
    return "MaskedLM" in type(model).__name__


def _load(model: Any) -> Any:
    if not isinstance(model, (str, Path)):
        if not hasattr(model, "config") or not callable(model):
            raise InputError("replacement_model must be a Hugging Face language model or a local folder that holds one")
        return model
    if not Path(model).is_dir():
        raise InputError(f"replacement_model: {str(model)!r} is not a local folder (nothing is downloaded)")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    names = AutoConfig.from_pretrained(model).architectures or [""]
    auto = AutoModelForMaskedLM if "MaskedLM" in names[0] else AutoModelForCausalLM
    return auto.from_pretrained(model)
